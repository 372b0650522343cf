//! `error_type` of the GenAI families: one value a failure, of a fixed set.

use crate::record::{End, ExchangeRecord};
use crate::reply::ErrorCode;

/// What a failed request is counted under; README's table in `envoy/` has the words.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum ErrorType {
    /// The model server answered with this status, one of those that are registered.
    Status(u16),
    /// It answered with a status of 4xx that nobody registered.
    OtherClientError,
    /// It answered with a status of 5xx or above that nobody registered.
    OtherServerError,
    /// 429, here or from the model server, or a limit of the proxy.
    RateLimited,
    /// The request was refused here, or by an error inside a response with a status of success.
    InvalidRequest,
    /// An error inside a response with a status of success, or no response of the API.
    ServerError,
    /// No endpoint could take it.
    NoHealthyUpstream,
    /// The connection failed or broke, or the response ended before its end.
    UpstreamReset,
    /// The model server was silent for too long.
    Timeout,
    /// The client left.
    Cancelled,
    /// A fault of ours.
    Internal,
}

/// Statuses of errors that IANA or a well-known server or proxy gives a meaning, and their texts. A model server that makes others up
/// takes no labels with them.
const STATUSES: [(u16, &str); 42] = [
    (400, "400"),
    (401, "401"),
    (402, "402"),
    (403, "403"),
    (404, "404"),
    (405, "405"),
    (406, "406"),
    (407, "407"),
    (408, "408"),
    (409, "409"),
    (410, "410"),
    (411, "411"),
    (412, "412"),
    (413, "413"),
    (414, "414"),
    (415, "415"),
    (416, "416"),
    (417, "417"),
    (418, "418"),
    (421, "421"),
    (422, "422"),
    (423, "423"),
    (424, "424"),
    (425, "425"),
    (426, "426"),
    (428, "428"),
    (431, "431"),
    (451, "451"),
    (499, "499"),
    (500, "500"),
    (501, "501"),
    (502, "502"),
    (503, "503"),
    (504, "504"),
    (505, "505"),
    (506, "506"),
    (507, "507"),
    (508, "508"),
    (510, "510"),
    (511, "511"),
    (520, "520"),
    (529, "529"),
];

impl ErrorType {
    /// That of a settled exchange; `None`: it did not fail.
    #[must_use]
    pub fn of_record(record: &ExchangeRecord) -> Option<Self> {
        match record.end {
            End::Complete => None,
            End::Failed(code) => Some(Self::of(code, record.response.map(|response| response.status))),
        }
    }

    /// That of a failure, `status` being the model server's if it answered.
    #[must_use]
    pub fn of(code: ErrorCode, status: Option<u16>) -> Self {
        match (code, status) {
            (ErrorCode::ResourceExhausted, _) => Self::RateLimited,
            (ErrorCode::ModelServerError | ErrorCode::ModelServerRejected, Some(status @ 400..)) => {
                match STATUSES.binary_search_by_key(&status, |(known, _)| *known) {
                    Ok(_) => Self::Status(status),
                    Err(_) if status < 500 => Self::OtherClientError,
                    Err(_) => Self::OtherServerError,
                }
            }
            (ErrorCode::BadRequest | ErrorCode::ModelServerRejected, _) => Self::InvalidRequest,
            (ErrorCode::ModelServerError, _) => Self::ServerError,
            (ErrorCode::ServiceUnavailable, _) => Self::NoHealthyUpstream,
            (ErrorCode::UpstreamReset, _) => Self::UpstreamReset,
            (ErrorCode::Timeout, _) => Self::Timeout,
            (ErrorCode::Cancelled, _) => Self::Cancelled,
            (ErrorCode::Internal, _) => Self::Internal,
        }
    }

    /// The label's value.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Status(status) => {
                STATUSES.iter().find(|(known, _)| *known == status).map_or("5xx", |(_, text)| *text)
            }
            Self::OtherClientError => "4xx",
            Self::OtherServerError => "5xx",
            Self::RateLimited => "rate_limited",
            Self::InvalidRequest => "invalid_request",
            Self::ServerError => "server_error",
            Self::NoHealthyUpstream => "no_healthy_upstream",
            Self::UpstreamReset => "upstream_reset",
            Self::Timeout => "timeout",
            Self::Cancelled => "cancelled",
            Self::Internal => "internal",
        }
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    #[test]
    fn every_failure_has_a_type_that_tells_it_from_others() {
        for (code, status, text) in [
            (ErrorCode::ModelServerRejected, Some(404), "404"),
            (ErrorCode::ModelServerRejected, Some(444), "4xx"),
            (ErrorCode::ModelServerRejected, Some(200), "invalid_request"),
            (ErrorCode::ModelServerError, Some(500), "500"),
            (ErrorCode::ModelServerError, Some(503), "503"),
            (ErrorCode::ModelServerError, Some(599), "5xx"),
            (ErrorCode::ModelServerError, Some(999), "5xx"),
            (ErrorCode::ModelServerError, Some(200), "server_error"),
            (ErrorCode::ResourceExhausted, Some(429), "rate_limited"),
            (ErrorCode::ResourceExhausted, None, "rate_limited"),
            (ErrorCode::BadRequest, None, "invalid_request"),
            (ErrorCode::ServiceUnavailable, None, "no_healthy_upstream"),
            (ErrorCode::UpstreamReset, None, "upstream_reset"),
            (ErrorCode::UpstreamReset, Some(200), "upstream_reset"),
            (ErrorCode::Timeout, Some(200), "timeout"),
            (ErrorCode::Cancelled, Some(200), "cancelled"),
            (ErrorCode::Internal, None, "internal"),
        ] {
            assert_eq!(ErrorType::of(code, status).as_str(), text, "{code:?} {status:?}");
        }
    }

    #[test]
    fn the_statuses_are_in_order_and_written_as_they_are() {
        assert!(STATUSES.is_sorted_by_key(|(status, _)| *status));
        assert!(STATUSES.iter().all(|(status, text)| alloc::format!("{status}") == *text));
    }
}
