//! JSON as it is written: values with their places, repeated members kept. The plain counterpart of the scanner.
//!
//! `serde_json` decides what is JSON; only then is the text walked here, by a reader that therefore need not doubt it.

use std::ops::Range;

use serde_json::{Map, Value};

/// A value and where it stands.
pub(crate) struct Json<'a> {
    text: &'a [u8],
    /// From its first byte to behind its last.
    pub(crate) range: Range<usize>,
    pub(crate) kind: Kind<'a>,
}

/// What a value is.
pub(crate) enum Kind<'a> {
    Null,
    Bool(bool),
    Number,
    Text,
    Array(Vec<Json<'a>>),
    /// Members in the text's order, names decoded.
    Object(Vec<(String, Json<'a>)>),
}

impl<'a> Json<'a> {
    /// Reads a text; `None` if `serde_json` refuses it.
    pub(crate) fn read(text: &'a [u8]) -> Option<Self> {
        let value: Value = serde_json::from_slice(text).ok()?;
        let json = Reader { text, at: 0 }.value();
        assert_eq!(json.value(), value, "the reference misreads {:?}", String::from_utf8_lossy(text));
        Some(json)
    }

    /// The bytes of the value.
    pub(crate) fn token(&self) -> &'a [u8] {
        &self.text[self.range.clone()]
    }

    /// The decoded string.
    pub(crate) fn text(&self) -> Option<String> {
        matches!(self.kind, Kind::Text).then(|| serde_json::from_slice(self.token()).unwrap())
    }

    /// What stands between the quotes of a string.
    pub(crate) fn raw(&self) -> Option<&'a [u8]> {
        matches!(self.kind, Kind::Text).then(|| &self.text[self.range.start + 1..self.range.end - 1])
    }

    /// A number as written.
    pub(crate) fn number(&self) -> Option<&'a str> {
        matches!(self.kind, Kind::Number).then(|| std::str::from_utf8(self.token()).unwrap())
    }

    /// The members of an object; none of anything else.
    pub(crate) fn members(&self) -> &[(String, Self)] {
        if let Kind::Object(members) = &self.kind { members } else { &[] }
    }

    /// The elements of an array; none of anything else.
    pub(crate) fn elements(&self) -> &[Self] {
        if let Kind::Array(elements) = &self.kind { elements } else { &[] }
    }

    /// The last member of that name.
    pub(crate) fn last(&self, name: &str) -> Option<&Self> {
        self.members().iter().rev().find(|(key, _)| key == name).map(|(_, value)| value)
    }

    fn value(&self) -> Value {
        match &self.kind {
            Kind::Null => Value::Null,
            Kind::Bool(value) => Value::Bool(*value),
            Kind::Number | Kind::Text => serde_json::from_slice(self.token()).unwrap(),
            Kind::Array(elements) => elements.iter().map(Json::value).collect(),
            Kind::Object(members) => {
                Value::Object(members.iter().map(|(key, value)| (key.clone(), value.value())).collect::<Map<_, _>>())
            }
        }
    }
}

/// The whole number, not negative, that a token writes, also as a float without fraction.
pub(crate) fn whole(token: &str) -> Option<u64> {
    let float = || signed(token).and_then(|number| u64::try_from(number).ok());
    token.parse().ok().or_else(float)
}

/// The whole number that a token writes, also as a float without fraction below 2^53.
pub(crate) fn signed(token: &str) -> Option<i64> {
    let float =
        || token.parse().ok().filter(|float: &f64| float.fract() == 0.0 && float.abs() < 9_007_199_254_740_992.0);
    token.parse().ok().or_else(|| float().map(|float| float as i64))
}

struct Reader<'a> {
    text: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn next(&mut self) -> u8 {
        while self.text[self.at].is_ascii_whitespace() {
            self.at += 1;
        }
        self.text[self.at]
    }

    fn value(&mut self) -> Json<'a> {
        let first = self.next();
        let start = self.at;
        let kind = match first {
            b'{' => Kind::Object(self.list(|reader| {
                reader.next();
                let name = reader.string();
                reader.next();
                reader.at += 1;
                (serde_json::from_slice(name).unwrap(), reader.value())
            })),
            b'[' => Kind::Array(self.list(Self::value)),
            b'"' => {
                self.string();
                Kind::Text
            }
            letter => {
                let end = |byte: &u8| !byte.is_ascii_alphanumeric() && !matches!(byte, b'+' | b'-' | b'.');
                let rest = &self.text[self.at..];
                self.at += rest.iter().position(end).unwrap_or(rest.len());
                match letter {
                    b'n' => Kind::Null,
                    b't' | b'f' => Kind::Bool(letter == b't'),
                    _ => Kind::Number,
                }
            }
        };
        Json { text: self.text, range: start..self.at, kind }
    }

    fn list<T>(&mut self, item: impl Fn(&mut Self) -> T) -> Vec<T> {
        let mut items = Vec::new();
        self.at += 1;
        while !matches!(self.next(), b']' | b'}') {
            items.push(item(self));
            if self.next() == b',' {
                self.at += 1;
            }
        }
        self.at += 1;
        items
    }

    fn string(&mut self) -> &'a [u8] {
        let start = self.at;
        self.at += 1;
        while self.text[self.at] != b'"' {
            self.at += if self.text[self.at] == b'\\' { 2 } else { 1 };
        }
        self.at += 1;
        &self.text[start..self.at]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_found_where_they_stand() {
        let text = br#" { "a\"" : [1.5e3, null,{}] ,"b":"x\\","b":true}"#;
        let json = Json::read(text).unwrap();
        let names: Vec<_> = json.members().iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["a\"", "b", "b"]);
        let list = json.last("a\"").unwrap();
        assert_eq!(list.token(), b"[1.5e3, null,{}]");
        assert_eq!(list.elements()[0].number(), Some("1.5e3"));
        assert_eq!(json.members()[1].1.raw(), Some(br"x\\".as_slice()));
        assert!(matches!(json.last("b").unwrap().kind, Kind::Bool(true)));
        assert!(Json::read(b"{\"a\":01}").is_none());
    }

    #[test]
    fn whole_numbers_may_be_written_as_floats() {
        assert_eq!((whole("16"), whole("1e3"), whole("-0.0")), (Some(16), Some(1000), Some(0)));
        assert_eq!((whole("-1"), whole("1.5"), whole("1e16"), signed("-3.0")), (None, None, None, Some(-3)));
    }
}
