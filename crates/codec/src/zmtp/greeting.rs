//! The greeting: which version both sides speak. What we send depends on what has come, so that peers of every
//! version understand it: 10 octets at once, which a 1.0 peer takes for the beginning of an identity; the version
//! when the peer's 10 have come; the rest when its version is known (RFC 37, "Backwards Interoperability").

use super::frame::{Framing, write_header};
use super::spoken::{MOST, looks_like};
use super::{MechanismName, Options, SocketType, Version, ZmtpError};

const SIGNATURE: usize = 10;
/// Behind the signature: the revision or major version. Then the minor version, or the socket type of 2.0.
const REVISION: usize = 10;
const MINOR: usize = 11;
const V2_SIZE: usize = 12;
const V3_SIZE: usize = 64;

/// A greeting that is going on.
#[derive(Debug)]
pub(super) struct Greeting {
    received: [u8; V3_SIZE],
    have: usize,
    /// Octets of ours that have been sent: 10, 11, or more.
    sent: usize,
}

/// How a greeting ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Greeted {
    /// 1.0: these octets are the beginning of the peer's identity frame.
    V1 {
        /// The octets.
        begun: [u8; SIGNATURE],
        /// How many of them: 1 or 10.
        have: usize,
    },
    /// 2.0, or 1.0 with a revision: the peer's socket type.
    V2 {
        /// One of the two.
        version: Version,
        /// Not checked.
        socket_type: u8,
        /// Whether ours has been sent.
        sent: bool,
    },
    /// 3.x: the mechanism is agreed.
    V3(Version),
}

impl Greeting {
    /// Begins, and writes what is sent before anything has come.
    pub(super) fn start(options: &Options, out: &mut Vec<u8>) -> Self {
        let identity = options.wire_identity();
        if options.max_version == Version::V1_0 {
            write_header(Framing::V1, 0, identity.len() as u64, out);
            out.extend_from_slice(identity);
        } else {
            // To a 1.0 peer: a long frame of this length, which is our identity.
            out.push(0xff);
            out.extend_from_slice(&(identity.len() as u64 + 1).to_be_bytes());
            out.push(0x7f);
        }
        Self { received: [0; V3_SIZE], have: 0, sent: SIGNATURE }
    }

    /// Takes octets of `input`, up to the end of the greeting and not beyond it. `socket_type` is ours, if it is
    /// known already.
    pub(super) fn advance(
        &mut self,
        input: &[u8],
        options: &Options,
        socket_type: Option<SocketType>,
        out: &mut Vec<u8>,
    ) -> Result<(usize, Option<Greeted>), ZmtpError> {
        let mut taken = 0;
        loop {
            let needed = match self.decide(options, socket_type, out)? {
                Decision::Greeted(greeted) => return Ok((taken, Some(greeted))),
                Decision::Need(octets) => octets,
            };
            let rest = input.get(taken..).unwrap_or_default();
            let piece = rest.get(..needed.saturating_sub(self.have)).unwrap_or(rest);
            if piece.is_empty() {
                return Ok((taken, None));
            }
            if let Some(place) = self.received.get_mut(self.have..self.have + piece.len()) {
                place.copy_from_slice(piece);
            }
            self.have += piece.len();
            taken += piece.len();
        }
    }

    /// Whether the peer speaks 2.0 and waits for our socket type.
    pub(super) fn waits_for_socket_type(&self) -> bool {
        self.have > REVISION && self.sent == REVISION + 1
    }

    /// Sends what can be sent now, and says what the octets so far mean, or how many are needed in all.
    pub(super) fn decide(
        &mut self,
        options: &Options,
        socket_type: Option<SocketType>,
        out: &mut Vec<u8>,
    ) -> Result<Decision, ZmtpError> {
        let received = self.received.get(..self.have).unwrap_or_default();
        let allows_v1 = options.min_version == Version::V1_0;
        match received {
            [] => return Ok(Decision::Need(1)),
            [0xff, ..] => {}
            _ if allows_v1 => return self.unversioned(options),
            _ => {
                return looks_like(received).map_or(Ok(Decision::Need(MOST)), |spoken| Err(ZmtpError::NotZmtp(spoken)));
            }
        }
        match received.get(SIGNATURE - 1) {
            None => return Ok(Decision::Need(SIGNATURE)),
            Some(last) if last & 1 == 0 || options.max_version == Version::V1_0 => return self.unversioned(options),
            Some(_) => {}
        }
        let speaks_v3 = options.max_version >= Version::V3_0;
        if self.sent == SIGNATURE {
            out.push(if speaks_v3 { 3 } else { 1 });
            self.sent += 1;
        }
        match received.get(REVISION) {
            None => Ok(Decision::Need(REVISION + 1)),
            Some(0) => self.revision(Version::V1_0, options, socket_type, out),
            // RFC 37: 1 and 2 are both 2.0.
            Some(revision) if *revision <= 2 || !speaks_v3 => self.revision(Version::V2_0, options, socket_type, out),
            Some(_) => self.third(options, out),
        }
    }

    fn unversioned(&self, options: &Options) -> Result<Decision, ZmtpError> {
        check_version(Version::V1_0, options)?;
        let begun = self.received.first_chunk().copied().unwrap_or_default();
        Ok(Decision::Greeted(Greeted::V1 { begun, have: self.have.min(SIGNATURE) }))
    }

    fn revision(
        &mut self,
        version: Version,
        options: &Options,
        socket_type: Option<SocketType>,
        out: &mut Vec<u8>,
    ) -> Result<Decision, ZmtpError> {
        check_version(version, options)?;
        if let (Some(socket_type), true) = (socket_type, self.sent == REVISION + 1) {
            out.push(socket_type.octet());
            self.sent = V2_SIZE;
        }
        Ok(match self.received.get(MINOR) {
            Some(socket_type) if self.have >= V2_SIZE => {
                let sent = self.sent == V2_SIZE;
                Decision::Greeted(Greeted::V2 { version, socket_type: *socket_type, sent })
            }
            _ => Decision::Need(V2_SIZE),
        })
    }

    fn third(&mut self, options: &Options, out: &mut Vec<u8>) -> Result<Decision, ZmtpError> {
        let mechanism = options.security.mechanism();
        let as_server = u8::from(options.security.is_server());
        if self.sent == REVISION + 1 {
            let start = out.len();
            out.push(u8::from(options.max_version >= Version::V3_1));
            out.extend_from_slice(mechanism.name().as_bytes());
            out.resize(start + 21, 0);
            out.push(as_server);
            out.resize(start + V3_SIZE - MINOR, 0);
            self.sent = V3_SIZE;
        }
        if self.have < V3_SIZE {
            return Ok(Decision::Need(V3_SIZE));
        }
        let [.., major, minor] = self.received.first_chunk::<V2_SIZE>().copied().unwrap_or_default();
        let theirs = if major == 3 && minor == 0 { Version::V3_0 } else { Version::V3_1 };
        let version = theirs.min(options.max_version);
        check_version(version, options)?;
        let rest = self.received.get(V2_SIZE..).unwrap_or_default();
        let name = MechanismName(rest.first_chunk().copied().unwrap_or_default());
        if !name.is(mechanism) {
            return Err(ZmtpError::MechanismMismatch { theirs: name, ours: mechanism });
        }
        // libzmq sends 0 for both roles, so that only two servers that say so are sure to be wrong.
        if as_server == 1 && rest.get(20) == Some(&1) {
            return Err(ZmtpError::RoleConflict);
        }
        Ok(Decision::Greeted(Greeted::V3(version)))
    }
}

/// What is known.
#[derive(Debug)]
pub(super) enum Decision {
    /// So many octets of the greeting are needed.
    Need(usize),
    /// It is over.
    Greeted(Greeted),
}

/// The guard against downgrades: a lower version has none of the security that is required.
fn check_version(peer: Version, options: &Options) -> Result<(), ZmtpError> {
    let mechanism = options.security.mechanism();
    if peer < options.min_version {
        Err(ZmtpError::VersionTooOld { peer, minimum: options.min_version })
    } else if peer < Version::V3_0 && mechanism != super::Mechanism::Null {
        Err(ZmtpError::Downgrade { peer, mechanism })
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::zmtp::{Security, Spoken};

    /// What we answer to each piece, and how it ends.
    fn greet(options: &Options, pieces: &[&[u8]]) -> (Vec<Vec<u8>>, Result<Option<Greeted>, ZmtpError>) {
        let mut first = Vec::new();
        let mut greeting = Greeting::start(options, &mut first);
        let mut answers = vec![first];
        for piece in pieces {
            let mut out = Vec::new();
            let step = greeting.advance(piece, options, Some(options.socket_type), &mut out);
            answers.push(out);
            match step {
                Ok((taken, None)) => assert_eq!(taken, piece.len()),
                Ok((_, greeted)) => return (answers, Ok(greeted)),
                Err(error) => return (answers, Err(error)),
            }
        }
        (answers, Ok(None))
    }

    fn third(minor: u8, mechanism: &[u8]) -> Vec<u8> {
        let mut rest = vec![minor];
        rest.extend_from_slice(mechanism);
        rest.resize(53, 0);
        rest
    }

    const SIGNED: &[u8] = b"\xff\0\0\0\0\0\0\0\x01\x7f";

    #[test]
    fn stepwise_as_libzmq() {
        let named = Options { identity: b"me"[..].into(), ..Options::default() };
        let rest = third(1, b"NULL");
        let (answers, end) = greet(&named, &[SIGNED, b"\x03", &rest]);
        assert_eq!(answers, [b"\xff\0\0\0\0\0\0\0\x03\x7f".to_vec(), vec![3], rest.clone(), vec![]]);
        assert_eq!(end, Ok(Some(Greeted::V3(Version::V3_1))));

        let (answers, end) = greet(&Options::default(), &[SIGNED, b"\x01", b"\x06"]);
        assert_eq!(answers, [SIGNED.to_vec(), vec![3], vec![5], vec![]]);
        assert_eq!(end, Ok(Some(Greeted::V2 { version: Version::V2_0, socket_type: 6, sent: true })));
    }

    #[test]
    fn versions_by_octets_10_and_11() {
        let any = Options { min_version: Version::V1_0, ..Options::default() };
        let end = |revision: u8, rest: &[u8]| greet(&any, &[SIGNED, &[revision], rest]).1.unwrap();
        for (revision, version) in [(0, Version::V1_0), (1, Version::V2_0), (2, Version::V2_0)] {
            assert_eq!(end(revision, &[3]), Some(Greeted::V2 { version, socket_type: 3, sent: true }));
        }
        assert_eq!(end(3, &third(0, b"NULL")), Some(Greeted::V3(Version::V3_0)));
        for (revision, minor) in [(3, 1), (3, 2), (4, 0), (4, 7), (0xff, 0xff)] {
            assert_eq!(end(revision, &third(minor, b"NULL")), Some(Greeted::V3(Version::V3_1)));
        }
        let anonymous = greet(&any, &[b"\x01\x00"]).1.unwrap();
        assert_eq!(anonymous, Some(Greeted::V1 { begun: [1, 0, 0, 0, 0, 0, 0, 0, 0, 0], have: 1 }));
        let long = b"\xff\0\0\0\0\0\0\0\x03\x00me";
        let Ok(Some(Greeted::V1 { begun, have: 10 })) = greet(&any, &[long]).1 else { panic!() };
        assert_eq!(begun, long[..10]);
        // The padding has no meaning.
        let (_, end) = greet(&Options::default(), &[b"\xff12345678\x7f\x03", &third(1, b"NULL")]);
        assert_eq!(end, Ok(Some(Greeted::V3(Version::V3_1))));
    }

    #[test]
    fn what_we_announce_follows_the_options() {
        let second = Options { max_version: Version::V2_0, ..Options::default() };
        let (answers, end) = greet(&second, &[SIGNED, b"\x03", b"\x06"]);
        assert_eq!(answers.concat(), [SIGNED, &[1, 5]].concat());
        assert!(matches!(end, Ok(Some(Greeted::V2 { .. }))));
        let third_0 = Options { max_version: Version::V3_0, ..Options::default() };
        let (answers, end) = greet(&third_0, &[SIGNED, b"\x03", &third(1, b"NULL")]);
        assert_eq!(answers[2], third(0, b"NULL"));
        assert_eq!(end, Ok(Some(Greeted::V3(Version::V3_0))));
        let first = Options {
            min_version: Version::V1_0,
            max_version: Version::V1_0,
            identity: b"x"[..].into(),
            ..Options::default()
        };
        let (answers, end) = greet(&first, &[SIGNED]);
        assert_eq!(answers[0], b"\x02\x00x");
        assert!(matches!(end, Ok(Some(Greeted::V1 { have: 10, .. }))));
    }

    #[test]
    fn refusals() {
        let default = Options::default();
        let end = |options: &Options, bytes: &[u8]| greet(options, &[bytes]).1;
        let old = |peer, minimum| Err(ZmtpError::VersionTooOld { peer, minimum });
        assert_eq!(end(&default, b"\xff\0\0\0\0\0\0\0\x01\x00"), old(Version::V1_0, Version::V2_0));
        assert_eq!(end(&default, &[SIGNED, &[0]].concat()), old(Version::V1_0, Version::V2_0));
        let newest = Options { min_version: Version::V3_1, ..Options::default() };
        assert_eq!(end(&newest, &[SIGNED, &[1]].concat()), old(Version::V2_0, Version::V3_1));
        let greeting = [SIGNED, &[3], &third(0, b"NULL")].concat();
        assert_eq!(end(&newest, &greeting), old(Version::V3_0, Version::V3_1));
        let plain = Options { security: Security::PlainServer, min_version: Version::V1_0, ..Options::default() };
        for (bytes, peer) in [(&[1, 0][..], Version::V1_0), (&[SIGNED, &[1]].concat(), Version::V2_0)] {
            let mechanism = crate::zmtp::Mechanism::Plain;
            assert_eq!(end(&plain, bytes), Err(ZmtpError::Downgrade { peer, mechanism }));
        }
        let Err(ZmtpError::MechanismMismatch { theirs, .. }) = end(&plain, &greeting) else { panic!() };
        assert_eq!(theirs.to_string(), "NULL");
        let mut server = [SIGNED, &[3], &third(1, b"PLAIN")].concat();
        server[32] = 1;
        assert_eq!(end(&plain, &server), Err(ZmtpError::RoleConflict));
    }

    #[test]
    fn other_protocols_are_named_in_any_split() {
        for (bytes, spoken) in [
            (&b"GET / HTTP/1.1\r\n\r\n"[..], Spoken::Http),
            (b"PRI * HTTP/2.0\r\n", Spoken::Http2),
            (b"\x16\x03\x01\x02\0\x01", Spoken::Tls),
            (b"SSH-2.0-x\r\n", Spoken::Ssh),
            (b"PROXY TCP4 ", Spoken::ProxyProtocol),
            (b"hello\r\n", Spoken::Unknown),
            (b"\x01\x00", Spoken::Unknown),
        ] {
            let octets: Vec<&[u8]> = bytes.chunks(1).collect();
            assert_eq!(greet(&Options::default(), &[bytes]).1, Err(ZmtpError::NotZmtp(spoken)));
            assert_eq!(greet(&Options::default(), &octets).1, Err(ZmtpError::NotZmtp(spoken)));
        }
    }
}
