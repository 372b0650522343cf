//! The sidecar's HTTP client, which reads what pods answer: bounds for any bytes, the same body however they arrive.
//!
//! Input: a byte whose lowest bit chooses the reading, a byte that chooses the cuts, then an answer (even) or a body that is
//! answered in chunks (odd).

use metrics_sidecar::response::{ResponseError, ResponseParser};

use crate::cut::pieces;

/// Small, so that short answers reach it.
const MAX_BODY: usize = 1000;

/// Reads an answer whole and in pieces.
pub fn check(data: &[u8]) {
    let [kind, seed, data @ ..] = data else { return };
    if kind % 2 == 0 {
        check_bytes(data, *seed);
    } else {
        let mut body = data.repeat(if kind & 8 == 0 { 1 } else { 8 });
        body.truncate(2 * MAX_BODY);
        check_chunked(&body, *kind, *seed);
    }
}

fn check_bytes(answer: &[u8], seed: u8) {
    let whole = receive([answer].into_iter());
    let in_pieces = receive(pieces(answer, seed));
    match (whole, in_pieces) {
        (Ok(whole), Ok(in_pieces)) => {
            assert!(whole.len() <= MAX_BODY);
            assert_eq!(whole, in_pieces);
        }
        // Which of two errors is met first may depend on what has arrived.
        (Err(_), Err(_)) => {}
        (whole, in_pieces) => panic!("whole {whole:?}, in pieces {in_pieces:?}"),
    }
}

/// Writes a body in chunks as a server may, and reads it.
fn check_chunked(body: &[u8], style: u8, seed: u8) {
    let mut answer = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    for chunk in pieces(body, seed).filter(|chunk| !chunk.is_empty()) {
        let size = if style & 2 == 0 { format!("{:x}", chunk.len()) } else { format!("0{:X};a=\"b\"", chunk.len()) };
        for part in [size.as_bytes(), b"\r\n", chunk, b"\r\n"] {
            answer.extend_from_slice(part);
        }
    }
    answer.extend_from_slice(if style & 4 == 0 { b"0\r\n\r\n" } else { b"0\r\nx: y\r\n\r\n" });
    for seed in [0, 7, seed] {
        let got = receive(pieces(&answer, seed));
        if body.len() <= MAX_BODY {
            assert_eq!(got.as_deref(), Ok(body));
        } else {
            assert_eq!(got, Err(ResponseError::TooLarge(MAX_BODY)));
        }
    }
}

/// Reads until the answer is complete or the connection ends.
fn receive<'a>(arriving: impl Iterator<Item = &'a [u8]>) -> Result<Vec<u8>, ResponseError> {
    let mut reader = ResponseParser::new(MAX_BODY);
    let mut buffer = Vec::new();
    for piece in arriving.filter(|piece| !piece.is_empty()) {
        buffer.extend_from_slice(piece);
        let complete = reader.read(&mut buffer)?;
        assert!(reader.missing(buffer.len()) <= MAX_BODY);
        if let Some(complete) = complete {
            return Ok(buffer[complete.body].to_vec());
        }
    }
    let complete = reader.end(buffer.len())?;
    assert!(!complete.reusable, "a connection that has ended");
    Ok(buffer[complete.body].to_vec())
}
