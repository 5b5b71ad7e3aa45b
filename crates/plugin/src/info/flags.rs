//! Response flags: the one- to five-letter codes by which access logs say what went wrong.

use std::fmt;

macro_rules! flags {
    ($($(#[$doc:meta])* $variant:ident = $short:literal,)*) => {
        /// Why a response is not simply what the upstream answered. Names and codes are Envoy's.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum ResponseFlag {
            $($(#[$doc])* $variant,)*
        }

        impl ResponseFlag {
            /// Every flag, in the order in which they are printed.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The code, such as `UH`.
            pub const fn short(self) -> &'static str {
                match self {
                    $(Self::$variant => $short,)*
                }
            }

            /// The long name, such as `NoHealthyUpstream` (`%RESPONSE_FLAGS_LONG%`).
            pub const fn long(self) -> &'static str {
                match self {
                    $(Self::$variant => stringify!($variant),)*
                }
            }
        }
    };
}

flags! {
    /// The local health check failed.
    FailedLocalHealthCheck = "LH",
    /// The cluster has no host that may be used.
    NoHealthyUpstream = "UH",
    /// The upstream did not answer in time.
    UpstreamRequestTimeout = "UT",
    /// The stream was reset by us.
    LocalReset = "LR",
    /// The upstream reset the stream.
    UpstreamRemoteReset = "UR",
    /// The upstream could not be connected to.
    UpstreamConnectionFailure = "UF",
    /// The upstream closed the connection.
    UpstreamConnectionTermination = "UC",
    /// A circuit breaker is open.
    UpstreamOverflow = "UO",
    /// No route matches.
    NoRouteFound = "NR",
    /// A fault filter delayed the request.
    DelayInjected = "DI",
    /// A fault filter aborted the request.
    FaultInjected = "FI",
    /// A rate limit holds.
    RateLimited = "RL",
    /// An authorization service denied the request.
    UnauthorizedExternalService = "UAEX",
    /// The rate limit service failed.
    RateLimitServiceError = "RLSE",
    /// The client closed the connection.
    DownstreamConnectionTermination = "DC",
    /// Every retry was used up.
    UpstreamRetryLimitExceeded = "URX",
    /// Nothing moved on the stream for too long.
    StreamIdleTimeout = "SI",
    /// An `x-envoy-*` request header has an invalid value.
    InvalidEnvoyRequestHeaders = "IH",
    /// The client broke the protocol.
    DownstreamProtocolError = "DPE",
    /// The upstream stream lasted too long.
    UpstreamMaxStreamDurationReached = "UMSDR",
    /// The response is from a cache.
    ResponseFromCacheFilter = "RFCF",
    /// A filter has no configuration yet.
    NoFilterConfigFound = "NFCF",
    /// The request or the connection lasted too long.
    DurationTimeout = "DT",
    /// The upstream broke the protocol.
    UpstreamProtocolError = "UPE",
    /// The route's cluster does not exist.
    NoClusterFound = "NC",
    /// The overload manager ended the request.
    OverloadManagerTerminated = "OM",
    /// The upstream's name does not resolve.
    DnsResolutionFailed = "DF",
    /// The cluster drops a part of its requests.
    DropOverload = "DO",
    /// The client reset the stream.
    DownstreamRemoteReset = "DR",
    /// The cluster drops all requests.
    UnconditionalDropOverload = "UDO",
}

impl ResponseFlag {
    /// From the code.
    pub fn from_short(code: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|flag| flag.short() == code)
    }
}

/// A set of flags.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ResponseFlags(u32);

/// That no retry is left was set behind another flag.
const RETRIES_ENDED_LAST: u32 = 1 << 31;

impl ResponseFlags {
    /// Adds a flag.
    pub fn set(&mut self, flag: ResponseFlag) {
        let is_later = flag == ResponseFlag::UpstreamRetryLimitExceeded && !self.is_empty() && !self.has(flag);
        self.0 |= 1 << flag as u8 | if is_later { RETRIES_ENDED_LAST } else { 0 };
    }

    /// Whether a flag is there.
    pub fn has(self, flag: ResponseFlag) -> bool {
        self.0 & (1 << flag as u8) != 0
    }

    /// Whether there is none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The flags, in the order in which they are printed: Envoy's order is that in which they were set. For HTTP it is
    /// known that no retry is left before what the last attempt has ended with, for TCP behind that.
    pub fn iter(self) -> impl Iterator<Item = ResponseFlag> {
        const ENDED: ResponseFlag = ResponseFlag::UpstreamRetryLimitExceeded;
        let is_last = self.0 & RETRIES_ENDED_LAST != 0;
        let others = ResponseFlag::ALL.iter().copied().filter(|flag| *flag != ENDED);
        let (first, last) = if is_last { (None, Some(ENDED)) } else { (Some(ENDED), None) };
        first.into_iter().chain(others).chain(last).filter(move |flag| self.has(*flag))
    }
}

/// The codes with commas between them; `-` for none.
impl fmt::Display for ResponseFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("-");
        }
        for (i, flag) in self.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            f.write_str(flag.short())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn printed_as_envoy_does() {
        let mut flags = ResponseFlags::default();
        assert_eq!(flags.to_string(), "-");
        flags.set(ResponseFlag::UpstreamRetryLimitExceeded);
        flags.set(ResponseFlag::UpstreamConnectionFailure);
        assert_eq!(flags.to_string(), "URX,UF");
        flags.set(ResponseFlag::UpstreamRetryLimitExceeded);
        assert_eq!(flags.to_string(), "URX,UF");
        let mut later = ResponseFlags::default();
        later.set(ResponseFlag::UpstreamConnectionFailure);
        later.set(ResponseFlag::UpstreamRetryLimitExceeded);
        assert_eq!(later.to_string(), "UF,URX");
        assert!(flags.has(ResponseFlag::UpstreamConnectionFailure) && !flags.has(ResponseFlag::NoRouteFound));
        assert_eq!(ResponseFlag::ALL.len(), 30);
        for flag in ResponseFlag::ALL {
            assert_eq!(ResponseFlag::from_short(flag.short()), Some(*flag));
        }
    }
}
