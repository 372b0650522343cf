//! Words of the Prometheus text format, read in place: a line, its name, its labels, its value.
//!
//! Nothing here allocates unless a label value holds an escape. The format:
//! <https://prometheus.io/docs/instrumenting/exposition_formats/#text-format-details>.

use std::borrow::Cow;

/// Why a line is not a sample.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum LineError {
    /// The braces, quotes or commas do not match.
    #[error("labels are malformed")]
    Labels,
    /// What follows the labels is not a number.
    #[error("the value is not a number")]
    Value,
    /// A label value is not UTF-8.
    #[error("a label value is not UTF-8")]
    Utf8,
}

/// One sample line, split but not interpreted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Sample<'a> {
    /// What stands between the braces, braces excluded; empty when there are none.
    pub labels: &'a [u8],
    /// What follows, trimmed: the value and perhaps a timestamp.
    pub tail: &'a [u8],
}

/// The metric name at the start of a line, and what follows it. A name ends at the first `{`, space or tab.
#[must_use]
pub fn split_name(line: &[u8]) -> (&[u8], &[u8]) {
    let end = memchr::memchr3(b'{', b' ', b'\t', line).unwrap_or(line.len());
    line.split_at(end)
}

impl<'a> Sample<'a> {
    /// Splits what follows a metric name. Label values are walked over, since they may hold braces.
    ///
    /// # Errors
    ///
    /// [`LineError::Labels`] when a label set is opened and never closed.
    pub fn split(rest: &'a [u8]) -> Result<Self, LineError> {
        let rest = rest.trim_ascii_start();
        let Some(inner) = rest.strip_prefix(b"{") else {
            return Ok(Self { labels: b"", tail: rest.trim_ascii_end() });
        };
        let mut from = 0;
        loop {
            let unread = inner.get(from..).ok_or(LineError::Labels)?;
            let at = from + memchr::memchr2(b'"', b'}', unread).ok_or(LineError::Labels)?;
            if inner.get(at) == Some(&b'}') {
                let (labels, tail) = inner.split_at(at);
                let tail = tail.get(1..).unwrap_or_default().trim_ascii();
                return Ok(Self { labels, tail });
            }
            from = at + 1 + closing_quote(inner.get(at + 1..).unwrap_or_default()).ok_or(LineError::Labels)? + 1;
        }
    }

    /// The metric name, if it stands in quotes among the labels, as names outside of the old alphabet do.
    #[must_use]
    pub fn quoted_name(&self) -> Option<&'a [u8]> {
        let quoted = self.labels.trim_ascii_start().strip_prefix(b"\"")?;
        let end = closing_quote(quoted)?;
        let rest = quoted.get(end + 1..)?.trim_ascii_start();
        (rest.is_empty() || rest.starts_with(b",")).then(|| quoted.get(..end)).flatten()
    }

    /// The labels, in the order of the line; a metric name among them is left aside.
    #[must_use]
    pub const fn labels(&self) -> Labels<'a> {
        Labels { unread: self.labels, is_first: true }
    }

    /// The value; infinite and NaN where the line says so. A timestamp behind it is left aside.
    ///
    /// # Errors
    ///
    /// [`LineError::Value`] when it is not a number.
    pub fn value(&self) -> Result<f64, LineError> {
        let word = self.tail.split(u8::is_ascii_whitespace).next().unwrap_or_default();
        let word = str::from_utf8(word).map_err(|_| LineError::Value)?;
        word.parse().map_err(|_| LineError::Value)
    }
}

/// One label as the line spells it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct LabelPair<'a> {
    /// Its name.
    pub name: &'a [u8],
    /// Its value, escapes kept, quotes excluded.
    pub raw: &'a [u8],
}

impl<'a> LabelPair<'a> {
    /// The value with its escapes (`\\`, `\"`, `\n`) undone.
    ///
    /// # Errors
    ///
    /// [`LineError::Utf8`].
    pub fn value(&self) -> Result<Cow<'a, str>, LineError> {
        let raw = str::from_utf8(self.raw).map_err(|_| LineError::Utf8)?;
        if !raw.contains('\\') {
            return Ok(Cow::Borrowed(raw));
        }
        let mut value = String::with_capacity(raw.len());
        let mut characters = raw.chars();
        while let Some(character) = characters.next() {
            match character {
                '\\' => match characters.next() {
                    Some('n') => value.push('\n'),
                    Some(literal @ ('\\' | '"')) => value.push(literal),
                    // An unknown escape stands for itself, as Prometheus reads it.
                    Some(other) => value.extend(['\\', other]),
                    None => value.push('\\'),
                },
                plain => value.push(plain),
            }
        }
        Ok(Cow::Owned(value))
    }
}

/// Iterates over the labels of a [`Sample`]; the first malformed one ends it.
#[derive(Clone, Debug)]
pub struct Labels<'a> {
    unread: &'a [u8],
    is_first: bool,
}

impl<'a> Iterator for Labels<'a> {
    type Item = Result<LabelPair<'a>, LineError>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut unread = self.unread.trim_ascii_start();
        self.unread = b"";
        if std::mem::take(&mut self.is_first)
            && unread.starts_with(b"\"")
            && let Some(name) = (Sample { labels: unread, tail: b"" }).quoted_name()
        {
            unread = unread.get(name.len() + 2..).unwrap_or_default().trim_ascii_start();
            unread = unread.strip_prefix(b",").unwrap_or(unread).trim_ascii_start();
        }
        if unread.is_empty() {
            return None;
        }
        let parse = || {
            let (name, rest) = match unread.strip_prefix(b"\"") {
                Some(name) => {
                    let end = closing_quote(name)?;
                    (name.get(..end)?, name.get(end + 1..)?.trim_ascii_start())
                }
                None => unread.split_at(memchr::memchr(b'=', unread)?),
            };
            let rest = rest.strip_prefix(b"=")?;
            let quoted = rest.trim_ascii_start().strip_prefix(b"\"")?;
            let end = closing_quote(quoted)?;
            let rest = quoted.get(end + 1..)?.trim_ascii_start();
            let rest = match rest.split_first() {
                None => rest,
                Some((b',', rest)) => rest,
                Some(_) => return None,
            };
            Some((LabelPair { name: name.trim_ascii(), raw: quoted.get(..end)? }, rest))
        };
        match parse() {
            Some((label, rest)) => {
                self.unread = rest;
                Some(Ok(label))
            }
            None => Some(Err(LineError::Labels)),
        }
    }
}

/// Appends a label value with the escapes that the format wants.
pub fn escape_into(out: &mut String, value: &str) {
    for character in value.chars() {
        match character {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            plain => out.push(plain),
        }
    }
}

/// Index of the quote that closes a value, the opening one being already consumed.
fn closing_quote(value: &[u8]) -> Option<usize> {
    let mut from = 0;
    loop {
        let at = from + memchr::memchr2(b'"', b'\\', value.get(from..)?)?;
        if value.get(at) == Some(&b'"') {
            return Some(at);
        }
        from = at + 2;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(line: &str) -> (String, Vec<(String, String)>, f64) {
        let (name, rest) = split_name(line.as_bytes());
        let sample = Sample::split(rest).unwrap();
        let labels = sample
            .labels()
            .map(|label| {
                let label = label.unwrap();
                (String::from_utf8(label.name.to_vec()).unwrap(), label.value().unwrap().into_owned())
            })
            .collect();
        (String::from_utf8(name.to_vec()).unwrap(), labels, sample.value().unwrap())
    }

    #[test]
    fn a_line_without_labels_is_read() {
        assert_eq!(read("up 1"), ("up".to_owned(), vec![], 1.0));
        assert_eq!(read("up{} 1.5e3 1700000000000"), ("up".to_owned(), vec![], 1500.0));
    }

    #[test]
    fn braces_commas_and_escapes_within_values_are_kept() {
        let (_, labels, value) = read(r#"m{a="x{y},=z",b="q\"\\\n" , c=""} +Inf"#);
        assert_eq!(
            labels,
            [
                ("a".to_owned(), "x{y},=z".to_owned()),
                ("b".to_owned(), "q\"\\\n".to_owned()),
                ("c".to_owned(), String::new())
            ]
        );
        assert!(value.is_infinite());
    }

    #[test]
    fn open_ends_are_errors() {
        for line in ["m{a=\"x\" 1", "m{a=\"x} 1", "m{a=\"x\\"] {
            let (_, rest) = split_name(line.as_bytes());
            assert_eq!(Sample::split(rest), Err(LineError::Labels), "{line}");
        }
        for labels in ["a", "a=x", "a=\"x\"b=\"y\""] {
            let sample = Sample { labels: labels.as_bytes(), tail: b"1" };
            assert!(sample.labels().any(|label| label.is_err()), "{labels}");
        }
        assert_eq!(Sample { labels: b"", tail: b"" }.value(), Err(LineError::Value));
        assert_eq!(Sample { labels: b"", tail: b"one" }.value(), Err(LineError::Value));
    }

    proptest! {
        #[test]
        fn every_label_value_survives_the_round_trip(value in ".*", number in any::<f64>()) {
            let mut line = "m{v=\"".to_owned();
            escape_into(&mut line, &value);
            line.push_str(&format!("\"}} {number}"));
            let (_, labels, read_number) = read(&line);
            prop_assert_eq!(&labels[0].1, &value);
            prop_assert!(read_number == number || (read_number.is_nan() && number.is_nan()));
        }

        #[test]
        fn no_bytes_make_the_reader_panic(line in proptest::collection::vec(any::<u8>(), 0..200)) {
            let (_, rest) = split_name(&line);
            if let Ok(sample) = Sample::split(rest) {
                let _ = sample.value();
                for label in sample.labels().flatten() {
                    let _ = label.value();
                }
            }
        }
    }
}
