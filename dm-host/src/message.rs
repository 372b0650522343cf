//! Requests and responses that a test feeds in.

use std::num::NonZeroUsize;

use crate::headers::Headers;

/// A piece of a body as it arrives: one or more slices, as Envoy's buffers have them.
pub(crate) type Chunk = Vec<Vec<u8>>;

/// A request or a response, its body in the chunks in which it is to arrive.
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct HttpMessage {
    pub(crate) headers: Headers,
    pub(crate) chunks: Vec<Chunk>,
    pub(crate) trailers: Option<Headers>,
    pub(crate) open: bool,
    pub(crate) replayed: bool,
}

impl HttpMessage {
    /// A request.
    pub fn request(method: &str, path: &str) -> Self {
        let headers = [(":authority", "localhost"), (":path", path), (":method", method), (":scheme", "http")];
        Self { headers: headers.into_iter().collect(), ..Self::default() }
    }

    /// A POST.
    pub fn post(path: &str) -> Self {
        Self::request("POST", path)
    }

    /// A response.
    pub fn response(status: u16) -> Self {
        Self { headers: [(":status", status.to_string())].into_iter().collect(), ..Self::default() }
    }

    /// Appends a header.
    pub fn header(mut self, name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Self {
        self.headers.add(name, value);
        self
    }

    /// The whole body as one chunk of one slice. An empty one is a body of no bytes: the end of the stream comes with a body hook.
    pub fn body(self, body: impl AsRef<[u8]>) -> Self {
        self.body_chunks([body])
    }

    /// The body in these chunks, each of one slice; the last one ends the message unless trailers follow.
    pub fn body_chunks<C: AsRef<[u8]>>(mut self, chunks: impl IntoIterator<Item = C>) -> Self {
        self.chunks = chunks.into_iter().map(|chunk| sliced(chunk.as_ref(), usize::MAX)).collect();
        self
    }

    /// Cuts each chunk into slices of at most so many bytes.
    pub fn slices(mut self, bytes: NonZeroUsize) -> Self {
        self.chunks = self.chunks.iter().map(|chunk| sliced(&chunk.concat(), bytes.get())).collect();
        self
    }

    /// Appends a trailer.
    pub fn trailer(mut self, name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Self {
        self.trailers.get_or_insert_default().add(name, value);
        self
    }

    /// More comes later.
    pub fn unfinished(mut self) -> Self {
        self.open = true;
        self
    }

    /// An earlier filter has held the body and lets it go in one piece: the received body *is* the buffered one.
    pub fn replayed(mut self) -> Self {
        self.replayed = true;
        self.chunks = vec![self.chunks.concat()];
        self
    }
}

/// A chunk of slices of at most `bytes`; Envoy has none without bytes.
pub(crate) fn sliced(body: &[u8], bytes: usize) -> Chunk {
    body.chunks(bytes).map(<[u8]>::to_vec).collect()
}

/// Takes `count` bytes from the front.
pub(crate) fn drain(chunk: &mut Chunk, mut count: usize) {
    chunk.retain_mut(|slice| {
        let taken = count.min(slice.len());
        count -= taken;
        slice.drain(..taken);
        !slice.is_empty()
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drain_takes_whole_slices_and_a_part_of_the_next() {
        let mut chunk = sliced(b"abcdefgh", 3);
        assert_eq!(chunk, [&b"abc"[..], b"def", b"gh"]);
        drain(&mut chunk, 4);
        assert_eq!(chunk, [&b"ef"[..], b"gh"]);
        drain(&mut chunk, 9);
        assert!(chunk.is_empty());
    }
}
