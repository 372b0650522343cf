//! Answers: recorded ones against a table, generated ones against a plain reading with `serde_json`, and every one cut.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // A test stops at the first surprise.

use std::{fs, path::Path};

use endpoint_picker::openai::{Api, Ending, ErrorEvent, Progress, ResponseFacts, ResponseId, ResponseReader, Usage};
use proptest::prelude::*;
use serde_json::{Value, json};

/// The head and the decoded body of a recorded answer.
fn recorded(name: &str) -> (String, Vec<u8>) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name);
    let raw = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let end = raw.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
    let head = String::from_utf8(raw[..end].to_vec()).unwrap().to_lowercase();
    let body = raw[end..].to_vec();
    if !head.contains("transfer-encoding: chunked") {
        return (head, body);
    }
    let (mut decoded, mut rest) = (Vec::new(), body.as_slice());
    loop {
        let line = rest.windows(2).position(|window| window == b"\r\n").unwrap();
        let size = usize::from_str_radix(std::str::from_utf8(&rest[..line]).unwrap(), 16).unwrap();
        if size == 0 {
            return (head, decoded);
        }
        decoded.extend_from_slice(&rest[line + 2..line + 2 + size]);
        rest = &rest[line + 2 + size + 2..];
    }
}

fn reader(head: &str, api: Option<Api>) -> ResponseReader {
    if head.contains("text/event-stream") { ResponseReader::sse(api) } else { ResponseReader::json(api) }
}

/// Feeds all pieces, and checks that progress adds up.
fn read<'a>(mut reader: ResponseReader, pieces: impl IntoIterator<Item = &'a [u8]>) -> (ResponseFacts, bool) {
    let mut content_events = 0;
    let (mut firsts, mut terminal) = (0, false);
    for piece in pieces {
        let progress = reader.feed(piece);
        assert_eq!(progress.first_content, content_events == 0 && progress.content_events > 0);
        content_events += u64::from(progress.content_events);
        firsts += u32::from(progress.first_content);
        terminal |= progress.terminal;
    }
    let facts = reader.finish();
    assert_eq!(facts.content_events, content_events);
    assert_eq!(firsts, u32::from(content_events > 0));
    (facts, terminal)
}

fn json_facts(api: Option<Api>, body: &Value) -> ResponseFacts {
    read(ResponseReader::json(api), [body.to_string().as_bytes()]).0
}

fn sse_facts(api: Option<Api>, events: &[(&str, Value)]) -> ResponseFacts {
    read(ResponseReader::sse(api), [written(events, "\n").as_slice()]).0
}

fn written(events: &[(&str, Value)], end: &str) -> Vec<u8> {
    let mut stream = String::new();
    for (name, data) in events {
        if !name.is_empty() {
            stream.push_str(&format!("event: {name}{end}"));
        }
        let data = match data {
            Value::String(data) => data.clone(),
            data => data.to_string(),
        };
        stream.push_str(&format!("data: {data}{end}{end}"));
    }
    stream.into_bytes()
}

fn usage(prompt: u64, completion: impl Into<Option<u64>>, total: impl Into<Option<u64>>) -> Option<Usage> {
    Some(Usage {
        prompt_tokens: Some(prompt),
        completion_tokens: completion.into(),
        total_tokens: total.into(),
        ..Usage::default()
    })
}

const LLAMA: Option<&str> = Some("meta-llama/Llama-3.1-8B-Instruct");
const EMBED: Option<&str> = Some("tiny-embed");

#[test]
fn recorded_answers_say_what_they_said() {
    let responses_usage =
        Some(Usage { cached_tokens: Some(0), reasoning_tokens: Some(0), ..usage(23, 8, 31).unwrap() });
    // Name, API, usage, model, events with content, error.
    type Row = (&'static str, Api, Option<Usage>, Option<&'static str>, u64, Option<(Option<u16>, &'static str)>);
    let rows: [Row; 26] = [
        ("chat-plain", Api::ChatCompletions, usage(39, 8, 47), LLAMA, 0, None),
        ("chat-cached-tokens", Api::ChatCompletions, usage(414, 4, 418), LLAMA, 0, None),
        ("chat-logprobs", Api::ChatCompletions, usage(39, 8, 47), LLAMA, 0, None),
        ("chat-stream", Api::ChatCompletions, None, LLAMA, 8, None),
        ("chat-stream-usage", Api::ChatCompletions, usage(39, 8, 47), LLAMA, 8, None),
        ("chat-stream-usage-continuous", Api::ChatCompletions, usage(39, 8, 47), LLAMA, 8, None),
        ("orca-chat-stream-JSON", Api::ChatCompletions, None, LLAMA, 2, None),
        ("completions-plain", Api::Completions, usage(10, 8, 18), LLAMA, 0, None),
        ("completions-token-ids", Api::Completions, usage(4, 4, 8), LLAMA, 0, None),
        ("completions-stream", Api::Completions, None, LLAMA, 6, None),
        ("completions-stream-usage", Api::Completions, usage(10, 6, 16), LLAMA, 6, None),
        ("responses-plain", Api::Responses, responses_usage, LLAMA, 0, None),
        ("responses-stream", Api::Responses, responses_usage, LLAMA, 6, None),
        ("messages-plain", Api::Messages, usage(23, 8, None), LLAMA, 0, None),
        ("messages-stream", Api::Messages, usage(23, 8, None), LLAMA, 8, None),
        ("messages-count-tokens", Api::Messages, None, None, 0, None),
        ("embeddings", Api::Embeddings, usage(5, 0, 5), EMBED, 0, None),
        ("embeddings-base64", Api::Embeddings, usage(4, 0, 4), EMBED, 0, None),
        ("rerank", Api::Rerank, usage(3, None, 3), EMBED, 0, None),
        ("score", Api::Score, usage(2, 0, 2), EMBED, 0, None),
        ("err-missing-model", Api::ChatCompletions, usage(15, 2, 17), LLAMA, 0, None),
        ("err-malformed-json", Api::ChatCompletions, None, None, 0, Some((Some(400), "Bad Request"))),
        ("err-too-long-chat", Api::ChatCompletions, None, None, 0, Some((Some(400), "BadRequestError"))),
        ("err-unknown-model-chat", Api::ChatCompletions, None, None, 0, Some((Some(404), "NotFoundError"))),
        ("messages-err-model", Api::Messages, None, None, 0, Some((None, "NotFoundError"))),
        ("embeddings-on-generate-model", Api::Embeddings, None, None, 0, None),
    ];
    for (name, api, usage, model, content_events, error) in rows {
        let (head, body) = recorded(&format!("{name}.raw.txt"));
        let expected = ResponseFacts {
            bytes: body.len() as u64,
            usage,
            error: error.map(|(code, kind)| ErrorEvent { code, kind: kind.into() }),
            model: model.map(Into::into),
            ending: Ending::Complete,
            content_events,
            response_id: None,
        };
        let text = String::from_utf8_lossy(&body);
        let id =
            text.split_once("\"id\":\"resp_").and_then(|(_, rest)| Some(format!("resp_{}", rest.split_once('"')?.0)));
        assert_eq!(id.is_some(), api == Api::Responses && error.is_none(), "{name}");
        for api in [Some(api), None] {
            let response_id = id.as_ref().filter(|_| api.is_some()).and_then(|id| ResponseId::of(id.as_bytes()));
            let expected = ResponseFacts { response_id, ..expected.clone() };
            let (facts, terminal) = read(reader(&head, api), [body.as_slice()]);
            assert_eq!(facts, expected, "{name}");
            assert_eq!(terminal, head.contains("event-stream"), "{name}");
        }
    }
}

#[test]
fn every_recorded_answer_is_the_same_at_every_cut() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let mut seen = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if !name.ends_with(".raw.txt") {
            continue;
        }
        let (head, body) = recorded(&name);
        let whole = read(reader(&head, None), [body.as_slice()]);
        let step = 1 + body.len() / 1500;
        for place in (0..=body.len()).step_by(step) {
            let (first, second) = body.split_at(place);
            assert_eq!(read(reader(&head, None), [first, second]), whole, "{name} cut at {place}");
        }
        assert_eq!(read(reader(&head, None), body.chunks(1)), whole, "{name} bytewise");
        seen += 1;
    }
    assert!(seen > 30, "{seen}");
}

#[test]
fn every_recorded_answer_is_complete() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let mut seen = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if !name.ends_with(".raw.txt") {
            continue;
        }
        let (head, body) = recorded(&name);
        let content_type = head.lines().find_map(|line| line.strip_prefix("content-type: ")).unwrap();
        let whole = ResponseReader::for_content_type(None, content_type.as_bytes());
        assert_eq!(read(whole.clone(), [body.as_slice()]).0.ending, Ending::Complete, "{name}");
        // Cut short by a byte or more, JSON is none, and a stream has no end until the last choice has finished.
        let end = if head.contains("event-stream") { body.len() / 2 } else { body.len() - 1 };
        let ending = read(whole, [&body[..end]]).0.ending;
        let cut = if head.contains("event-stream") { Ending::Truncated } else { Ending::Malformed };
        assert_eq!(ending, cut, "{name} cut at {end}");
        seen += 1;
    }
    assert!(seen > 30, "{seen}");
}

#[test]
fn a_recorded_stream_ends_with_its_last_event_or_its_last_choice() {
    for (name, finishes_before) in [
        ("chat-stream", true),
        ("chat-stream-usage", true),
        ("completions-stream-usage", true),
        ("messages-stream", false),
        ("responses-stream", false),
    ] {
        let (head, body) = recorded(&format!("{name}.raw.txt"));
        let mut ends: Vec<_> =
            body.windows(2).enumerate().filter(|(_, pair)| pair == b"\n\n").map(|(at, _)| at).collect();
        let last = ends.pop().unwrap();
        // Without any part of the line end behind the last event it still came.
        for end in [last, last + 1, last + 2] {
            assert_eq!(read(reader(&head, None), [&body[..end]]).0.ending, Ending::Complete, "{name} {end}");
        }
        let (facts, terminal) = read(reader(&head, None), [&body[..last - 2]]);
        let expected = if finishes_before { Ending::Complete } else { Ending::Truncated };
        assert_eq!((facts.ending, terminal), (expected, false), "{name}");
        // Before its first event, and at and in each one but the last three, it is not over.
        assert_eq!(read(reader(&head, None), [b"".as_slice()]).0.ending, Ending::Truncated, "{name}");
        for end in ends.iter().take(ends.len() - 3).flat_map(|end| [end - 1, *end, end + 1, end + 2, end + 20]) {
            assert_eq!(read(reader(&head, None), [&body[..end]]).0.ending, Ending::Truncated, "{name} {end}");
        }
    }
}

#[test]
fn a_stream_ends_by_what_its_server_sends() {
    let choice = |index: u64, content: &str, reason: Value| json!({"choices": [{"index": index, "delta": {"content": content}, "finish_reason": reason}]});
    let open = || ("", choice(0, "x", json!(null)));
    let stop = || ("", choice(0, "", json!("stop")));
    let usage = || ("", json!({"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 2}}));
    let done = || ("", json!("[DONE]"));
    for (events, ending) in [
        (vec![open(), stop(), done()], Ending::Complete),
        (vec![open(), done()], Ending::Complete),
        // No [DONE] (ik_llama.cpp), with or without usage behind the choices.
        (vec![open(), stop()], Ending::Complete),
        (vec![open(), stop(), usage()], Ending::Complete),
        (vec![open(), usage()], Ending::Complete),
        (vec![("", choice(0, "x", json!("length")))], Ending::Complete),
        (vec![("", json!({"choices": [{"text": "x", "finish_reason": "stop"}]}))], Ending::Complete),
        // Unfinished, be it by an empty reason (TGI before 2.2.1).
        (vec![open()], Ending::Truncated),
        (vec![("", choice(0, "x", json!("")))], Ending::Truncated),
        (vec![open(), ("", json!({"choices": [], "usage": null}))], Ending::Truncated),
        (vec![open(), ("", json!({"choices": [{"index": 0}], "usage": {"prompt_tokens": 1}}))], Ending::Truncated),
        // Several choices: all of them have to finish.
        (vec![open(), ("", choice(1, "y", json!(null))), stop()], Ending::Truncated),
        (vec![open(), ("", choice(1, "y", json!("stop"))), stop()], Ending::Complete),
        (vec![stop(), ("", choice(127, "y", json!(null)))], Ending::Truncated),
        (vec![stop(), ("", choice(128, "y", json!(null)))], Ending::Complete),
        // Errors end a stream.
        (vec![open(), ("", json!({"error": {"code": 500}}))], Ending::Complete),
        (vec![("error", json!({"type": "error", "error": {"type": "overloaded_error"}}))], Ending::Complete),
        // Typed events.
        (vec![("", json!({"type": "transcript.text.delta", "delta": "x"}))], Ending::Truncated),
        (vec![("", json!({"type": "transcript.text.done", "text": "x"}))], Ending::Complete),
        (vec![("", json!({"type": "speech.audio.delta", "audio": "x"}))], Ending::Truncated),
        (vec![("", json!({"type": "speech.audio.done"}))], Ending::Complete),
        (vec![("", json!({"type": "response.created"}))], Ending::Truncated),
        (vec![("message_start", json!({})), ("ping", json!({"type": "ping"}))], Ending::Truncated),
        // What is not JSON.
        (vec![open(), ("", json!("Internal Server Error")), done()], Ending::Malformed),
        (vec![("", json!("{\"choices\":[")), stop(), done()], Ending::Malformed),
        (vec![open(), ("", json!("")), ("", json!("   ")), stop()], Ending::Complete),
        // No known API.
        (vec![("", json!({"token": {"text": "x"}}))], Ending::Unknown),
        (vec![("x", json!([1]))], Ending::Unknown),
        // Nothing at all.
        (vec![], Ending::Truncated),
    ] {
        for api in [None, Some(Api::ChatCompletions), Some(Api::Invocations)] {
            assert_eq!(sse_facts(api, &events).ending, ending, "{events:?}");
        }
    }
    for (stream, ending) in [
        ("data: [DONE]", Ending::Complete),
        ("data: [DONE]\n", Ending::Complete),
        ("data: [DON", Ending::Truncated),
        (": keep-alive\n\n", Ending::Truncated),
        ("data: {\"x\":1}\n\n", Ending::Unknown),
        ("data: {\"x\":1}\n\ndata: {", Ending::Truncated),
        ("data: {\"choices\":[{\"finish_reason\":\"stop\"}]}\n", Ending::Complete),
        ("data: {\"choices\":[{\"finish_reason\":\"stop\"}]", Ending::Truncated),
        ("event: message_stop\ndata: {}", Ending::Complete),
        ("event: message_stop\ndata: {", Ending::Truncated),
        ("event: message_stop\n", Ending::Truncated),
    ] {
        for size in [1, 3, stream.len()] {
            let (facts, _) = read(ResponseReader::sse(None), stream.as_bytes().chunks(size));
            assert_eq!(facts.ending, ending, "{stream:?}");
        }
    }
}

#[test]
fn the_content_type_decides_how_a_body_is_read() {
    for (content_type, body, ending) in [
        ("application/json", "{}", Ending::Complete),
        ("application/json; charset=utf-8", "", Ending::Malformed),
        ("application/problem+json", "{\"status\":\"failed\"}", Ending::Complete),
        ("application/json", "<html>", Ending::Malformed),
        ("application/json", "[[0.1]]", Ending::Complete),
        ("text/event-stream; charset=utf-8", "data: [DONE]\n\n", Ending::Complete),
        ("text/event-stream", "{}", Ending::Truncated),
        ("application/x-ndjson", "{}\n{}\n", Ending::Unknown),
        ("application/jsonlines", "{}\n{}\n", Ending::Unknown),
        ("text/plain", "text", Ending::Unknown),
        ("audio/mpeg", "\u{1}", Ending::Unknown),
        ("", "", Ending::Unknown),
    ] {
        let reader = ResponseReader::for_content_type(Some(Api::ChatCompletions), content_type.as_bytes());
        assert_eq!(read(reader, [body.as_bytes()]).0.ending, ending, "{content_type} {body}");
    }
}

#[test]
fn a_transcription_streams_its_usage_and_content() {
    let events = [
        ("", json!({"type": "transcript.text.delta", "delta": "Hello"})),
        (
            "",
            json!({"type": "transcript.text.done", "text": "Hello", "usage": {"type": "tokens", "input_tokens": 14, "input_token_details": {"text_tokens": 0, "audio_tokens": 14}, "output_tokens": 5, "total_tokens": 19}}),
        ),
    ];
    let facts = sse_facts(Some(Api::Transcriptions), &events);
    assert_eq!((facts.usage, facts.content_events, facts.ending), (usage(14, 5, 19), 1, Ending::Complete));
    let buffered =
        json_facts(Some(Api::Transcriptions), &json!({"text": "Hello", "usage": {"type": "duration", "seconds": 3}}));
    assert_eq!((buffered.usage, buffered.ending), (None, Ending::Complete));
}

#[test]
fn first_content_comes_with_the_event_that_completes_it() {
    let (_, body) = recorded("chat-stream.raw.txt");
    let mut reader = ResponseReader::sse(Some(Api::ChatCompletions));
    let mut seen = Vec::new();
    for event in body.split_inclusive(|&byte| byte == b'\n').collect::<Vec<_>>().chunks(2) {
        seen.push(reader.feed(&event.concat()));
    }
    let content = Progress { content_events: 1, ..Progress::default() };
    assert_eq!(seen[0], Progress::default(), "the role is no content");
    assert_eq!(seen[1], Progress { first_content: true, ..content });
    assert_eq!(seen[2..seen.len() - 1], vec![content; seen.len() - 3]);
    assert_eq!(seen[seen.len() - 1], Progress { terminal: true, ..Progress::default() });
}

#[test]
fn every_kind_of_content_is_content_and_nothing_else() {
    let choice = |delta: Value| json!({"choices": [{"index": 0, "delta": delta}]});
    for content in [
        choice(json!({"content": "x"})),
        choice(json!({"role": "assistant", "reasoning_content": "x"})),
        choice(json!({"reasoning": "x"})),
        choice(json!({"refusal": "x"})),
        choice(json!({"tool_calls": [{"index": 0}]})),
        choice(json!({"function_call": {"name": "f"}})),
        json!({"choices": [{"delta": {}}, {"index": 1, "delta": {"content": "x"}}]}),
        json!({"choices": [{"text": "x"}]}),
        json!({"type": "content_block_delta", "delta": {"type": "text_delta", "text": "x"}}),
        json!({"type": "content_block_delta", "delta": {"type": "input_json_delta", "partial_json": "{"}}),
        json!({"type": "content_block_delta", "delta": {"type": "thinking_delta", "thinking": "x"}}),
        json!({"type": "response.output_text.delta", "delta": "x"}),
        json!({"type": "response.function_call_arguments.delta", "delta": "{"}),
    ] {
        assert_eq!(sse_facts(None, &[("", content.clone())]).content_events, 1, "{content}");
    }
    for nothing in [
        choice(json!({"role": "assistant", "content": ""})),
        choice(json!({"content": null, "tool_calls": [], "function_call": null})),
        choice(json!({})),
        json!({"choices": [], "usage": null}),
        json!({"choices": [{"text": ""}]}),
        json!({"choices": [{"message": {"content": "x"}}]}),
        json!({"content": "x", "text": "x", "delta": {"content": "x"}}),
        json!({"type": "message_start", "message": {"content": [], "role": "assistant"}}),
        json!({"type": "message_delta", "delta": {"stop_reason": "end_turn"}}),
        json!({"type": "content_block_start", "content_block": {"text": "x"}}),
        json!({"type": "ping"}),
        json!({"type": "response.output_text.delta", "delta": ""}),
        json!({"type": "response.output_text.done", "text": "x"}),
        json!("not json {"),
        json!(""),
        json!("[DONE]"),
    ] {
        assert_eq!(sse_facts(None, &[("", nothing.clone())]).content_events, 0, "{nothing}");
    }
}

#[test]
fn cached_tokens_are_part_of_the_input_for_every_api() {
    let expected = Some(Usage { cached_tokens: Some(60), ..usage(100, 5, None).unwrap() });
    let chat = json!({"usage": {"prompt_tokens": 100, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 60}}});
    let response =
        json!({"usage": {"input_tokens": 100, "output_tokens": 5, "input_tokens_details": {"cached_tokens": 60}}});
    let message = json!({"usage": {"input_tokens": 30, "output_tokens": 5, "cache_read_input_tokens": 60, "cache_creation_input_tokens": 10}});
    for (api, body) in [(Api::ChatCompletions, chat), (Api::Responses, response), (Api::Messages, message)] {
        assert_eq!(json_facts(Some(api), &body).usage, expected, "{api:?}");
        assert_eq!(json_facts(None, &body).usage, expected, "{api:?} untold");
    }
    // A proxied chat answer may carry both spellings; its prompt tokens include the cached ones already.
    let both = json!({"usage": {"prompt_tokens": 100, "completion_tokens": 5, "cache_read_input_tokens": 60}});
    assert_eq!(json_facts(Some(Api::ChatCompletions), &both).usage, expected);
}

#[test]
fn a_message_streams_its_usage_in_two_halves() {
    let events = [
        (
            "message_start",
            json!({"type": "message_start", "message": {"model": "m", "usage": {"input_tokens": 3, "cache_read_input_tokens": 40, "cache_creation_input_tokens": 0, "output_tokens": 1}}}),
        ),
        ("ping", json!({"type": "ping"})),
        ("content_block_delta", json!({"type": "content_block_delta", "delta": {"text": "x"}})),
        (
            "message_delta",
            json!({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 9}}),
        ),
        ("message_stop", json!({"type": "message_stop"})),
    ];
    let facts = sse_facts(Some(Api::Messages), &events);
    assert_eq!(facts.usage, Some(Usage { cached_tokens: Some(40), ..usage(43, 9, None).unwrap() }));
    assert_eq!(facts.ending, Ending::Complete);
    assert_eq!((facts.model.as_deref(), facts.content_events), (Some("m"), 1));
}

#[test]
fn usage_of_a_wrong_type_is_as_if_absent() {
    for usage in [
        json!(null),
        json!("x"),
        json!([1]),
        json!({}),
        json!({"prompt_tokens": "1", "completion_tokens": -1, "total_tokens": 1.5, "prompt_tokens_details": null}),
    ] {
        let facts = json_facts(None, &json!({"usage": usage, "model": "m"}));
        assert_eq!((facts.usage, facts.ending), (None, Ending::Complete));
    }
    let partly = json!({"usage": {"prompt_tokens": 7, "completion_tokens": [], "prompt_tokens_details": {"cached_tokens": null}}});
    assert_eq!(json_facts(None, &partly).usage, usage(7, None, None));
}

#[test]
fn usage_elsewhere_is_not_usage() {
    let text = r#"{"usage":{"prompt_tokens":1},"error":{"code":500}} "usage":{"prompt_tokens":2}"#;
    let body = json!({"choices": [{"message": {"content": text, "usage": {"prompt_tokens": 3}}}], "x": {"usage": {"prompt_tokens": 4}}});
    let facts = json_facts(None, &body);
    assert_eq!((facts.usage, facts.error), (None, None));
    let event = json!({"choices": [{"delta": {"content": text}}]});
    let facts = sse_facts(None, &[("", event.clone()), ("", event)]);
    assert_eq!((facts.usage, facts.error, facts.content_events), (None, None, 2));
}

#[test]
fn errors_inside_bodies_and_streams_are_found() {
    let error = |code, kind: &str| Some(ErrorEvent { code, kind: kind.into() });
    for (body, expected) in [
        (
            json!({"error": {"message": "m", "type": "BadRequestError", "param": null, "code": 400}}),
            error(Some(400), "BadRequestError"),
        ),
        (
            json!({"object": "error", "message": "m", "type": "NotFoundError", "code": 404}),
            error(Some(404), "NotFoundError"),
        ),
        (
            json!({"type": "error", "error": {"type": "overloaded_error", "message": "m"}}),
            error(None, "overloaded_error"),
        ),
        (json!({"type": "error", "code": "server_error", "message": "m"}), error(None, "server_error")),
        (
            json!({"type": "response.failed", "response": {"status": "failed", "error": {"code": "rate_limit_exceeded", "message": "m"}}}),
            error(None, "rate_limit_exceeded"),
        ),
        (json!({"status": "failed", "error": null}), error(None, "")),
        (json!({"error": "text"}), error(None, "")),
        (json!({"error": {"code": "context_length_exceeded", "type": null}}), error(None, "context_length_exceeded")),
        (json!({"error": {"code": "429", "type": null}}), error(Some(429), "429")),
        (json!({"error": {"code": 70000, "type": "é".repeat(50)}}), error(None, &"é".repeat(32))),
        (json!({"error": null, "status": "completed", "type": "message", "code": 5}), None),
        (json!({"error": ""}), None),
        (json!({"choices": [{"error": {"code": 1}}]}), None),
    ] {
        assert_eq!(json_facts(None, &body).error, expected, "{body}");
        assert_eq!(sse_facts(None, &[("", body.clone())]).error, expected, "{body}");
    }
    assert_eq!(sse_facts(None, &[("error", json!("no json"))]).error, error(None, ""));
    let twice = [("", json!({"error": {"code": 500}})), ("", json!({"error": {"code": 503}})), ("", json!("[DONE]"))];
    let facts = sse_facts(None, &twice);
    assert_eq!((facts.error, facts.ending), (error(Some(500), ""), Ending::Complete));
}

#[test]
fn each_terminal_event_completes_a_stream() {
    for (name, data) in [
        ("", json!("[DONE]")),
        ("", json!({"type": "message_stop"})),
        ("", json!({"type": "response.completed"})),
        ("", json!({"type": "response.incomplete"})),
        ("", json!({"type": "response.failed"})),
        ("message_stop", json!("{}")),
    ] {
        let (facts, terminal) = read(ResponseReader::sse(None), [written(&[(name, data.clone())], "\n").as_slice()]);
        assert!(terminal && facts.ending == Ending::Complete, "{name} {data}");
    }
    for data in [
        json!("[DONE"),
        json!({"type": "message_delta"}),
        json!({"x": {"type": "message_stop"}}),
        json!({"choices": [{"delta": {"content": "data: [DONE]\n\n"}}]}),
    ] {
        let (facts, terminal) = read(ResponseReader::sse(None), [written(&[("", data.clone())], "\n").as_slice()]);
        assert!(!terminal && facts.ending != Ending::Complete, "{data}");
    }
}

#[test]
fn a_huge_last_event_still_gives_its_usage() {
    let text = "x".repeat(3 << 20);
    let events = [(
        "response.completed",
        json!({"type": "response.completed", "response": {"output": [{"text": text}], "usage": {"input_tokens": 1, "output_tokens": 2, "total_tokens": 3}}}),
    )];
    let stream = written(&events, "\r\n");
    for size in [stream.len(), 1 << 16, 1000] {
        let (facts, terminal) = read(ResponseReader::sse(Some(Api::Responses)), stream.chunks(size));
        assert_eq!((facts.usage, facts.ending, terminal), (usage(1, 2, 3), Ending::Complete, true));
    }
}

#[test]
fn what_is_no_json_yields_no_facts() {
    for body in [&b""[..], b"<html>", b"{\"usage\":{\"prompt_tokens\":1}", b"{\"model\":\"m\"}x", b"\x1f\x8b\x08"] {
        let (facts, _) = read(ResponseReader::json(None), [body]);
        let malformed = ResponseFacts { ending: Ending::Malformed, ..ResponseFacts::default() };
        assert_eq!(facts, ResponseFacts { bytes: body.len() as u64, ..malformed });
    }
    let (facts, _) = read(ResponseReader::opaque(), [b"{\"usage\":{\"prompt_tokens\":1}}".as_slice(), b"12345"]);
    assert_eq!(facts, ResponseFacts { bytes: 34, ..ResponseFacts::default() });
}

#[test]
fn a_long_model_name_is_dropped() {
    assert_eq!(json_facts(None, &json!({"model": "m".repeat(257)})).model, None);
    assert_eq!(json_facts(None, &json!({"model": "é".repeat(128)})).model, Some("é".repeat(128)));
}

/// One event's facts by a plain reading: content, usage of a chat, error, terminal.
fn plain_event(data: &str) -> (bool, Option<(u64, u64)>, bool, bool) {
    let Ok(event) = serde_json::from_str::<Value>(data) else {
        return (false, None, false, data == "[DONE]");
    };
    let text = |value: &Value| value.as_str().is_some_and(|text| !text.is_empty());
    let content = event["choices"].as_array().into_iter().flatten().any(|choice| {
        let delta = &choice["delta"];
        let calls = delta["tool_calls"].as_array().is_some_and(|calls| !calls.is_empty());
        text(&choice["text"]) || text(&delta["content"]) || text(&delta["reasoning_content"]) || calls
    });
    let content = content || text(&event["delta"]) || text(&event["delta"]["text"]);
    let usage = &event["usage"];
    let usage = usage["prompt_tokens"].as_u64().zip(usage["completion_tokens"].as_u64());
    let terminal = event["type"] == "message_stop";
    (content, usage, event["error"].is_object(), terminal)
}

fn event() -> impl Strategy<Value = String> {
    let text = prop_oneof![
        4 => "[a-z ]{0,6}",
        1 => ".{0,10}",
        1 => Just("\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":9}".to_owned()),
        1 => Just("\"}}],\"error\":{}".to_owned()),
        1 => Just("\\".to_owned()),
        1 => Just("data: [DONE]\n\n".to_owned()),
    ];
    // The shapes that servers repeat, with few ids, so that most events follow the pattern of another.
    (text, 0..12u8, 0..3u64).prop_map(|(text, shape, count)| match shape {
        0..=3 => json!({"id": "a", "model": "m", "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": null}]}).to_string(),
        4 => json!({"choices": [{"index": 0, "delta": {"content": text}}], "usage": {"prompt_tokens": 5, "completion_tokens": count}}).to_string(),
        5 => json!({"choices": [{"index": 0, "text": text}, {"index": 1, "text": "y"}]}).to_string(),
        6 => json!({"type": "content_block_delta", "delta": {"type": "text_delta", "text": text}}).to_string(),
        7 => json!({"type": "response.output_text.delta", "delta": text, "sequence_number": count}).to_string(),
        8 => json!({"choices": [{"delta": {"reasoning_content": text, "tool_calls": [{}]}}]}).to_string(),
        9 => json!({"error": {"message": text, "code": 500}}).to_string(),
        10 => format!("{{\"choices\":[{{\"delta\":{{\"content\":\"{text}\"}}}}]}}").replace('\n', " "),
        _ => "{\"choices\":[{\"index\":0,\"delta\":{\"content\":\"x\"},\"finish_reason\":null}]}".to_owned(),
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn streams_say_what_their_events_say(
        events in proptest::collection::vec(event(), 0..30),
        done in any::<bool>(),
        crlf in any::<bool>(),
        places in proptest::collection::vec(any::<usize>(), 0..8),
    ) {
        let mut expected = (0, None, false, done);
        let mut stream = String::new();
        let end = if crlf { "\r\n" } else { "\n" };
        for data in &events {
            if data.contains('\r') {
                continue;
            }
            let (content, usage, error, terminal) = plain_event(data);
            expected.0 += u64::from(content);
            expected.1 = usage.or(expected.1);
            expected.2 |= error;
            expected.3 |= terminal;
            stream.push_str(&format!("data: {data}{end}{end}"));
        }
        if done {
            stream.push_str(&format!("data: [DONE]{end}{end}"));
        }
        let stream = stream.as_bytes();
        let whole = read(ResponseReader::sse(None), [stream]);
        let facts = &whole.0;
        let got = (
            facts.content_events,
            facts.usage.map(|usage| (usage.prompt_tokens.unwrap(), usage.completion_tokens.unwrap())),
            facts.error.is_some(),
            whole.1,
        );
        prop_assert_eq!(got, expected);

        let mut places: Vec<_> = places.iter().map(|place| place % (stream.len() + 1)).chain([0, stream.len()]).collect();
        places.sort_unstable();
        let cut = read(ResponseReader::sse(None), places.windows(2).map(|pair| &stream[pair[0]..pair[1]]));
        prop_assert_eq!(cut, whole);
    }

    #[test]
    fn no_bytes_upset_a_reader(bytes in proptest::collection::vec(any::<u8>(), 0..200), size in 1usize..50) {
        for reader in [ResponseReader::json(None), ResponseReader::sse(None), ResponseReader::opaque()] {
            let whole = read(reader.clone(), [bytes.as_slice()]);
            prop_assert_eq!(whole.0.bytes, bytes.len() as u64);
            prop_assert_eq!(read(reader, bytes.chunks(size)), whole);
        }
    }
}
