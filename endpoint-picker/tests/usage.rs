//! Usage that the gateway asks for: how a body asks, and how what it brings is taken out of the stream.
#![cfg(not(target_arch = "wasm32"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // A test stops at the first surprise.

use std::{fs, path::Path};

use endpoint_picker::openai::response::UsageEventRemover;
use endpoint_picker::openai::{Api, RequestFacts, RequestScanner, ScanOptions};
use endpoint_picker::rewrite::Splice;
use proptest::prelude::*;
use serde_json::Value;

const USAGE: &str = r#"{"id":"c","object":"chat.completion.chunk","choices":[],"usage":{"prompt_tokens":39,"total_tokens":47,"completion_tokens":8},"system_fingerprint":"f"}"#;
const CONTENT: &str = r#"{"id":"c","choices":[{"index":0,"delta":{"content":"a \"usage\" b"}}],"usage":null}"#;

fn facts(api: Api, body: &str) -> RequestFacts {
    let mut scanner = RequestScanner::new(api, ScanOptions::default());
    scanner.feed(body.as_bytes()).unwrap();
    scanner.finish().unwrap()
}

/// The body with what asks for usage; `None`: it is not to be asked for.
fn asking(api: Api, body: &str) -> Option<String> {
    let mut splice = Splice::default();
    splice.add(&facts(api, body).usage_edit?);
    let spliced = splice.apply(body.as_bytes());
    assert_eq!(splice.length(body.len() as u64), spliced.len() as u64);
    Some(String::from_utf8(spliced).unwrap())
}

#[test]
fn a_stream_that_does_not_ask_is_changed_in_place_and_nowhere_else() {
    for (body, expected) in [
        (r#"{"stream":true}"#, r#"{"stream_options":{"include_usage":true},"stream":true}"#),
        (
            " \n{ \"a\": 1.50,\t\"stream\" :true}\n",
            " \n{\"stream_options\":{\"include_usage\":true}, \"a\": 1.50,\t\"stream\" :true}\n",
        ),
        (r#"{"stream_options":null,"stream":true}"#, r#"{"stream_options":{"include_usage":true},"stream":true}"#),
        (r#"{"stream":true,"stream_options":{}}"#, r#"{"stream":true,"stream_options":{"include_usage":true}}"#),
        (
            r#"{"stream":true,"stream_options":{ "x":[1] }}"#,
            r#"{"stream":true,"stream_options":{"include_usage":true, "x":[1] }}"#,
        ),
        (
            r#"{"stream":true,"stream_options":{"include_usage" : false,"x":1}}"#,
            r#"{"stream":true,"stream_options":{"include_usage" : true,"x":1}}"#,
        ),
        (
            r#"{"stream":true,"stream_options":{"include_usage":null}}"#,
            r#"{"stream":true,"stream_options":{"include_usage":true}}"#,
        ),
        // The last one counts, as for the servers' parsers.
        (
            r#"{"stream_options":{"include_usage":true},"stream":true,"stream_options":{"include_usage":false}}"#,
            r#"{"stream_options":{"include_usage":true},"stream":true,"stream_options":{"include_usage":true}}"#,
        ),
        (
            r#"{"stream":true,"stream_options":{"continuous_usage_stats":false}}"#,
            r#"{"stream":true,"stream_options":{"include_usage":true,"continuous_usage_stats":false}}"#,
        ),
    ] {
        for api in [Api::ChatCompletions, Api::Completions] {
            assert_eq!(asking(api, body).as_deref(), Some(expected), "{body}");
            assert!(facts(api, expected).include_usage, "{expected}");
        }
    }
}

#[test]
fn other_requests_are_left_alone() {
    for body in [
        r#"{"model":"m"}"#,
        r#"{"stream":false}"#,
        r#"{"stream":true,"stream_options":{"include_usage":true}}"#,
        r#"{"stream":true,"stream_options":{"include_usage":"true"}}"#,
        // The client asks for something that usage would change.
        r#"{"stream":true,"stream_options":{"continuous_usage_stats":true}}"#,
        // The server judges these.
        r#"{"stream":true,"stream_options":[]}"#,
        r#"{"stream":true,"stream_options":"x"}"#,
        r#"{"stream":true,"stream_options":{"include_usage":"x"}}"#,
        r#"{"stream":true,"stream_options":{"include_usage":{}}}"#,
    ] {
        assert_eq!(asking(Api::ChatCompletions, body), None, "{body}");
    }
    for api in [Api::Responses, Api::Messages, Api::Embeddings, Api::Speech, Api::Invocations] {
        assert_eq!(asking(api, r#"{"stream":true}"#), None, "{api:?}");
    }
}

#[test]
fn options_that_are_still_coming_are_not_touched() {
    let mut scanner = RequestScanner::new(Api::ChatCompletions, ScanOptions::default());
    let mut feed = |text: &str| {
        scanner.feed(text.as_bytes()).unwrap();
        scanner.so_far("").usage_edit
    };
    assert_eq!(feed(r#"{"messages":[],"#), None);
    assert!(feed(r#""stream":true,"#).is_some());
    assert_eq!(feed(r#""stream_options":{"x":1,"#), None);
    assert!(feed(r#""include_usage":false}"#).is_some());
}

/// The stream without its event of usage, cut as told.
fn removed(stream: &[u8], cuts: &[usize]) -> Vec<u8> {
    let (mut remover, mut passed, mut at) = (UsageEventRemover::default(), Vec::new(), 0);
    for end in cuts.iter().copied().chain([stream.len()]).map(|end| end.min(stream.len())) {
        let piece = &stream[at.min(end)..end];
        at = at.max(end);
        let mut out = Vec::new();
        if remover.feed(piece, &mut out) {
            passed.extend(out);
        } else {
            assert_eq!(out, piece);
            passed.extend_from_slice(piece);
        }
    }
    remover.finish(&mut passed);
    passed
}

#[test]
fn the_event_is_removed_whatever_ends_its_lines_and_wherever_it_is_cut() {
    for end in ["\n", "\r\n", "\r"] {
        let usage = format!("data: {USAGE}{end}{end}");
        for (stream, expected) in [
            (
                format!("data: {CONTENT}{end}{end}{usage}data: [DONE]{end}{end}"),
                format!("data: {CONTENT}{end}{end}data: [DONE]{end}{end}"),
            ),
            (format!("\u{feff}{usage}data:x{end}{end}"), format!("\u{feff}data:x{end}{end}")),
            (
                format!(": a{end}event: e{end}: b{end}id: 7{end}{usage}data:[DONE]{end}{end}"),
                format!(": a{end}: b{end}data:[DONE]{end}{end}"),
            ),
            (format!("{usage}{end}{end}{usage}: ping{end}{end}"), format!("{end}{end}: ping{end}{end}")),
            // Several lines of data are one text.
            (
                format!("data: {{\"choices\":[],{end}data:\"usage\":{{\"prompt_tokens\":1}}}}{end}{end}x"),
                "x".to_owned(),
            ),
            // Without its empty line it is none to the client, and none passes.
            (format!("data: x{end}{end}data: {USAGE}"), format!("data: x{end}{end}")),
            (format!("data: x{end}{end}data: {USAGE}{end}"), format!("data: x{end}{end}")),
        ] {
            let bytes = stream.as_bytes();
            for cut in 0..=bytes.len() {
                assert_eq!(String::from_utf8_lossy(&removed(bytes, &[cut])), expected, "{stream:?} cut at {cut}");
            }
            let each: Vec<usize> = (1..bytes.len()).collect();
            assert_eq!(String::from_utf8_lossy(&removed(bytes, &each)), expected, "{stream:?} byte by byte");
        }
    }
}

#[test]
fn an_event_of_usage_without_choices_is_one_too() {
    for event in [
        r#"{"usage":{"prompt_tokens":1}}"#,
        r#"{"choices":null,"usage":{"prompt_tokens":1}}"#,
        r#"{"id":"c","object":"chat.completion.chunk","created":1,"model":"m","usage":{"total_tokens":1},"error":null}"#,
        r#"{"id":"c","choices":null,"usage":{"completion_tokens":1},"system_fingerprint":"f","service_tier":"default"}"#,
        // llama.cpp's beside an empty list.
        r#"{"choices":[],"usage":{"total_tokens":1},"timings":{"x":1}}"#,
    ] {
        let stream = format!("data: x\n\ndata: {event}\n\ndata: [DONE]\n\n");
        for cut in 0..=stream.len() {
            let passed = removed(stream.as_bytes(), &[cut]);
            assert_eq!(String::from_utf8_lossy(&passed), "data: x\n\ndata: [DONE]\n\n", "{event} cut at {cut}");
        }
    }
    let error = format!("event: error\ndata: {USAGE}\n\n");
    assert_eq!(removed(error.as_bytes(), &[]), error.as_bytes(), "an error passes whatever it says");
}

#[test]
fn whole_comments_pass_at_once() {
    for end in ["\n", "\r\n", "\r"] {
        let ping = format!(": ping{end}");
        let (mut remover, mut passed) = (UsageEventRemover::default(), Vec::new());
        let mut feed = |piece: &str| {
            passed.clear();
            remover.feed(piece.as_bytes(), &mut passed);
            String::from_utf8(passed.clone()).unwrap()
        };
        assert_eq!(feed("\u{feff}: first\n"), "\u{feff}: first\n", "behind a mark");
        assert_eq!(feed(&ping), ping);
        assert_eq!(feed(&ping.repeat(3)), ping.repeat(3));
        let event = format!("data: x{end}{end}");
        assert_eq!(feed(&format!("{event}{ping}")), format!("{event}{ping}"), "between events");
        // In two parts: with the second.
        assert_eq!(feed(": pi"), "");
        assert_eq!(feed(&format!("ng{end}{ping}: p")), format!("{ping}{ping}"));
        assert_eq!(feed(&format!("{end}data: {USAGE}{end}")), format!(": p{end}"));
        // Within an event it waits, for the event could not pass any more behind it.
        assert_eq!(feed(&ping), "");
        assert_eq!(feed(&format!("{end}: z{end}")), format!("{ping}: z{end}"));
        assert!(!remover.holds());
    }
}

#[test]
fn a_comment_of_any_length_leaves_the_event_behind_it_to_be_removed() {
    let comment = format!(":{}\r\n", "c".repeat(40_000));
    let stream = format!("{comment}data: {USAGE}\n\n{comment}: c\ndata: {USAGE}\n\nx");
    let expected = format!("{comment}{comment}: c\nx");
    for cuts in
        [vec![], vec![5], vec![20_000], vec![20_000, 40_001], vec![40_002], (1..45_000).step_by(1_000).collect()]
    {
        assert!(removed(stream.as_bytes(), &cuts) == expected.as_bytes(), "{cuts:?}");
    }
}

#[test]
fn every_other_event_passes_byte_for_byte() {
    let big =
        format!("data: {{\"choices\":[],\"usage\":{{\"prompt_tokens\":1}},\"x\":\"{}\"}}\n\n", "y".repeat(40_000));
    for event in [
        CONTENT.to_owned(),
        r#"{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":2}}"#.to_owned(),
        r#"{"choices":[],"usage":null}"#.to_owned(),
        r#"{"choices":[]}"#.to_owned(),
        r#"{"usage":null}"#.to_owned(),
        r#"{"choices":"x","usage":{"prompt_tokens":1}}"#.to_owned(),
        r#"{"choices":{},"usage":{"prompt_tokens":1}}"#.to_owned(),
        r#"{"usage":{"prompt_tokens":1},"error":{"message":"m"}}"#.to_owned(),
        r#"{"choices":null,"usage":{"prompt_tokens":1},"error":"m"}"#.to_owned(),
        // Of another API, or with what nobody knows.
        r#"{"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":1}}"#.to_owned(),
        r#"{"usage":{"prompt_tokens":1},"citations":["x"]}"#.to_owned(),
        r#"{"choices":[],"usage":{"prompt_tokens":1}"#.to_owned(),
        r#"{"choices":[],"usage":{"prompt_tokens":1},"error":{"message":"m"}}"#.to_owned(),
        "[DONE]".to_owned(),
    ] {
        let stream = format!("data: {event}\n\ndata: {event}\r\n\r\n");
        for cut in 0..=stream.len() {
            assert_eq!(removed(stream.as_bytes(), &[cut]), stream.as_bytes(), "{stream:?} cut at {cut}");
        }
    }
    // What is too big to be held is no event of usage.
    for cut in [0, 5, 20_000, big.len() - 1, big.len()] {
        let stream = format!("{big}data: {USAGE}\n\n{big}");
        assert!(removed(stream.as_bytes(), &[cut]) == [big.as_bytes(), big.as_bytes()].concat(), "cut at {cut}");
    }
}

/// The body of a recorded response, without the framing of its chunks.
fn recorded(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name);
    let raw = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let at = raw.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
    let (mut rest, mut body) = (&raw[at..], Vec::new());
    loop {
        let line = rest.windows(2).position(|window| window == b"\r\n").unwrap();
        let size = usize::from_str_radix(std::str::from_utf8(&rest[..line]).unwrap(), 16).unwrap();
        body.extend_from_slice(&rest[line + 2..line + 2 + size]);
        rest = &rest[line + 2 + size + 2..];
        if size == 0 {
            return body;
        }
    }
}

#[test]
fn of_recorded_streams_only_the_event_of_usage_is_missing() {
    for (name, other) in [("chat-stream-usage", "chat-stream"), ("completions-stream-usage", "completions-stream")] {
        let stream = recorded(&format!("{name}.raw.txt"));
        let text = String::from_utf8(stream.clone()).unwrap();
        let usage = text.split_inclusive("\n\n").find(|event| event.contains("\"usage\"")).unwrap();
        let expected = text.replace(usage, "");
        for cut in 0..=stream.len() {
            assert_eq!(removed(&stream, &[cut]), expected.as_bytes(), "{name} cut at {cut}");
        }
        // As many events as the server sends who is not asked.
        let events = |text: &str| text.matches("data: ").count();
        assert_eq!(events(&expected), events(std::str::from_utf8(&recorded(&format!("{other}.raw.txt"))).unwrap()));
    }
    // Usage in every event was asked for by the client; only the last event is apart from its choices.
    let stream = recorded("chat-stream-usage-continuous.raw.txt");
    assert_eq!(removed(&stream, &[]).windows(7).filter(|window| window == b"\"usage\"").count(), 9);
}

fn line_end() -> impl Strategy<Value = &'static str> {
    prop_oneof![Just("\n"), Just("\r\n"), Just("\r")]
}

/// The lines of an event without the empty one, and whether they are of the event of usage.
fn event() -> impl Strategy<Value = (Vec<String>, bool)> {
    let data = prop_oneof![
        3 => Just((CONTENT.to_owned(), false)),
        2 => Just((USAGE.to_owned(), true)),
        1 => Just(("[DONE]".to_owned(), false)),
        1 => "[a-z{}\":, ]{0,12}".prop_map(|text| (text, false)),
    ];
    let comment = prop::option::of("[a-z]{0,6}".prop_map(|text| format!(": {text}")));
    (comment.clone(), data, comment, prop::option::of(Just("event: message".to_owned()))).prop_map(
        |(before, (data, is_usage), behind, name)| {
            let lines = [before, name, Some(format!("data: {data}")), behind];
            (lines.into_iter().flatten().collect(), is_usage)
        },
    )
}

proptest! {
    #[test]
    fn streams_of_any_events_lose_those_of_usage_alone(
        events in prop::collection::vec((event(), line_end()), 0..8),
        mut cuts in prop::collection::vec(0_usize..4_000, 0..12),
    ) {
        let (mut stream, mut expected) = (String::new(), String::new());
        for ((lines, is_usage), end) in &events {
            for line in lines {
                stream.push_str(&format!("{line}{end}"));
                if !is_usage || line.starts_with(':') {
                    expected.push_str(&format!("{line}{end}"));
                }
            }
            stream.push_str(end);
            if !is_usage {
                expected.push_str(end);
            }
        }
        cuts.sort_unstable();
        let got = removed(stream.as_bytes(), &cuts);
        prop_assert_eq!(String::from_utf8_lossy(&got), expected);
    }

    #[test]
    fn any_bytes_come_out_the_same_whatever_the_cuts(
        stream in "(data: |: |event: error|usage|\\{|\\}|\"choices\":\\[\\]|,|\"usage\":\\{\"prompt_tokens\":1\\}|\n|\r|\r\n|:|x){0,40}",
        mut cuts in prop::collection::vec(0_usize..300, 0..10),
    ) {
        cuts.sort_unstable();
        prop_assert_eq!(removed(stream.as_bytes(), &cuts), removed(stream.as_bytes(), &[]));
    }

    #[test]
    fn a_body_says_the_same_and_asks(members in prop::collection::vec(("[a-z]{1,4}", 0_u32..9), 0..5), options in 0_usize..4) {
        let mut body = Value::Object(members.into_iter().map(|(key, value)| (key, value.into())).collect());
        body["stream"] = true.into();
        match options {
            0 => {}
            1 => body["stream_options"] = Value::Null,
            2 => body["stream_options"] = serde_json::json!({"include_usage": false, "y": 1}),
            _ => body["stream_options"] = serde_json::json!({"y": 1}),
        }
        let text = asking(Api::ChatCompletions, &body.to_string()).unwrap();
        body["stream_options"]["include_usage"] = true.into();
        prop_assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), body);
    }
}
