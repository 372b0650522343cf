//! Forms: what clients send, what their parts say, what is refused, and every one of them cut.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // A test stops at the first surprise.

use endpoint_picker::openai::{Api, Model, Notation, RequestError, RequestFacts, RequestScanner, ScanOptions};
use endpoint_picker::rewrite::Splice;
use proptest::prelude::*;

const BOUNDARY: &str = "0a1b2c";
const OPTIONS: ScanOptions = ScanOptions { prefix_block_bytes: 8, max_prefix_blocks: 16, max_model_bytes: 64 };

fn scan<'a>(boundary: &str, pieces: impl IntoIterator<Item = &'a [u8]>) -> Result<RequestFacts, RequestError> {
    let mut scanner = RequestScanner::multipart(Api::Transcriptions, boundary.as_bytes(), OPTIONS)?;
    for piece in pieces {
        if let Err(error) = scanner.feed(piece) {
            assert_eq!(scanner.feed(b"\r\n"), Err(error), "an error lasts");
            return Err(error);
        }
    }
    scanner.finish()
}

/// Reads a form whole and at every cut.
fn everywhere(body: &[u8]) -> Result<RequestFacts, RequestError> {
    let whole = scan(BOUNDARY, [body]);
    for place in 0..=body.len() {
        let (head, tail) = body.split_at(place);
        assert_eq!(scan(BOUNDARY, [head, b"", tail]), whole, "cut at {place}");
    }
    assert_eq!(scan(BOUNDARY, body.chunks(1)), whole);
    whole
}

/// One part with a header line of its own.
fn part(disposition: &str, content: &[u8]) -> Vec<u8> {
    [format!("--{BOUNDARY}\r\n{disposition}\r\n\r\n").as_bytes(), content, b"\r\n"].concat()
}

fn field(name: &str, content: &str) -> Vec<u8> {
    part(&format!("Content-Disposition: form-data; name=\"{name}\""), content.as_bytes())
}

fn form(parts: &[Vec<u8>]) -> Vec<u8> {
    [parts.concat(), format!("--{BOUNDARY}--\r\n").into_bytes()].concat()
}

/// Sound, with everything in it that could be taken for a delimiter.
fn audio() -> Vec<u8> {
    let looks = format!(
        "RIFF\r\n--{BOUNDARY}x\r\n--{BOUNDARY}\r\r\n--\r\n\r\n-{BOUNDARY}\r--{BOUNDARY}\r\n--{BOUNDARY}-\0\u{ff}"
    );
    looks.into_bytes()
}

fn file() -> Vec<u8> {
    let headers =
        "Content-Disposition: form-data; name=\"file\"; filename=\"model\"; size=7\r\nContent-Type: audio/wav";
    part(headers, &audio())
}

fn name(facts: &RequestFacts) -> Option<&str> {
    match &facts.model {
        Model::Missing => None,
        Model::Named { name, .. } => Some(name),
    }
}

#[test]
fn a_form_says_what_its_parts_say() {
    let fields =
        [field("model", "openai/whisper-large-v3"), field("stream", "True"), field("stream_include_usage", "1")];
    let more = [field("max_completion_tokens", "448"), field("priority", "-3"), field("language", "en")];
    for first in [true, false] {
        let parts = [&fields[..], &[file()], &more[..]].concat();
        let parts = if first { parts } else { parts.into_iter().rev().collect() };
        let body = form(&parts);
        let facts = everywhere(&body).unwrap();
        let Model::Named { name, value_ranges, notation } = &facts.model else { panic!("no model") };
        assert_eq!((name.as_str(), *notation), ("openai/whisper-large-v3", Notation::Plain));
        assert_eq!(value_ranges.len(), 1);
        assert_eq!(&body[value_ranges[0].clone()], b"openai/whisper-large-v3");
        assert!(facts.stream && facts.include_usage);
        assert_eq!((facts.max_tokens, facts.priority), (Some(448), Some(-3)));
        assert_eq!((facts.api, facts.body_bytes), (Api::Transcriptions, body.len() as u64));
        assert_eq!((facts.prompt_bytes, facts.prompt.marks.len()), (0, 0));
    }
}

#[test]
fn headers_are_read_as_servers_read_them() {
    for (headers, is_model) in [
        ("Content-Disposition: form-data; name=\"model\"", true),
        ("content-disposition:form-data;name=model", true),
        ("CONTENT-DISPOSITION:   form-data ; NAME = \"model\" ; x", true),
        ("Content-Type: text/plain\r\nContent-Disposition: form-data; name=\"model\"\r\nX-Y: z", true),
        ("Content-Disposition: attachment; name=model", true),
        ("Content-Disposition: form-data; x=\"a;name=other\"; name=model", true),
        ("Content-Disposition: form-data; x=\"a\\\";name=other\"; name=model", true),
        ("Content-Disposition: form-data; name=\"model\"; filename*=utf-8''x", true),
        ("Content-Disposition: form-data; name=\"model\"; filename=\"m.wav\"", false),
        ("Content-Disposition: form-data; filename=; name=\"model\"", false),
        ("Content-Disposition: form-data; name=\"Model\"", false),
        ("Content-Disposition: form-data; name=\" model\"", false),
        ("Content-Disposition: form-data; name=\"mod\\el\"", false),
        ("Content-Disposition: form-data; name=\"model", false),
        ("Content-Disposition: form-data; x=\"; name=model\"", false),
        ("Content-Disposition: form-data", false),
        ("X-Content-Disposition: form-data; name=\"model\"", false),
        ("Content-Type: text/plain; name=model", false),
    ] {
        let facts = everywhere(&form(&[part(headers, b"m")])).unwrap();
        assert_eq!(name(&facts), is_model.then_some("m"), "{headers}");
    }
}

#[test]
fn the_last_model_counts_and_every_one_is_located() {
    let parts = [field("model", "a"), file(), field("model", ""), field("model", "é/b")];
    let body = form(&parts);
    let facts = everywhere(&body).unwrap();
    let Model::Named { name, value_ranges, notation } = facts.model else { panic!("no model") };
    assert_eq!(name, "é/b");
    let values: Vec<_> = value_ranges.iter().map(|range| &body[range.clone()]).collect();
    assert_eq!(values, [b"a".as_slice(), b"", "é/b".as_bytes()]);

    let spliced = Splice::rename(value_ranges, "new \"one\"", notation).apply(&body);
    let renamed = [field("model", "new \"one\""), file(), field("model", "new \"one\""), field("model", "new \"one\"")];
    assert_eq!(spliced, form(&renamed));
}

#[test]
fn an_empty_model_is_missing() {
    for parts in [vec![], vec![file()], vec![field("model", "")], vec![field("model", "a"), field("model", "")]] {
        assert_eq!(everywhere(&form(&parts)).unwrap().model, Model::Missing);
    }
}

#[test]
fn a_form_that_is_none_is_refused() {
    let whole = form(&[field("model", "m"), file()]);
    for end in 0..whole.len() - 2 {
        let error = scan(BOUNDARY, [&whole[..end]]).unwrap_err();
        let is_cut = matches!(error, RequestError::MalformedForm { offset, .. } if offset == end as u64);
        assert!(if end == 0 { error == RequestError::Empty } else { is_cut }, "{end}: {error}");
    }
    assert!(scan(BOUNDARY, [&whole[..whole.len() - 2]]).is_ok(), "the last line needs no end");

    for body in ["{\"model\":\"m\"}", "model=m&file=x", "preamble\r\n--0a1b2c--", "--other\r\n\r\n--other--"] {
        let error = everywhere(body.as_bytes()).unwrap_err();
        assert!(matches!(error, RequestError::MalformedForm { .. }), "{body}: {error}");
        assert!(error.message().starts_with("Invalid multipart body at byte "));
        assert_eq!(error.param(), None);
    }
    assert_eq!(everywhere(&form(&vec![field("model", "m"); 17])), Err(RequestError::ModelRepeated));
    assert_eq!(everywhere(&form(&[field("model", &"m".repeat(65))])), Err(RequestError::ModelTooLong));
    assert_eq!(name(&everywhere(&form(&[field("model", &"m".repeat(64))])).unwrap()), Some("m".repeat(64).as_str()));
    let latin = form(&[part("Content-Disposition: form-data; name=model", b"caf\xe9")]);
    let at = latin.iter().position(|&byte| byte == 0xe9).unwrap() as u64;
    assert_eq!(everywhere(&latin), Err(RequestError::NotUtf8 { offset: at }));
}

#[test]
fn the_content_type_decides_what_is_read() {
    let body = form(&[field("model", "m"), file()]);
    let read = |api, content_type: Option<&str>, body: &[u8]| {
        let mut scanner = RequestScanner::for_content_type(api, content_type.map(str::as_bytes), OPTIONS)?;
        scanner.feed(body)?;
        scanner.finish()
    };
    for api in [Api::Transcriptions, Api::Translations] {
        for content_type in
            ["multipart/form-data; boundary=0a1b2c", "Multipart/Form-Data;charset=utf-8;BOUNDARY=\"0a1b2c\""]
        {
            assert_eq!(name(&read(api, Some(content_type), &body).unwrap()), Some("m"), "{content_type}");
        }
        assert_eq!(name(&read(api, Some("application/json"), b"{\"model\":\"m\"}").unwrap()), Some("m"));
        for content_type in
            ["multipart/form-data", "multipart/form-data; boundary=", "multipart/form-data; boundary=\"\""]
        {
            assert_eq!(read(api, Some(content_type), &body), Err(RequestError::NoBoundary), "{content_type}");
        }
        for content_type in [None, Some(""), Some("text/plain"), Some("application/x-www-form-urlencoded")] {
            assert_eq!(read(api, content_type, &body), Err(RequestError::NotAForm), "{content_type:?}");
        }
    }
    for content_type in [None, Some("text/plain"), Some("multipart/form-data; boundary=0a1b2c")] {
        assert_eq!(name(&read(Api::Speech, content_type, b"{\"model\":\"m\"}").unwrap()), Some("m"));
        assert!(matches!(
            read(Api::ChatCompletions, content_type, &body),
            Err(RequestError::Malformed { offset: 1, .. })
        ));
    }
}

#[test]
fn a_model_behind_a_large_file_is_found() {
    let chunk = vec![b'\r'; 1 << 20];
    let mut scanner = RequestScanner::multipart(Api::Transcriptions, BOUNDARY.as_bytes(), OPTIONS).unwrap();
    let head = "--0a1b2c\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a\"\r\n\r\n";
    scanner.feed(head.as_bytes()).unwrap();
    for _ in 0..64 {
        scanner.feed(&chunk).unwrap();
    }
    scanner.feed(b"\r\n--0a1b2c\r\nContent-Disposition: form-data; name=model\r\n\r\nm\r\n--0a1b2c--").unwrap();
    let facts = scanner.finish().unwrap();
    assert_eq!(name(&facts), Some("m"));
    assert!(facts.body_bytes > 64 << 20);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn parts_come_back_as_they_were_written(
        boundary in "[a-zA-Z0-9'()+_,./:=?-]{1,40}",
        contents in proptest::collection::vec("[\r\n\\-a-z]{0,40}", 0..6),
        model in proptest::option::of("[a-z/\\-é]{1,20}"),
        place in any::<usize>(),
        chunk in 1usize..40,
    ) {
        let mut parts: Vec<(String, String)> = contents
            .into_iter()
            .enumerate()
            .filter(|(_, content)| !format!("\r\n{content}\r\n").contains(&format!("\r\n--{boundary}")))
            .map(|(index, content)| (format!("x{index}"), content))
            .collect();
        if let Some(model) = &model {
            parts.insert(place % (parts.len() + 1), ("model".into(), model.clone()));
        }
        let mut body = String::new();
        for (name, content) in &parts {
            body.push_str(&format!("--{boundary}\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{content}\r\n"));
        }
        body.push_str(&format!("--{boundary}--\r\n"));
        let whole = scan(&boundary, [body.as_bytes()]);
        prop_assert_eq!(scan(&boundary, body.as_bytes().chunks(chunk)), whole.clone());
        let facts = whole.unwrap();
        prop_assert_eq!(name(&facts), model.as_deref());
        if let (Model::Named { value_ranges, .. }, Some(model)) = (&facts.model, &model) {
            prop_assert_eq!(&body[value_ranges[0].clone()], model);
        }
    }
}
