//! `WATCH`, `MULTI`, `EXEC`: commands that need a connection for themselves.

use super::{
    Worker,
    protocol::{Redis, Words, failure},
    session::route,
    stats::Measured,
};
use bytes::Bytes;
use sota_codec::resp::Value;
use sota_plugin::{
    LocalFuture,
    info::ConnectionInfo,
    protocol::{Answer, Call, CallError, Dedicated},
};
use std::{cell::RefCell, rc::Rc};

/// The transaction of a client.
#[derive(Default)]
pub(super) struct Transaction {
    /// Between `MULTI` and `EXEC`.
    pub(super) is_active: bool,
    /// To the host of the first key, from `WATCH` or the first command on.
    connection: Option<Rc<Dedicated<Redis>>>,
}

impl Transaction {
    /// `MULTI`. Without a key nobody knows yet which host it is for.
    pub(super) fn multi(
        &mut self,
        own: &Rc<RefCell<Self>>,
        worker: &Rc<Worker>,
        measured: Option<Measured>,
    ) -> Answer<Value> {
        if self.is_active {
            return Answer::Now(Value::error("MULTI calls can not be nested"));
        }
        self.is_active = true;
        match &self.connection {
            Some(connection) => {
                let call = worker.client.send_alone(connection, &word("MULTI"));
                Answer::Later(answer(own, call, measured))
            }
            None => Answer::Now(Value::simple("OK")),
        }
    }

    /// `EXEC` or `DISCARD`, which end it.
    pub(super) fn end(
        &mut self,
        own: &Rc<RefCell<Self>>,
        worker: &Rc<Worker>,
        name: &'static str,
        measured: Option<Measured>,
    ) -> Answer<Value> {
        if !self.is_active {
            return Answer::Now(Value::error(format!("{name} without MULTI")));
        }
        self.is_active = false;
        match self.connection.take() {
            Some(connection) => {
                let call = worker.client.send_alone(&connection, &word(name));
                Answer::Later(answer(own, call, measured))
            }
            None if name == "EXEC" => Answer::Now(Value::Array(Vec::new())),
            None => Answer::Now(Value::simple("OK")),
        }
    }

    /// A command within it, or `WATCH` before it: to the host of the first key.
    pub(super) fn command(
        &mut self,
        own: &Rc<RefCell<Self>>,
        worker: &Rc<Worker>,
        info: &ConnectionInfo,
        mut words: Vec<Bytes>,
        key: usize,
        measured: Option<Measured>,
    ) -> Answer<Value> {
        let host = route(worker, info, &mut words, key);
        let connection = match (&self.connection, host) {
            (Some(connection), _) => Rc::clone(connection),
            (None, Ok(host)) => {
                let connection = Rc::new(worker.client.dedicated(&host));
                if self.is_active {
                    // Its answer is not asked for: the client has one already.
                    drop(worker.client.send_alone(&connection, &word("MULTI")));
                }
                Rc::clone(self.connection.insert(connection))
            }
            (None, Err(error)) => {
                *self = Self::default();
                if let Some(measured) = measured {
                    measured.count(false);
                }
                return Answer::Now(failure(&error));
            }
        };
        Answer::Later(answer(own, worker.client.send_alone(&connection, &Rc::new(Some(words))), measured))
    }

    /// `UNWATCH`.
    pub(super) fn unwatch(
        &mut self,
        own: &Rc<RefCell<Self>>,
        worker: &Rc<Worker>,
        measured: Option<Measured>,
    ) -> Answer<Value> {
        let Some(connection) = self.connection.clone() else {
            return Answer::Now(Value::simple(if self.is_active { "QUEUED" } else { "OK" }));
        };
        if !self.is_active {
            self.connection = None;
        }
        Answer::Later(answer(own, worker.client.send_alone(&connection, &word("UNWATCH")), measured))
    }
}

fn word(word: &'static str) -> Rc<Words> {
    Rc::new(Some(vec![Bytes::from_static(word.as_bytes())]))
}

/// The answer of the host. A failure ends the transaction: its connection is gone.
fn answer(own: &Rc<RefCell<Transaction>>, call: Call<Value>, measured: Option<Measured>) -> LocalFuture<Value> {
    let own = Rc::clone(own);
    Box::pin(async move {
        let result: Result<Value, CallError> = call.await;
        if let Some(measured) = measured {
            measured.finish(result.is_ok());
        }
        result.unwrap_or_else(|error| {
            *own.borrow_mut() = Transaction::default();
            failure(&error)
        })
    })
}
