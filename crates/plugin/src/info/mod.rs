//! Facts about connections and streams: what filters read, matchers ask and access logs print.

mod connection;
mod flags;
mod state;
mod stream;
mod tls;
mod trace;

pub use connection::{ConnectionInfo, ConnectionSummary, PeerAddress, PeerCertificate, ProxyTlv};
pub use flags::{ResponseFlag, ResponseFlags};
pub use state::{FilterState, FilterStateValue, HashableString, Metadata};
pub use stream::{
    ApplicationProtocols, Details, HostOverride, RouteInfo, StreamInfo, Timing, UpstreamAttempt, UpstreamInfo,
};
pub use tls::{CertificateInfo, TlsInfo};
pub use trace::TraceInfo;
