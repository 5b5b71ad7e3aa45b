//! Who may come in, and how hosts are told who we are.

use serde::Deserialize;
use sota_codec::zmtp::{Credentials, CurveKeyPair, CurvePublicKey, Security};
use std::hint::black_box;

/// What clients have to prove: exactly one of the two.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ServerSecurity {
    plain: Option<PlainServer>,
    curve: Option<CurveServer>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PlainServer {
    users: Vec<User>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct User {
    username: String,
    password: Secret,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CurveServer {
    secret_key: Secret,
    #[serde(default)]
    allowed_clients: Vec<String>,
    #[serde(default)]
    allow_any_client: bool,
}

/// What we prove to hosts: exactly one of the two.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ClientSecurity {
    plain: Option<User>,
    curve: Option<CurveClient>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CurveClient {
    secret_key: Secret,
    server_key: String,
}

/// A text that comes from one of three places.
#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Secret {
    Filename(String),
    EnvironmentVariable(String),
    InlineString(String),
}

impl Secret {
    /// The text, without the end of its line.
    fn read(&self) -> Result<String, String> {
        let text = match self {
            Self::InlineString(text) => return Ok(text.clone()),
            Self::Filename(path) => {
                std::fs::read_to_string(path).map_err(|error| format!("cannot read {path}: {error}"))
            }
            Self::EnvironmentVariable(name) => {
                std::env::var(name).map_err(|_| format!("there is no environment variable {name}"))
            }
        };
        text.map(|text| text.trim_end_matches(['\r', '\n']).to_owned())
    }

    fn keys(&self) -> Result<CurveKeyPair, String> {
        CurveKeyPair::from_secret_z85(&self.read()?).map_err(|error| format!("secret_key: {error}"))
    }
}

impl User {
    fn read(&self) -> Result<NameAndPassword, String> {
        let (username, password) = (self.username.as_bytes(), self.password.read()?);
        if username.len() > 255 || password.len() > 255 {
            return Err("user names and passwords have at most 255 octets".to_owned());
        }
        Ok((username.into(), password.as_bytes().into()))
    }
}

type NameAndPassword = (Box<[u8]>, Box<[u8]>);

/// Whom the server lets in.
pub(super) enum Admission {
    /// There is nothing to be proved.
    Anybody,
    /// Who knows the password of a user.
    Users(Vec<NameAndPassword>),
    /// Who has one of these keys.
    Keys(Vec<CurvePublicKey>),
    /// Who has any key, as long as it knows ours.
    AnyKey,
}

impl Admission {
    /// Whether these credentials are good.
    pub(super) fn allows(&self, credentials: Credentials<'_>) -> bool {
        match (self, credentials) {
            (Self::Users(users), Credentials::Plain { username, password }) => {
                // Every user is compared, so that the time says nothing about which of them there are.
                users
                    .iter()
                    .fold(false, |found, (name, secret)| found | (same(name, username) & same(secret, password)))
            }
            (Self::Keys(keys), Credentials::Curve(key)) => keys.contains(&key),
            (Self::AnyKey, Credentials::Curve(_)) => true,
            _ => false,
        }
    }
}

/// Compares in a time that depends on the lengths alone.
fn same(ours: &[u8], theirs: &[u8]) -> bool {
    let differences = ours.iter().zip(theirs).fold(0, |sum, (a, b)| sum | black_box(a ^ b));
    (ours.len() == theirs.len()) & (black_box(differences) == 0)
}

impl ServerSecurity {
    /// The mechanism, and whom it lets in.
    pub(super) fn build(&self) -> Result<(Security, Admission), String> {
        match (&self.plain, &self.curve) {
            (Some(plain), None) => {
                let users: Result<_, _> = plain.users.iter().map(User::read).collect();
                Ok((Security::PlainServer, Admission::Users(users?)))
            }
            (None, Some(curve)) => {
                let keys = curve.secret_key.keys()?;
                let allowed = curve.allowed_clients.iter().map(|key| CurvePublicKey::from_z85(key));
                let allowed: Vec<_> =
                    allowed.collect::<Result<_, _>>().map_err(|error| format!("allowed_clients: {error}"))?;
                let admission = match (allowed.is_empty(), curve.allow_any_client) {
                    (true, true) => Admission::AnyKey,
                    (false, false) => Admission::Keys(allowed),
                    _ => return Err("curve: either allowed_clients or allow_any_client is needed".to_owned()),
                };
                Ok((Security::CurveServer { keys }, admission))
            }
            _ => Err("exactly one of plain and curve is needed".to_owned()),
        }
    }
}

impl ClientSecurity {
    /// The mechanism, with what we prove.
    pub(super) fn build(&self) -> Result<Security, String> {
        match (&self.plain, &self.curve) {
            (Some(user), None) => {
                let (username, password) = user.read()?;
                Ok(Security::PlainClient { username, password })
            }
            (None, Some(curve)) => Ok(Security::CurveClient {
                keys: curve.secret_key.keys()?,
                server: CurvePublicKey::from_z85(&curve.server_key).map_err(|error| format!("server_key: {error}"))?,
            }),
            _ => Err("exactly one of plain and curve is needed".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_need_their_password() {
        let admission = Admission::Users(vec![(b"me"[..].into(), b"secret"[..].into())]);
        let allows = |username: &[u8], password: &[u8]| admission.allows(Credentials::Plain { username, password });
        assert!(allows(b"me", b"secret"));
        for (username, password) in [("me", "secre"), ("me", "secret1"), ("me", ""), ("m", "secret"), ("", "")] {
            assert!(!allows(username.as_bytes(), password.as_bytes()), "{username} {password}");
        }
        assert!(!Admission::Anybody.allows(Credentials::Plain { username: b"", password: b"" }));
    }
}
