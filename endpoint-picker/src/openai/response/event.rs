//! What one JSON text says: a buffered body, or the data of an event.

use alloc::string::String;
use core::ops::Range;

use super::facts::{ErrorEvent, MAX_KIND_BYTES, MAX_MODEL_BYTES, Usage};
use crate::openai::api::Api;
use crate::openai::json::{Container, Node, ROOT, SKIP, Scalar, Want, Watch, unsigned};
use crate::openai::response_id::{MAX_RESPONSE_ID_BYTES, ResponseId};

/// Token counts by the names they have on the wire.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
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
    /// Takes the counts of a later event, where it has any.
    pub(super) fn merge(&mut self, later: &Self) {
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

    /// Whether there are counts of input, output or both.
    fn has_totals(&self) -> bool {
        [self.prompt, self.completion, self.input, self.output, self.total].iter().any(Option::is_some)
    }

    /// The counts in one form for all APIs.
    pub(super) fn usage(&self, api: Option<Api>) -> Option<Usage> {
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
const CHOICE_INDEX: Node = 31;
const FINISH_REASON: Node = 32;
/// The id of a stored response.
const ID: Node = 33;

/// What one JSON text says: a buffered body or the data of an event.
#[derive(Clone, Debug, Default)]
pub(super) struct Event {
    pub(super) bears_content: bool,
    /// The only string of content, quotes included; `None` when there is none or several.
    content: Option<Range<u64>>,
    content_strings: u32,
    pub(super) is_terminal: bool,
    pub(super) counts: Counts,
    has_error: bool,
    error_code: Option<u16>,
    error_type: String,
    error_text_code: String,
    /// `object` or `type` at the root is `error`: the root itself is the error.
    is_error: bool,
    root_type: String,
    root_code: Option<u16>,
    root_text_code: String,
    pub(super) model: Option<String>,
    /// An earlier event named the model.
    pub(super) is_model_known: bool,
    /// Where the id of a stored response stands, while it is not known.
    pub(super) id_at: IdAt,
    pub(super) response_id: Option<ResponseId>,
    /// There was more than content, or content other than strings.
    says_more: bool,
    /// There were choices, or the type is one of a known API.
    pub(super) is_known: bool,
    has_choices: bool,
    has_choice: bool,
    /// The root has members other than those of a chunk, or `choices` that are neither a list nor `null`.
    has_others: bool,
    pub(super) choices: Choices,
    /// The choice being read.
    choice: Choice,
}

/// Where the id of a stored response stands.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) enum IdAt {
    /// Nobody asks for it.
    #[default]
    Nowhere,
    /// At the root of a buffered body.
    Root,
    /// In the response that an event carries.
    Whole,
}

/// A choice as far as it has been read.
#[derive(Clone, Copy, Debug, Default)]
struct Choice {
    index: u64,
    is_finished: bool,
}

/// Which of a stream's choices came and which of them finished: one bit for each of the first 128, as many as OpenAI allows. Later
/// ones are not looked at.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Choices {
    seen: u128,
    finished: u128,
}

impl Choices {
    fn add(&mut self, choice: Choice) {
        let bit = u32::try_from(choice.index).ok().and_then(|index| 1_u128.checked_shl(index)).unwrap_or_default();
        self.seen |= bit;
        if choice.is_finished {
            self.finished |= bit;
        }
    }

    /// Adds those of a later event.
    pub(super) fn merge(&mut self, later: Self) {
        self.seen |= later.seen;
        self.finished |= later.finished;
    }

    /// Whether there were any and each of them finished.
    pub(super) fn are_finished(self) -> bool {
        self.seen != 0 && self.seen == self.finished
    }
}

impl Event {
    /// Forgets what was read, but keeps memory already taken.
    pub(super) fn reset(&mut self) {
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

    /// The error that it carries, under an event of that name.
    pub(super) fn error(&self, name: &[u8]) -> Option<ErrorEvent> {
        if !self.has_error && !self.is_error && name != b"error" {
            return None;
        }
        let root_type = match self.root_type.as_str() {
            kind if self.is_error && kind != "error" => kind,
            _ => "",
        };
        let kinds = [&self.error_type, &self.error_text_code, root_type, &self.root_text_code];
        let kind = kinds.into_iter().find(|kind| !kind.is_empty());
        let written = |text: &str| code(text.as_bytes());
        let code = (self.error_code.or(self.root_code))
            .or_else(|| written(&self.error_text_code))
            .or_else(|| written(&self.root_text_code));
        Some(ErrorEvent { code, kind: String::from(kind.unwrap_or_default()) })
    }

    /// Whether it is the event that reports usage behind all choices, with none of its own.
    pub(super) fn is_final_usage(&self) -> bool {
        self.has_choices && !self.has_choice && self.counts.has_totals()
    }

    /// Whether it is an event of usage that a client who did not ask for it does not miss: that one, or, as some servers write it, a chunk
    /// that has no `choices` at all.
    pub(super) fn is_usage_alone(&self) -> bool {
        self.is_final_usage() || !self.has_choices && !self.has_others && self.counts.has_totals()
    }

    /// Whether all that the event says is its content, which is one string.
    pub(super) fn is_plain_content(&self) -> bool {
        let is_only_content = !self.says_more && !self.is_terminal;
        is_only_content && self.content_strings == 1 && !self.has_error && !self.is_error
    }

    /// Where that string lies, quotes included.
    pub(super) fn content_range(&self) -> Option<Range<usize>> {
        let range = self.content.clone()?;
        Some(range.start as usize..range.end as usize)
    }
}

impl Watch for Event {
    fn member(&mut self, node: Node, key: &[u8]) -> Node {
        match node {
            ROOT if key == b"id" && self.id_at == IdAt::Root => ID,
            WHOLE if key == b"id" && self.id_at == IdAt::Whole => ID,
            ROOT => match key {
                b"object" => OBJECT,
                b"choices" => CHOICES,
                b"model" | b"error" | b"usage" => whole_member(key),
                _ => {
                    self.has_others |= !is_chunk_member(key);
                    match key {
                        b"type" => TYPE,
                        b"code" => CODE,
                        b"delta" => DELTA,
                        b"response" | b"message" => WHOLE,
                        _ => whole_member(key),
                    }
                }
            },
            WHOLE => whole_member(key),
            CHOICE => match key {
                b"delta" => CHOICE_DELTA,
                b"text" => CONTENT,
                b"index" => CHOICE_INDEX,
                b"finish_reason" => FINISH_REASON,
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
            ID => Want::Text(MAX_RESPONSE_ID_BYTES),
            MODEL if self.is_model_known => Want::Nothing,
            MODEL => Want::Text(MAX_MODEL_BYTES),
            CONTENT | DELTA | ERROR | FINISH_REASON => Want::Text(1),
            _ => Want::Nothing,
        }
    }

    fn scalar(&mut self, node: Node, scalar: Scalar<'_>, range: Range<u64>) {
        match (node, scalar) {
            (TYPE, Scalar::Text { text, .. }) => {
                self.is_terminal |= is_terminal_type(text);
                self.is_known |= is_known_type(text);
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
            (ID, Scalar::Text { text, cut: false }) if self.response_id.is_none() => {
                self.response_id = ResponseId::of(text);
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
            (CHOICES, Scalar::Null) => {}
            (CHOICES, _) => self.has_others = true,
            (CHOICE, _) => self.has_choice = true,
            (CHOICE_INDEX, Scalar::Number(token)) => self.choice.index = unsigned(token).unwrap_or(u64::MAX),
            (FINISH_REASON, scalar) => {
                self.choice.is_finished = matches!(scalar, Scalar::Text { text: [_, ..], .. });
                self.says_more |= self.choice.is_finished;
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
                *count = unsigned(token).or(*count);
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
            (CHOICES, Container::Array) => {
                self.has_choices = true;
                self.is_known = true;
            }
            (CHOICES, Container::Object) => self.has_others = true,
            (CHOICE, _) => {
                self.has_choice = true;
                self.choice = Choice::default();
            }
            _ => {}
        }
    }

    fn close(&mut self, node: Node, _end: u64) {
        if node == CHOICE {
            self.choices.add(self.choice);
        }
    }
}

/// Whether an event's type or name ends a stream.
pub(super) fn is_terminal_type(name: &[u8]) -> bool {
    let terminals: [&[u8]; 6] = [
        b"message_stop",
        b"response.completed",
        b"response.incomplete",
        b"response.failed",
        b"transcript.text.done",
        b"speech.audio.done",
    ];
    terminals.contains(&name)
}

/// Whether an event's type or name is one of an API whose streams have a terminal event.
pub(super) fn is_known_type(name: &[u8]) -> bool {
    let starts: [&[u8]; 5] = [b"message_", b"content_block_", b"response.", b"transcript.", b"speech."];
    name == b"ping" || starts.iter().any(|start| name.starts_with(start))
}

/// Whether a chunk has a member of that name beside those that are read, one that says nothing a client would miss behind its choices.
fn is_chunk_member(key: &[u8]) -> bool {
    let names: [&[u8]; 7] =
        [b"id", b"created", b"system_fingerprint", b"service_tier", b"provider", b"obfuscation", b"timings"];
    names.contains(&key)
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
    u16::try_from(unsigned(token)?).ok()
}
