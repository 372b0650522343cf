//! Media types and the parameters of header values.

use alloc::vec::Vec;

/// Longest boundary accepted. RFC 2046 allows 70 bytes; servers take this many.
pub const MAX_BOUNDARY_BYTES: usize = 256;

/// The kinds of body that are told apart by their `content-type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MediaType {
    /// One JSON text: `application/json`, `text/json` and every type that ends in `+json`. Lines of JSON
    /// (`application/x-ndjson`, `application/jsonlines`, `application/json-seq`) are not one text.
    Json,
    /// `text/event-stream`.
    EventStream,
    /// `multipart/form-data`.
    Form,
    /// Every other type, and none.
    Other,
}

impl MediaType {
    /// The kind that the value of a `content-type` header names. Case, spaces around the type and parameters make no difference.
    pub fn of(content_type: &[u8]) -> Self {
        let (essence, _) = split(content_type);
        let is = |name: &[u8]| essence.eq_ignore_ascii_case(name);
        let suffix = essence.len().checked_sub(b"+json".len()).and_then(|start| essence.get(start..));
        if is(b"application/json") || is(b"text/json") || suffix.is_some_and(|end| end.eq_ignore_ascii_case(b"+json")) {
            Self::Json
        } else if is(b"text/event-stream") {
            Self::EventStream
        } else if is(b"multipart/form-data") {
            Self::Form
        } else {
            Self::Other
        }
    }
}

/// The boundary that the value of a `content-type` header names: `None` if it names none, an empty one, one that is too long or has
/// control characters, or two different ones.
pub fn boundary(content_type: &[u8]) -> Option<Vec<u8>> {
    let (_, rest) = split(content_type);
    let mut found: Option<Vec<u8>> = None;
    for (name, value) in parameters(rest) {
        if !name.eq_ignore_ascii_case(b"boundary") {
            continue;
        }
        if found.as_ref().is_some_and(|other| *other != value) {
            return None;
        }
        found = Some(value);
    }
    found.filter(|boundary| is_boundary(boundary))
}

/// Whether a multipart body can be parted by `boundary`.
pub(super) fn is_boundary(boundary: &[u8]) -> bool {
    (1..=MAX_BOUNDARY_BYTES).contains(&boundary.len()) && !boundary.iter().any(u8::is_ascii_control)
}

/// The parameters of a header value, as servers in Python read them: parted by semicolons outside of quotes, a quote behind a
/// backslash being none. Names are given as written, values without quotes; a parameter without `=` has an empty value.
pub(super) fn parameters(value: Option<&[u8]>) -> impl Iterator<Item = (&[u8], Vec<u8>)> {
    let mut rest = value;
    core::iter::from_fn(move || {
        let (segment, behind) = split(rest?);
        rest = behind;
        let equals = memchr::memchr(b'=', segment).unwrap_or(segment.len());
        let (name, value) = segment.split_at(equals);
        Some((trim(name), unquoted(trim(value.get(1..).unwrap_or_default()))))
    })
}

/// What stands before the first semicolon outside of quotes, without spaces around it, and what stands behind.
pub(super) fn split(value: &[u8]) -> (&[u8], Option<&[u8]>) {
    let (mut is_quoted, mut before) = (false, 0);
    for (index, &byte) in value.iter().enumerate() {
        match byte {
            b'"' if before != b'\\' => is_quoted = !is_quoted,
            b';' if !is_quoted => {
                let (head, tail) = value.split_at(index);
                return (trim(head), tail.get(1..));
            }
            _ => {}
        }
        before = byte;
    }
    (trim(value), None)
}

fn trim(text: &[u8]) -> &[u8] {
    let is_space = |byte: &u8| matches!(byte, b' ' | b'\t');
    let start = text.iter().position(|byte| !is_space(byte)).unwrap_or(text.len());
    let end = text.iter().rposition(|byte| !is_space(byte)).map_or(start, |last| last + 1);
    text.get(start..end).unwrap_or_default()
}

fn unquoted(value: &[u8]) -> Vec<u8> {
    match value {
        [b'"', inner @ .., b'"'] => replaced(&replaced(inner, b"\\\\", b'\\'), b"\\\"", b'"'),
        _ => value.to_vec(),
    }
}

fn replaced(text: &[u8], pair: &[u8; 2], by: u8) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, behind)) = rest.split_first() {
        match rest.strip_prefix(pair) {
            Some(behind) => {
                out.push(by);
                rest = behind;
            }
            None => {
                out.push(first);
                rest = behind;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use std::{format, string::String, vec};
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    #[test]
    fn a_type_is_known_whatever_stands_around_it() {
        for (value, expected) in [
            ("application/json", MediaType::Json),
            ("Application/JSON; charset=utf-8", MediaType::Json),
            (" application/json ;charset=\"utf;8\"", MediaType::Json),
            ("application/problem+json", MediaType::Json),
            ("application/vnd.api+JSON;x", MediaType::Json),
            ("text/json", MediaType::Json),
            ("text/event-stream", MediaType::EventStream),
            ("Text/Event-Stream; charset=utf-8", MediaType::EventStream),
            ("multipart/form-data; boundary=x", MediaType::Form),
            ("application/x-ndjson", MediaType::Other),
            ("application/jsonlines", MediaType::Other),
            ("application/json-seq", MediaType::Other),
            ("application/jsonl", MediaType::Other),
            ("text/event-streams", MediaType::Other),
            ("multipart/mixed; boundary=x", MediaType::Other),
            ("text/plain; x=application/json", MediaType::Other),
            ("json", MediaType::Other),
            ("", MediaType::Other),
        ] {
            assert_eq!(MediaType::of(value.as_bytes()), expected, "{value}");
        }
    }

    #[test]
    fn a_boundary_is_taken_quoted_or_not() {
        let long = "b".repeat(MAX_BOUNDARY_BYTES);
        for (value, expected) in [
            ("multipart/form-data; boundary=abc", Some("abc")),
            ("multipart/form-data;boundary=\"a b;c\"", Some("a b;c")),
            ("multipart/form-data; charset=utf-8 ; BOUNDARY = abc ; x=y", Some("abc")),
            ("multipart/form-data; boundary=\"a\\\"b\\\\c\"", Some("a\"b\\c")),
            ("multipart/form-data; boundary=a=b", Some("a=b")),
            ("multipart/form-data; boundary=a; boundary=\"a\"", Some("a")),
            ("multipart/form-data; boundary=a; boundary=b", None),
            ("multipart/form-data; boundary=", None),
            ("multipart/form-data; boundary=\"\"", None),
            ("multipart/form-data; boundary", None),
            ("multipart/form-data; boundary=\"a\r\nb\"", None),
            ("multipart/form-data; boundary*=utf-8''abc", None),
            ("multipart/form-data; x=\"; boundary=a\"", None),
            ("multipart/form-data", None),
            ("", None),
            (&format!("multipart/form-data; boundary={long}"), Some(long.as_str())),
            (&format!("multipart/form-data; boundary={long}b"), None),
        ] {
            assert_eq!(boundary(value.as_bytes()).as_deref(), expected.map(str::as_bytes), "{value}");
        }
    }

    #[test]
    fn parameters_are_parted_outside_of_quotes() {
        let all = |text: &'static str| -> Vec<_> {
            parameters(Some(text.as_bytes()))
                .map(|(name, value)| (name.to_vec(), value))
                .map(|(name, value)| (String::from_utf8(name).unwrap(), String::from_utf8(value).unwrap()))
                .collect()
        };
        let pair = |name: &str, value: &str| (name.into(), value.into());
        assert_eq!(all("name=\"a;b\"; filename=c"), vec![pair("name", "a;b"), pair("filename", "c")]);
        assert_eq!(all("a = b;c"), vec![pair("a", "b"), pair("c", "")]);
        assert_eq!(all("a=\"x\\\";y\";b=1"), vec![pair("a", "x\";y"), pair("b", "1")]);
        assert_eq!(all("a=\"open;b=1"), vec![pair("a", "\"open;b=1")]);
        assert_eq!(all(""), vec![pair("", "")]);
    }
}
