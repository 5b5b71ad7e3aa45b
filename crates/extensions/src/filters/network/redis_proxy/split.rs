//! Commands that are sent key by key, and their answers put together.

use super::{Worker, protocol::failure, session::send, stats::Measured};
use bytes::Bytes;
use sota_codec::resp::Value;
use sota_plugin::{LocalFuture, info::ConnectionInfo, protocol::Call};
use std::rc::Rc;

/// `MGET`: an array of what the keys have.
pub(super) fn mget(
    worker: &Rc<Worker>,
    connection: &ConnectionInfo,
    words: &[Bytes],
    measured: Option<Measured>,
) -> LocalFuture<Value> {
    let get = Bytes::from_static(b"GET");
    let keys = words.iter().skip(1);
    let calls: Vec<_> = keys.map(|key| send(worker, connection, vec![get.clone(), key.clone()], 1)).collect();
    Box::pin(async move {
        let mut values = Vec::with_capacity(calls.len());
        for call in calls {
            values.push(match answer(call).await {
                value @ (Value::Bulk(_) | Value::Null | Value::Error(_)) => value,
                _ => Value::error("upstream protocol error"),
            });
        }
        finish(measured, !values.iter().any(Value::is_error));
        Value::Array(values)
    })
}

/// `MSET`: a `SET` for each pair.
pub(super) fn mset(
    worker: &Rc<Worker>,
    connection: &ConnectionInfo,
    words: &[Bytes],
    measured: Option<Measured>,
) -> LocalFuture<Value> {
    let set = Bytes::from_static(b"SET");
    let pairs = words.get(1..).unwrap_or_default().chunks(2);
    let calls = pairs.map(|pair| send(worker, connection, [std::slice::from_ref(&set), pair].concat(), 1)).collect();
    Box::pin(async move {
        let (_, errors) = tally(calls, |value| (*value == Value::simple("OK")).then_some(0)).await;
        finish(measured, errors == 0);
        if errors == 0 { Value::simple("OK") } else { several(errors) }
    })
}

/// `DEL` and its kin: the sum of what the keys answer.
pub(super) fn sum(
    worker: &Rc<Worker>,
    connection: &ConnectionInfo,
    words: &[Bytes],
    measured: Option<Measured>,
) -> LocalFuture<Value> {
    let Some((command, keys)) = words.split_first() else { return Box::pin(async { Value::Null }) };
    let calls = keys.iter().map(|key| send(worker, connection, vec![command.clone(), key.clone()], 1)).collect();
    Box::pin(async move {
        let integer = |value: &Value| if let Value::Integer(number) = value { Some(*number) } else { None };
        let (total, errors) = tally(calls, integer).await;
        finish(measured, errors == 0);
        if errors == 0 { Value::Integer(total) } else { several(errors) }
    })
}

/// The sum, and how many answers were none.
async fn tally(calls: Vec<Call<Value>>, number: impl Fn(&Value) -> Option<i64>) -> (i64, usize) {
    let (mut total, mut errors) = (0_i64, 0);
    for call in calls {
        match number(&answer(call).await) {
            Some(number) => total = total.saturating_add(number),
            None => errors += 1,
        }
    }
    (total, errors)
}

async fn answer(call: Call<Value>) -> Value {
    call.await.unwrap_or_else(|error| failure(&error))
}

fn several(errors: usize) -> Value {
    Value::error(format!("finished with {errors} error(s)"))
}

fn finish(measured: Option<Measured>, success: bool) {
    if let Some(measured) = measured {
        measured.finish(success);
    }
}
