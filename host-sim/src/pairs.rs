//! The wire form of a header map: a count, the lengths, then NUL-terminated names and values, all in
//! little endian (proxy-wasm-cpp-host `src/pairs_util.cc`).

use crate::headers::HeaderMap;

/// Blobs above this size are read as *no pairs at all* (proxy-wasm-cpp-host `include/proxy-wasm/limits.h`).
pub const MAX_PAIRS_BYTES: usize = 1024 * 1024;

/// Blobs with more pairs than this are read as no pairs at all (same file).
pub const MAX_PAIRS: usize = 1024;

/// Serialises a map as the guest expects it.
#[must_use]
pub(crate) fn encode(map: &HeaderMap) -> Vec<u8> {
    let mut blob = Vec::with_capacity(4 + map.len() * 10 + map.byte_size());
    blob.extend_from_slice(&length(map.len()));
    for (name, value) in map.iter() {
        blob.extend_from_slice(&length(name.len()));
        blob.extend_from_slice(&length(value.len()));
    }
    for (name, value) in map.iter() {
        blob.extend_from_slice(name);
        blob.push(0);
        blob.extend_from_slice(value);
        blob.push(0);
    }
    blob
}

/// Reads a blob from the guest. A blob that is too large or malformed gives an empty map: Envoy's
/// `PairsUtil::toPairs` returns "no pairs" and reports no error.
#[must_use]
pub(crate) fn decode(blob: &[u8]) -> HeaderMap {
    if blob.len() > MAX_PAIRS_BYTES {
        return HeaderMap::new();
    }
    try_decode(blob).unwrap_or_default()
}

fn try_decode(blob: &[u8]) -> Option<HeaderMap> {
    let mut rest = blob;
    let count = take_length(&mut rest)?;
    if count > MAX_PAIRS {
        return None;
    }
    let mut lengths = Vec::with_capacity(count);
    for _ in 0..count {
        lengths.push((take_length(&mut rest)?, take_length(&mut rest)?));
    }
    let mut map = HeaderMap::new();
    for (name, value) in lengths {
        let name = take_text(&mut rest, name)?;
        let value = take_text(&mut rest, value)?;
        map.add(name, value);
    }
    rest.is_empty().then_some(map)
}

fn length(bytes: usize) -> [u8; 4] {
    u32::try_from(bytes).unwrap_or(u32::MAX).to_le_bytes()
}

fn take_length(rest: &mut &[u8]) -> Option<usize> {
    let (head, tail) = rest.split_first_chunk::<4>()?;
    *rest = tail;
    usize::try_from(u32::from_le_bytes(*head)).ok()
}

fn take_text<'a>(rest: &mut &'a [u8], bytes: usize) -> Option<&'a [u8]> {
    let (text, tail) = rest.split_at_checked(bytes)?;
    let (nul, tail) = tail.split_first()?;
    *rest = tail;
    (*nul == 0).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_survives_the_wire() {
        let map: HeaderMap = [(":path", "/a"), ("x", ""), ("x", "\u{e9}")].into_iter().collect();
        assert_eq!(decode(&encode(&map)), map);
    }

    #[test]
    fn too_many_pairs_are_read_as_none() {
        let full: HeaderMap = (0..MAX_PAIRS).map(|_| ("a", "b")).collect();
        assert_eq!(decode(&encode(&full)).len(), MAX_PAIRS);
        let over: HeaderMap = (0..=MAX_PAIRS).map(|_| ("a", "b")).collect();
        assert!(decode(&encode(&over)).is_empty());
    }

    #[test]
    fn a_blob_above_one_mebibyte_is_read_as_none() {
        let fits: HeaderMap = [("a", vec![b'x'; MAX_PAIRS_BYTES - 15])].into_iter().collect();
        assert_eq!(decode(&encode(&fits)).len(), 1);
        let over: HeaderMap = [("a", vec![b'x'; MAX_PAIRS_BYTES - 14])].into_iter().collect();
        assert!(decode(&encode(&over)).is_empty());
    }

    #[test]
    fn every_truncation_of_a_blob_is_read_as_none() {
        let blob = encode(&[("name", "value"), ("n", "v")].into_iter().collect());
        for cut in 0..blob.len() {
            assert!(decode(&blob[..cut]).is_empty(), "cut at {cut}");
        }
    }
}
