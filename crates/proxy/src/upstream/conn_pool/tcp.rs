//! A connection for one TCP connection that is proxied.

use super::{ConnPool, PoolFailure, RequestPermit, UpstreamConnection};
use crate::drain::DrainWatch;
use std::{ops::Deref, rc::Rc};

/// A connection of its own. Dropping it closes it.
pub struct TcpConnection {
    _permit: RequestPermit,
    connection: Box<UpstreamConnection>,
    /// Says when the host fails its health checks, where the connection ends then.
    pub host_failure: Option<DrainWatch>,
}

impl TcpConnection {
    pub(super) async fn acquire(pool: &Rc<ConnPool>) -> Result<Self, PoolFailure> {
        let (connection, _) = pool.acquire().await?;
        let Some(permit) = RequestPermit::take(pool) else { return Err(PoolFailure::overflow("max_requests")) };
        connection.begin_request();
        Ok(Self { _permit: permit, connection, host_failure: None })
    }
}

impl Deref for TcpConnection {
    type Target = UpstreamConnection;

    fn deref(&self) -> &UpstreamConnection {
        &self.connection
    }
}
