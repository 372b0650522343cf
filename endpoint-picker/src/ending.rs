//! Why an exchange ended: Envoy's words for it, and what they say of the endpoints that were tried.

use crate::openai::{Ending, ResponseFacts};
use crate::record::ResponseOutcome;
use crate::reply::ErrorCode;
use crate::scheduling::Failure;

/// Bits of Envoy's response flags, in the order of its `CoreResponseFlag`.
mod flag {
    pub(super) const NO_HEALTHY_UPSTREAM: u64 = 1 << 1;
    pub(super) const UPSTREAM_REQUEST_TIMEOUT: u64 = 1 << 2;
    pub(super) const UPSTREAM_REMOTE_RESET: u64 = 1 << 4;
    pub(super) const UPSTREAM_CONNECTION_FAILURE: u64 = 1 << 5;
    pub(super) const UPSTREAM_CONNECTION_TERMINATION: u64 = 1 << 6;
    pub(super) const UPSTREAM_OVERFLOW: u64 = 1 << 7;
    pub(super) const NO_ROUTE: u64 = 1 << 8;
    pub(super) const DOWNSTREAM_CONNECTION_TERMINATION: u64 = 1 << 14;
    pub(super) const STREAM_IDLE_TIMEOUT: u64 = 1 << 16;
    pub(super) const DOWNSTREAM_PROTOCOL_ERROR: u64 = 1 << 18;
    pub(super) const MAX_STREAM_DURATION: u64 = 1 << 19;
    pub(super) const DURATION_TIMEOUT: u64 = 1 << 22;
    pub(super) const UPSTREAM_PROTOCOL_ERROR: u64 = 1 << 23;
    pub(super) const NO_CLUSTER: u64 = 1 << 24;
    pub(super) const OVERLOAD_MANAGER: u64 = 1 << 25;
    pub(super) const DOWNSTREAM_REMOTE_RESET: u64 = 1 << 28;
}

/// Envoy's response flags.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Flags(pub(crate) u64);

impl Flags {
    const fn any(self, bits: u64) -> bool {
        self.0 & bits != 0
    }

    /// The connection to the endpoint that was tried last failed or broke. Time-outs and overflows of the proxy say nothing of it.
    pub(crate) const fn blames_endpoint(self) -> bool {
        self.any(
            flag::UPSTREAM_REMOTE_RESET
                | flag::UPSTREAM_CONNECTION_FAILURE
                | flag::UPSTREAM_CONNECTION_TERMINATION
                | flag::UPSTREAM_PROTOCOL_ERROR,
        )
    }

    /// How a failure with these flags is counted. A stream that was dropped without a flag was dropped by this side of the proxy:
    /// the client is not there any more.
    pub(crate) const fn error_code(self) -> ErrorCode {
        if self.any(
            flag::UPSTREAM_REQUEST_TIMEOUT
                | flag::STREAM_IDLE_TIMEOUT
                | flag::MAX_STREAM_DURATION
                | flag::DURATION_TIMEOUT,
        ) {
            ErrorCode::Timeout
        } else if self.0 == 0
            || self.any(
                flag::DOWNSTREAM_CONNECTION_TERMINATION
                    | flag::DOWNSTREAM_REMOTE_RESET
                    | flag::DOWNSTREAM_PROTOCOL_ERROR,
            )
        {
            ErrorCode::Cancelled
        } else if self.any(flag::NO_HEALTHY_UPSTREAM | flag::NO_ROUTE | flag::NO_CLUSTER) {
            ErrorCode::ServiceUnavailable
        } else if self.any(flag::UPSTREAM_OVERFLOW | flag::OVERLOAD_MANAGER) {
            ErrorCode::ResourceExhausted
        } else {
            ErrorCode::UpstreamReset
        }
    }
}

/// Statuses that say that the endpoint is in trouble: 5xx but for those that answer what the client asked for (not implemented, HTTP
/// version).
pub(crate) const fn is_endpoint_trouble(status: u16) -> bool {
    status >= 500 && !matches!(status, 501 | 505)
}

/// What a complete response is worth.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Verdict {
    pub(crate) outcome: ResponseOutcome,
    pub(crate) failure: Option<(ErrorCode, Option<Failure>)>,
}

/// Judges a response of that status by what its body said.
pub(crate) fn judge(status: u16, facts: &ResponseFacts, outcome: ResponseOutcome) -> Verdict {
    if let Some(code) = ErrorCode::of_status(status) {
        let failure = is_endpoint_trouble(status).then_some(Failure::ServerError);
        return Verdict { outcome, failure: Some((code, failure)) };
    }
    if outcome != ResponseOutcome::Parsed {
        return Verdict { outcome, failure: None };
    }
    if let Some(error) = &facts.error {
        let failure = if error.is_server_fault() {
            (ErrorCode::ModelServerError, Some(Failure::BadAnswer))
        } else {
            (ErrorCode::ModelServerRejected, None)
        };
        return Verdict { outcome: ResponseOutcome::Error, failure: Some(failure) };
    }
    match facts.ending {
        // Some statuses have no body by definition.
        _ if matches!(status, 204 | 205) => Verdict { outcome: ResponseOutcome::Opaque, failure: None },
        Ending::Complete | Ending::Unknown => Verdict { outcome, failure: None },
        Ending::Truncated => Verdict {
            outcome: ResponseOutcome::Truncated,
            failure: Some((ErrorCode::UpstreamReset, Some(Failure::BrokenOff))),
        },
        Ending::Malformed => Verdict {
            outcome: ResponseOutcome::Malformed,
            failure: Some((ErrorCode::ModelServerError, Some(Failure::BadAnswer))),
        },
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    #[test]
    fn only_a_broken_connection_blames_the_endpoint() {
        for bits in
            [flag::UPSTREAM_CONNECTION_FAILURE, flag::UPSTREAM_REMOTE_RESET, flag::UPSTREAM_CONNECTION_TERMINATION]
        {
            assert!(Flags(bits).blames_endpoint());
            assert_eq!(Flags(bits).error_code(), ErrorCode::UpstreamReset);
        }
        for (bits, code) in [
            (flag::UPSTREAM_OVERFLOW, ErrorCode::ResourceExhausted),
            (flag::OVERLOAD_MANAGER, ErrorCode::ResourceExhausted),
            (flag::UPSTREAM_REQUEST_TIMEOUT, ErrorCode::Timeout),
            (flag::STREAM_IDLE_TIMEOUT, ErrorCode::Timeout),
            (flag::NO_ROUTE, ErrorCode::ServiceUnavailable),
            (flag::DOWNSTREAM_CONNECTION_TERMINATION, ErrorCode::Cancelled),
            (0, ErrorCode::Cancelled),
        ] {
            assert_eq!((Flags(bits).blames_endpoint(), Flags(bits).error_code()), (false, code), "{bits:#x}");
        }
    }

    #[test]
    fn trouble_is_what_another_endpoint_might_not_have() {
        assert_eq!(
            [200, 404, 429, 500, 501, 502, 503, 504, 505].map(is_endpoint_trouble),
            [false, false, false, true, false, true, true, true, false]
        );
    }
}
