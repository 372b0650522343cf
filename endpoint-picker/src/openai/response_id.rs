//! Ids of stored responses, under which later requests ask for them.

use xxhash_rust::xxh3::xxh3_64;

/// Longest id that is read, in bytes: `resp_` and a UUID have 41.
pub const MAX_RESPONSE_ID_BYTES: usize = 256;

/// The id of a stored response, as its hash: ids are as good as random, so two of them hash alike less than once in a lifetime.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct ResponseId(u64);

impl ResponseId {
    /// The id that is written like this; `None` for an empty or an overlong one.
    #[must_use]
    pub fn of(text: &[u8]) -> Option<Self> {
        (1..=MAX_RESPONSE_ID_BYTES).contains(&text.len()).then(|| Self(xxh3_64(text)))
    }

    /// The id that the path of a request names: `…/v1/responses/{id}` and what stands below that.
    #[must_use]
    pub fn from_path(path: &[u8]) -> Option<Self> {
        let end = memchr::memchr2(b'?', b'#', path).unwrap_or(path.len());
        let mut segments =
            path.get(..end).unwrap_or_default().split(|&byte| byte == b'/').skip_while(|&segment| segment != b"v1");
        segments.next()?;
        (segments.next()? == b"responses").then(|| Self::of(segments.next()?)).flatten()
    }

    /// The hash.
    #[must_use]
    pub const fn hash(self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    #[test]
    fn a_path_names_a_response_wherever_the_api_stands() {
        let id = ResponseId::of(b"resp_1");
        assert!(id.is_some());
        for path in [
            "/v1/responses/resp_1",
            "/v1/responses/resp_1?stream=true",
            "/gw/v1/responses/resp_1/cancel",
            "/v1/responses/resp_1/input_items?limit=2",
        ] {
            assert_eq!(ResponseId::from_path(path.as_bytes()), id, "{path}");
        }
        for path in
            ["/v1/responses", "/v1/responses/", "/v1/models/resp_1", "/responses/resp_1", "/x?/v1/responses/resp_1", ""]
        {
            assert_eq!(ResponseId::from_path(path.as_bytes()), None, "{path}");
        }
        assert_ne!(ResponseId::from_path(b"/v1/responses/resp_2"), id);
        assert_eq!(ResponseId::of(&[b'x'; MAX_RESPONSE_ID_BYTES + 1]), None);
    }
}
