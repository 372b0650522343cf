//! The reader of forms against a plain reading of the whole body, and against itself cut elsewhere.
//!
//! Input: a byte that says how the body is given (`0`: as it is, `p`: by the choices of which it is made), a byte that chooses the cuts,
//! the body. The boundary is always [`BOUNDARY`].

use std::ops::Range;

use endpoint_picker::openai::multipart::{MAX_HEADER_BYTES, MultipartReader, Parts};
use endpoint_picker::openai::request::MAX_MODEL_MEMBERS;
use endpoint_picker::openai::{Api, Model, Notation, RequestError, RequestFacts, RequestScanner, ScanOptions};
use endpoint_picker::rewrite::Splice;

use crate::cut::pieces;
use crate::made::Choices;
use crate::request_scanner::MADE;

/// Short, so that chance writes it, and of bytes that end a delimiter too.
const BOUNDARY: &str = "-B";
const OPTIONS: ScanOptions = ScanOptions { prefix_block_bytes: 8, max_prefix_blocks: 16, max_model_bytes: 16 };
const NEW_MODEL: &str = "n/\u{1f980}";

/// A part as it was told or read: name, whether it is a file, where its content lies.
type Part = (Vec<u8>, bool, Range<usize>);

/// Reads a body whole and in pieces and compares parts, facts and the renamed body.
pub fn check(data: &[u8]) {
    let [how, seed, body @ ..] = data else { return };
    let made = (how & MADE != 0).then(|| made(body));
    let body = made.as_deref().unwrap_or(body);
    let expected = parts(body);
    assert_eq!(read([body], body), expected);
    assert_eq!(read(pieces(body, *seed), body), expected, "cuts of seed {seed} change the parts");

    let got = scan([body]);
    assert_eq!(scan(pieces(body, *seed)), got, "cuts of seed {seed} change the answer");
    let Some(parts) = expected else {
        let is_none = body.iter().all(|byte| b"\r\n".contains(byte));
        let error = got.expect_err("it is no form");
        assert!(if is_none {
            error == RequestError::Empty
        } else {
            matches!(error, RequestError::MalformedForm { .. })
        });
        return;
    };
    let fields = |name: &str| -> Vec<Range<usize>> {
        let is_field = |part: &&Part| part.0 == name.as_bytes() && !part.1;
        parts.iter().filter(is_field).map(|part| part.2.clone()).collect()
    };
    let models = fields("model");
    let last = models.last().map(|range| &body[range.clone()]).unwrap_or_default();
    let expected = match std::str::from_utf8(last) {
        _ if models.len() > MAX_MODEL_MEMBERS => Err(RequestError::ModelRepeated),
        _ if last.len() > OPTIONS.max_model_bytes => Err(RequestError::ModelTooLong),
        Err(error) => {
            let at = models[models.len() - 1].start + error.valid_up_to();
            Err(RequestError::NotUtf8 { offset: at as u64 })
        }
        Ok("") => Ok(Model::Missing),
        Ok(name) => Ok(Model::Named { name: name.into(), value_ranges: models.clone(), notation: Notation::Plain }),
    };
    assert_eq!(got.as_ref().map(|facts| &facts.model), expected.as_ref());
    let Ok(facts) = got else { return };
    let streams = fields("stream").pop().is_some_and(|range| {
        ["true", "t", "yes", "y", "on", "1"]
            .iter()
            .any(|word| body[range.clone()].eq_ignore_ascii_case(word.as_bytes()))
    });
    assert_eq!(
        (facts.stream, facts.body_bytes),
        (streams || facts.stream && is_one(&fields("stream"), body), body.len() as u64)
    );
    check_rename(body, &parts, facts.model);
}

/// Whether the last of the fields spells one in another way (`1.0`).
fn is_one(fields: &[Range<usize>], body: &[u8]) -> bool {
    let text = fields.last().and_then(|range| std::str::from_utf8(&body[range.clone()]).ok());
    text.is_some_and(|text| text.parse() == Ok(1.0))
}

/// Replaces the model: every other part stays as it was.
fn check_rename(body: &[u8], before: &[Part], model: Model) {
    let Model::Named { value_ranges, notation, .. } = model else { return };
    let spliced = Splice::rename(value_ranges, NEW_MODEL, notation).apply(body);
    let after = parts(&spliced).expect("a form with another name in it");
    assert_eq!(before.len(), after.len());
    for (old, new) in before.iter().zip(&after) {
        assert_eq!((&old.0, old.1), (&new.0, new.1));
        let is_model = old.0 == b"model" && !old.1;
        let expected = if is_model { NEW_MODEL.as_bytes() } else { &body[old.2.clone()] };
        assert_eq!(&spliced[new.2.clone()], expected);
    }
}

fn scan<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Result<RequestFacts, RequestError> {
    let mut scanner = RequestScanner::multipart(Api::Transcriptions, BOUNDARY.as_bytes(), OPTIONS).unwrap();
    for piece in pieces {
        if let Err(error) = scanner.feed(piece) {
            assert_eq!(scanner.feed(b"\r\n"), Err(error), "an error lasts");
            return Err(error);
        }
    }
    scanner.finish()
}

/// Notes the parts and their content.
#[derive(Default)]
struct Notes {
    parts: Vec<Part>,
    content: Vec<u8>,
    contents: Vec<Vec<u8>>,
}

impl Parts for Notes {
    fn begin(&mut self, name: &[u8], is_file: bool, at: u64) -> bool {
        self.parts.push((name.to_vec(), is_file, at as usize..at as usize));
        true
    }

    fn content(&mut self, piece: &[u8]) {
        self.content.extend_from_slice(piece);
    }

    fn end(&mut self, end: u64) {
        self.parts.last_mut().unwrap().2.end = end as usize;
        self.contents.push(std::mem::take(&mut self.content));
    }
}

fn read<'a>(pieces: impl IntoIterator<Item = &'a [u8]>, body: &[u8]) -> Option<Vec<Part>> {
    let mut reader = MultipartReader::new(BOUNDARY.as_bytes()).unwrap();
    let mut notes = Notes::default();
    for piece in pieces {
        reader.feed(piece, &mut notes).ok()?;
    }
    reader.finish().ok()?;
    for ((_, _, range), content) in notes.parts.iter().zip(&notes.contents) {
        assert_eq!(&body[range.clone()], content, "the content told is the content there");
    }
    Some(notes.parts)
}

/// What follows the bytes of a delimiter.
enum Behind {
    /// The next part, from here on.
    Part(usize),
    Close,
    /// Something that makes the bytes part of a content.
    Content,
    Broken,
}

fn behind(body: &[u8], at: usize) -> Behind {
    let rest = &body[at..];
    let padding = rest.iter().take_while(|byte| b" \t".contains(byte)).count();
    match &rest[padding..] {
        [b'\r', b'\n', ..] => Behind::Part(at + padding + 2),
        [b'-', b'-', ..] if padding == 0 => Behind::Close,
        _ if padding > 0 => Behind::Broken,
        _ => Behind::Content,
    }
}

/// A plain reading of the whole body.
fn parts(body: &[u8]) -> Option<Vec<Part>> {
    let delimiter = format!("\r\n--{BOUNDARY}");
    let start = body.iter().position(|byte| !b"\r\n".contains(byte))?;
    let opening = &delimiter.as_bytes()[2..];
    let mut at = start + body[start..].strip_prefix(opening).map(|_| opening.len())?;
    let mut parts = Vec::new();
    let mut next = behind(body, at);
    loop {
        at = match next {
            Behind::Part(at) => at,
            Behind::Close => return Some(parts),
            Behind::Content | Behind::Broken => return None,
        };
        let (name, is_file, content) = headers(body, at)?;
        let mut end = content;
        loop {
            end += body[end..].windows(delimiter.len()).position(|window| window == delimiter.as_bytes())?;
            next = behind(body, end + delimiter.len());
            if !matches!(next, Behind::Content) {
                break;
            }
            end += 1;
        }
        parts.push((name, is_file, content..end));
    }
}

/// Name, whether it is a file, and where the content begins.
fn headers(body: &[u8], start: usize) -> Option<(Vec<u8>, bool, usize)> {
    let mut at = start;
    let mut disposition = None;
    loop {
        let length = body[at..].iter().position(|&byte| byte == b'\r')?;
        let line = &body[at..at + length];
        at += length;
        if at - start > MAX_HEADER_BYTES || body.get(at + 1) != Some(&b'\n') {
            return None;
        }
        at += 2;
        if line.is_empty() {
            break;
        }
        let colon = line.iter().position(|&byte| byte == b':')?;
        let name = std::str::from_utf8(&line[..colon]).ok()?;
        if name.is_empty()
            || !name.chars().all(|letter| letter.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(letter))
        {
            return None;
        }
        if name.eq_ignore_ascii_case("content-disposition") && disposition.replace(&line[colon + 1..]).is_some() {
            return None;
        }
    }
    let (mut name, mut is_file) = (None, false);
    for (key, value) in parameters(disposition.unwrap_or_default()).into_iter().skip(1) {
        match key.to_ascii_lowercase().as_slice() {
            b"name" if name.is_some() => return None,
            b"name" => name = Some(value),
            b"filename" => is_file = true,
            key if key.starts_with(b"name*") => return None,
            _ => {}
        }
    }
    Some((name.unwrap_or_default(), is_file, at))
}

/// The value's parts between semicolons, each up to its first `=` and from there on without quotes.
fn parameters(value: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut segments = vec![Vec::new()];
    let mut is_quoted = false;
    for (index, &byte) in value.iter().enumerate() {
        let is_escaped = index > 0 && value[index - 1] == b'\\';
        is_quoted ^= byte == b'"' && !is_escaped;
        if byte == b';' && !is_quoted {
            segments.push(Vec::new());
        } else {
            segments.last_mut().unwrap().push(byte);
        }
    }
    // Every byte as one character, as servers decode a header.
    let text = |bytes: &[u8]| -> String { bytes.iter().copied().map(char::from).collect() };
    let bytes = |text: &str| -> Vec<u8> { text.chars().map(|letter| u32::from(letter) as u8).collect() };
    let parameter = |segment: &Vec<u8>| {
        let segment = text(segment);
        let (key, value) = segment.split_once('=').unwrap_or((&segment, ""));
        let value = value.trim_matches([' ', '\t']);
        let quoted = (value.len() > 1).then(|| value.strip_prefix('"')?.strip_suffix('"')).flatten();
        let value = quoted.map_or(value.to_owned(), |inner| inner.replace("\\\\", "\\").replace("\\\"", "\""));
        (bytes(key.trim_matches([' ', '\t'])), bytes(&value))
    };
    segments.iter().map(parameter).collect()
}

/// A form of parts whose names, headers and contents are chosen.
fn made(choices: &[u8]) -> Vec<u8> {
    const HEADERS: [&str; 12] = [
        "Content-Disposition: form-data; name=\"model\"",
        "Content-Disposition: form-data; name=\"file\"; filename=\"a;name=model\"",
        "Content-Disposition: form-data; name=\"stream\"",
        "content-disposition:form-data;name=model",
        "Content-Disposition: form-data; name=\"model\"; filename=\"\"",
        "Content-Disposition: form-data; x=\"\\\";name=model\"; name=other",
        "Content-Disposition: form-data; NAME = model ; x",
        "Content-Type: text/plain; name=model",
        "Content-Disposition: form-data; name*=utf-8''model",
        "Content-Disposition: form-data; name=model; name=model",
        ": x",
        "Content-Disposition: form-data; name=\"model",
    ];
    const CONTENTS: [&str; 16] = [
        "m",
        "",
        "org/m\u{e9}del",
        "true",
        "0",
        "\r\n",
        "\r",
        "\r\n---B",
        "\r\n---Bx",
        "\r\n---B \r\n\r\n",
        "\r\n--",
        "-",
        "--B",
        "0123456789abcdefg",
        "1.0",
        " ",
    ];
    let mut choices = Choices::new(choices);
    let mut body = String::new();
    while !choices.is_empty() {
        body.push_str("---B\r\n");
        for _ in 0..=choices.next() % 3 / 2 {
            body.push_str(&format!("{}\r\n", HEADERS[usize::from(choices.next()) % HEADERS.len()]));
        }
        body.push_str("\r\n");
        for _ in 0..choices.next() % 4 {
            body.push_str(CONTENTS[usize::from(choices.next()) % CONTENTS.len()]);
        }
        body.push_str("\r\n");
    }
    body.push_str("---B--\r\n");
    body.into_bytes()
}
