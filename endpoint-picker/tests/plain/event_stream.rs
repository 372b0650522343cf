//! Event streams read plainly, whole and by the standard, to compare the reader with. The package `fuzz` includes this file too.

use endpoint_picker::openai::sse::{Item, MAX_NAME_BYTES, SseReader};

/// Names and data.
pub(crate) type Events = Vec<(Vec<u8>, Vec<u8>)>;

/// What may stand in front of a stream.
pub(crate) const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

/// Reads with parts put together, and says whether the end cut an event.
pub(crate) fn read_events<'a>(buffer_bytes: usize, pieces: impl IntoIterator<Item = &'a [u8]>) -> (Events, bool) {
    let mut reader = SseReader::new(buffer_bytes);
    let mut events = Events::new();
    let mut parts: Option<Vec<u8>> = None;
    for piece in pieces {
        reader.feed(piece, |item| match item {
            Item::Event { name, data } => {
                assert!(parts.is_none(), "an event inside another one's parts");
                events.push((name.to_vec(), data.to_vec()));
            }
            Item::Part(part) => parts.get_or_insert_default().extend_from_slice(part),
            Item::End { name } => events.push((name.to_vec(), parts.take().expect("parts before their end"))),
        });
    }
    (events, reader.is_within_event())
}

/// "Interpreting an event stream" of the HTML standard (9.2.6), line by line, and whether the end cuts an event.
pub(crate) fn events(stream: &[u8]) -> (Events, bool) {
    let mut rest = stream.strip_prefix(BYTE_ORDER_MARK).unwrap_or(stream);
    let mut events = Events::new();
    let (mut name, mut data) = (Vec::new(), Vec::new());
    while let Some(end) = rest.iter().position(|byte| matches!(byte, b'\n' | b'\r')) {
        let line = &rest[..end];
        rest = &rest[end + if rest[end..].starts_with(b"\r\n") { 2 } else { 1 }..];
        if line.is_empty() {
            if data.pop().is_some() {
                events.push((std::mem::take(&mut name), std::mem::take(&mut data)));
            }
            name.clear();
            continue;
        }
        let colon = line.iter().position(|&byte| byte == b':').unwrap_or(line.len());
        let value = line.get(colon + 1..).unwrap_or_default();
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match &line[..colon] {
            b"data" => {
                data.extend_from_slice(value);
                data.push(b'\n');
            }
            b"event" => name = value[..value.len().min(MAX_NAME_BYTES)].to_vec(),
            _ => {}
        }
    }
    let cut = rest.first().is_some_and(|&first| first != b':') || !data.is_empty() || !name.is_empty();
    (events, cut)
}
