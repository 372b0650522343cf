//! HTTP/1.1 as bytes: what the client and the upstream write, and what can be made of what they have read so far.

use crate::observed::{Message, Progress};
use crate::scenario::{Pairs, Request, Response};

/// The head of a request, up to its blank line.
pub(crate) fn request_head(request: &Request, stream: &str) -> Vec<u8> {
    let mut bytes = format!("{} {} HTTP/1.1\r\nhost: gateway\r\n", request.method, request.path).into_bytes();
    write_headers(&mut bytes, &request.headers);
    write_headers(&mut bytes, &vec![(b"x-stream".to_vec(), stream.as_bytes().to_vec())]);
    if request.is_chunked() {
        bytes.extend(b"transfer-encoding: chunked\r\n");
    }
    bytes.extend(b"\r\n");
    bytes
}

/// The head of a response, up to its blank line.
pub(crate) fn response_head(response: &Response) -> Vec<u8> {
    let mut bytes = format!("HTTP/1.1 {} Reason\r\n", response.status).into_bytes();
    write_headers(&mut bytes, &response.headers);
    if response.is_chunked() {
        bytes.extend(b"transfer-encoding: chunked\r\n");
    }
    bytes.extend(b"\r\n");
    bytes
}

fn write_headers(bytes: &mut Vec<u8>, headers: &Pairs) {
    for (name, value) in headers {
        bytes.extend(name);
        bytes.extend(b": ");
        bytes.extend(value);
        bytes.extend(b"\r\n");
    }
}

/// A piece of a body.
pub(crate) fn piece(bytes: &[u8], chunked: bool) -> Vec<u8> {
    if !chunked {
        return bytes.to_vec();
    }
    let mut chunk = format!("{:x}\r\n", bytes.len()).into_bytes();
    chunk.extend(bytes);
    chunk.extend(b"\r\n");
    chunk
}

/// The end of a body; nothing where the length was declared.
pub(crate) fn end(trailers: Option<&Pairs>, chunked: bool) -> Vec<u8> {
    let mut bytes = Vec::new();
    if chunked {
        bytes.extend(b"0\r\n");
        write_headers(&mut bytes, trailers.unwrap_or(&Vec::new()));
        bytes.extend(b"\r\n");
    }
    bytes
}

/// What has come of a request; `None` before its head is complete.
pub(crate) fn read_request(bytes: &[u8], closed: bool) -> Option<Message> {
    read(bytes, closed, true, false)
}

/// What has come of a response, interim ones left out; `None` before its head is complete.
pub(crate) fn read_response(mut bytes: &[u8], closed: bool, to_head: bool) -> Option<Message> {
    loop {
        let message = read(bytes, closed, false, to_head)?;
        if !message.start.starts_with('1') {
            return Some(message);
        }
        bytes = &bytes[find(bytes, b"\r\n\r\n")? + 4..];
    }
}

/// The value of a header of a message whose head is complete.
pub(crate) fn header(message: &Message, name: &str) -> Option<String> {
    let (_, value) = message.headers.iter().find(|(have, _)| have == name.as_bytes())?;
    Some(String::from_utf8_lossy(value).into_owned())
}

fn read(bytes: &[u8], closed: bool, request: bool, to_head: bool) -> Option<Message> {
    let head_end = find(bytes, b"\r\n\r\n")?;
    let mut lines = bytes[..head_end].split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let start = String::from_utf8_lossy(lines.next()?).into_owned();
    let mut words = start.split(' ');
    let (first, second) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut message =
        Message { start: if request { format!("{first} {second}") } else { second.clone() }, ..Message::default() };
    message.headers = lines.map(pair).collect();
    let mut rest = &bytes[head_end + 4..];
    let bodiless = !request && (to_head || second.starts_with('1') || second == "204" || second == "304");
    let chunked = header(&message, "transfer-encoding").is_some_and(|coding| coding.contains("chunked"));
    let declared = header(&message, "content-length").and_then(|length| length.parse::<usize>().ok());
    let whole = if bodiless {
        true
    } else if chunked {
        loop {
            let Some(line_end) = find(rest, b"\r\n") else { break false };
            let size = usize::from_str_radix(&String::from_utf8_lossy(&rest[..line_end]), 16).expect("a chunk's size");
            let data = &rest[line_end + 2..];
            if size == 0 {
                // Trailers, then a blank line.
                let Some(end) = find(&rest[line_end..], b"\r\n\r\n") else { break false };
                message.trailers = rest[line_end..line_end + end]
                    .split(|byte| *byte == b'\n')
                    .map(<[u8]>::trim_ascii)
                    .filter(|line| !line.is_empty())
                    .map(pair)
                    .collect();
                break true;
            }
            message.body.extend(&data[..size.min(data.len())]);
            if data.len() < size + 2 {
                break false;
            }
            rest = &data[size + 2..];
        }
    } else if let Some(declared) = declared {
        message.body.extend(&rest[..declared.min(rest.len())]);
        rest.len() >= declared
    } else {
        message.body.extend(rest);
        request || closed
    };
    message.progress = match (whole, closed) {
        (true, _) => Progress::Whole,
        (false, true) => Progress::Cut,
        (false, false) => Progress::Unfinished,
    };
    Some(message)
}

fn pair(line: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let colon = line.iter().position(|byte| *byte == b':').unwrap_or(line.len());
    (line[..colon].to_ascii_lowercase(), line.get(colon + 1..).unwrap_or_default().trim_ascii().to_vec())
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHUNKED: &[u8] =
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\nx-t: 1\r\n\r\n";

    #[test]
    fn a_chunked_response_with_trailers_is_read_whole() {
        let message = read_response(CHUNKED, false, false).unwrap();
        assert_eq!((message.start.as_str(), message.body.as_slice()), ("200", &b"abcde"[..]));
        assert_eq!(message.trailers, [(b"x-t".to_vec(), b"1".to_vec())]);
        assert_eq!(message.progress, Progress::Whole);
    }

    #[test]
    fn a_response_that_breaks_off_anywhere_is_not_whole() {
        for end in 0..CHUNKED.len() {
            let message = read_response(&CHUNKED[..end], true, false);
            assert!(message.is_none_or(|message| message.progress == Progress::Cut), "{end}");
        }
    }

    #[test]
    fn an_interim_response_is_passed_over() {
        let message =
            read_response(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n", false, false).unwrap();
        assert_eq!((message.start.as_str(), message.progress), ("204", Progress::Whole));
    }
}
