//! Whether a server refuses a request because it was asked to report usage.

use alloc::vec::Vec;
use core::ops::Range;

use memchr::memmem;

use crate::openai::json::{Container, Node, SKIP, Scalar, Scanner, Want, Watch};

/// Most bytes that are kept of a refusal that is not JSON, and looked at of a string in one that is. Messages are below 1 KiB unless they
/// repeat what was sent.
const MAX_BYTES: usize = 8 * 1024;

/// What must be named.
const NAMES: [&str; 2] = ["stream_options", "include_usage"];

/// Members under which FastAPI's errors repeat what was sent.
const ECHO_MEMBERS: [&[u8]; 2] = [b"input", b"body"];

/// Behind these, a text repeats what was sent, as FastAPI and pydantic write it.
const ECHOES: [&str; 6] = ["'input':", "\"input\":", "\\\"input\\\":", "'body':", "\"body\":", "\\\"body\\\":"];

/// Reads the body of a refusal, of whatever type it is.
#[derive(Clone, Debug, Default)]
pub struct RefusalReader {
    scanner: Scanner,
    said: Said,
    /// Its first bytes.
    beginning: Vec<u8>,
}

impl RefusalReader {
    /// Takes the next bytes.
    pub fn feed(&mut self, piece: &[u8]) {
        let room = MAX_BYTES.saturating_sub(self.beginning.len());
        self.beginning.extend_from_slice(piece.get(..room).unwrap_or(piece));
        // A failure lasts, and the end asks for it.
        let _ = self.scanner.feed(piece, &mut self.said);
    }

    /// Whether the refusal names what asks for usage: in a message or as the parameter at fault, but not where it repeats the request. Of
    /// one that is JSON, however long, all is looked at; of another the first 8 KiB.
    #[must_use]
    pub fn names_usage(mut self) -> bool {
        let is_json = self.scanner.finish(&mut self.said).is_ok();
        self.said.is_named || !is_json && is_named(&self.beginning)
    }
}

/// A value that says something.
const SAID: Node = 2;
/// A value under one of the names.
const NAMED: Node = 3;

/// What a JSON text says.
#[derive(Clone, Debug, Default)]
struct Said {
    is_named: bool,
}

impl Watch for Said {
    fn member(&mut self, _: Node, key: &[u8]) -> Node {
        if ECHO_MEMBERS.contains(&key) {
            SKIP
        } else if NAMES.iter().any(|name| name.as_bytes() == key) {
            NAMED
        } else {
            SAID
        }
    }

    fn element(&mut self, _: Node) -> Node {
        SAID
    }

    fn want(&mut self, _: Node) -> Want {
        Want::Text(MAX_BYTES)
    }

    fn scalar(&mut self, node: Node, scalar: Scalar<'_>, _: Range<u64>) {
        if let Scalar::Text { text, .. } = scalar {
            self.is_named |= node == NAMED || is_named(text);
        }
    }

    /// What is at fault with a field stands in an array under its name; a request that is repeated has an object or a switch there.
    fn open(&mut self, node: Node, container: Container, _: u64) {
        self.is_named |= node == NAMED && container == Container::Array;
    }
}

/// Whether a text names it before it repeats what was sent.
fn is_named(text: &[u8]) -> bool {
    let echo = ECHOES.iter().filter_map(|echo| memmem::find(text, echo.as_bytes())).min();
    let said = text.get(..echo.unwrap_or(text.len())).unwrap_or_default();
    NAMES.iter().any(|name| {
        memmem::find_iter(said, name).any(|at| !is_member_of_request(said.get(at + name.len()..).unwrap_or_default()))
    })
}

/// Whether a name that this follows is that of a member of a request that is repeated: with an object or `true` for its value.
fn is_member_of_request(behind: &[u8]) -> bool {
    let unescaped = behind.strip_prefix(b"\\").unwrap_or(behind);
    let Some((b'"' | b'\'', rest)) = unescaped.split_first() else { return false };
    let value = rest.trim_ascii_start().strip_prefix(b":").map(<[u8]>::trim_ascii_start);
    value.is_some_and(|value| matches!(value.first(), Some(b'{' | b't' | b'T')))
}

#[cfg(test)]
mod tests {
    use alloc::format;
    use alloc::string::String;

    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    fn names_usage(body: &str) -> bool {
        let results: Vec<bool> = [1, 7, usize::MAX]
            .into_iter()
            .map(|size| {
                let mut reader = RefusalReader::default();
                body.as_bytes().chunks(size.min(body.len().max(1))).for_each(|piece| reader.feed(piece));
                reader.names_usage()
            })
            .collect();
        assert!(results.iter().all(|result| *result == results[0]), "{body}");
        results[0]
    }

    fn echoed(bytes: usize) -> String {
        "x".repeat(bytes)
    }

    #[test]
    fn a_refusal_that_names_the_option_is_one() {
        for body in [
            r#"{"error":{"message":"Unrecognized request argument supplied: stream_options","type":"invalid_request_error","param":null,"code":null}}"#,
            r#"{"error":{"message":"Unknown field","param":"stream_options.include_usage","code":400}}"#,
            r#"{"detail":[{"type":"extra_forbidden","loc":["body","stream_options"],"msg":"Extra inputs are not permitted","input":{"include_usage":true}}]}"#,
            r#"{"object":"error","message":"[{'type': 'extra_forbidden', 'loc': ('body', 'stream_options'), 'msg': 'Extra', 'input': {'include_usage': True}}]","code":400}"#,
            // The field's name is a member's.
            r#"{"stream_options":["Unknown field."]}"#,
            r#"{"errors":{"stream_options":"unknown"}}"#,
            r#"{"stream_options":{"include_usage":["Unknown field."]}}"#,
            // Of another type.
            "stream_options",
            "unknown field \"stream_options\"",
            "Failed to deserialize: unknown field `stream_options`, expected one of `model`, `messages`",
            "data: {\"error\":{\"message\":\"stream_options is not supported\"}}\n\n",
            "<p>stream_options: not allowed</p>",
            // Cut by a connection that broke.
            r#"{"error":{"message":"stream_options is not supp"#,
        ] {
            assert!(names_usage(body), "{body}");
        }
    }

    #[test]
    fn a_refusal_is_read_however_long_what_it_repeats_is() {
        for body in [
            format!(
                r#"{{"detail":[{{"type":"extra_forbidden","loc":["body","stream_options"],"msg":"Extra"}}],"body":{{"messages":"{}"}}}}"#,
                echoed(9_000)
            ),
            format!(r#"{{"body":{{"messages":"{}"}},"detail":[{{"loc":["body","stream_options"]}}]}}"#, echoed(9_000)),
            format!(r#"{{"message":"stream_options is not supported: {}"}}"#, echoed(MAX_BYTES)),
            format!("stream_options is not supported: {}", echoed(MAX_BYTES)),
            format!(r#"{{"detail":[{{"loc":["body","stream_options"],"input":"{}"#, echoed(9_000)),
        ] {
            assert!(names_usage(&body), "{body}");
        }
        assert!(!names_usage(&format!("{} stream_options", echoed(MAX_BYTES))), "behind what is kept");
    }

    #[test]
    fn a_refusal_of_something_else_is_none_though_it_repeats_the_request() {
        for body in [
            "",
            "Bad Request",
            r#"{"error":{"message":"Extra inputs are not permitted"}}"#,
            r#"{"error":{"message":"max_tokens must be at least 1, got -1.","param":"max_tokens","code":400}}"#,
            r#"{"object":"error","message":"[{'type': 'missing', 'loc': ('body', 'messages'), 'msg': 'Field required', 'input': {'stream_options': {'include_usage': True}}}]","code":400}"#,
            r#"{"detail":[{"type":"missing","loc":["body","messages"],"msg":"Field required","input":{"stream_options":{"include_usage":true}}}]}"#,
            r#"{"error":"bad","request":{"stream_options":{"include_usage":true},"stream":true}}"#,
            r#"{"error":"cannot read {\"stream_options\":{\"include_usage\":true},\"stream\":true}"}"#,
            r#"cannot read {"stream_options":{"include_usage":true},"stream":true}"#,
            r#"cannot read "{\"stream_options\": {\"include_usage\": true},\"stream\":true}""#,
            r#"{"detail":[{"loc":["body","messages"],"input":{"stream_options":"about stream_options"#,
        ] {
            assert!(!names_usage(body), "{body}");
        }
    }
}
