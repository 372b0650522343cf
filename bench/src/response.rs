//! Reads HTTP/1.1 responses and checks them, with as little work as that takes.

use anyhow::{Context as _, bail, ensure};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

/// More headers than any response here has.
const MAX_HEADERS: usize = 64;
/// Fits a whole response of a canned pod.
const READ_BYTES: usize = 64 * 1024;

/// Where the reader of a connection keeps its bytes between responses.
#[derive(Debug)]
pub(crate) struct Reader {
    buffer: Vec<u8>,
    filled: usize,
}

/// What a response was.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Seen {
    /// Bytes of its body.
    pub(crate) body_bytes: usize,
    /// Chunks of its body; 0 if it was not chunked.
    pub(crate) chunks: usize,
}

impl Default for Reader {
    fn default() -> Self {
        Self { buffer: vec![0; READ_BYTES], filled: 0 }
    }
}

impl Reader {
    /// Reads one response to its end.
    ///
    /// # Errors
    /// Its status is not 200, it is not HTTP, or the connection ended.
    pub(crate) async fn response(&mut self, stream: &mut TcpStream) -> anyhow::Result<Seen> {
        self.filled = 0;
        let (head, length) = loop {
            self.fill(stream).await?;
            let bytes = self.buffer.get(..self.filled).unwrap_or_default();
            if let Some(head) = head(bytes)? {
                break head;
            }
        };
        let begun = self.buffer.get(head..self.filled).unwrap_or_default();
        if let Some(length) = length {
            let mut seen = begun.len();
            while seen < length {
                self.filled = 0;
                seen += self.fill(stream).await?;
            }
            ensure!(seen == length, "{} bytes follow the response", seen - length);
            return Ok(Seen { body_bytes: length, chunks: 0 });
        }
        let mut chunked = Chunked::default();
        chunked.feed(begun)?;
        while chunked.part != Part::End {
            self.filled = 0;
            self.fill(stream).await?;
            chunked.feed(self.buffer.get(..self.filled).unwrap_or_default())?;
        }
        Ok(chunked.seen)
    }

    async fn fill(&mut self, stream: &mut TcpStream) -> anyhow::Result<usize> {
        let room = self
            .buffer
            .get_mut(self.filled..)
            .filter(|room| !room.is_empty())
            .context("the response's head is too long")?;
        let read = stream.read(room).await?;
        ensure!(read > 0, "the connection ended before the response did");
        self.filled += read;
        Ok(read)
    }
}

/// Length of the head and, unless the body is chunked, of the body; `None` if more is needed.
fn head(bytes: &[u8]) -> anyhow::Result<Option<(usize, Option<usize>)>> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(head) = response.parse(bytes)? else { return Ok(None) };
    if response.code != Some(200) {
        bail!("status {:?}: {}", response.code, String::from_utf8_lossy(bytes));
    }
    let length = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"));
    let length = length.map(|header| std::str::from_utf8(header.value)?.parse::<usize>().context("content-length"));
    Ok(Some((head, length.transpose()?)))
}

/// Counts a chunked body.
#[derive(Debug)]
struct Chunked {
    part: Part,
    seen: Seen,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Part {
    /// In the line with the size.
    Size(usize),
    /// In the data, with so many bytes left, the line's end included.
    Data(usize),
    /// In the last line, with so many bytes left.
    Last(usize),
    End,
}

impl Default for Chunked {
    fn default() -> Self {
        Self { part: Part::Size(0), seen: Seen { body_bytes: 0, chunks: 0 } }
    }
}

impl Chunked {
    fn feed(&mut self, mut bytes: &[u8]) -> anyhow::Result<()> {
        while let Some((&first, rest)) = bytes.split_first() {
            bytes = match self.part {
                Part::Size(size) => {
                    match first {
                        b'\n' if size == 0 => self.part = Part::Last(2),
                        b'\n' => {
                            self.part = Part::Data(size + 2);
                            self.seen.body_bytes += size;
                            self.seen.chunks += 1;
                        }
                        b'\r' => {}
                        _ => {
                            let digit = char::from(first).to_digit(16).context("a chunk's size is no number")?;
                            self.part = Part::Size(size * 16 + digit as usize);
                        }
                    }
                    rest
                }
                Part::Data(left) => {
                    let taken = left.min(bytes.len());
                    self.part = if taken == left { Part::Size(0) } else { Part::Data(left - taken) };
                    bytes.get(taken..).unwrap_or_default()
                }
                Part::Last(left) => {
                    self.part = if left == 1 { Part::End } else { Part::Last(left - 1) };
                    rest
                }
                Part::End => bail!("{} bytes follow the response", bytes.len()),
            };
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunked_bodies_are_counted_however_they_are_cut() {
        let wire = b"5\r\nhello\r\n1a\r\nabcdefghijklmnopqrstuvwxyz\r\n0\r\n\r\n";
        for cut in 0..wire.len() {
            let mut chunked = Chunked::default();
            chunked.feed(&wire[..cut]).unwrap();
            assert_ne!(chunked.part, Part::End);
            chunked.feed(&wire[cut..]).unwrap();
            assert_eq!(chunked.part, Part::End);
            assert_eq!(chunked.seen, Seen { body_bytes: 31, chunks: 2 });
        }
    }

    #[test]
    fn bytes_after_the_end_are_an_error() {
        assert!(Chunked::default().feed(b"0\r\n\r\nH").is_err());
    }

    #[test]
    fn heads_tell_the_length_and_bad_statuses_are_errors() {
        assert_eq!(head(b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n1234567").unwrap(), Some((38, Some(7))));
        assert_eq!(head(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").unwrap().unwrap().1, None);
        assert_eq!(head(b"HTTP/1.1 200 OK\r\n").unwrap(), None);
        assert!(head(b"HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n").is_err());
    }
}
