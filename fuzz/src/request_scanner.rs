//! The request scanner against `serde_json`, against the documentation of its hashes, and against itself cut elsewhere.
//!
//! Input: a byte that chooses the API (`0` to `9`, `:` to `<`), a byte that chooses the cuts, the body. With `p` to `z`, `{` and `|`
//! for the API, the rest are the choices of which a body is made.

use endpoint_picker::openai::json::{Container, Node, ROOT, Scalar, ScanError, Scanner, Want, Watch};
use endpoint_picker::openai::request::MAX_MODEL_MEMBERS;
use endpoint_picker::openai::{
    Api, Model, Notation, PrefixMark, PromptDigest, RequestError, RequestFacts, RequestScanner, ResponseId, ScanOptions,
};
use endpoint_picker::rewrite::Splice;
use serde_json::{Map, Value};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};
use xxhash_rust::xxh64::xxh64;

use crate::cut::pieces;
use crate::made::Choices;
use crate::written::{Json, Kind, signed, whole};

/// Small limits, so that short bodies reach them.
const OPTIONS: ScanOptions = ScanOptions { prefix_block_bytes: 8, max_prefix_blocks: 16, max_model_bytes: 64 };
/// Longest string that can spell a switch or a number.
const MAX_SWITCH_BYTES: usize = 24;
/// A name that needs escapes.
const NEW_MODEL: &str = "new \"one\"\n\u{1f980}";

/// Set in an input's first byte, it says that the rest are choices.
pub(crate) const MADE: u8 = 0x40;

/// Every member that matters, and one that does not.
const NAMES: [&str; 33] = [
    "x",
    "model",
    "stream",
    "stream_options",
    "include_usage",
    "max_tokens",
    "max_completion_tokens",
    "max_output_tokens",
    "priority",
    "cache_salt",
    "previous_response_id",
    "tools",
    "system",
    "instructions",
    "messages",
    "content",
    "prompt",
    "input",
    "query",
    "documents",
    "text_1",
    "text_2",
    "queries",
    "mod\\u0065l",
    "stre\\u0061m",
    "stream_format",
    "texts",
    "inputs",
    "images",
    "data",
    "data_1",
    "data_2",
    "items",
];

pub(crate) const APIS: [Api; 13] = [
    Api::ChatCompletions,
    Api::Completions,
    Api::Responses,
    Api::Embeddings,
    Api::Messages,
    Api::Rerank,
    Api::Score,
    Api::Classify,
    Api::Pooling,
    Api::Invocations,
    Api::Speech,
    Api::Transcriptions,
    Api::Translations,
];

/// Reads a body whole and in pieces and compares facts, refusals and the renamed body.
pub fn check(data: &[u8]) {
    let [api, seed, body @ ..] = data else { return };
    let made = (api & MADE != 0).then(|| Choices::new(body).object(&NAMES));
    let body = made.as_ref().map_or(body, String::as_bytes);
    let api = APIS[usize::from(api % 16) % APIS.len()];
    let got = scan(api, [body]);
    assert_eq!(scan(api, pieces(body, *seed)), got, "cuts of seed {seed} change the answer");
    let json = Json::read(body);
    check_values(body, *seed);
    let Some(json) = json else {
        let error = got.expect_err("serde_json refuses it");
        assert!(
            matches!(
                error,
                RequestError::Empty
                    | RequestError::Malformed { .. }
                    | RequestError::NotUtf8 { .. }
                    | RequestError::TooDeep { .. }
            ),
            "{error:?} of what is no JSON"
        );
        assert!(!error.message().is_empty());
        return;
    };
    // What families and conversations are is said by the scanner alone; the rest of the digest is computed anew.
    let digest = got.as_ref().map(|facts| facts.prompt.clone()).unwrap_or_default();
    let usage_edit = got.as_ref().ok().and_then(|facts| facts.usage_edit.clone());
    let expected = expected(api, &json, body.len(), &digest).map(|facts| RequestFacts { usage_edit, ..facts });
    assert_eq!(got, expected);
    if let Ok(facts) = got {
        let family = PrefixMark { hash: digest.family, end: digest.family_end };
        let is_marked = facts.prompt.marks.contains(&family);
        assert_eq!(is_marked, !facts.prompt.marks.is_empty(), "a family is one of the marks");
        check_unhashed(api, body, &facts);
        check_usage_edit(api, body, &facts);
        check_rename(api, body, facts);
    }
}

/// Without hashing everything else is the same.
fn check_unhashed(api: Api, body: &[u8], facts: &RequestFacts) {
    let mut scanner = RequestScanner::new(api, ScanOptions { max_prefix_blocks: 0, ..OPTIONS });
    scanner.feed(body).unwrap();
    assert_eq!(scanner.finish(), Ok(RequestFacts { prompt: PromptDigest::default(), ..facts.clone() }));
}

fn scan<'a>(api: Api, pieces: impl IntoIterator<Item = &'a [u8]>) -> Result<RequestFacts, RequestError> {
    let mut scanner = RequestScanner::new(api, OPTIONS);
    for piece in pieces {
        if let Err(error) = scanner.feed(piece) {
            assert_eq!(scanner.feed(b" "), Err(error), "an error lasts");
            return Err(error);
        }
    }
    scanner.finish()
}

/// Asks for usage: nothing else of the JSON may change, and it is asked for then.
fn check_usage_edit(api: Api, body: &[u8], facts: &RequestFacts) {
    let mut value: Value = serde_json::from_slice(body).unwrap();
    let can_ask = matches!(api, Api::ChatCompletions | Api::Completions) && facts.stream && !facts.include_usage;
    let Some(edit) = &facts.usage_edit else {
        assert!(!can_ask || !value["stream_options"].is_null(), "a stream without options can ask for usage");
        return;
    };
    assert!(can_ask);
    let mut splice = Splice::default();
    splice.add(edit);
    let spliced = splice.apply(body);
    value["stream_options"]["include_usage"] = true.into();
    assert_eq!(serde_json::from_slice::<Value>(&spliced).unwrap(), value);
    let asked = RequestFacts { include_usage: true, usage_edit: None, ..facts.clone() };
    let again = scan(api, [spliced.as_slice()]).unwrap();
    assert_eq!(RequestFacts { body_bytes: asked.body_bytes, model: asked.model.clone(), ..again }, asked);
}

/// Replaces the model: nothing else of the JSON may change.
fn check_rename(api: Api, body: &[u8], facts: RequestFacts) {
    let Model::Named { value_ranges, .. } = facts.model else { return };
    let spliced = Splice::rename(value_ranges, NEW_MODEL, Notation::Json).apply(body);
    let mut value: Value = serde_json::from_slice(body).unwrap();
    value["model"] = NEW_MODEL.into();
    assert_eq!(serde_json::from_slice::<Value>(&spliced).unwrap(), value);
    let again = scan(api, [spliced.as_slice()]).unwrap();
    assert!(matches!(again.model, Model::Named { name, .. } if name == NEW_MODEL));
    assert_eq!(
        (again.stream, again.include_usage, again.max_tokens, again.priority, again.prompt_bytes),
        (facts.stream, facts.include_usage, facts.max_tokens, facts.priority, facts.prompt_bytes)
    );
}

/// What the documentation of [`RequestScanner`] says of a body.
fn expected(api: Api, json: &Json<'_>, bytes: usize, digest: &PromptDigest) -> Result<RequestFacts, RequestError> {
    let Kind::Object(members) = &json.kind else { return Err(RequestError::NotAnObject) };
    let models: Vec<_> = members.iter().filter(|(key, _)| key == "model").map(|(_, value)| value).collect();
    if models.len() > MAX_MODEL_MEMBERS {
        return Err(RequestError::ModelRepeated);
    }
    let model = match models.last() {
        None => Model::Missing,
        Some(Json { kind: Kind::Null, .. }) => Model::Missing,
        Some(value) => match value.text() {
            None => return Err(RequestError::ModelNotAString),
            Some(name) if name.is_empty() => return Err(RequestError::ModelEmpty),
            Some(name) if name.len() > OPTIONS.max_model_bytes => return Err(RequestError::ModelTooLong),
            Some(name) => Model::Named {
                name,
                value_ranges: models.iter().map(|value| value.range.clone()).collect(),
                notation: Notation::Json,
            },
        },
    };
    let limit = |name| json.last(name).and_then(spelt).and_then(|text| whole(&text));
    let asks_events = json.last("stream_format").and_then(Json::text).as_deref() == Some("sse");
    let stream = json.last("stream").is_some_and(is_on) || api == Api::Speech && asks_events;
    let asks_usage = json.last("stream_options").and_then(|options| options.last("include_usage")).is_some_and(is_on);
    let (mut preamble, mut prompt, mut prompt_bytes) = (Vec::new(), Vec::new(), 0);
    for (key, value) in members {
        if preamble_members(api).contains(&key.as_str()) {
            prompt_bytes += add_leaves(value, &mut preamble);
        } else if prompt_members(api).contains(&key.as_str()) {
            prompt_bytes += add_leaves(value, &mut prompt);
        }
    }
    let name = match &model {
        Model::Missing => "",
        Model::Named { name, .. } => name,
    };
    let salt = json.last("cache_salt").and_then(Json::raw).map_or(0, |salt| xxh64(salt, 0));
    let seed = xxh3_64_with_seed(&salt.to_le_bytes(), xxh3_64(name.as_bytes()));
    Ok(RequestFacts {
        api,
        body_bytes: bytes as u64,
        stream,
        include_usage: stream && (asks_usage || matches!(api, Api::Messages | Api::Responses)),
        // Checked by what it does.
        usage_edit: None,
        max_tokens: match api {
            Api::ChatCompletions | Api::Invocations => limit("max_completion_tokens").or_else(|| limit("max_tokens")),
            Api::Completions | Api::Messages => limit("max_tokens"),
            Api::Responses => limit("max_output_tokens"),
            _ => None,
        },
        previous_response: json
            .last("previous_response_id")
            .filter(|_| api == Api::Responses)
            .and_then(Json::text)
            .and_then(|id| ResponseId::of(id.as_bytes())),
        priority: json.last("priority").and_then(spelt).and_then(|text| signed(&text)),
        prompt_bytes,
        prompt: PromptDigest { marks: marks(&preamble, &prompt, seed), ..digest.clone() },
        model,
    })
}

fn preamble_members(api: Api) -> &'static [&'static str] {
    match api {
        Api::ChatCompletions | Api::Invocations => &["tools"],
        Api::Responses => &["tools", "instructions"],
        Api::Messages => &["tools", "system"],
        Api::Speech => &["instructions"],
        _ => &[],
    }
}

fn prompt_members(api: Api) -> &'static [&'static str] {
    match api {
        Api::ChatCompletions | Api::Messages => &["messages"],
        Api::Completions => &["prompt"],
        Api::Responses | Api::Speech => &["input"],
        Api::Embeddings => &["input", "messages", "texts", "images", "inputs"],
        Api::Classify => &["input", "messages"],
        Api::Pooling => &["input", "messages", "data"],
        Api::Rerank => &["query", "documents"],
        Api::Score => &["text_1", "text_2", "data_1", "data_2", "query", "queries", "documents", "items"],
        Api::Invocations => &[
            "messages",
            "prompt",
            "input",
            "data",
            "query",
            "documents",
            "text_1",
            "text_2",
            "data_1",
            "data_2",
            "queries",
            "items",
        ],
        Api::Transcriptions | Api::Translations => &[],
    }
}

/// A number, or a string short enough to spell one.
fn spelt(value: &Json<'_>) -> Option<String> {
    let text = || value.text().filter(|text| text.len() <= MAX_SWITCH_BYTES);
    value.number().map(str::to_owned).or_else(text)
}

fn is_on(value: &Json<'_>) -> bool {
    match &value.kind {
        Kind::Bool(on) => *on,
        Kind::Number => value.number().and_then(whole) == Some(1),
        Kind::Text => {
            let text = value.text().unwrap().to_ascii_lowercase();
            ["true", "t", "yes", "y", "on", "1"].contains(&text.as_str())
        }
        _ => false,
    }
}

/// Appends every string and number below `value`, each with its end, and returns how long they are without.
fn add_leaves(value: &Json<'_>, leaves: &mut Vec<u8>) -> u64 {
    let mut bytes = 0;
    let leaf = value.raw().or_else(|| value.number().map(str::as_bytes));
    if let Some(leaf) = leaf {
        leaves.extend_from_slice(leaf);
        leaves.push(0xFF);
        bytes += leaf.len() as u64;
    }
    for (_, member) in value.members() {
        bytes += add_leaves(member, leaves);
    }
    for element in value.elements() {
        bytes += add_leaves(element, leaves);
    }
    bytes
}

fn marks(preamble: &[u8], prompt: &[u8], seed: u64) -> Vec<PrefixMark> {
    let mix = |hash: u64, seed| xxh3_64_with_seed(&hash.to_le_bytes(), seed);
    let chain = |text: &[u8]| {
        let (blocks, rest) = text.as_chunks::<8>();
        let mut last = 0;
        let mut hashes = Vec::new();
        for block in blocks {
            last = mix(xxh3_64(block), last);
            hashes.push(last);
        }
        (hashes, mix(xxh3_64(rest), last))
    };
    let (hashes_before, whole) = chain(preamble);
    let inner = mix(whole, seed);
    // At most 16 blocks of either are kept, which all have the first length.
    let end = |first: usize, block: usize| u32::try_from(first + (block + 1) * 8).unwrap();
    let first = |(block, hash)| PrefixMark { hash: mix(hash, seed), end: end(0, block) };
    let behind = |(block, hash)| PrefixMark { hash: mix(hash, inner), end: end(preamble.len(), block) };
    let before = hashes_before.into_iter().enumerate().map(first);
    before.chain(chain(prompt).0.into_iter().enumerate().map(behind)).take(OPTIONS.max_prefix_blocks).collect()
}

/// The scanner below, asked for everything: what it tells must be the text's value.
fn check_values(body: &[u8], seed: u8) {
    let read = |pieces: &mut dyn Iterator<Item = &[u8]>| -> Result<Value, ScanError> {
        let (mut scanner, mut builder) = (Scanner::new(), Builder::default());
        for piece in pieces {
            scanner.feed(piece, &mut builder)?;
        }
        scanner.finish(&mut builder)?;
        Ok(builder.root.unwrap())
    };
    let got = read(&mut pieces(body, seed));
    assert_eq!(got, read(&mut [body].into_iter()));
    match (got, serde_json::from_slice::<Value>(body)) {
        (Ok(got), Ok(value)) => assert!(got == value || has_long_name(&value), "{got} is not {value}"),
        (Err(_), Err(_)) => {}
        (got, value) => panic!("the scanner says {got:?}, serde_json {value:?}"),
    }
}

/// Names beyond the scanner's bound are handed out cut.
fn has_long_name(value: &Value) -> bool {
    match value {
        Value::Array(elements) => elements.iter().any(has_long_name),
        Value::Object(members) => members.iter().any(|(name, value)| name.len() > 64 || has_long_name(value)),
        _ => false,
    }
}

/// Puts a value together from the scanner's events.
#[derive(Default)]
struct Builder {
    open: Vec<(Value, Option<String>)>,
    name: Option<String>,
    root: Option<Value>,
}

/// Every value below the outermost one.
const INNER: Node = 7;

impl Builder {
    fn put(&mut self, value: Value, name: Option<String>) {
        match (self.open.last_mut(), name) {
            (None, None) => self.root = Some(value),
            (Some((Value::Array(elements), _)), None) => elements.push(value),
            (Some((Value::Object(members), _)), Some(name)) => {
                members.insert(name, value);
            }
            (open, name) => panic!("a value named {name:?} in {open:?}"),
        }
    }
}

impl Watch for Builder {
    fn member(&mut self, node: Node, key: &[u8]) -> Node {
        assert!(node == ROOT || node == INNER);
        self.name = Some(String::from_utf8_lossy(key).into_owned());
        INNER
    }

    fn element(&mut self, _: Node) -> Node {
        INNER
    }

    fn want(&mut self, _: Node) -> Want {
        Want::Text(usize::MAX)
    }

    fn scalar(&mut self, _: Node, scalar: Scalar<'_>, _: std::ops::Range<u64>) {
        let value = match scalar {
            Scalar::Null => Value::Null,
            Scalar::Bool(value) => value.into(),
            Scalar::Number(token) => serde_json::from_slice(token).unwrap(),
            Scalar::Text { text, cut: false } => std::str::from_utf8(text).unwrap().into(),
            other => panic!("{other:?} though all text was asked for"),
        };
        let name = self.name.take();
        self.put(value, name);
    }

    fn open(&mut self, _: Node, container: Container, _: u64) {
        let value = match container {
            Container::Array => Value::Array(Vec::new()),
            Container::Object => Value::Object(Map::new()),
        };
        self.open.push((value, self.name.take()));
    }

    fn close(&mut self, _: Node, _: u64) {
        let (value, name) = self.open.pop().unwrap();
        self.put(value, name);
    }
}
