//! A header or trailer map: raw bytes, order and duplicates kept.

/// An ordered multimap of lower-case names to raw values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderMap {
    pairs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl HeaderMap {
    /// An empty map.
    #[must_use]
    pub const fn new() -> Self {
        Self { pairs: Vec::new() }
    }

    /// Appends a pair; the name is lower-cased, as Envoy's `LowerCaseString` does.
    pub fn add(&mut self, name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) {
        self.pairs.push((name.as_ref().to_ascii_lowercase(), value.as_ref().to_vec()));
    }

    /// The first value of the name, as `proxy_get_header_map_value` answers (Envoy returns only
    /// `entry[0]`, `source/extensions/common/wasm/context.cc`).
    #[must_use]
    pub fn get(&self, name: impl AsRef<[u8]>) -> Option<&[u8]> {
        self.get_all(name).next()
    }

    /// The first value as text, with bytes that are no UTF-8 replaced.
    #[must_use]
    pub fn text(&self, name: impl AsRef<[u8]>) -> Option<String> {
        self.get(name).map(|value| String::from_utf8_lossy(value).into_owned())
    }

    /// Every value of the name, in order.
    pub fn get_all(&self, name: impl AsRef<[u8]>) -> impl Iterator<Item = &[u8]> {
        let name = name.as_ref().to_ascii_lowercase();
        self.pairs.iter().filter(move |(have, _)| *have == name).map(|(_, value)| value.as_slice())
    }

    /// Replaces all values of the name by one. It stays at the place of the first, else it is appended
    /// (Envoy's `setCopy`).
    pub fn set(&mut self, name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) {
        let name = name.as_ref().to_ascii_lowercase();
        let mut placed = false;
        self.pairs.retain_mut(|(have, old)| {
            if *have != name {
                return true;
            }
            if placed {
                return false;
            }
            placed = true;
            *old = value.as_ref().to_vec();
            true
        });
        if !placed {
            self.pairs.push((name, value.as_ref().to_vec()));
        }
    }

    /// Removes every value of the name; answers whether there was one.
    pub fn remove(&mut self, name: impl AsRef<[u8]>) -> bool {
        let name = name.as_ref().to_ascii_lowercase();
        let before = self.pairs.len();
        self.pairs.retain(|(have, _)| *have != name);
        self.pairs.len() != before
    }

    /// The pairs in order.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.pairs.iter().map(|(name, value)| (name.as_slice(), value.as_slice()))
    }

    /// How many pairs there are, duplicates counted.
    #[must_use]
    pub fn len(&self) -> usize {
        self.pairs.len()
    }

    /// Whether there is no pair.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }

    /// Bytes of all names and values (Envoy's `byteSize`).
    #[must_use]
    pub fn byte_size(&self) -> usize {
        self.pairs.iter().map(|(name, value)| name.len() + value.len()).sum()
    }
}

impl<N: AsRef<[u8]>, V: AsRef<[u8]>> FromIterator<(N, V)> for HeaderMap {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(pairs: I) -> Self {
        let mut map = Self::new();
        for (name, value) in pairs {
            map.add(name, value);
        }
        map
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn set_replaces_all_duplicates_at_the_place_of_the_first() {
        let mut map: HeaderMap = [("A", "1"), ("b", "2"), ("a", "3")].into_iter().collect();
        map.set("a", "4");
        let pairs: Vec<_> = map.iter().collect();
        assert_eq!(pairs, [(&b"a"[..], &b"4"[..]), (b"b", b"2")]);
    }

    #[test]
    fn duplicates_and_raw_bytes_are_kept_in_order() {
        let mut map = HeaderMap::new();
        map.add("x", b"\xff\xfe");
        map.add("X", b"");
        assert_eq!(map.get_all("x").collect::<Vec<_>>(), [&b"\xff\xfe"[..], b""]);
        assert_eq!(map.len(), 2);
        assert!(map.remove("X"));
        assert!(map.is_empty());
    }
}
