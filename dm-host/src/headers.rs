//! A header or trailer map: raw bytes, order and duplicates kept.

/// An ordered list of lower-case names and raw values.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Headers {
    pairs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Headers {
    /// Appends a pair; the name is lower-cased, as Envoy does.
    pub fn add(&mut self, name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) {
        self.pairs.push((name.as_ref().to_ascii_lowercase(), value.as_ref().to_vec()));
    }

    /// Replaces every value of the name by one.
    pub fn set(&mut self, name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) {
        self.remove(&name);
        self.add(name, value);
    }

    /// Removes every value of the name; whether there was one.
    pub fn remove(&mut self, name: impl AsRef<[u8]>) -> bool {
        let name = name.as_ref().to_ascii_lowercase();
        let before = self.pairs.len();
        self.pairs.retain(|(known, _)| *known != name);
        self.pairs.len() != before
    }

    /// Every value of the name, in order.
    pub fn values(&self, name: impl AsRef<[u8]>) -> impl Iterator<Item = &[u8]> {
        let name = name.as_ref().to_ascii_lowercase();
        self.pairs.iter().filter(move |(known, _)| *known == name).map(|(_, value)| value.as_slice())
    }

    /// The first value as text, with bytes that are no UTF-8 replaced.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<String> {
        self.values(name).next().map(|value| String::from_utf8_lossy(value).into_owned())
    }

    /// The pairs in order.
    pub fn pairs(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.pairs.iter().map(|(name, value)| (name.as_slice(), value.as_slice()))
    }
}

impl<N: AsRef<[u8]>, V: AsRef<[u8]>> FromIterator<(N, V)> for Headers {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(pairs: I) -> Self {
        let mut headers = Self::default();
        for (name, value) in pairs {
            headers.add(name, value);
        }
        headers
    }
}
