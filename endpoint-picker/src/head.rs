//! Header blocks, reduced to what the picker asks of them in one pass.

use alloc::borrow::Cow;

use crate::go_duration;
use crate::load_report::{BINARY_REPORT_HEADER, FORMAT_HEADER, LoadReport, REPORT_HEADER};
use crate::openai::{Api, media::MediaType};

/// Statuses that say that the server has no room for the request: 429 is what Text Generation Inference answers with when it is full.
pub(crate) const fn is_busy(status: u16) -> bool {
    matches!(status, 429 | 503)
}

/// Carries the ranked endpoints to Envoy's load balancer, as the endpoint picker protocol names it.
pub const DESTINATION_HEADER: &str = "x-gateway-destination-endpoint";
/// In which the proxy says who served, where it is configured to: an address and a port.
pub const SERVED_HEADER: &str = "x-inpick-served-endpoint";
/// In which a client sends the secret that entitles it to know why its request went where it went.
pub const EXPLAIN_HEADER: &str = "x-inpick-explain";
/// In which that is told.
pub const EXPLANATION_HEADER: &str = "x-inpick-explanation";
/// Names a request, for whoever is told of it.
pub(crate) const REQUEST_ID_HEADER: &str = "x-request-id";
/// How long the client waits, in milliseconds.
pub(crate) const TIMEOUT_HEADER: &str = "x-envoy-upstream-rq-timeout-ms";
/// Names an objective, which stands for a priority.
pub const OBJECTIVE_HEADER: &str = "x-gateway-inference-objective";
/// The objective header's newer name.
pub(crate) const OBJECTIVE_HEADER_LLM_D: &str = "x-llm-d-inference-objective";
/// Names the flow that a request belongs to.
pub const FAIRNESS_HEADER: &str = "x-gateway-inference-fairness-id";
/// How long a request wants to wait in flow control at most, as Go writes durations: `1500ms`, `1m30s`.
pub const TTL_HEADER: &str = "x-llm-d-inference-ttl";
/// The fairness header's newer name.
pub(crate) const FAIRNESS_HEADER_LLM_D: &str = "x-llm-d-inference-fairness-id";
/// Lists the only endpoints that may be picked.
pub(crate) const SUBSET_HEADER: &str = "x-gateway-destination-endpoint-subset";
/// Lists the endpoints to pick, in conformance tests.
pub(crate) const SELECTION_HEADER: &str = "test-epp-endpoint-selection";

/// Every header that [`RequestHead::read`] looks at, for hosts that give headers by name.
pub const REQUEST_HEADERS: &[&str] = &[
    ":method",
    ":path",
    "content-encoding",
    "content-length",
    "content-type",
    "accept-encoding",
    "upgrade",
    REQUEST_ID_HEADER,
    TIMEOUT_HEADER,
    DESTINATION_HEADER,
    OBJECTIVE_HEADER,
    OBJECTIVE_HEADER_LLM_D,
    FAIRNESS_HEADER,
    FAIRNESS_HEADER_LLM_D,
    TTL_HEADER,
    FORMAT_HEADER,
    SUBSET_HEADER,
    SELECTION_HEADER,
    EXPLAIN_HEADER,
];
/// How long a server that is busy wants to be left alone.
pub const RETRY_AFTER_HEADER: &str = "retry-after";
/// Every header that [`ResponseHead::read`] looks at.
pub const RESPONSE_HEADERS: &[&str] =
    &[":status", "content-type", "content-encoding", RETRY_AFTER_HEADER, REPORT_HEADER, BINARY_REPORT_HEADER];

/// What a request's headers say.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct RequestHead<'a> {
    /// `:method`.
    pub method: &'a [u8],
    /// `:path` with its query.
    pub path: &'a [u8],
    /// `content-encoding`, if other than `identity`.
    pub encoded: bool,
    /// `content-length`: bytes of the body.
    pub content_length: Option<u64>,
    /// The client sent the destination header itself.
    pub has_destination: bool,
    /// Value of the objective header.
    pub objective: Option<&'a [u8]>,
    /// Value of the fairness header.
    pub fairness_id: Option<&'a [u8]>,
    /// How long the request wants to wait in flow control at most, in microseconds.
    pub ttl_micros: Option<u64>,
    /// `upgrade` or CONNECT: a tunnel, whose bytes are not a body.
    pub tunnel: bool,
    /// `accept-encoding`, if it allows another than `identity`.
    pub accepts_encoded: bool,
    /// [`REQUEST_ID_HEADER`].
    pub request_id: Option<&'a [u8]>,
    /// [`TIMEOUT_HEADER`]: how long the client waits, in milliseconds.
    pub timeout_ms: Option<u64>,
    /// `content-type`, which tells how the body is to be read.
    pub content_type: Option<&'a [u8]>,
    /// The only endpoints that may be picked, as a list in a header.
    pub subset_hint: Option<Cow<'a, [u8]>>,
    /// The same in the proxy's metadata.
    pub subset_metadata: Option<&'a [u8]>,
    /// The endpoints that a conformance test chooses, as a list.
    pub selection: Option<&'a [u8]>,
    /// The client asks for a load report itself.
    pub asks_load: bool,
    /// The token of the client's session.
    pub session: Option<&'a [u8]>,
    /// Value of [`EXPLAIN_HEADER`].
    pub explain: Option<&'a [u8]>,
}

impl<'a> RequestHead<'a> {
    /// Reads header pairs as the host lists them: names in lower case, values as raw bytes.
    pub fn read(pairs: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> Self {
        let mut head = Self::default();
        for (name, value) in pairs {
            match name {
                b":method" => {
                    head.method = value;
                    head.tunnel |= value == b"CONNECT";
                }
                b":path" => head.path = value,
                b"content-encoding" => head.encoded |= is_encoded(value),
                b"content-length" => head.content_length = whole(value),
                b"content-type" => head.content_type = Some(value),
                b"accept-encoding" => head.accepts_encoded = !value.eq_ignore_ascii_case(b"identity"),
                b"upgrade" => head.tunnel = true,
                _ if name == REQUEST_ID_HEADER.as_bytes() => head.request_id = Some(value),
                _ if name == TIMEOUT_HEADER.as_bytes() => {
                    head.timeout_ms = core::str::from_utf8(value).ok().and_then(|text| text.trim().parse().ok());
                }
                _ if name == DESTINATION_HEADER.as_bytes() => head.has_destination = true,
                _ if name == OBJECTIVE_HEADER.as_bytes() || name == OBJECTIVE_HEADER_LLM_D.as_bytes() => {
                    head.objective = Some(value);
                }
                _ if name == FAIRNESS_HEADER.as_bytes() || name == FAIRNESS_HEADER_LLM_D.as_bytes() => {
                    head.fairness_id = Some(value);
                }
                _ if name == TTL_HEADER.as_bytes() => {
                    head.ttl_micros = go_duration::micros(value.trim_ascii()).filter(|&ttl| ttl > 0)
                }
                _ if name == FORMAT_HEADER.as_bytes() => head.asks_load = true,
                _ if name == SUBSET_HEADER.as_bytes() => {
                    // A list may be split over several headers.
                    head.subset_hint = Some(match head.subset_hint.take() {
                        None => Cow::Borrowed(value),
                        Some(before) => Cow::Owned([&before, value].join(&b","[..])),
                    });
                }
                _ if name == SELECTION_HEADER.as_bytes() => head.selection = Some(value),
                _ if name == EXPLAIN_HEADER.as_bytes() => head.explain = Some(value),
                _ => {}
            }
        }
        head
    }

    /// What the request is to the picker.
    #[must_use]
    pub fn route(&self) -> Route {
        let path = self.path.split(|&byte| byte == b'?').next().unwrap_or_default();
        match Api::from_path(self.path) {
            Some(api) if self.method == b"POST" && !self.tunnel => Route::Inference(api),
            Some(_) => Route::LoadOnly,
            None if path.split(|&byte| byte == b'/').any(|segment| segment == b"v1" || segment == b"v2") => {
                Route::LoadOnly
            }
            None if Api::is_tokenizer(self.path) => Route::LoadOnly,
            None => Route::Untouched,
        }
    }
}

/// Whether a list of codings has any but `identity`.
fn is_encoded(codings: &[u8]) -> bool {
    let mut codings = codings.split(|&byte| byte == b',').map(<[u8]>::trim_ascii);
    codings.any(|coding| !coding.is_empty() && !coding.eq_ignore_ascii_case(b"identity"))
}

/// A whole number in decimal digits.
fn whole(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0_u64, |number, digit| match digit {
        b'0'..=b'9' => number.checked_mul(10)?.checked_add(u64::from(digit - b'0')),
        _ => None,
    })
}

/// What a request is to the picker.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Route {
    /// Its body names a model and decides.
    Inference(Api),
    /// Of an inference API, a tokenizer's, or below `/v1/` or `/v2/`, but with nothing to read (another method, an upgrade): any endpoint can answer, the
    /// least loaded shall.
    LoadOnly,
    /// None of the picker's business.
    Untouched,
}

/// What a response's headers say.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ResponseHead {
    /// `:status`; 0 when missing.
    pub status: u16,
    /// Server-sent events.
    pub event_stream: bool,
    /// JSON.
    pub json: bool,
    /// It names a type, whichever.
    pub has_type: bool,
    /// Compressed: the body cannot be read.
    pub encoded: bool,
    /// It carries a load report, read or not.
    pub has_load: bool,
    /// What the report says.
    pub load: Option<LoadReport>,
    /// `retry-after` in seconds; a date is not read.
    pub retry_after: Option<u32>,
}

impl ResponseHead {
    /// Reads header pairs as the host lists them.
    pub fn read<'a>(pairs: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> Self {
        let mut head = Self::default();
        head.read_more(pairs);
        head
    }

    /// Whether the server refused the request because it has too many: then [`RETRY_AFTER_HEADER`] matters.
    #[must_use]
    pub const fn is_busy(&self) -> bool {
        is_busy(self.status)
    }

    /// Reads further pairs of the same block.
    pub fn read_more<'a>(&mut self, pairs: impl Iterator<Item = (&'a [u8], &'a [u8])>) {
        for (name, value) in pairs {
            match name {
                b":status" => {
                    self.status = core::str::from_utf8(value).ok().and_then(|text| text.parse().ok()).unwrap_or(0);
                }
                b"content-type" => {
                    let media_type = MediaType::of(value);
                    self.has_type = true;
                    self.event_stream = media_type == MediaType::EventStream;
                    self.json = media_type == MediaType::Json;
                }
                b"content-encoding" => self.encoded |= is_encoded(value),
                _ if name == RETRY_AFTER_HEADER.as_bytes() => {
                    self.retry_after = core::str::from_utf8(value).ok().and_then(|text| text.trim().parse().ok());
                }
                _ if name == REPORT_HEADER.as_bytes() => {
                    self.has_load = true;
                    self.load = LoadReport::parse(value).or(self.load);
                }
                _ if name == BINARY_REPORT_HEADER.as_bytes() => {
                    self.has_load = true;
                    self.load = LoadReport::parse_binary(value).or(self.load);
                }
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    /// Whatever a match arm of this file's readers names must be asked for by name too.
    #[test]
    fn every_header_that_is_read_is_listed() {
        let source = include_str!("head.rs");
        let readers = source.split("#[cfg(test)]").next().unwrap();
        let literals = readers
            .lines()
            .filter_map(|line| line.trim().strip_prefix("b\"")?.split_once("\" =>").map(|(name, _)| name));
        let mut found = 0;
        for name in literals {
            assert!(
                REQUEST_HEADERS.contains(&name) || RESPONSE_HEADERS.contains(&name),
                "{name} is read and not listed"
            );
            found += 1;
        }
        let constants = readers.matches("if name == ").count() + readers.matches("|| name == ").count();
        // The content's type and encoding are read of both.
        assert_eq!(found + constants, REQUEST_HEADERS.len() + RESPONSE_HEADERS.len());
    }

    fn route(method: &str, path: &str) -> Route {
        RequestHead { method: method.as_bytes(), path: path.as_bytes(), ..RequestHead::default() }.route()
    }

    #[test]
    fn requests_are_told_apart_by_method_and_path() {
        assert_eq!(route("POST", "/v1/chat/completions"), Route::Inference(Api::ChatCompletions));
        assert_eq!(route("GET", "/v1/chat/completions"), Route::LoadOnly);
        assert_eq!(route("GET", "/v1/models"), Route::LoadOnly);
        assert_eq!(route("POST", "/gw/v1/messages/count_tokens?beta=true"), Route::LoadOnly);
        assert_eq!(route("POST", "/pooling"), Route::Inference(Api::Pooling));
        assert_eq!(route("POST", "/v1/audio/transcriptions"), Route::Inference(Api::Transcriptions));
        assert_eq!(route("POST", "/tokenize"), Route::LoadOnly);
        assert_eq!(route("GET", "/health?next=/v1/"), Route::Untouched);
        assert_eq!(route("GET", "/"), Route::Untouched);
    }

    #[test]
    fn a_tunnel_is_routed_by_load_and_its_bytes_are_no_body() {
        for (method, path) in [("GET", "/v1/realtime"), ("POST", "/v1/chat/completions"), ("CONNECT", "/v1/realtime")] {
            let pairs: [(&[u8], &[u8]); 3] =
                [(b":method", method.as_bytes()), (b":path", path.as_bytes()), (b"upgrade", b"websocket")];
            assert_eq!(RequestHead::read(pairs.into_iter()).route(), Route::LoadOnly, "{method} {path}");
        }
        let connect: [(&[u8], &[u8]); 2] = [(b":method", b"CONNECT"), (b":authority", b"host:443")];
        assert_eq!(RequestHead::read(connect.into_iter()).route(), Route::Untouched);
    }

    #[test]
    fn what_the_client_waits_for_and_accepts_is_read() {
        let pairs: [(&[u8], &[u8]); 3] = [
            (b"accept-encoding", b"gzip, br"),
            (b"x-envoy-upstream-rq-timeout-ms", b"1500"),
            (b"x-request-id", b"r-1"),
        ];
        let head = RequestHead::read(pairs.into_iter());
        assert_eq!((head.accepts_encoded, head.timeout_ms, head.request_id), (true, Some(1_500), Some(&b"r-1"[..])));
        let plain: [(&[u8], &[u8]); 2] =
            [(b"accept-encoding", b"identity"), (b"x-envoy-upstream-rq-timeout-ms", b"soon")];
        let head = RequestHead::read(plain.into_iter());
        assert_eq!((head.accepts_encoded, head.timeout_ms), (false, None));
    }

    #[test]
    fn a_response_is_known_by_its_type() {
        let pairs: [(&[u8], &[u8]); 2] = [(b":status", b"200"), (b"content-type", b"Text/Event-Stream; charset=utf-8")];
        let head = ResponseHead::read(pairs.into_iter());
        assert_eq!((head.status, head.event_stream, head.json), (200, true, false));
    }

    #[test]
    fn a_length_is_a_whole_number_or_none() {
        let length = |value: &[u8]| RequestHead::read([(&b"content-length"[..], value)].into_iter()).content_length;
        assert_eq!(length(b"18446744073709551615"), Some(u64::MAX));
        assert_eq!([&b"18446744073709551616"[..], b"-1", b"1.0"].map(length), [None; 3]);
    }

    #[test]
    fn codings_are_those_but_identity() {
        for (codings, is_encoded) in [
            ("", false),
            ("identity", false),
            ("Identity, identity", false),
            (" ,", false),
            ("gzip", true),
            ("identity, br", true),
        ] {
            let pair = [(&b"content-encoding"[..], codings.as_bytes())];
            assert_eq!(RequestHead::read(pair.into_iter()).encoded, is_encoded, "{codings:?}");
            assert_eq!(ResponseHead::read(pair.into_iter()).encoded, is_encoded, "{codings:?}");
        }
    }

    #[test]
    fn a_subset_may_be_split_over_several_headers() {
        let pairs =
            ["10.0.0.1:8000", "10.0.0.3:8000, 10.0.0.4"].map(|list| (SUBSET_HEADER.as_bytes(), list.as_bytes()));
        let head = RequestHead::read(pairs.into_iter());
        assert_eq!(head.subset_hint.as_deref(), Some(&b"10.0.0.1:8000,10.0.0.3:8000, 10.0.0.4"[..]));
    }
}
