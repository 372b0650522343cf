//! A body buffer with the write rules of Envoy's wasm buffer.

/// Bytes of a body that the guest may read and splice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Body {
    bytes: Vec<u8>,
}

/// The splice touches the middle of the buffer, which Envoy does not support.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a buffer can be written at its start or at its end only")]
pub(crate) struct PartialOverlap;

impl Body {
    /// The bytes.
    #[must_use]
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// How many bytes there are.
    #[must_use]
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Appends bytes at the end.
    pub(crate) fn append(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Takes all bytes out.
    #[must_use]
    pub(crate) fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.bytes)
    }

    /// At most `size` bytes from `start`; nothing when `start` lies behind the end
    /// (proxy-wasm-cpp-host `src/exports.cc`, `get_buffer_bytes`, "Don't overread").
    #[must_use]
    pub(crate) fn range(bytes: &[u8], start: usize, size: usize) -> &[u8] {
        let end = start.saturating_add(size).min(bytes.len());
        bytes.get(start..end).unwrap_or_default()
    }

    /// Writes as Envoy's `Buffer::copyFrom` does (`source/extensions/common/wasm/context.cc`):
    /// `start == 0` drains `size` bytes and prepends `data` (so `size >= len` replaces all and `size == 0`
    /// prepends), `start >= len` appends, anything else is refused.
    ///
    /// # Errors
    /// [`PartialOverlap`] when `0 < start < len`.
    pub(crate) fn splice(&mut self, start: usize, size: usize, data: &[u8]) -> Result<(), PartialOverlap> {
        if start == 0 {
            let drained = size.min(self.bytes.len());
            self.bytes.splice(..drained, data.iter().copied());
            Ok(())
        } else if start >= self.bytes.len() {
            self.append(data);
            Ok(())
        } else {
            Err(PartialOverlap)
        }
    }
}

impl From<Vec<u8>> for Body {
    fn from(bytes: Vec<u8>) -> Self {
        Self { bytes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spliced(start: usize, size: usize) -> Result<Vec<u8>, PartialOverlap> {
        let mut body = Body::from(b"abcdef".to_vec());
        body.splice(start, size, b"XY")?;
        Ok(body.take())
    }

    #[test]
    fn start_zero_drains_then_prepends() {
        assert_eq!(spliced(0, 0).unwrap(), b"XYabcdef");
        assert_eq!(spliced(0, 2).unwrap(), b"XYcdef");
        assert_eq!(spliced(0, 6).unwrap(), b"XY");
        assert_eq!(spliced(0, usize::MAX).unwrap(), b"XY");
    }

    #[test]
    fn start_at_or_behind_the_end_appends() {
        assert_eq!(spliced(6, 0).unwrap(), b"abcdefXY");
        assert_eq!(spliced(99, 3).unwrap(), b"abcdefXY");
    }

    #[test]
    fn a_write_into_the_middle_is_refused() {
        assert_eq!(spliced(1, 2), Err(PartialOverlap));
        assert_eq!(spliced(5, usize::MAX), Err(PartialOverlap));
    }

    #[test]
    fn a_range_never_reads_over_the_end() {
        assert_eq!(Body::range(b"abc", 1, 1), b"b");
        assert_eq!(Body::range(b"abc", 1, usize::MAX), b"bc");
        assert_eq!(Body::range(b"abc", 4, 1), b"");
    }
}
