//! Why an exchange ended: Envoy's words for it, and what they say of the endpoints that were tried.

use crate::head::is_busy;
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

    /// How a request is counted that Envoy answered itself, with this status and these flags. Of its own accord Envoy says 4xx of what the client
    /// did: it sent too slowly (408), too much (413) or what cannot be read (400). A filter that limits says 429.
    pub(crate) const fn local_error(self, status: u16) -> ErrorCode {
        match status {
            429 => ErrorCode::ResourceExhausted,
            400..=499 if !self.any(flag::NO_ROUTE | flag::NO_CLUSTER) => ErrorCode::BadRequest,
            _ => self.error_code(),
        }
    }
}

/// Statuses that say that the endpoint is in trouble: 5xx but for those that answer what the client asked for (not implemented, HTTP
/// version).
pub(crate) const fn is_endpoint_trouble(status: u16) -> bool {
    status >= 500 && !matches!(status, 501 | 505)
}

/// Statuses that serve nobody, perhaps by the endpoint's fault: all below 500 that say neither that it went well nor what is wrong with the
/// request itself, and those of 5xx that answer what the client asked for.
const fn is_rejection(status: u16) -> bool {
    matches!(status, 300..=499 | 501 | 505) && !matches!(status, 304 | 400 | 413 | 422)
}

/// What a complete response is worth.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Verdict {
    pub(crate) outcome: ResponseOutcome,
    /// How the request is counted, if it failed.
    pub(crate) error: Option<ErrorCode>,
    /// What it says of the endpoint, if that is nothing good.
    pub(crate) failure: Option<Failure>,
}

/// What the answer to an inference request is by its headers.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum AnswerKind {
    /// One of its API, or what may be one.
    Own,
    /// Nothing that its API answers with.
    Foreign,
    /// No answer to an inference request.
    Other,
}

/// Judges a response of that status by what its body said.
pub(crate) fn judge(status: u16, facts: &ResponseFacts, outcome: ResponseOutcome, kind: AnswerKind) -> Verdict {
    let failure = if is_busy(status) {
        Some(Failure::Busy { seconds: 0 })
    } else if is_endpoint_trouble(status) {
        Some(Failure::ServerError)
    } else {
        let is_rejected = kind == AnswerKind::Foreign || (kind == AnswerKind::Own && is_rejection(status));
        is_rejected.then_some(Failure::Rejected)
    };
    let error = ErrorCode::of_status(status);
    if error.is_some() || outcome != ResponseOutcome::Parsed {
        return Verdict { outcome, error, failure };
    }
    if let Some(error) = &facts.error {
        let (code, failure) = if error.is_server_fault() {
            (ErrorCode::ModelServerError, Some(Failure::BadAnswer))
        } else {
            (ErrorCode::ModelServerRejected, None)
        };
        return Verdict { outcome: ResponseOutcome::Error, error: Some(code), failure };
    }
    let (outcome, error, failure) = match facts.ending {
        // Some statuses have no body by definition.
        _ if matches!(status, 204 | 205) => (ResponseOutcome::Opaque, None, None),
        Ending::Complete | Ending::Unknown => (outcome, None, failure),
        Ending::Truncated => (ResponseOutcome::Truncated, Some(ErrorCode::UpstreamReset), Some(Failure::BrokenOff)),
        Ending::Malformed => (ResponseOutcome::Malformed, Some(ErrorCode::ModelServerError), Some(Failure::BadAnswer)),
    };
    Verdict { outcome, error, failure }
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

    #[test]
    fn what_serves_nobody_is_a_rejection_but_for_what_names_the_request() {
        use ErrorCode::{ModelServerError, ModelServerRejected, ResourceExhausted};
        for (status, kind, error, failure) in [
            (401, AnswerKind::Own, Some(ModelServerRejected), Some(Failure::Rejected)),
            (404, AnswerKind::Own, Some(ModelServerRejected), Some(Failure::Rejected)),
            (404, AnswerKind::Other, Some(ModelServerRejected), None),
            (400, AnswerKind::Own, Some(ModelServerRejected), None),
            (422, AnswerKind::Own, Some(ModelServerRejected), None),
            (429, AnswerKind::Own, Some(ResourceExhausted), Some(Failure::Busy { seconds: 0 })),
            (501, AnswerKind::Own, Some(ModelServerError), Some(Failure::Rejected)),
            (500, AnswerKind::Own, Some(ModelServerError), Some(Failure::ServerError)),
            (302, AnswerKind::Own, None, Some(Failure::Rejected)),
            (302, AnswerKind::Other, None, None),
            (304, AnswerKind::Own, None, None),
            (200, AnswerKind::Foreign, None, Some(Failure::Rejected)),
            (200, AnswerKind::Own, None, None),
        ] {
            let verdict = judge(status, &ResponseFacts::default(), ResponseOutcome::Opaque, kind);
            assert_eq!((verdict.error, verdict.failure), (error, failure), "{status} {kind:?}");
        }
    }
}
