//! The event reader and the reader of streamed answers against the standard's algorithm over the whole stream, and what is taken out of a
//! stream whose usage its client did not ask for against its lines.
//!
//! Input: a byte that chooses the API, a byte that chooses the cuts, the stream, all as for `response_reader`. A cut byte from 0xFC on
//! also makes the first event with an object too big for the reader's buffer.

use endpoint_picker::openai::response::UsageEventRemover;
use endpoint_picker::openai::sse::BUFFER_BYTES;
use endpoint_picker::openai::{Api, Ending, Progress, ResponseFacts, ResponseReader};

use crate::cut::pieces;
use crate::event_stream::{BYTE_ORDER_MARK, Events, events, read_events};
use crate::made::Choices;
use crate::request_scanner::MADE;
use crate::response_reader::{NAMES, Said, api_of, is_known, is_terminal};
use crate::written::Json;

const BIG: u8 = 0xFC;

/// Reads a stream whole and in pieces and compares events and facts.
pub fn check(data: &[u8]) {
    let [api, seed, stream @ ..] = data else { return };
    let made = (api & MADE != 0).then(|| made(stream));
    let stream = made.as_ref().map_or(stream, String::as_bytes);
    let grown = (*seed >= BIG).then(|| grown(stream)).flatten();
    // Long streams in short pieces take long.
    let seed = &(if grown.is_some() { seed | 7 } else { *seed });
    let stream = grown.as_deref().unwrap_or(stream);
    let (events, cut) = events(stream);
    // The smallest buffer hands out parts of what is longer than 256 bytes.
    let sizes: &[usize] = if grown.is_some() { &[] } else { &[0, 400, 2 * BUFFER_BYTES] };
    for &buffer_bytes in sizes {
        let got = read_events(buffer_bytes, [stream]);
        assert_eq!(got.0, events, "with a buffer of {buffer_bytes}");
        assert_eq!(read_events(buffer_bytes, pieces(stream, *seed)), got, "cuts of seed {seed} change the answer");
        // A stream that is only the start of a mark has no line yet, and of long lines that do not matter nothing is kept.
        if buffer_bytes > stream.len() && !BYTE_ORDER_MARK.starts_with(stream) {
            assert_eq!(got.1, cut);
        }
    }
    let api = api_of(*api);
    let got = read(api, [stream]);
    assert_eq!(read(api, pieces(stream, *seed)), got, "cuts of seed {seed} change the answer");
    // Of the start of a mark and of long lines that do not matter, the reader may see less than the standard.
    let is_cut = read_events(BUFFER_BYTES, [stream]).1;
    assert_eq!(got, facts(api, stream.len(), &events, pending(stream, events.len()), is_cut));
    let (expected, is_removed) = without_usage(stream);
    for (passed, cuts) in [(remove([stream]), "uncut"), (remove(pieces(stream, *seed)), "cut")] {
        let texts = [&passed, &expected].map(|bytes| String::from_utf8_lossy(bytes));
        assert!(passed == expected, "{cuts}: {:?} passes of {:?}", texts[0], texts[1]);
    }
    assert!(!is_removed || got.usage.is_some(), "removed and not counted");
}

/// What passes of a stream whose events of usage are taken out.
fn remove<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    let (mut remover, mut passed, mut next) = (UsageEventRemover::default(), Vec::new(), Vec::new());
    for piece in pieces {
        let is_other = remover.feed(piece, &mut next);
        assert!(is_other || next == piece);
        passed.append(&mut next);
    }
    remover.finish(&mut passed);
    passed
}

/// Most bytes of an event of usage.
const MAX_USAGE_BYTES: usize = 16 * 1024;

/// What must pass of a stream whose events of usage are taken out, and whether any was.
fn without_usage(stream: &[u8]) -> (Vec<u8>, bool) {
    let (mut passed, mut is_removed) = (Vec::new(), false);
    let (mark, rest) = if stream.starts_with(BYTE_ORDER_MARK) { stream.split_at(3) } else { stream.split_at(0) };
    let mut event: Vec<&[u8]> = Vec::new();
    // The mark is part of the first line, and no line that it stands in is empty.
    let mut mark = Some(mark);
    let mut lines = lines(rest).peekable();
    if lines.peek().is_none() {
        return (stream.to_vec(), false);
    }
    while let Some(line) = lines.next() {
        let before = mark.take().unwrap_or_default();
        let is_whole = line.ends_with(b"\n") || line.ends_with(b"\r");
        let is_comment = line.starts_with(b":");
        if event.is_empty() && is_comment && is_whole {
            passed.extend([before, line].concat());
            continue;
        }
        if event.is_empty() {
            event.push(before);
        }
        event.push(line);
        let is_end = before.is_empty() && matches!(line, b"\n" | b"\r" | b"\r\n");
        if !is_end && lines.peek().is_some() {
            continue;
        }
        let event = std::mem::take(&mut event);
        if is_usage(&event) {
            is_removed = true;
            passed.extend(event[0]);
            passed.extend(event[1..].iter().copied().filter(|line| line.starts_with(b":")).flatten());
        } else {
            passed.extend(event.concat());
        }
    }
    (passed, is_removed)
}

/// Whether the lines of an event, behind the mark, are one of usage.
fn is_usage(event: &[&[u8]]) -> bool {
    let text = event.concat();
    let length = text.len() - usize::from(text.ends_with(b"\r\n"));
    if length > MAX_USAGE_BYTES || !text.windows(5).any(|word| word == b"usage") {
        return false;
    }
    let content =
        |name: &'static [u8]| event[1..].iter().filter_map(move |line| Some(line.strip_prefix(name)?.trim_ascii_end()));
    let data = content(b"data:").collect::<Vec<_>>().join(&b"\n"[..]);
    let name = content(b"event:").next_back().unwrap_or_default().trim_ascii();
    let said = Json::read(&data).map(|json| Said::in_json(&json));
    said.is_some_and(|said| said.is_usage_alone() && said.error(name).is_none())
}

fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let end = rest.iter().position(|byte| matches!(byte, b'\n' | b'\r'));
        let end = end.map_or(rest.len(), |at| at + if rest[at..].starts_with(b"\r\n") { 2 } else { 1 });
        let (line, behind) = rest.split_at(end);
        rest = behind;
        (!line.is_empty()).then_some(line)
    })
}

/// The event that would come if the stream went on with the end of a line and an empty one; `None` if it has none, or if it is too
/// long to be kept whatever the pieces are.
fn pending(stream: &[u8], whole: usize) -> Option<(Vec<u8>, Vec<u8>)> {
    let (events, _) = events(&[stream, b"\n\n"].concat());
    events.into_iter().nth(whole).filter(|(_, data)| data.len() + b"data: ".len() <= BUFFER_BYTES)
}

/// A stream of events with made data, pieces of content in equal surroundings, names and ends.
fn made(choices: &[u8]) -> String {
    const CONTENTS: [&str; 8] = [
        "a",
        "",
        "b c",
        "\\\"",
        "\\u00e9",
        "\\",
        "x\",\"y\":\"",
        "\"},\"usage\":{\"prompt_tokens\":7},\"z\":{\"w\":\"",
    ];
    const USAGES: [&str; 6] = [
        r#"{"choices":[],"usage":{"prompt_tokens":1}}"#,
        r#"{"usage":{"prompt_tokens":1},"id":"c"}"#,
        r#"{"choices":null,"usage":{"total_tokens":1}}"#,
        r#"{"choices":[],"usage":{"prompt_tokens":1},"error":"e"}"#,
        r#"{"choices":{},"usage":{"prompt_tokens":1}}"#,
        r#"{"usage":{"prompt_tokens":1},"x":1}"#,
    ];
    const NAMES_OF_EVENTS: [&str; 4] = ["error", "message_stop", "response.output_text.delta", "response.completed"];
    let mut choices = Choices::new(choices);
    let mut stream = String::new();
    while !choices.is_empty() {
        let choice = choices.next();
        let pick = usize::from(choice / 8);
        let end = ["\n", "\r\n", "\r"][pick % 3];
        let data = match choice % 8 {
            0 => {
                stream.push_str(&format!("event: {}{end}", NAMES_OF_EVENTS[pick % NAMES_OF_EVENTS.len()]));
                continue;
            }
            1..=2 => choices.object(&NAMES),
            3..=5 => {
                let content = CONTENTS[pick % CONTENTS.len()];
                let (head, tail) = [
                    ("{\"choices\":[{\"index\":1,\"delta\":{\"content\":\"", "\"},\"finish_reason\":null}]}"),
                    ("{\"model\":\"m\",\"delta\":\"", "\"}"),
                    ("{\"type\":\"x\",\"delta\":{\"text\":\"", "\"}}"),
                ][usize::from(choice % 8) - 3];
                [head, content, tail].concat()
            }
            6 if pick < 8 => "[DONE]".to_owned(),
            6 => USAGES[pick % USAGES.len()].to_owned(),
            _ if pick % 4 == 1 => {
                stream.push_str(&format!(": c{end}"));
                continue;
            }
            _ => " ".to_owned(),
        };
        stream.push_str(&format!("data: {data}{end}{end}"));
    }
    stream
}

/// The stream with more white space before its first object than the reader keeps.
fn grown(stream: &[u8]) -> Option<Vec<u8>> {
    let at = stream.windows(6).position(|window| window == b"data:{" || window == b"data: ")? + 5;
    stream[at..].trim_ascii_start().starts_with(b"{").then(|| {
        let (head, tail) = stream.split_at(at);
        [head, &[b' '; BUFFER_BYTES + 1], tail].concat()
    })
}

/// Feeds all pieces, and checks that progress adds up.
fn read<'a>(api: Option<Api>, pieces: impl IntoIterator<Item = &'a [u8]>) -> ResponseFacts {
    let mut reader = ResponseReader::sse(api);
    let (mut content_events, mut is_terminated) = (0, false);
    for piece in pieces {
        let progress = reader.feed(piece);
        assert_eq!(progress.first_content, content_events == 0 && progress.content_events > 0);
        content_events += u64::from(progress.content_events);
        assert_eq!(reader.feed(b""), Progress::default(), "nothing brings nothing");
        is_terminated |= progress.terminal;
    }
    let facts = reader.finish();
    assert_eq!(facts.content_events, content_events);
    assert!(!is_terminated || matches!(facts.ending, Ending::Complete | Ending::Malformed));
    facts
}

/// What the events of a stream say, each read for itself, and the one that its end cut.
fn facts(
    api: Option<Api>,
    bytes: usize,
    events: &Events,
    pending: Option<(Vec<u8>, Vec<u8>)>,
    is_cut: bool,
) -> ResponseFacts {
    let mut facts = ResponseFacts { bytes: bytes as u64, ..ResponseFacts::default() };
    let mut total = Said::default();
    let (mut is_over, mut is_malformed) = (false, false);
    let is_done = |data: &[u8]| data.trim_ascii() == b"[DONE]";
    for (name, data) in events {
        let json = Json::read(data);
        let is_blank = data.iter().all(|byte| b" \t\r\n".contains(byte));
        is_malformed |= json.is_none() && !is_blank && !is_done(data);
        let said = json.map(|json| Said::in_json(&json)).unwrap_or_default();
        facts.content_events += u64::from(said.bears_content);
        facts.error = facts.error.or_else(|| said.error(name));
        is_over |= said.is_terminal || is_terminal(name) || is_done(data) || said.is_final_usage();
        total.is_known |= said.is_known() || is_known(name);
        total.counts.extend(said.counts);
        total.has_input_details |= said.has_input_details;
        total.choices.extend(said.choices);
        facts.model = facts.model.or(said.model);
        facts.response_id = facts.response_id.or(said.whole_id.filter(|_| api == Some(Api::Responses)));
    }
    if let Some((name, data)) = pending {
        is_over |= is_done(&data);
        if let Some(json) = Json::read(&data) {
            let said = Said::in_json(&json);
            is_over |= said.is_terminal || is_terminal(&name) || said.is_final_usage();
            total.choices.extend(said.choices);
            total.counts.extend(said.counts);
            total.has_input_details |= said.has_input_details;
        }
    }
    let finished = |index| total.choices.contains(&(index, true));
    is_over |= !total.choices.is_empty() && total.choices.iter().all(|&(index, _)| finished(index));
    facts.usage = total.usage(api);
    facts.ending = if is_malformed {
        Ending::Malformed
    } else if is_over || facts.error.is_some() {
        Ending::Complete
    } else if total.is_known || is_cut || events.is_empty() {
        Ending::Truncated
    } else {
        Ending::Unknown
    };
    facts
}
