//! Chat completions as the bench sends them and its pods respond to them: the client and the pods make the same bytes, so every response can be
//! checked.

use std::fmt::Write as _;
use std::io::Write as _;
use std::ops::Range;

/// What vLLM serves in the recordings that these messages follow.
const MODEL: &str = "meta-llama/Llama-3.1-8B-Instruct";
/// Content events of a streamed response.
pub(crate) const CONTENT_EVENTS: usize = 100;
/// Bytes of one content event, without its chunk's frame.
const EVENT_BYTES: usize = 250;
/// Bytes of a whole response.
const RESPONSE_BYTES: usize = 1024;
/// Tells a pod to stream; only looked for in small bodies.
pub(crate) const STREAM_MARK: &[u8] = b"\"stream\":true";
/// A body larger than this is not searched for the mark.
pub(crate) const SEARCHED_BYTES: usize = 2048;
/// Width of the number that makes each prompt another one.
const SERIAL_WIDTH: usize = 16;

/// Sentences as users write them, escaped as in JSON: quotes, new lines, letters outside ASCII.
const SENTENCES: [&str; 8] = [
    "Please summarise the incident report below for a reader who was not on call that night. ",
    r#"The first alert said \"p99 above 2 s\" and came at 03:12; nobody had touched the cluster since Friday.\n"#,
    "We moved the naïve round robin out of the way, because long prompts piled up on a single pod. ",
    r"- step 1: drain the pod\n- step 2: wait for `num_requests_running` to reach 0\n- step 3: restart\n\n",
    "The café's booking assistant kept its conversation history, some 40 messages of it, in every request — that is normal. ",
    r#"Its code reads: if (reply.status == 503) { retry(\"later\"); } else { return reply.json(); }\n"#,
    "What would you change first, and how would you tell within an hour whether it had helped? ",
    "Answer in three short paragraphs and do not repeat the question. ",
];

/// What pods know of prompts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Prompts {
    /// All of them know the first half: they were sent prompts that begin so before.
    HalfKnown,
    /// Nothing: each is another from its first words on, as that of a new conversation.
    New,
}

/// A request, ready to be written, and the response that it must get.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    bytes: Vec<u8>,
    serial: Range<usize>,
    /// Bytes of the response's body.
    pub(crate) response_bytes: usize,
}

impl Request {
    /// A chat completion whose body has exactly `body_bytes` bytes, with the headers of OpenAI's Python client.
    pub(crate) fn new(host: &str, body_bytes: usize, prompts: Prompts, stream: bool) -> Self {
        let (body, serial) = body(body_bytes, prompts, stream);
        let mut bytes = format!(
            "POST /v1/chat/completions HTTP/1.1\r\nhost: {host}\r\naccept-encoding: identity\r\nconnection: keep-alive\r\n\
             accept: application/json\r\ncontent-type: application/json\r\nuser-agent: OpenAI/Python 1.99.1\r\n\
             x-stainless-lang: python\r\nx-stainless-package-version: 1.99.1\r\nx-stainless-os: Linux\r\n\
             x-stainless-arch: x64\r\nx-stainless-runtime: CPython\r\nx-stainless-runtime-version: 3.12.3\r\n\
             authorization: Bearer sk-0000000000000000000000000000000000000000\r\nx-stainless-async: async:asyncio\r\n\
             x-stainless-retry-count: 0\r\nx-stainless-read-timeout: 600\r\ncontent-length: {}\r\n\r\n",
            body.len()
        )
        .into_bytes();
        let serial = bytes.len() + serial.start..bytes.len() + serial.end;
        bytes.extend_from_slice(&body);
        let response_bytes = if stream { events().iter().map(String::len).sum() } else { response().len() };
        Self { bytes, serial, response_bytes }
    }

    /// The same with another number in the prompt, from which on it is new.
    pub(crate) fn numbered(&mut self, serial: u64) -> &[u8] {
        if let Some(mut place) = self.bytes.get_mut(self.serial.clone()) {
            // The place is as wide as the number.
            let _ = write!(place, "{serial:0SERIAL_WIDTH$}");
        }
        &self.bytes
    }
}

fn body(size: usize, prompts: Prompts, stream: bool) -> (Vec<u8>, Range<usize>) {
    const HEAD: &str =
        r#"{"messages":[{"role":"system","content":"You are a helpful assistant."},{"role":"user","content":""#;
    let options = if stream { r#","stream":true,"stream_options":{"include_usage":true}"# } else { "" };
    let tail = format!(r#""}}],"model":"{MODEL}","max_tokens":60,"temperature":0.7{options}}}"#);
    let room = size.saturating_sub(HEAD.len() + tail.len() + SERIAL_WIDTH);
    let known = match prompts {
        Prompts::HalfKnown => room / 2,
        Prompts::New => 0,
    };
    let mut body = HEAD.to_owned();
    write_text(&mut body, known);
    let serial = body.len()..body.len() + SERIAL_WIDTH;
    body.push_str(&"0".repeat(SERIAL_WIDTH));
    write_text(&mut body, room - known);
    body.push_str(&tail);
    (body.into_bytes(), serial)
}

/// Appends exactly `size` bytes of text: whole sentences, then letters.
fn write_text(text: &mut String, size: usize) {
    let end = text.len() + size;
    for sentence in SENTENCES.iter().cycle() {
        if text.len() + sentence.len() > end {
            break;
        }
        text.push_str(sentence);
    }
    while text.len() < end {
        text.push('o');
    }
}

/// A whole response: 200 prompt tokens, 60 completion tokens.
pub(crate) fn response() -> String {
    let frame = |content: &str| {
        format!(
            r#"{{"id":"chatcmpl-bce087fc4a47ac03","object":"chat.completion","created":1795320180,"model":"{MODEL}","choices":[{{"index":0,"message":{{"role":"assistant","content":"{content}","refusal":null,"annotations":null,"audio":null,"function_call":null,"reasoning":null}},"logprobs":null,"finish_reason":"length","stop_reason":null,"token_ids":null,"routed_experts":null}}],"service_tier":null,"system_fingerprint":"vllm-0.32.0-f08b45e9","usage":{{"prompt_tokens":200,"total_tokens":260,"completion_tokens":60,"prompt_tokens_details":null,"completion_tokens_details":null}},"prompt_logprobs":null,"prompt_token_ids":null,"prompt_text":null,"kv_transfer_params":null,"ec_transfer_params":null,"metrics":null}}"#
        )
    };
    let mut content = String::new();
    write_text(&mut content, RESPONSE_BYTES - frame("").len());
    frame(&content)
}

/// The events of a streamed response: the role, the content, the usage, the end.
pub(crate) fn events() -> Vec<String> {
    let chunk = |rest: &str| {
        format!(
            "data: {{\"id\":\"chatcmpl-8e894796a04e202f\",\"object\":\"chat.completion.chunk\",\"created\":1795320205,\"model\":\"{MODEL}\",{rest}}}\n\n"
        )
    };
    let delta = |delta: &str| {
        chunk(&format!(
            r#""choices":[{{"index":0,"delta":{delta},"logprobs":null,"finish_reason":null,"token_ids":null}}]"#
        ))
    };
    let mut events = vec![delta(r#"{"role":"assistant","content":""}"#)];
    let bare = delta(r#"{"content":""}"#).len();
    for number in 0..CONTENT_EVENTS {
        let mut token = String::new();
        // A String takes all that is written.
        let _ = write!(token, " {number}");
        while bare + token.len() < EVENT_BYTES {
            token.push('o');
        }
        events.push(delta(&format!(r#"{{"content":"{token}"}}"#)));
    }
    events.push(chunk(r#""choices":[],"usage":{"prompt_tokens":200,"total_tokens":300,"completion_tokens":100},"system_fingerprint":"vllm-0.32.0-f08b45e9""#));
    events.push("data: [DONE]\n\n".to_owned());
    events
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body_of(request: &mut Request, serial: u64) -> serde_json::Value {
        let bytes = request.numbered(serial);
        let head = memchr::memmem::find(bytes, b"\r\n\r\n").unwrap() + 4;
        serde_json::from_slice(&bytes[head..]).unwrap()
    }

    #[test]
    fn bodies_have_exactly_the_size_asked_for() {
        for size in [1024, 64 * 1024, 400 * 1024] {
            for stream in [false, true] {
                for prompts in [Prompts::HalfKnown, Prompts::New] {
                    let (body, _) = body(size, prompts, stream);
                    assert_eq!(body.len(), size);
                    assert_eq!(memchr::memmem::find(&body, STREAM_MARK).is_some(), stream);
                }
            }
        }
    }

    #[test]
    fn numbered_requests_differ_in_the_middle_of_the_prompt_or_from_its_start() {
        let mut request = Request::new("h", 64 * 1024, Prompts::New, false);
        let first = |body: serde_json::Value| body["messages"][1]["content"].as_str().unwrap().as_bytes()[0];
        assert_ne!(first(body_of(&mut request, 1)), first(body_of(&mut request, 2_000_000_000_000_000)));
        let mut request = Request::new("h", 64 * 1024, Prompts::HalfKnown, false);
        let (one, two) = (body_of(&mut request, 1), body_of(&mut request, u64::MAX / 10_000));
        assert_eq!(one["model"], MODEL);
        let prompt = |body: &serde_json::Value| body["messages"][1]["content"].as_str().unwrap().to_owned();
        let (one, two) = (prompt(&one), prompt(&two));
        let same = one.bytes().zip(two.bytes()).take_while(|(a, b)| a == b).count();
        assert!((one.len() * 4 / 10..one.len() * 6 / 10).contains(&same), "{same} of {}", one.len());
        assert_eq!(one.len(), two.len());
    }

    #[test]
    fn responses_are_json_with_usage() {
        let response: serde_json::Value = serde_json::from_str(&response()).unwrap();
        assert_eq!(response["usage"]["completion_tokens"], 60);
        assert_eq!(response.to_string().len(), RESPONSE_BYTES);
        let events = events();
        assert_eq!(events.len(), 1 + CONTENT_EVENTS + 2);
        for event in &events[..events.len() - 1] {
            let data = event.strip_prefix("data: ").unwrap().trim_end();
            let _: serde_json::Value = serde_json::from_str(data).unwrap();
        }
        assert_eq!(events[50].len(), EVENT_BYTES);
    }
}
