//! Whether a server refuses a request because it was asked to report usage.

use alloc::vec::Vec;

use serde_json::Value;

/// Most bytes of a refusal that are read. Errors are below 1 KiB unless they repeat what was sent.
const MAX_BYTES: usize = 8 * 1024;

/// What must be named.
const NAMES: [&str; 2] = ["stream_options", "include_usage"];

/// Behind this, a message repeats what was sent, as pydantic writes it.
const ECHOES: [&str; 2] = ["'input':", "\"input\":"];

/// Reads the body of a refusal (400, 422).
#[derive(Clone, Debug, Default)]
pub struct RefusalReader {
    body: Vec<u8>,
    is_cut: bool,
}

impl RefusalReader {
    /// Takes the next bytes.
    pub fn feed(&mut self, piece: &[u8]) {
        let room = MAX_BYTES.saturating_sub(self.body.len());
        self.is_cut |= piece.len() > room;
        self.body.extend_from_slice(piece.get(..room).unwrap_or(piece));
    }

    /// Whether the refusal names what asks for usage: in a message or as the parameter at fault, but not where it repeats the request. One
    /// that is not JSON, or is too long to be read, names nothing.
    #[must_use]
    pub fn names_usage(&self) -> bool {
        !self.is_cut && serde_json::from_slice(&self.body).is_ok_and(|body| is_named(&body))
    }
}

fn is_named(value: &Value) -> bool {
    match value {
        Value::String(text) => {
            let end = ECHOES.iter().filter_map(|echo| text.find(echo)).min().unwrap_or(text.len());
            let said = text.get(..end).unwrap_or_default();
            NAMES.iter().any(|name| said.contains(name))
        }
        Value::Array(values) => values.iter().any(is_named),
        // FastAPI's errors repeat what was sent there.
        Value::Object(members) => members.iter().any(|(key, value)| key != "input" && key != "body" && is_named(value)),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

#[cfg(test)]
mod tests {
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

    #[test]
    fn a_refusal_that_names_the_option_is_one() {
        for body in [
            r#"{"error":{"message":"Unrecognized request argument supplied: stream_options","type":"invalid_request_error","param":null,"code":null}}"#,
            r#"{"error":{"message":"Unknown field","param":"stream_options.include_usage","code":400}}"#,
            r#"{"detail":[{"type":"extra_forbidden","loc":["body","stream_options"],"msg":"Extra inputs are not permitted","input":{"include_usage":true}}]}"#,
            r#"{"object":"error","message":"[{'type': 'extra_forbidden', 'loc': ('body', 'stream_options'), 'msg': 'Extra', 'input': {'include_usage': True}}]","code":400}"#,
        ] {
            assert!(names_usage(body), "{body}");
        }
    }

    #[test]
    fn a_refusal_of_something_else_is_none_though_it_repeats_the_request() {
        for body in [
            "",
            "stream_options",
            r#"{"error":{"message":"max_tokens must be at least 1, got -1.","param":"max_tokens","code":400}}"#,
            r#"{"object":"error","message":"[{'type': 'missing', 'loc': ('body', 'messages'), 'msg': 'Field required', 'input': {'stream_options': {'include_usage': True}}}]","code":400}"#,
            r#"{"detail":[{"type":"missing","loc":["body","messages"],"msg":"Field required","input":{"stream_options":{"include_usage":true}}}]}"#,
        ] {
            assert!(!names_usage(body), "{body}");
        }
        let long = alloc::format!(r#"{{"message":"stream_options{}"}}"#, "x".repeat(MAX_BYTES));
        assert!(!names_usage(&long));
    }
}
