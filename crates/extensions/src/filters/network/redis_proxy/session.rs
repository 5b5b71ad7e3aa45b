//! One client: what it may do, and where its commands go.

use super::{
    Worker,
    commands::{self, Command, Kind},
    hash::hash,
    protocol::{Words, failure},
    split,
    stats::Measured,
    transaction::Transaction,
};
use bytes::Bytes;
use sota_codec::resp::Value;
use sota_plugin::{
    info::ConnectionInfo,
    protocol::{Answer, Call, CallError},
    upstream::{Host, HostChoice},
};
use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    time::{SystemTime, UNIX_EPOCH},
};

/// A client.
pub(super) struct Session {
    worker: Rc<Worker>,
    info: Rc<ConnectionInfo>,
    is_allowed: Cell<bool>,
    transaction: Rc<RefCell<Transaction>>,
}

impl Session {
    pub(super) fn new(worker: &Rc<Worker>, info: &Rc<ConnectionInfo>) -> Self {
        Self {
            is_allowed: Cell::new(!worker.config.needs_auth()),
            worker: Rc::clone(worker),
            info: Rc::clone(info),
            transaction: Rc::default(),
        }
    }

    /// What becomes of a request. What goes to a host is on its way when this returns.
    pub(super) fn answer(&self, request: Words) -> Answer<Value> {
        let active = self.worker.stats.begin_request();
        match self.dispatch(request) {
            Answer::Later(future) => Answer::Later(Box::pin(async move {
                let _active = active;
                future.await
            })),
            answer => answer,
        }
    }

    fn dispatch(&self, request: Words) -> Answer<Value> {
        let Some(words) = request else { return self.invalid() };
        let Some(name) = words.first() else { return self.invalid() };
        if name.eq_ignore_ascii_case(b"auth") {
            return match &words[..] {
                [_, password] | [_, password, _, _, ..] => Answer::Now(self.auth(None, password)),
                [_, username, password] => Answer::Now(self.auth(Some(username), password)),
                _ => self.invalid(),
            };
        }
        if !self.is_allowed.get() && !name.eq_ignore_ascii_case(b"hello") {
            // Those who ask to leave may.
            if name.eq_ignore_ascii_case(b"quit") {
                return Answer::Last(Value::simple("OK"));
            }
            return Answer::Now(unauthorized());
        }
        if let Some(answer) = self.local(&words) {
            return answer;
        }
        let Some(command) = commands::find(name) else {
            self.worker.stats.proxy.unsupported_command.inc();
            return Answer::Now(unknown(&words));
        };
        if words.len() < 2 && !matches!(command.kind, Kind::Transaction | Kind::Unwatch | Kind::Hello) {
            return self.invalid();
        }
        let counted = if self.transaction.borrow().is_active { commands::find(b"multi") } else { Some(command) };
        let measured = counted.and_then(|command| self.worker.stats.begin_command(command));
        self.send(command, words, measured)
    }

    /// What is about the connection is answered here.
    fn local(&self, words: &[Bytes]) -> Option<Answer<Value>> {
        let is = |name: &str| words.first().is_some_and(|word| word.eq_ignore_ascii_case(name.as_bytes()));
        Some(match words {
            _ if is("ping") => Answer::Now(Value::simple("PONG")),
            [_, text] if is("echo") => Answer::Now(Value::Bulk(text.clone())),
            _ if is("echo") => self.invalid(),
            _ if is("time") => Answer::Now(time()),
            _ if is("quit") => Answer::Last(Value::simple("OK")),
            // Connections to hosts are shared, so there is one database for all.
            [_, database] if is("select") => Answer::Now(match &database[..] {
                b"0" => Value::simple("OK"),
                _ => Value::error("ERR SELECT is not supported by the proxy, except for database 0"),
            }),
            [_, what, ..] if is("client") => Answer::Now(client(what)),
            _ if is("client") => self.invalid(),
            _ => return None,
        })
    }

    fn send(&self, command: Command, words: Vec<Bytes>, measured: Option<Measured>) -> Answer<Value> {
        let (worker, own) = (&self.worker, &self.transaction);
        let mut transaction = own.borrow_mut();
        match command.kind {
            Kind::Transaction => match command.name {
                "multi" => return transaction.multi(own, worker, measured),
                "exec" => return transaction.end(own, worker, "EXEC", measured),
                _ => return transaction.end(own, worker, "DISCARD", measured),
            },
            Kind::Unwatch => return transaction.unwatch(own, worker, measured),
            Kind::Hello => return Answer::Now(self.hello(&words, measured)),
            Kind::Script if transaction.is_active => {
                return Answer::Now(Value::error(format!(
                    "'{}' command is not supported within transaction",
                    shown(words.first())
                )));
            }
            _ => {}
        }
        let key = match command.kind {
            Kind::Script => 3,
            Kind::SecondKey => 2,
            _ => 1,
        };
        if words.len() <= key || command.kind == Kind::Mset && words.len().is_multiple_of(2) {
            if let Some(measured) = measured {
                measured.count(false);
            }
            let name = shown(words.first());
            return Answer::Now(Value::error(format!("wrong number of arguments for '{name}' command")));
        }
        if transaction.is_active || command.name == "watch" {
            return transaction.command(own, worker, &self.info, words, key, measured);
        }
        drop(transaction);
        Answer::Later(match command.kind {
            Kind::Mget => split::mget(worker, &self.info, &words, measured),
            Kind::Mset => split::mset(worker, &self.info, &words, measured),
            Kind::Sum => split::sum(worker, &self.info, &words, measured),
            _ => {
                let call = send(worker, &self.info, words, key);
                Box::pin(async move {
                    let result = call.await;
                    if let Some(measured) = measured {
                        measured.finish(result.is_ok());
                    }
                    result.unwrap_or_else(|error| failure(&error))
                })
            }
        })
    }

    fn invalid(&self) -> Answer<Value> {
        self.worker.stats.proxy.invalid_request.inc();
        Answer::Now(Value::error("invalid request"))
    }

    fn auth(&self, username: Option<&[u8]>, password: &[u8]) -> Value {
        let config = &self.worker.config;
        let is_right = config.accepts(password);
        let (is_allowed, refusal) = match username {
            None if config.passwords.is_empty() => {
                return Value::error("ERR Client sent AUTH, but no password is set");
            }
            None => (is_right, "ERR invalid password"),
            Some(_) if !config.needs_auth() => {
                return Value::error("ERR Client sent AUTH, but no username-password pair is set");
            }
            Some(name) => {
                let own: &[u8] = if config.username.is_empty() { b"default" } else { &config.username };
                (is_right && name == own, "WRONGPASS invalid username-password pair")
            }
        };
        self.is_allowed.set(is_allowed);
        if is_allowed { Value::simple("OK") } else { Value::error(refusal) }
    }

    /// `HELLO [version [AUTH name password] [SETNAME name]]`.
    fn hello(&self, words: &[Bytes], measured: Option<Measured>) -> Value {
        let answer = match words.get(1) {
            Some(version) if &version[..] != b"2" => Value::error("NOPROTO unsupported protocol version"),
            _ => match words.get(2..) {
                Some([option, name, password, ..]) if option.eq_ignore_ascii_case(b"auth") => {
                    Some(self.auth(Some(name), password)).filter(Value::is_error).unwrap_or_else(about)
                }
                _ if !self.is_allowed.get() => unauthorized(),
                _ => about(),
            },
        };
        if let Some(measured) = measured {
            measured.count(!answer.is_error());
        }
        answer
    }
}

/// Sends a command to the host of the key that stands at this place.
pub(super) fn send(worker: &Worker, info: &ConnectionInfo, mut words: Vec<Bytes>, key: usize) -> Call<Value> {
    match route(worker, info, &mut words, key) {
        Ok(host) => worker.client.send(&host, &Rc::new(Some(words))),
        Err(error) => Call::failed(error),
    }
}

/// The host of the key that stands at this place, which is written as the route wants it.
pub(super) fn route(
    worker: &Worker,
    info: &ConnectionInfo,
    words: &mut [Bytes],
    key: usize,
) -> Result<Host, CallError> {
    let word = words.get_mut(key).ok_or(CallError::NoRoute)?;
    let (route, sent) = worker.config.routes.find(word).ok_or(CallError::NoRoute)?;
    let choice = HostChoice {
        hash: Some(hash(&sent, worker.config.hash_tags)),
        connection: Some(info),
        ..HostChoice::default()
    };
    *word = sent;
    Ok(worker.client.worker().cluster(&route.cluster)?.choose(&choice)?)
}

fn unauthorized() -> Value {
    Value::error("NOAUTH Authentication required.")
}

fn shown(word: Option<&Bytes>) -> String {
    String::from_utf8_lossy(word.map_or(&[], |word| word)).into_owned()
}

fn unknown(words: &[Bytes]) -> Value {
    let (name, first) = (shown(words.first()), shown(words.get(1)));
    Value::error(format!("ERR unknown command '{name}', with args beginning with: {first}"))
}

fn client(what: &Bytes) -> Value {
    if what.eq_ignore_ascii_case(b"setname") || what.eq_ignore_ascii_case(b"setinfo") {
        return Value::simple("OK");
    }
    Value::error(format!("ERR CLIENT subcommand '{}' is not supported by the proxy", shown(Some(what))))
}

fn time() -> Value {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let text = |number: String| Value::Bulk(number.into());
    Value::Array(vec![text(now.as_secs().to_string()), text(now.subsec_micros().to_string())])
}

/// The answer to `HELLO`: what we are.
fn about() -> Value {
    let text = |text: &'static str| Value::Bulk(Bytes::from_static(text.as_bytes()));
    Value::Array(vec![
        text("server"),
        text("sota-mesh"),
        text("version"),
        text("6.0.0"),
        text("proto"),
        Value::Integer(2),
        text("id"),
        Value::Integer(0),
        text("mode"),
        text("standalone"),
        text("role"),
        text("master"),
        text("modules"),
        Value::Array(Vec::new()),
    ])
}
