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

    /// The first value of the name, as `proxy_get_header_map_value` returns (Envoy returns only
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

    /// Replaces all values of the name by one, which goes to the end; a pseudo header goes behind the other pseudo
    /// headers (Envoy's `setCopy`; seen on Envoy 1.40.0: scenarios `request_headers_are_changed`,
    /// `pseudo_headers_that_are_changed_stay_in_front`).
    pub fn set(&mut self, name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) {
        let name = name.as_ref().to_ascii_lowercase();
        self.pairs.retain(|(have, _)| *have != name);
        let pair = (name, value.as_ref().to_vec());
        if pair.0.starts_with(b":") {
            let behind = self.pairs.iter().take_while(|(have, _)| have.starts_with(b":")).count();
            self.pairs.insert(behind, pair);
        } else {
            self.pairs.push(pair);
        }
    }

    /// Gives a name its value where it stands, or appends it.
    pub(crate) fn put(&mut self, name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) {
        let lower = name.as_ref().to_ascii_lowercase();
        match self.pairs.iter_mut().find(|(have, _)| *have == lower) {
            Some((_, old)) => *old = value.as_ref().to_vec(),
            None => self.add(name, value),
        }
    }

    /// Removes every value of the name; returns whether there was one.
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
    fn set_replaces_all_duplicates_and_goes_to_the_end() {
        let mut map: HeaderMap = [(":a", "0"), (":b", "0"), ("A", "1"), ("b", "2"), ("a", "3")].into_iter().collect();
        map.set("a", "4");
        map.set(":a", "5");
        let pairs: Vec<_> = map.iter().collect();
        assert_eq!(pairs, [(&b":b"[..], &b"0"[..]), (b":a", b"5"), (b"b", b"2"), (b"a", b"4")]);
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
