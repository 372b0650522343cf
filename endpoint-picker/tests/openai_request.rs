//! Requests: recorded ones against a table, generated ones against `serde_json`, and every one of them cut.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // A test stops at the first surprise.

use std::{fs, path::Path};

use endpoint_picker::openai::{
    Api, Model, Notation, PrefixMark, RequestError, RequestFacts, RequestScanner, ScanOptions,
};
use endpoint_picker::rewrite::Splice;
use proptest::prelude::*;
use serde_json::{Value, json};

/// Small blocks, so that short prompts have hashes.
const SMALL: ScanOptions = ScanOptions { prefix_block_bytes: 8, max_prefix_blocks: 16, max_model_bytes: 64 };

fn scan<'a>(api: Api, pieces: impl IntoIterator<Item = &'a [u8]>) -> Result<RequestFacts, RequestError> {
    let mut scanner = RequestScanner::new(api, SMALL);
    for piece in pieces {
        scanner.feed(piece)?;
    }
    scanner.finish()
}

fn facts(api: Api, body: &str) -> RequestFacts {
    scan(api, [body.as_bytes()]).unwrap()
}

fn error(body: &str) -> RequestError {
    let whole = scan(Api::ChatCompletions, [body.as_bytes()]).unwrap_err();
    for place in 0..=body.len() {
        let (head, tail) = body.as_bytes().split_at(place);
        assert_eq!(scan(Api::ChatCompletions, [head, tail]), Err(whole), "cut at {place}");
    }
    whole
}

fn hashes(api: Api, body: &Value) -> Vec<PrefixMark> {
    facts(api, &body.to_string()).prompt.marks
}

fn fixture(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name);
    fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn api_of(name: &str) -> Api {
    let apis = [
        ("chat-", Api::ChatCompletions),
        ("completions-", Api::Completions),
        ("responses-", Api::Responses),
        ("messages-", Api::Messages),
        ("embeddings-", Api::Embeddings),
        ("err-", Api::ChatCompletions),
    ];
    apis.iter().find(|(prefix, _)| name.starts_with(prefix)).unwrap().1
}

const LLAMA: &str = "meta-llama/Llama-3.1-8B-Instruct";

#[test]
fn recorded_requests_say_what_they_said() {
    // Name, model, stream, include_usage, max_tokens, bytes of prompt, whole blocks of eight bytes.
    type Row = (&'static str, Option<&'static str>, bool, bool, Option<u64>, u64, usize);
    let rows: [Row; 14] = [
        ("chat-plain", Some(LLAMA), false, false, Some(8), 60, 8),
        ("chat-stream", Some(LLAMA), true, false, Some(8), 60, 8),
        ("chat-stream-usage", Some(LLAMA), true, true, Some(8), 60, 8),
        ("chat-stream-usage-continuous", Some(LLAMA), true, true, Some(8), 60, 8),
        ("chat-content-parts", Some(LLAMA), false, false, Some(4), 16, 2),
        ("chat-max_completion_tokens", Some(LLAMA), false, false, Some(4), 6, 1),
        ("completions-prompt-list", Some(LLAMA), false, false, Some(4), 18, 2),
        ("completions-token-ids", Some(LLAMA), false, false, Some(4), 12, 2),
        ("completions-stream-usage", Some(LLAMA), true, true, Some(6), 19, 2),
        ("responses-stream", Some(LLAMA), true, true, Some(8), 22, 2),
        ("messages-stream", Some(LLAMA), true, true, Some(8), 26, 3),
        ("messages-err-model", Some("nope"), false, false, Some(8), 5, 0),
        ("embeddings-on-generate-model", Some(LLAMA), false, false, None, 11, 1),
        ("err-missing-model", None, false, false, Some(2), 6, 1),
    ];
    for (name, model, stream, include_usage, max_tokens, prompt_bytes, blocks) in rows {
        let body = fixture(&format!("{name}.request.json"));
        let facts = scan(api_of(name), [body.as_slice()]).unwrap();
        match &facts.model {
            Model::Missing => assert_eq!(None, model, "{name}"),
            Model::Named { name: got, value_ranges, .. } => {
                assert_eq!(Some(got.as_str()), model, "{name}");
                assert_eq!(value_ranges.len(), 1);
                assert_eq!(body[value_ranges[0].clone()], *format!("\"{got}\"").as_bytes());
            }
        }
        let got = (facts.stream, facts.include_usage, facts.max_tokens, facts.prompt_bytes, facts.prompt.marks.len());
        assert_eq!(got, (stream, include_usage, max_tokens, prompt_bytes, blocks), "{name}");
        assert_eq!(facts.body_bytes, body.len() as u64, "{name}");
    }
}

#[test]
fn every_recorded_request_is_the_same_at_every_cut() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let mut seen = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if !name.ends_with(".request.json") {
            continue;
        }
        let body = fixture(&name);
        let whole = scan(api_of(&name), [body.as_slice()]);
        let step = 1 + body.len() / 600;
        for place in (0..=body.len()).step_by(step) {
            let (head, tail) = body.split_at(place);
            assert_eq!(scan(api_of(&name), [head, tail]), whole, "{name} cut at {place}");
        }
        assert_eq!(scan(api_of(&name), body.chunks(1)), whole, "{name} bytewise");
        seen += 1;
    }
    assert!(seen > 25, "{seen}");
}

#[test]
fn recorded_refusals_keep_their_reasons() {
    let scan = |name| scan(Api::ChatCompletions, [fixture(name).as_slice()]);
    assert_eq!(scan("err-empty-body.request.json"), Err(RequestError::Empty));
    let malformed = scan("err-malformed-json.request.json").unwrap_err();
    assert_eq!(malformed.message(), "Invalid JSON at byte 59: expected a value");
    assert_eq!(malformed.param(), None);
}

#[test]
fn a_repeated_model_counts_last_and_every_value_is_located() {
    let body = r#"{"model":"a", "x":{"model":"inner"}, "mod\u0065l" : "b\u002fc", "model":null,"model":"d/\"é"}"#;
    let facts = facts(Api::ChatCompletions, body);
    let Model::Named { name, value_ranges, .. } = facts.model else { panic!() };
    assert_eq!(name, "d/\"é");
    let values: Vec<_> = value_ranges.iter().map(|range| &body[range.clone()]).collect();
    assert_eq!(values, ["\"a\"", "\"b\\u002fc\"", "null", "\"d/\\\"é\""]);
}

#[test]
fn splicing_the_ranges_renames_the_model_and_nothing_else() {
    let body = "{ \"model\" : \"old\" ,\"n\":1e2,\"model\":{\"a\":[1]},\"model\":\"older\"}";
    let Model::Named { value_ranges, .. } = facts(Api::Completions, body).model else { panic!() };
    let ranges = value_ranges.into_iter().map(|range| range.start..range.end).collect();
    let spliced = Splice::rename(ranges, "new \"one\"\n", Notation::Json).apply(body.as_bytes());
    let spliced = String::from_utf8(spliced).unwrap();
    let name = r#""new \"one\"\n""#;
    assert_eq!(spliced, format!("{{ \"model\" : {name} ,\"n\":1e2,\"model\":{name},\"model\":{name}}}"));
    assert!(matches!(facts(Api::Completions, &spliced).model, Model::Named { name, .. } if name == "new \"one\"\n"));
}

#[test]
fn a_null_model_is_missing() {
    for body in ["{}", r#"{"model":null}"#, r#"{"model":"a","model":null}"#, r#"{"x":{"model":"a"}}"#] {
        assert_eq!(facts(Api::ChatCompletions, body).model, Model::Missing, "{body}");
    }
}

#[test]
fn bodies_that_are_no_request_are_refused() {
    for body in ["[]", "1", "\"model\"", "null", "[{\"model\":\"a\"}]"] {
        assert_eq!(error(body), RequestError::NotAnObject, "{body}");
    }
    for model in ["1", "-1.5e3", "true", "[]", "[\"a\"]", "{}", "{\"model\":\"a\"}"] {
        assert_eq!(error(&format!("{{\"model\":{model}}}")), RequestError::ModelNotAString, "{model}");
    }
    assert_eq!(error(r#"{"model":""}"#), RequestError::ModelEmpty);
    assert_eq!(error(&format!("{{\"model\":\"{}\"}}", "m".repeat(65))), RequestError::ModelTooLong);
    assert_eq!(error(&format!("{{{}\"a\":1}}", "\"model\":\"a\",".repeat(17))), RequestError::ModelRepeated);
    assert_eq!(error(" \r\n"), RequestError::Empty);
    assert_eq!(RequestError::ModelEmpty.param(), Some("model"));
}

#[test]
fn a_model_of_the_greatest_length_is_taken() {
    let name = "é".repeat(32);
    let facts = facts(Api::ChatCompletions, &json!({ "model": name }).to_string());
    assert!(matches!(facts.model, Model::Named { name: got, .. } if got == name));
}

#[test]
fn malformed_json_wins_over_a_wrong_model() {
    assert_eq!(error(r#"{"model":1,"messages":}"#), RequestError::Malformed { offset: 22, reason: "expected a value" });
    assert_eq!(error(r#"{"model":1,"messages":}"#).message(), "Invalid JSON at byte 22: expected a value");
    assert_eq!(error(&"[".repeat(128)), RequestError::TooDeep { offset: 127 });
    assert_eq!(scan(Api::Score, [b"{\"model\":\"\xff\"}".as_slice()]), Err(RequestError::NotUtf8 { offset: 10 }));
}

#[test]
fn switches_take_the_forms_that_validation_takes() {
    for on in ["true", "\"true\"", "\"TRUE\"", "\"t\"", "\"yes\"", "\"Y\"", "\"on\"", "\"1\"", "1", "1.0"] {
        let facts =
            facts(Api::ChatCompletions, &format!("{{\"stream\":{on},\"stream_options\":{{\"include_usage\":{on}}}}}"));
        assert!(facts.stream && facts.include_usage, "{on}");
    }
    for off in [
        "false",
        "\"false\"",
        "\"off\"",
        "0",
        "null",
        "\"\"",
        "2",
        "[true]",
        "{\"a\":true}",
        "\"truetruetruetruetruetruetrue\"",
    ] {
        let facts = facts(
            Api::ChatCompletions,
            &format!("{{\"stream\":{off},\"stream_options\":{{\"include_usage\":{off}}}}}"),
        );
        assert!(!facts.stream && !facts.include_usage, "{off}");
    }
}

#[test]
fn the_last_of_repeated_members_counts() {
    let last = facts(
        Api::ChatCompletions,
        r#"{"stream":false,"stream":true,"stream_options":{"include_usage":true},"stream_options":{},
            "max_tokens":1,"max_tokens":2,"priority":1,"priority":-7}"#,
    );
    assert!(last.stream && !last.include_usage);
    assert_eq!((last.max_tokens, last.priority), (Some(2), Some(-7)));
    let undone = facts(
        Api::ChatCompletions,
        r#"{"stream":true,"stream":null,"stream_options":{"include_usage":true},"stream_options":null,"max_tokens":1,"max_tokens":[2]}"#,
    );
    assert!(!undone.stream && !undone.include_usage);
    assert_eq!(undone.max_tokens, None);
}

#[test]
fn usage_is_reported_only_by_streams_and_always_by_some_apis() {
    let asks = r#"{"stream_options":{"include_usage":true}}"#;
    assert!(!facts(Api::ChatCompletions, asks).include_usage);
    for (api, includes) in
        [(Api::Messages, true), (Api::Responses, true), (Api::ChatCompletions, false), (Api::Completions, false)]
    {
        assert_eq!(facts(api, r#"{"stream":true}"#).include_usage, includes, "{api:?}");
    }
}

#[test]
fn each_api_has_its_own_token_limit() {
    let body = r#"{"max_tokens":1,"max_completion_tokens":2,"max_output_tokens":3}"#;
    for (api, limit) in [
        (Api::ChatCompletions, Some(2)),
        (Api::Completions, Some(1)),
        (Api::Responses, Some(3)),
        (Api::Messages, Some(1)),
        (Api::Embeddings, None),
    ] {
        assert_eq!(facts(api, body).max_tokens, limit, "{api:?}");
    }
    for (limit, expected) in [("16.0", Some(16)), ("\"16\"", Some(16)), ("-1", None), ("1.5", None), ("null", None)] {
        let body = format!("{{\"max_tokens\":{limit}}}");
        assert_eq!(facts(Api::ChatCompletions, &body).max_tokens, expected, "{limit}");
    }
}

#[test]
fn every_api_reads_its_own_input() {
    let text = "0123456789abcdef";
    for (api, member) in [
        (Api::Classify, "input"),
        (Api::Classify, "messages"),
        (Api::Pooling, "input"),
        (Api::Pooling, "messages"),
        (Api::Pooling, "data"),
        (Api::Speech, "input"),
        (Api::Speech, "instructions"),
        (Api::Embeddings, "texts"),
        (Api::Score, "items"),
        (Api::Score, "query"),
        (Api::Score, "data_1"),
        (Api::Invocations, "messages"),
        (Api::Invocations, "prompt"),
        (Api::Invocations, "input"),
        (Api::Invocations, "query"),
        (Api::Invocations, "documents"),
        (Api::Invocations, "text_1"),
        (Api::Invocations, "tools"),
    ] {
        let facts = facts(api, &json!({"model": "m", member: [{"content": text}], "other": text}).to_string());
        assert_eq!((facts.prompt_bytes, facts.prompt.marks.len()), (16, 2), "{api:?} {member}");
        assert!(matches!(facts.model, Model::Named { name, .. } if name == "m"));
    }
    for (api, member) in [(Api::Speech, "messages"), (Api::Classify, "prompt"), (Api::Transcriptions, "input")] {
        let facts = facts(api, &json!({ "model": "m", member: text }).to_string());
        assert_eq!((facts.prompt_bytes, facts.prompt.marks.len()), (0, 0), "{api:?} {member}");
    }
}

#[test]
fn an_invocation_has_the_limits_of_a_chat_and_speech_its_own_stream() {
    let invocation = facts(Api::Invocations, r#"{"max_tokens":1,"max_completion_tokens":2,"stream":true}"#);
    assert_eq!((invocation.max_tokens, invocation.stream), (Some(2), true));
    assert_eq!(facts(Api::Invocations, r#"{"max_tokens":1}"#).max_tokens, Some(1));
    for (body, stream) in [
        (r#"{"stream_format":"sse"}"#, true),
        (r#"{"stream_format":"audio"}"#, false),
        (r#"{"stream_format":"sse","stream_format":["sse"]}"#, false),
        (r#"{"stream":true,"stream_format":"audio"}"#, true),
        ("{}", false),
    ] {
        assert_eq!(facts(Api::Speech, body).stream, stream, "{body}");
    }
    assert!(!facts(Api::ChatCompletions, r#"{"stream_format":"sse"}"#).stream);
}

#[test]
fn an_empty_slice_changes_nothing() {
    let body = br#"{"model":"m","prompt":"0123456789","n":12,"b":true}"#;
    for place in 0..=body.len() {
        let (head, tail) = body.split_at(place);
        let with = scan(Api::Completions, [b"", head, b"", b"", tail, b""]);
        assert_eq!(with, scan(Api::Completions, [body.as_slice()]), "cut at {place}");
    }
    assert_eq!(scan(Api::Completions, [b"".as_slice()]), Err(RequestError::Empty));
}

fn chat(model: &str, texts: &[&str]) -> Value {
    let messages: Vec<_> = texts.iter().map(|text| json!({"role": "user", "content": text})).collect();
    json!({ "messages": messages, "model": model })
}

fn shared(left: &[PrefixMark], right: &[PrefixMark]) -> usize {
    left.iter().zip(right).take_while(|(left, right)| left == right).count()
}

#[test]
fn a_longer_conversation_starts_with_the_hashes_of_the_shorter() {
    let short = hashes(Api::ChatCompletions, &chat("m", &["tell me about routing", "more"]));
    let long = hashes(Api::ChatCompletions, &chat("m", &["tell me about routing", "more", "and more of it"]));
    assert_eq!(short.len(), (4 + 1 + 21 + 1 + 4 + 1 + 4 + 1) / 8);
    assert_eq!(shared(&short, &long), short.len());
    assert!(long.len() > short.len());
}

#[test]
fn prompts_share_hashes_up_to_the_block_that_differs() {
    let prompt = |text: &str| hashes(Api::Completions, &json!({"model": "m", "prompt": text}));
    let base = prompt("aaaaaaaabbbbbbbbccccccccdddddddd");
    assert_eq!(base.len(), 4);
    assert_eq!(shared(&base, &prompt("aaaaaaaabbbbbbbbccccXcccdddddddd")), 2);
    assert_eq!(shared(&base, &prompt("Xaaaaaaabbbbbbbbccccccccdddddddd")), 0);
    // The same blocks in another order are another prompt.
    let swapped = prompt("bbbbbbbbaaaaaaaaccccccccdddddddd");
    assert!(base.iter().all(|hash| !swapped.contains(hash)));
}

#[test]
fn every_hash_depends_on_model_salt_and_preamble() {
    let body = |model: &str, salt: Value, tools: &str| json!({"tools": [tools], "model": model, "cache_salt": salt, "messages": [{"content": "0123456789abcdef"}]});
    let base = hashes(Api::ChatCompletions, &body("m", json!("s"), "t"));
    assert_eq!(base.len(), 2);
    for other in [
        body("n", json!("s"), "t"),
        body("m", json!("r"), "t"),
        body("m", json!(null), "t"),
        body("m", json!("s"), "u"),
    ] {
        let other = hashes(Api::ChatCompletions, &other);
        assert_eq!(other.len(), 2);
        assert!(base.iter().all(|hash| !other.contains(hash)));
    }
}

#[test]
fn where_members_stand_in_the_body_makes_no_difference() {
    let bodies = [
        r#"{"model":"m","system":"be brief and kind","messages":[{"role":"user","content":"hello there"}],"cache_salt":"x"}"#,
        r#"{ "messages": [ { "role": "user", "content": "hello there" } ], "cache_salt": "x", "system": "be brief and kind", "model": "m" }"#,
    ];
    let [first, second] = bodies.map(|body| facts(Api::Messages, body).prompt.marks);
    assert_eq!(first.len(), (17 + 1) / 8 + (4 + 1 + 11 + 1) / 8);
    assert_eq!(first, second);
    let other = facts(Api::Messages, &bodies[0].replace("hello", "HELLO")).prompt.marks;
    assert_eq!(shared(&first, &other), 2, "the preamble is shared");
}

#[test]
fn leaves_are_told_apart() {
    let input = |input: Value| hashes(Api::Embeddings, &json!({"model": "m", "input": input}));
    let lists = [
        json!(["abcdefgh", "ijklmnop"]),
        json!(["abcdefghi", "jklmnop"]),
        json!(["abcdefghijklmnop"]),
        json!([12345678, 12345678]),
    ];
    let hashed: Vec<_> = lists.into_iter().map(input).collect();
    for (index, left) in hashed.iter().enumerate() {
        assert!(left.len() >= 2);
        for right in &hashed[..index] {
            assert_ne!(left[1], right[1]);
        }
    }
}

#[test]
fn hashing_stops_at_the_limit_and_can_be_off() {
    let body = json!({"model": "m", "prompt": "x".repeat(1000)}).to_string();
    assert_eq!(facts(Api::Completions, &body).prompt.marks.len(), SMALL.max_prefix_blocks);
    for options in [ScanOptions { max_prefix_blocks: 0, ..SMALL }, ScanOptions { prefix_block_bytes: 0, ..SMALL }] {
        let mut scanner = RequestScanner::new(Api::Completions, options);
        scanner.feed(body.as_bytes()).unwrap();
        let facts = scanner.finish().unwrap();
        assert_eq!(facts.prompt.marks.len(), 0);
        assert_eq!(facts.prompt_bytes, 1000);
    }
}

#[test]
fn hashes_are_those_the_documentation_describes() {
    use xxhash_rust::{
        xxh3::{xxh3_64, xxh3_64_with_seed},
        xxh64::xxh64,
    };
    let le = u64::to_le_bytes;
    let body = json!({"model": "m", "instructions": "0123456", "cache_salt": "pepper", "input": ["abcdefghijklmno", 7], "tools": ["x"]});
    let seed = xxh3_64_with_seed(&le(xxh64(b"pepper", 0)), xxh3_64(b"m"));
    let mix = |hash, seed| xxh3_64_with_seed(&le(hash), seed);
    let first = mix(xxh3_64(b"0123456\xFF"), 0);
    let preamble = mix(xxh3_64(b"x\xFF"), first);
    let second = mix(xxh3_64(b"abcdefgh"), 0);
    let third = mix(xxh3_64(b"ijklmno\xFF"), second);
    let inner = mix(preamble, seed);
    let mark = |hash, end| PrefixMark { hash, end };
    let prompt = facts(Api::Responses, &body.to_string()).prompt;
    assert_eq!(prompt.marks, [mark(mix(first, seed), 8), mark(mix(second, inner), 18), mark(mix(third, inner), 26)]);
    assert_eq!(prompt.family, prompt.marks[0].hash);
}

/// Members of a body in order, repeated ones included.
fn members() -> impl Strategy<Value = Vec<(String, Value)>> {
    let value = prop_oneof![
        3 => "[a-z/é\"\\\\]{0,20}".prop_map(Value::from),
        1 => any::<i64>().prop_map(Value::from),
        1 => any::<bool>().prop_map(Value::from),
        1 => Just(Value::Null),
        1 => ".{0,30}".prop_map(|text| json!([{"role": "user", "content": text}])),
        1 => "[a-z]{0,5}".prop_map(|text| json!({"include_usage": true, "model": text})),
    ];
    let key = "model|stream|messages|prompt|stream_options|tools|cache_salt|max_tokens|[a-z]{1,5}";
    proptest::collection::vec((key, value), 0..10)
}

/// One way to write the members, with names and spaces that vary by `style`.
fn written(members: &[(String, Value)], style: u64) -> Vec<u8> {
    let mut body = String::from("{");
    for (index, (key, value)) in members.iter().enumerate() {
        let bit = style >> (index % 16) & 1 == 1;
        if index > 0 {
            body.push(',');
        }
        if bit {
            let escaped: String = key.chars().map(|c| format!("\\u{:04x}", u32::from(c))).collect();
            body.push_str(&format!(" \"{escaped}\" :\n{value:#}"));
        } else {
            body.push_str(&format!("\"{key}\":{value}"));
        }
    }
    body.push('}');
    body.into_bytes()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_model_is_the_one_serde_json_finds(members in members(), style in any::<u64>(), chunk in 1usize..40) {
        let body = written(&members, style);
        let value: Value = serde_json::from_slice(&body).unwrap();
        let whole = scan(Api::ChatCompletions, [body.as_slice()]);
        match (value.get("model"), &whole) {
            (None | Some(Value::Null), Ok(facts)) => prop_assert_eq!(&facts.model, &Model::Missing),
            (Some(Value::String(expected)), Ok(RequestFacts { model: Model::Named { name, value_ranges, .. }, .. })) => {
                prop_assert_eq!(expected, name);
                let last = &body[value_ranges.last().unwrap().clone()];
                prop_assert_eq!(&serde_json::from_slice::<String>(last).unwrap(), name);
                prop_assert_eq!(value_ranges.len(), members.iter().filter(|(key, _)| key == "model").count());
            }
            (Some(Value::String(name)), Err(RequestError::ModelEmpty)) => prop_assert!(name.is_empty()),
            (Some(_), Err(RequestError::ModelNotAString)) => prop_assert!(!value["model"].is_string()),
            other => panic!("{other:?}"),
        }
        prop_assert_eq!(scan(Api::ChatCompletions, body.chunks(chunk)), whole);
    }

    #[test]
    fn cuts_never_change_the_facts(members in members(), style in any::<u64>(), damage in any::<Option<(usize, u8)>>(), places in proptest::collection::vec(any::<usize>(), 0..8)) {
        let mut body = written(&members, style);
        if let Some((place, byte)) = damage {
            let place = place % body.len();
            body[place] = byte;
        }
        let mut places: Vec<_> = places.iter().map(|place| place % (body.len() + 1)).chain([0, body.len()]).collect();
        places.sort_unstable();
        let pieces: Vec<_> = places.windows(2).map(|pair| &body[pair[0]..pair[1]]).collect();
        for api in [Api::ChatCompletions, Api::Completions, Api::Messages] {
            prop_assert_eq!(scan(api, pieces.iter().copied()), scan(api, [body.as_slice()]));
        }
        let is_json = serde_json::from_slice::<Value>(&body).is_ok();
        let refused = matches!(
            scan(Api::Messages, [body.as_slice()]),
            Err(RequestError::Empty | RequestError::Malformed { .. } | RequestError::NotUtf8 { .. } | RequestError::TooDeep { .. })
        );
        prop_assert_eq!(is_json, !refused);
    }
}

#[test]
fn the_last_of_repeated_salts_counts() {
    let salted = |salts: &str| facts(Api::Completions, &format!("{{\"prompt\":\"0123456789\",{salts}}}")).prompt.marks;
    let last = salted(r#""cache_salt":"b""#);
    assert_eq!(salted(r#""cache_salt":"a","cache_salt":"b""#), last);
    assert_ne!(salted(r#""cache_salt":"b","cache_salt":null"#), last);
    let unsalted = salted(r#""seed":1"#);
    for other in ["null", "7", "true", "[\"b\"]", "{\"b\":\"b\"}"] {
        assert_eq!(salted(&format!("\"cache_salt\":\"b\",\"cache_salt\":{other}")), unsalted, "{other}");
    }
}
