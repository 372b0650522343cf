//! Facts of a response body, buffered or streamed.

use alloc::{boxed::Box, string::String, vec::Vec};
use core::ops::Range;

use super::{
    Api,
    json::{self, Container, Node, ROOT, SKIP, Scalar, Scanner, Want, Watch},
    sse::{Item, SseReader},
};

/// Longest kept model name of a response, in bytes; a longer one is dropped.
pub const MAX_MODEL_BYTES: usize = 256;

/// Longest kept error type, in bytes; a longer one is cut.
pub const MAX_KIND_BYTES: usize = 64;

/// Longest event remembered as the pattern of those that follow. Ordinary events are below 1 KiB.
const MAX_PATTERN_BYTES: usize = 4096;

/// Token counts as the server reports them.
///
/// Input counts include cached tokens and output counts include reasoning tokens for every API; Anthropic's wire format,
/// which counts cached tokens apart, is added up. Fields of a wrong type are as if absent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens of input, cached ones included.
    pub prompt_tokens: Option<u64>,
    /// Tokens of output, reasoning included.
    pub completion_tokens: Option<u64>,
    /// Tokens of both, as reported.
    pub total_tokens: Option<u64>,
    /// Tokens of input that came from a cache.
    pub cached_tokens: Option<u64>,
    /// Tokens of output spent on reasoning.
    pub reasoning_tokens: Option<u64>,
}

/// An error that a response carries in its body.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ErrorEvent {
    /// The error's own code, when it is a number that fits 16 bits: an HTTP status by convention.
    pub code: Option<u16>,
    /// The error's type, else its textual code, cut at [`MAX_KIND_BYTES`]; empty when it has neither.
    pub kind: String,
}

/// What one chunk of a response brought.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// The chunk completed the first event that bears content.
    pub first_content: bool,
    /// Events completed by the chunk that bear content.
    pub content_events: u32,
    /// The chunk completed the stream's terminal event.
    pub terminal: bool,
}

/// What a response body said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResponseFacts {
    /// Length of the body in bytes.
    pub bytes: u64,
    /// Token counts, if the server reported any. Of a stream that reports them several times, the last of each count.
    pub usage: Option<Usage>,
    /// The first error in the body.
    pub error: Option<ErrorEvent>,
    /// The first model that the server says it used, if it is at most [`MAX_MODEL_BYTES`] long.
    pub model: Option<String>,
    /// A stream: its terminal event came. A buffered body: it was valid JSON. An opaque one: never.
    pub completed: bool,
    /// Events that bore content, over the whole stream.
    pub content_events: u64,
    /// The end of the stream cut an event.
    pub cut: bool,
}

/// Reads the facts of one response body, chunk by chunk. No input is an error: what cannot be read yields no facts.
///
/// An event bears content when it adds to what the client gets to see: a non-empty `text`, or a `delta` with a non-empty
/// `content`, `reasoning`, `reasoning_content` or `refusal`, a `tool_calls` or `function_call` that is not empty, of a choice;
/// a non-empty `text`, `thinking` or `partial_json` in the `delta` of a message; a `delta` that is a non-empty string of a
/// response. Roles, pings, comments and life-cycle events bear none.
///
/// A stream's terminal event is `[DONE]`, `message_stop`, or one of `response.completed`, `response.incomplete` and
/// `response.failed`.
#[derive(Clone, Debug)]
pub enum ResponseReader {
    /// A buffered JSON body.
    Json(Box<JsonReader>),
    /// An event stream.
    Sse(Box<StreamReader>),
    /// A body of another or unknown kind, of which only the bytes are counted.
    Opaque(u64),
}

impl ResponseReader {
    /// A reader for a buffered JSON body. Without `api` the API is told from the form of the usage.
    pub fn json(api: Option<Api>) -> Self {
        Self::Json(Box::new(JsonReader { bytes: 0, api, scanner: Scanner::new(), event: Event::default() }))
    }

    /// A reader for an event stream. Without `api` the API is told from the form of the usage.
    pub fn sse(api: Option<Api>) -> Self {
        Self::Sse(Box::new(StreamReader {
            bytes: 0,
            events: SseReader::default(),
            stream: Stream {
                api,
                scanner: Scanner::new(),
                event: Event::default(),
                in_parts: false,
                pattern: Pattern::default(),
                facts: ResponseFacts::default(),
                counts: Counts::default(),
            },
        }))
    }

    /// A reader that only counts bytes.
    pub fn opaque() -> Self {
        Self::Opaque(0)
    }

    /// Takes the next bytes of the body.
    pub fn feed(&mut self, chunk: &[u8]) -> Progress {
        let mut progress = Progress::default();
        let bytes = match self {
            Self::Json(reader) => {
                // A failure lasts, and the end asks for it.
                let _ = reader.scanner.feed(chunk, &mut reader.event);
                &mut reader.bytes
            }
            Self::Sse(reader) => {
                let StreamReader { events, stream, bytes } = reader.as_mut();
                events.feed(chunk, |item| stream.take(item, &mut progress));
                bytes
            }
            Self::Opaque(bytes) => bytes,
        };
        *bytes = bytes.saturating_add(chunk.len() as u64);
        progress
    }

    /// Ends the body.
    pub fn finish(self) -> ResponseFacts {
        match self {
            Self::Json(mut reader) => {
                let mut facts = ResponseFacts { bytes: reader.bytes, ..ResponseFacts::default() };
                if reader.scanner.finish(&mut reader.event).is_ok() {
                    facts.completed = true;
                    facts.usage = reader.event.counts.usage(reader.api);
                    facts.error = reader.event.error(b"");
                    facts.model = reader.event.model;
                }
                facts
            }
            Self::Sse(reader) => {
                let stream = reader.stream;
                ResponseFacts {
                    bytes: reader.bytes,
                    usage: stream.counts.usage(stream.api),
                    cut: reader.events.is_within_event(),
                    ..stream.facts
                }
            }
            Self::Opaque(bytes) => ResponseFacts { bytes, ..ResponseFacts::default() },
        }
    }
}

/// The state of a buffered JSON body.
#[derive(Clone, Debug)]
pub struct JsonReader {
    bytes: u64,
    api: Option<Api>,
    scanner: Scanner,
    event: Event,
}

/// The state of an event stream.
#[derive(Clone, Debug)]
pub struct StreamReader {
    bytes: u64,
    events: SseReader,
    stream: Stream,
}

#[derive(Clone, Debug)]
struct Stream {
    api: Option<Api>,
    scanner: Scanner,
    event: Event,
    /// An event is being scanned part by part.
    in_parts: bool,
    pattern: Pattern,
    facts: ResponseFacts,
    counts: Counts,
}

impl Stream {
    fn take(&mut self, item: Item<'_>, progress: &mut Progress) {
        match item {
            Item::Event { name, data } => {
                if self.pattern.matches(name, data) {
                    self.content(progress);
                    return;
                }
                self.begin();
                // A failure lasts, and the end asks for it.
                let _ = self.scanner.feed(data, &mut self.event);
                let is_json = self.end(name, is_done(data), progress);
                if is_json && self.event.is_plain_content() && !is_terminal_type(name) {
                    self.pattern.learn(name, data, self.event.content_range());
                }
            }
            Item::Part(part) => {
                if !self.in_parts {
                    self.begin();
                    self.in_parts = true;
                }
                let _ = self.scanner.feed(part, &mut self.event);
            }
            Item::End { name } => {
                self.in_parts = false;
                self.end(name, false, progress);
            }
        }
    }

    fn begin(&mut self) {
        self.scanner.reset();
        self.event.reset();
        self.event.is_model_known = self.facts.model.is_some();
    }

    /// Ends a scanned event and returns whether it was JSON.
    fn end(&mut self, name: &[u8], is_done: bool, progress: &mut Progress) -> bool {
        let is_json = self.scanner.finish(&mut self.event).is_ok();
        if !is_json {
            self.event.reset();
        }
        let event = &mut self.event;
        if event.bears_content {
            self.facts.content_events += 1;
            progress.content_events += 1;
            progress.first_content |= self.facts.content_events == 1;
        }
        self.counts.merge(&event.counts);
        if self.facts.error.is_none() {
            self.facts.error = event.error(name);
        }
        if self.facts.model.is_none() {
            self.facts.model = event.model.take();
        }
        if is_done || event.is_terminal || is_terminal_type(name) {
            self.facts.completed = true;
            progress.terminal = true;
        }
        is_json
    }

    fn content(&mut self, progress: &mut Progress) {
        self.facts.content_events += 1;
        progress.content_events += 1;
        progress.first_content |= self.facts.content_events == 1;
    }
}

fn is_done(data: &[u8]) -> bool {
    data.trim_ascii() == b"[DONE]"
}

fn is_terminal_type(name: &[u8]) -> bool {
    matches!(name, b"message_stop" | b"response.completed" | b"response.incomplete" | b"response.failed")
}

/// What surrounds the content of an event that bears content and nothing else.
///
/// Servers repeat the same text around each piece of content. A later event of the same name with the same bytes before and
/// behind a valid, non-empty string is the same JSON with other content, so nothing else can be in it and it need not be
/// scanned.
#[derive(Clone, Debug, Default)]
struct Pattern {
    name: Vec<u8>,
    /// Up to the opening quote of the content, included; empty when nothing is learnt.
    head: Vec<u8>,
    /// From the closing quote on.
    tail: Vec<u8>,
}

impl Pattern {
    fn matches(&self, name: &[u8], data: &[u8]) -> bool {
        if self.head.is_empty() || self.name != name {
            return false;
        }
        let content =
            data.strip_prefix(self.head.as_slice()).and_then(|behind| behind.strip_suffix(self.tail.as_slice()));
        match content {
            None | Some([]) => false,
            Some(content) => json::is_string_content(content),
        }
    }

    fn learn(&mut self, name: &[u8], data: &[u8], content: Option<Range<usize>>) {
        let Some(content) = content else { return };
        if data.len() > MAX_PATTERN_BYTES {
            return;
        }
        let quote_end = content.start + 1;
        let quote_start = content.end.saturating_sub(1);
        if let (Some(head), Some(tail)) = (data.get(..quote_end), data.get(quote_start..)) {
            for (kept, new) in [(&mut self.name, name), (&mut self.head, head), (&mut self.tail, tail)] {
                kept.clear();
                kept.extend_from_slice(new);
            }
        }
    }
}

/// Token counts by the names they have on the wire.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    prompt: Option<u64>,
    completion: Option<u64>,
    input: Option<u64>,
    output: Option<u64>,
    total: Option<u64>,
    cached: Option<u64>,
    cache_read: Option<u64>,
    cache_creation: Option<u64>,
    reasoning: Option<u64>,
    /// Usage came with `input_tokens_details`, which only counts that include cached tokens come with.
    has_input_details: bool,
}

impl Counts {
    fn merge(&mut self, later: &Self) {
        for (count, later) in [
            (&mut self.prompt, later.prompt),
            (&mut self.completion, later.completion),
            (&mut self.input, later.input),
            (&mut self.output, later.output),
            (&mut self.total, later.total),
            (&mut self.cached, later.cached),
            (&mut self.cache_read, later.cache_read),
            (&mut self.cache_creation, later.cache_creation),
            (&mut self.reasoning, later.reasoning),
        ] {
            *count = later.or(*count);
        }
        self.has_input_details |= later.has_input_details;
    }

    fn usage(&self, api: Option<Api>) -> Option<Usage> {
        let input_is_exclusive = match api {
            Some(api) => api == Api::Messages,
            None => !self.has_input_details,
        };
        let input = if input_is_exclusive {
            self.input.map(|input| {
                [self.cache_read, self.cache_creation].into_iter().flatten().fold(input, u64::saturating_add)
            })
        } else {
            self.input
        };
        let usage = Usage {
            prompt_tokens: self.prompt.or(input),
            completion_tokens: self.completion.or(self.output),
            total_tokens: self.total,
            cached_tokens: self.cached.or(self.cache_read),
            reasoning_tokens: self.reasoning,
        };
        (usage != Usage::default()).then_some(usage)
    }
}

const TYPE: Node = 2;
const OBJECT: Node = 3;
const CODE: Node = 4;
const MODEL: Node = 5;
const ERROR: Node = 6;
const ERROR_TYPE: Node = 7;
const ERROR_CODE: Node = 8;
/// `response` of a response's event, `message` of a message's: where what stands at the root of a buffered body stands.
const WHOLE: Node = 9;
const STATUS: Node = 10;
const USAGE: Node = 11;
const PROMPT_TOKENS: Node = 12;
const COMPLETION_TOKENS: Node = 13;
const INPUT_TOKENS: Node = 14;
const OUTPUT_TOKENS: Node = 15;
const TOTAL_TOKENS: Node = 16;
const CACHE_READ_TOKENS: Node = 17;
const CACHE_CREATION_TOKENS: Node = 18;
const INPUT_DETAILS: Node = 19;
const PROMPT_DETAILS: Node = 20;
const CACHED_TOKENS: Node = 21;
const OUTPUT_DETAILS: Node = 22;
const REASONING_TOKENS: Node = 23;
const CHOICES: Node = 24;
const CHOICE: Node = 25;
const CHOICE_DELTA: Node = 26;
/// `delta` at the root: text of a response's event, an object of a message's.
const DELTA: Node = 27;
/// A string that is content when it is not empty.
const CONTENT: Node = 28;
/// An array or object that is content when it is not empty.
const CALLS: Node = 29;
const CALL: Node = 30;

/// What one JSON text says: a buffered body or the data of an event.
#[derive(Clone, Debug, Default)]
struct Event {
    bears_content: bool,
    /// The only string of content, quotes included; `None` when there is none or several.
    content: Option<Range<u64>>,
    content_strings: u32,
    is_terminal: bool,
    counts: Counts,
    has_error: bool,
    error_code: Option<u16>,
    error_type: String,
    error_text_code: String,
    /// `object` or `type` at the root is `error`: the root itself is the error.
    is_error: bool,
    root_type: String,
    root_code: Option<u16>,
    root_text_code: String,
    model: Option<String>,
    /// An earlier event named the model.
    is_model_known: bool,
    /// There was more than content, or content other than strings.
    says_more: bool,
}

impl Event {
    /// Forgets what was read, but keeps memory already taken.
    fn reset(&mut self) {
        let mut texts = [
            core::mem::take(&mut self.error_type),
            core::mem::take(&mut self.error_text_code),
            core::mem::take(&mut self.root_type),
            core::mem::take(&mut self.root_text_code),
        ];
        texts.iter_mut().for_each(String::clear);
        let [error_type, error_text_code, root_type, root_text_code] = texts;
        *self = Self { error_type, error_text_code, root_type, root_text_code, ..Self::default() };
    }

    fn error(&self, name: &[u8]) -> Option<ErrorEvent> {
        if !self.has_error && !self.is_error && name != b"error" {
            return None;
        }
        let root_type = match self.root_type.as_str() {
            kind if self.is_error && kind != "error" => kind,
            _ => "",
        };
        let kinds = [&self.error_type, &self.error_text_code, root_type, &self.root_text_code];
        let kind = kinds.into_iter().find(|kind| !kind.is_empty());
        Some(ErrorEvent { code: self.error_code.or(self.root_code), kind: String::from(kind.unwrap_or_default()) })
    }

    /// Whether all that the event says is its content, which is one string.
    fn is_plain_content(&self) -> bool {
        let is_only_content = !self.says_more && !self.is_terminal;
        is_only_content && self.content_strings == 1 && !self.has_error && !self.is_error
    }

    fn content_range(&self) -> Option<Range<usize>> {
        let range = self.content.clone()?;
        Some(range.start as usize..range.end as usize)
    }
}

impl Watch for Event {
    fn member(&mut self, node: Node, key: &[u8]) -> Node {
        match node {
            ROOT => match key {
                b"type" => TYPE,
                b"object" => OBJECT,
                b"code" => CODE,
                b"choices" => CHOICES,
                b"delta" => DELTA,
                b"response" | b"message" => WHOLE,
                _ => whole_member(key),
            },
            WHOLE => whole_member(key),
            CHOICE => match key {
                b"delta" => CHOICE_DELTA,
                b"text" => CONTENT,
                _ => SKIP,
            },
            CHOICE_DELTA => match key {
                b"content" | b"reasoning" | b"reasoning_content" | b"refusal" => CONTENT,
                b"tool_calls" | b"function_call" => CALLS,
                _ => SKIP,
            },
            DELTA => match key {
                b"text" | b"thinking" | b"partial_json" => CONTENT,
                _ => SKIP,
            },
            USAGE => match key {
                b"prompt_tokens" => PROMPT_TOKENS,
                b"completion_tokens" => COMPLETION_TOKENS,
                b"input_tokens" => INPUT_TOKENS,
                b"output_tokens" => OUTPUT_TOKENS,
                b"total_tokens" => TOTAL_TOKENS,
                b"cache_read_input_tokens" => CACHE_READ_TOKENS,
                b"cache_creation_input_tokens" => CACHE_CREATION_TOKENS,
                b"input_tokens_details" => INPUT_DETAILS,
                b"prompt_tokens_details" => PROMPT_DETAILS,
                b"output_tokens_details" | b"completion_tokens_details" => OUTPUT_DETAILS,
                _ => SKIP,
            },
            INPUT_DETAILS | PROMPT_DETAILS if key == b"cached_tokens" => CACHED_TOKENS,
            OUTPUT_DETAILS if key == b"reasoning_tokens" => REASONING_TOKENS,
            ERROR => match key {
                b"type" => ERROR_TYPE,
                b"code" => ERROR_CODE,
                _ => SKIP,
            },
            CALLS => {
                self.bears_content = true;
                self.says_more = true;
                SKIP
            }
            _ => SKIP,
        }
    }

    fn element(&mut self, node: Node) -> Node {
        match node {
            CHOICES => CHOICE,
            CALLS => CALL,
            _ => SKIP,
        }
    }

    fn want(&mut self, node: Node) -> Want {
        match node {
            TYPE | OBJECT | CODE | STATUS | ERROR_TYPE | ERROR_CODE => Want::Text(MAX_KIND_BYTES),
            MODEL if self.is_model_known => Want::Nothing,
            MODEL => Want::Text(MAX_MODEL_BYTES),
            CONTENT | DELTA | ERROR => Want::Text(1),
            _ => Want::Nothing,
        }
    }

    fn scalar(&mut self, node: Node, scalar: Scalar<'_>, range: Range<u64>) {
        match (node, scalar) {
            (TYPE, Scalar::Text { text, .. }) => {
                self.is_terminal |= is_terminal_type(text);
                self.is_error |= text == b"error";
                self.has_error |= text == b"response.failed";
                set_bounded(&mut self.root_type, text);
            }
            (OBJECT, Scalar::Text { text, .. }) => self.is_error |= text == b"error",
            (CODE, Scalar::Text { text, .. }) => set_bounded(&mut self.root_text_code, text),
            (CODE, Scalar::Number(token)) => self.root_code = code(token),
            (STATUS, Scalar::Text { text, .. }) => self.has_error |= text == b"failed",
            (MODEL, Scalar::Text { text, cut: false }) if self.model.is_none() => {
                self.model = core::str::from_utf8(text).ok().map(String::from);
            }
            (ERROR, Scalar::Text { text, .. }) if !text.is_empty() => self.has_error = true,
            (ERROR_TYPE, Scalar::Text { text, .. }) => set_bounded(&mut self.error_type, text),
            (ERROR_CODE, Scalar::Text { text, .. }) => set_bounded(&mut self.error_text_code, text),
            (ERROR_CODE, Scalar::Number(token)) => self.error_code = code(token),
            (CONTENT | DELTA, Scalar::Text { text, .. }) if !text.is_empty() => {
                self.bears_content = true;
                self.content_strings += 1;
                self.content = Some(range);
            }
            (CALL, _) => {
                self.bears_content = true;
                self.says_more = true;
            }
            (_, Scalar::Number(token)) => {
                let counts = &mut self.counts;
                let count = match node {
                    PROMPT_TOKENS => &mut counts.prompt,
                    COMPLETION_TOKENS => &mut counts.completion,
                    INPUT_TOKENS => &mut counts.input,
                    OUTPUT_TOKENS => &mut counts.output,
                    TOTAL_TOKENS => &mut counts.total,
                    CACHED_TOKENS => &mut counts.cached,
                    CACHE_READ_TOKENS => &mut counts.cache_read,
                    CACHE_CREATION_TOKENS => &mut counts.cache_creation,
                    REASONING_TOKENS => &mut counts.reasoning,
                    _ => return,
                };
                *count = json::unsigned(token).or(*count);
                self.says_more = true;
            }
            _ => {}
        }
    }

    fn open(&mut self, node: Node, container: Container, _at: u64) {
        match (node, container) {
            (ERROR, Container::Object) => {
                self.has_error = true;
                self.says_more = true;
            }
            (CALL, _) => {
                self.bears_content = true;
                self.says_more = true;
            }
            (INPUT_DETAILS, _) => self.counts.has_input_details = true,
            _ => {}
        }
    }
}

/// A member of a whole answer, which stands at the root of a buffered body and inside events.
fn whole_member(key: &[u8]) -> Node {
    match key {
        b"model" => MODEL,
        b"error" => ERROR,
        b"status" => STATUS,
        b"usage" => USAGE,
        _ => SKIP,
    }
}

/// Keeps the longest start of `text` that is whole characters within the bound.
fn set_bounded(kept: &mut String, text: &[u8]) {
    let text = text.get(..MAX_KIND_BYTES).unwrap_or(text);
    // Only the cut can make it invalid, so there is at most one invalid chunk, the last.
    let valid = text.utf8_chunks().next().map_or("", |chunk| chunk.valid());
    kept.clear();
    kept.push_str(valid);
}

/// A numeric code, when it fits a status code's type.
fn code(token: &[u8]) -> Option<u16> {
    u16::try_from(json::unsigned(token)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn is_send<T: Send + 'static>(_: &T) {}

    const STREAM: &[u8] = b"data: {\"model\":\"m\",\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\n\n\
        data: {\"model\":\"m\",\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n\
        data: {\"model\":\"m\",\"choices\":[{\"delta\":{\"content\":\"\\\"usage\\\"\"}}]}\n\n\
        data: {\"model\":\"m\",\"choices\":[{\"delta\":{\"content\":\"\"}}]}\n\n\
        data: {\"model\":\"m\",\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":2,\"total_tokens\":5}}\n\n\
        data: [DONE]\n\n";

    #[test]
    fn a_stream_is_read_across_cuts() {
        for place in 0..=STREAM.len() {
            let (head, tail) = STREAM.split_at(place);
            let mut reader = ResponseReader::sse(None);
            is_send(&reader);
            let progress = [reader.feed(head), reader.feed(tail)];
            assert_eq!(progress.iter().filter(|progress| progress.first_content).count(), 1);
            assert_eq!(progress.iter().map(|progress| progress.content_events).sum::<u32>(), 2);
            assert_eq!(progress.iter().filter(|progress| progress.terminal).count(), 1);
            let facts = reader.finish();
            assert_eq!((facts.content_events, facts.completed, facts.cut), (2, true, false));
            let usage = facts.usage.unwrap();
            assert_eq!((usage.prompt_tokens, usage.completion_tokens, usage.total_tokens), (Some(3), Some(2), Some(5)));
        }
    }

    #[test]
    fn a_pattern_needs_the_same_text_around_other_content() {
        let mut pattern = Pattern::default();
        assert!(!pattern.matches(b"", b"{\"a\":\"x\"}"));
        pattern.learn(b"", b"{\"a\":\"x\"}", Some(5..8));
        for (data, matches) in [
            ("{\"a\":\"x\"}", true),
            ("{\"a\":\"other \\\" text\"}", true),
            ("{\"a\":\"\"}", false),
            ("{\"a\":\"}", false),
            ("{\"a\":\"x\",\"b\":\"y\"}", false),
            ("{\"a\":\"x\\\"}", false),
            ("{\"b\":\"x\"}", false),
            ("{\"a\":\"x\"} ", false),
        ] {
            assert_eq!(pattern.matches(b"", data.as_bytes()), matches, "{data}");
        }
        assert!(!pattern.matches(b"error", b"{\"a\":\"x\"}"));
    }

    #[test]
    fn a_buffered_answer_is_read_across_cuts() {
        let body = b"{\"type\":\"message\",\"model\":\"m\",\"usage\":{\"input_tokens\":3,\"cache_read_input_tokens\":4,\"output_tokens\":2}}";
        for place in 0..=body.len() {
            let (head, tail) = body.split_at(place);
            let mut reader = ResponseReader::json(Some(Api::Messages));
            assert_eq!([reader.feed(head), reader.feed(tail)], [Progress::default(); 2]);
            let facts = reader.finish();
            let usage = facts.usage.unwrap();
            assert_eq!(
                (usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens),
                (Some(7), Some(2), Some(4))
            );
            assert_eq!((facts.model.as_deref(), facts.completed, facts.bytes), (Some("m"), true, body.len() as u64));
        }
    }
}
