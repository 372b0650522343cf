//! The reader of buffered answers against a plain reading of the same JSON, and against itself cut elsewhere.
//!
//! Input: a byte that chooses the API (`0` to `6`, `8`, `9`, `:` to `=`, and `7` for an unknown one), a byte that chooses the cuts, the
//! body. With `p` to `z` and `{` to `}` for the API, the rest are the choices of which a body is made.

use std::collections::BTreeMap;

use endpoint_picker::openai::response::{MAX_KIND_BYTES, MAX_MODEL_BYTES};
use endpoint_picker::openai::{Api, Ending, ErrorEvent, Progress, ResponseFacts, ResponseId, ResponseReader, Usage};

use crate::cut::pieces;
use crate::made::Choices;
use crate::request_scanner::{APIS, MADE};
use crate::written::{Json, Kind, whole};

/// Every member that matters.
pub(crate) const NAMES: [&str; 36] = [
    "usage",
    "prompt_tokens",
    "completion_tokens",
    "input_tokens",
    "output_tokens",
    "total_tokens",
    "cached_tokens",
    "reasoning_tokens",
    "prompt_tokens_details",
    "completion_tokens_details",
    "input_tokens_details",
    "output_tokens_details",
    "cache_read_input_tokens",
    "cache_creation_input_tokens",
    "error",
    "type",
    "object",
    "code",
    "model",
    "id",
    "status",
    "choices",
    "delta",
    "text",
    "content",
    "reasoning",
    "reasoning_content",
    "refusal",
    "tool_calls",
    "function_call",
    "thinking",
    "partial_json",
    "response",
    "message",
    "finish_reason",
    "index",
];

/// Reads a body whole and in pieces and compares the facts.
pub fn check(data: &[u8]) {
    let [api, seed, body @ ..] = data else { return };
    let made = (api & MADE != 0).then(|| Choices::new(body).object(&NAMES));
    let body = made.as_ref().map_or(body, String::as_bytes);
    let api = api_of(*api);
    let got = read(api, [body]);
    assert_eq!(read(api, pieces(body, *seed)), got, "cuts of seed {seed} change the answer");
    let mut expected =
        ResponseFacts { bytes: body.len() as u64, ending: Ending::Malformed, ..ResponseFacts::default() };
    if let Some(json) = Json::read(body) {
        let said = Said::in_json(&json);
        expected.ending = Ending::Complete;
        expected.usage = said.usage(api);
        expected.error = said.error(b"");
        expected.model = said.model;
        expected.response_id = said.root_id.filter(|_| api == Some(Api::Responses));
    }
    assert_eq!(got, expected);
}

/// The API that an input's first byte chooses.
pub(crate) fn api_of(byte: u8) -> Option<Api> {
    match usize::from(byte % 16) {
        7 => None,
        index @ 0..7 => Some(APIS[index]),
        index => APIS.get(index - 1).copied(),
    }
}

fn read<'a>(api: Option<Api>, pieces: impl IntoIterator<Item = &'a [u8]>) -> ResponseFacts {
    let mut reader = ResponseReader::json(api);
    for piece in pieces {
        assert_eq!(reader.feed(piece), Progress::default(), "a buffered body makes no progress");
    }
    reader.finish()
}

/// What one JSON text says: a buffered body or the data of an event.
#[derive(Default)]
pub(crate) struct Said {
    pub(crate) bears_content: bool,
    pub(crate) is_terminal: bool,
    pub(crate) model: Option<String>,
    /// The id at the root, and that of the response inside.
    root_id: Option<ResponseId>,
    pub(crate) whole_id: Option<ResponseId>,
    /// Token counts by their names on the wire.
    pub(crate) counts: BTreeMap<String, u64>,
    /// The usage has details of its input, as where cached tokens are counted in.
    pub(crate) has_input_details: bool,
    /// Its type is one of a known API.
    pub(crate) is_known: bool,
    /// The indices of its choices below 128, each with whether it finished.
    pub(crate) choices: Vec<(u64, bool)>,
    has_choices: bool,
    has_choice: bool,
    /// The root has members that a chunk does not have, or `choices` that are neither a list nor `null`.
    has_others: bool,
    has_error: bool,
    /// The text is itself an error.
    is_error: bool,
    error: Fault,
    root: Fault,
}

fn first_id(json: &Json<'_>) -> Option<ResponseId> {
    let ids = json.members().iter().filter(|(key, _)| key == "id").filter_map(|(_, id)| id.text());
    ids.filter_map(|id| ResponseId::of(id.as_bytes())).next()
}

/// Type and code of an error.
#[derive(Default)]
struct Fault {
    kind: String,
    text_code: String,
    code: Option<u16>,
}

impl Fault {
    fn read(&mut self, key: &str, value: &Json<'_>) {
        match (key, &value.kind) {
            ("type", Kind::Text) => self.kind = bounded(value),
            ("code", Kind::Text) => self.text_code = bounded(value),
            ("code", Kind::Number) => {
                self.code = value.number().and_then(whole).and_then(|code| u16::try_from(code).ok());
            }
            _ => {}
        }
    }
}

impl Said {
    /// Walks over the members in their order.
    pub(crate) fn in_json(json: &Json<'_>) -> Self {
        let mut said = Self { root_id: first_id(json), ..Self::default() };
        let wholes = json.members().iter().filter(|(key, _)| matches!(key.as_str(), "response" | "message"));
        said.whole_id = wholes.filter_map(|(_, whole)| first_id(whole)).next();
        for (key, value) in json.members() {
            said.has_others |= match key.as_str() {
                "choices" => !matches!(value.kind, Kind::Array(_) | Kind::Null),
                "id" | "object" | "created" | "model" | "usage" | "error" | "system_fingerprint" | "service_tier"
                | "provider" | "obfuscation" | "timings" => false,
                _ => true,
            };
            match key.as_str() {
                "type" | "code" => {
                    said.root.read(key, value);
                    if let Some(kind) = value.text().filter(|_| key == "type") {
                        said.is_terminal |= is_terminal(kind.as_bytes());
                        said.is_known |= is_known(kind.as_bytes());
                        said.is_error |= kind == "error";
                        said.has_error |= kind == "response.failed";
                    }
                }
                "object" => said.is_error |= value.text().as_deref() == Some("error"),
                "choices" => {
                    said.has_choices |= matches!(value.kind, Kind::Array(_));
                    value.elements().iter().for_each(|choice| said.choice(choice));
                }
                "delta" => {
                    let texts = value
                        .members()
                        .iter()
                        .filter(|(key, _)| matches!(key.as_str(), "text" | "thinking" | "partial_json"));
                    said.bears_content |= has_text(value) || texts.into_iter().any(|(_, value)| has_text(value));
                }
                "response" | "message" => value.members().iter().for_each(|(key, value)| said.answer(key, value)),
                _ => said.answer(key, value),
            }
        }
        said
    }

    fn choice(&mut self, choice: &Json<'_>) {
        self.has_choice = true;
        if matches!(choice.kind, Kind::Object(_) | Kind::Array(_)) {
            let mut reasons = choice.members().iter().filter(|(key, _)| key == "finish_reason");
            let reason = reasons.rfind(|(_, value)| !matches!(value.kind, Kind::Object(_) | Kind::Array(_)));
            let indices = choice.members().iter().filter(|(key, _)| key == "index");
            let index = indices.filter_map(|(_, value)| value.number()).next_back().map_or(Some(0), whole);
            if let Some(index) = index.filter(|&index| index < 128) {
                self.choices.push((index, reason.is_some_and(|(_, value)| has_text(value))));
            }
        }
        for (key, value) in choice.members() {
            self.bears_content |= match key.as_str() {
                "text" => has_text(value),
                "delta" => value.members().iter().any(|(key, value)| match key.as_str() {
                    "content" | "reasoning" | "reasoning_content" | "refusal" => has_text(value),
                    "tool_calls" | "function_call" => !value.elements().is_empty() || !value.members().is_empty(),
                    _ => false,
                }),
                _ => false,
            };
        }
    }

    /// A member of a whole answer, which stands at the root or inside an event.
    fn answer(&mut self, key: &str, value: &Json<'_>) {
        match key {
            "model" if self.model.is_none() => self.model = value.text().filter(|name| name.len() <= MAX_MODEL_BYTES),
            "error" => {
                self.has_error |= has_text(value) || matches!(value.kind, Kind::Object(_));
                value.members().iter().for_each(|(key, value)| self.error.read(key, value));
            }
            "status" => self.has_error |= value.text().as_deref() == Some("failed"),
            "usage" => value.members().iter().for_each(|(key, value)| self.usage_member(key, value)),
            _ => {}
        }
    }

    fn usage_member(&mut self, key: &str, value: &Json<'_>) {
        let inner = match key {
            "input_tokens_details" | "prompt_tokens_details" => "cached_tokens",
            "output_tokens_details" | "completion_tokens_details" => "reasoning_tokens",
            // On the wire these stand only inside the details.
            "cached_tokens" | "reasoning_tokens" => return,
            _ => {
                self.count(key, value);
                return;
            }
        };
        self.has_input_details |=
            key == "input_tokens_details" && matches!(value.kind, Kind::Object(_) | Kind::Array(_));
        for (_, value) in value.members().iter().filter(|(key, _)| key == inner) {
            self.count(inner, value);
        }
    }

    fn count(&mut self, key: &str, value: &Json<'_>) {
        if let Some(count) = value.number().and_then(whole) {
            self.counts.insert(key.to_owned(), count);
        }
    }

    /// Whether it is an event of a known API.
    pub(crate) fn is_known(&self) -> bool {
        self.is_known || self.has_choices
    }

    /// Whether it reports usage behind all choices.
    pub(crate) fn is_final_usage(&self) -> bool {
        self.has_choices && !self.has_choice && self.has_totals()
    }

    /// Whether it reports usage and nothing that a client would miss who did not ask for that.
    pub(crate) fn is_usage_alone(&self) -> bool {
        self.is_final_usage() || !self.has_choices && !self.has_others && self.has_totals()
    }

    fn has_totals(&self) -> bool {
        let totals = ["prompt_tokens", "completion_tokens", "input_tokens", "output_tokens", "total_tokens"];
        totals.iter().any(|&name| self.counts.contains_key(name))
    }

    /// The counts in one form for all APIs.
    pub(crate) fn usage(&self, api: Option<Api>) -> Option<Usage> {
        let count = |key: &str| self.counts.get(key).copied();
        let excludes_cached = api.map_or(!self.has_input_details, |api| api == Api::Messages);
        let cached = ["cache_read_input_tokens", "cache_creation_input_tokens"].into_iter().filter_map(count);
        let apart = if excludes_cached { cached.fold(0, u64::saturating_add) } else { 0 };
        let usage = Usage {
            prompt_tokens: count("prompt_tokens").or(count("input_tokens").map(|input| input.saturating_add(apart))),
            completion_tokens: count("completion_tokens").or(count("output_tokens")),
            total_tokens: count("total_tokens"),
            cached_tokens: count("cached_tokens").or(count("cache_read_input_tokens")),
            reasoning_tokens: count("reasoning_tokens"),
        };
        (usage != Usage::default()).then_some(usage)
    }

    /// The error that it carries, under an event of that name.
    pub(crate) fn error(&self, name: &[u8]) -> Option<ErrorEvent> {
        if !self.has_error && !self.is_error && name != b"error" {
            return None;
        }
        let own_kind = if self.is_error && self.root.kind != "error" { self.root.kind.as_str() } else { "" };
        let kinds = [&self.error.kind, &self.error.text_code, own_kind, &self.root.text_code];
        let kind = kinds.into_iter().find(|kind| !kind.is_empty()).unwrap_or_default();
        let written = |text: &str| whole(text).and_then(|code| u16::try_from(code).ok());
        let codes = [self.error.code, self.root.code, written(&self.error.text_code), written(&self.root.text_code)];
        let error = ErrorEvent { code: codes.into_iter().flatten().next(), kind: kind.to_owned() };
        let status = error.code.filter(|code| (400..600).contains(code));
        assert!(status.is_none_or(|code| error.is_server_fault() == (code >= 500)));
        Some(error)
    }
}

/// Whether an event's type or name ends a stream.
pub(crate) fn is_terminal(name: &[u8]) -> bool {
    let ends = [
        "message_stop",
        "response.completed",
        "response.incomplete",
        "response.failed",
        "transcript.text.done",
        "speech.audio.done",
    ];
    ends.iter().any(|end| end.as_bytes() == name)
}

/// Whether an event's type or name is one of an API that has a terminal event.
pub(crate) fn is_known(name: &[u8]) -> bool {
    let starts = ["message_", "content_block_", "response.", "transcript.", "speech."];
    name == b"ping" || starts.iter().any(|start| name.starts_with(start.as_bytes()))
}

fn has_text(value: &Json<'_>) -> bool {
    value.text().is_some_and(|text| !text.is_empty())
}

fn bounded(value: &Json<'_>) -> String {
    let mut text = value.text().unwrap();
    text.truncate(text.floor_char_boundary(MAX_KIND_BYTES));
    text
}
