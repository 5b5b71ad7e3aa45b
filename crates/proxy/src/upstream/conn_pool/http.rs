//! A connection for one HTTP/1 request.

use super::{ConnPool, PoolFailure, RequestPermit, UpstreamConnection};
use std::{ops::Deref, rc::Rc};

/// A connection that one request has for itself. Dropping it closes it; [`Self::release`] keeps it for others.
pub struct HttpConnection {
    permit: RequestPermit,
    connection: Box<UpstreamConnection>,
    /// Whether a request was sent on it before: if it is closed before an octet of the answer came, the request may
    /// never have been seen.
    pub reused: bool,
}

impl HttpConnection {
    pub(super) async fn acquire(pool: &Rc<ConnPool>) -> Result<Self, PoolFailure> {
        let (connection, reused) = pool.acquire().await?;
        match RequestPermit::take(pool) {
            Some(permit) => {
                connection.begin_request();
                Ok(Self { permit, connection, reused })
            }
            None => {
                pool.offer(connection);
                Err(PoolFailure::overflow())
            }
        }
    }

    /// The request is done, and the next may follow. Something that was read and not used, or a connection that ended,
    /// closes it all the same.
    pub fn release(self) {
        let Self { permit, connection, .. } = self;
        drop(permit);
        connection.end_request();
        let pool = Rc::clone(connection.pool());
        pool.give_back(connection);
    }

    /// The request is done, and the connection is closed: the response asked for it, or its end was the body's.
    pub fn finish(self) {
        self.connection.end_request();
    }
}

impl Deref for HttpConnection {
    type Target = UpstreamConnection;

    fn deref(&self) -> &UpstreamConnection {
        &self.connection
    }
}
