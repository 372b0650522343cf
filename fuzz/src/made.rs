//! JSON made of words that mean something to a reader, chosen byte by byte: what chance would not put together.

/// Values, and those that readers tell apart.
const VALUES: [&str; 34] = [
    "null",
    "true",
    "false",
    "0",
    "1",
    "-0",
    "-1",
    "7",
    "8.0",
    "1e3",
    "1.5",
    "18446744073709551615",
    "18446744073709551616",
    "9007199254740993.0",
    r#""""#,
    r#""m""#,
    r#""org/m\u00e9del:v1""#,
    r#""\ud83e\udd80\n""#,
    r#""TRUE""#,
    r#""on""#,
    r#""16""#,
    r#""1.0""#,
    r#""0000000000000000000000001""#,
    r#""error""#,
    r#""failed""#,
    r#""response.failed""#,
    r#""message_stop""#,
    r#""ééééééééééééééééééééééééééééééééééééééééé""#,
    r#""0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdefg""#,
    "[]",
    r#""sse""#,
    r#""stop""#,
    r#""transcript.text.done""#,
    r#""127""#,
];

const MAX_DEPTH: usize = 6;
const MAX_CHOICES: usize = 256;

/// What is left to choose with; behind its end every choice is 0.
pub(crate) struct Choices<'a>(&'a [u8]);

impl<'a> Choices<'a> {
    /// The first of the bytes: more of them only make long texts of what short ones hold.
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes.get(..MAX_CHOICES).unwrap_or(bytes))
    }

    /// Whether none is left.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next choice.
    pub(crate) fn next(&mut self) -> u8 {
        let Some((&first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        first
    }

    /// An object with members of these names, in any order and number.
    pub(crate) fn object(&mut self, names: &[&str]) -> String {
        let mut out = String::new();
        self.add_object(names, MAX_DEPTH, &mut out);
        out
    }

    fn add_object(&mut self, names: &[&str], depth: usize, out: &mut String) {
        out.push('{');
        let mut separator = "";
        loop {
            let choice = self.next();
            if choice == 0 {
                break;
            }
            out.push_str(&format!("{separator}\"{}\":", names[usize::from(choice) % names.len()]));
            self.add_value(names, depth - 1, out);
            separator = ",";
        }
        out.push('}');
    }

    fn add_value(&mut self, names: &[&str], depth: usize, out: &mut String) {
        match self.next() {
            0..=49 if depth > 0 => self.add_object(names, depth, out),
            50..=79 if depth > 0 => {
                out.push('[');
                let length = self.next() % 4;
                for index in 0..length {
                    out.push_str(if index > 0 { "," } else { "" });
                    self.add_value(names, depth - 1, out);
                }
                out.push(']');
            }
            choice => out.push_str(VALUES[usize::from(choice) % VALUES.len()]),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn whatever_is_chosen_is_json() {
        for seed in 0..2000_u32 {
            let choices: Vec<u8> =
                (0..seed % 97).map(|index| (seed.wrapping_mul(2_654_435_761) >> (index % 24)) as u8).collect();
            let made = Choices::new(&choices).object(&["a", "b"]);
            assert!(serde_json::from_str::<Value>(&made).is_ok_and(|value| value.is_object()), "{made}");
        }
        assert_eq!(
            Choices::new(&[1, 102, 2, 60, 2, 103, 104, 0]).object(&["a", "b"]),
            r#"{"b":null,"a":[true,false]}"#
        );
    }
}
