//! YAML as far as JSON goes: one document of mappings with texts as keys, lists, and scalars of the core schema.
//!
//! The parser is a library; what its events make is put together here, because the libraries that also do that make the module that Envoy
//! loads twice as large.

use std::borrow::Cow;
use std::collections::HashMap;

use granit_parser::{Event, Parser, ScalarStyle, Span, Tag};
use serde_json::{Map, Value};

/// Values that a document may have once each alias stands for what it refers to: a few aliases of aliases could stand for more than there
/// is memory.
const MOST_VALUES: usize = 100_000;
/// Lists and mappings within one another, as many as JSON's reader takes.
const MOST_LEVELS: usize = 127;

/// Reads one document; nothing at all is null.
pub(crate) fn read(text: &str) -> Result<Value, String> {
    let mut reader = Reader::default();
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|error| error.to_string())?;
        reader.take(event).map_err(|error| at(&error, &span))?;
    }
    Ok(reader.document.unwrap_or_default())
}

fn at(error: &str, span: &Span) -> String {
    format!("{error} at line {} column {}", span.start.line(), span.start.col() + 1)
}

#[derive(Debug, Default)]
struct Reader {
    document: Option<Value>,
    open: Vec<Open>,
    /// What anchors stand for, and how many values that is.
    anchors: HashMap<usize, (Value, usize)>,
    values: usize,
}

/// A list or mapping whose end is yet to come.
#[derive(Debug)]
struct Open {
    node: Node,
    anchor: usize,
    /// Values before it.
    before: usize,
}

#[derive(Debug)]
enum Node {
    List(Vec<Value>),
    Mapping { members: Map<String, Value>, key: Option<String> },
}

impl Reader {
    fn take(&mut self, event: Event<'_>) -> Result<(), String> {
        match event {
            Event::DocumentStart(..) if self.document.is_some() => Err("a second document".to_owned()),
            Event::Scalar(text, style, anchor, tag) => {
                self.count(1)?;
                self.close(scalar(text, style, tag.as_deref())?, anchor, 1)
            }
            Event::SequenceStart(_, anchor, tag) => self.open(Node::List(Vec::new()), anchor, tag.is_some()),
            Event::MappingStart(_, anchor, tag) => {
                self.open(Node::Mapping { members: Map::new(), key: None }, anchor, tag.is_some())
            }
            Event::SequenceEnd | Event::MappingEnd => {
                let Some(Open { node, anchor, before }) = self.open.pop() else { return Ok(()) };
                let value = match node {
                    Node::List(items) => Value::Array(items),
                    Node::Mapping { members, .. } => Value::Object(members),
                };
                self.close(value, anchor, self.values - before)
            }
            Event::Alias(anchor) => {
                let Some((value, count)) = self.anchors.get(&anchor) else {
                    return Err("an alias of what is not complete".to_owned());
                };
                let (value, count) = (value.clone(), *count);
                self.count(count)?;
                self.close(value, 0, count)
            }
            _ => Ok(()),
        }
    }

    fn count(&mut self, values: usize) -> Result<(), String> {
        self.values += values;
        if self.values > MOST_VALUES { Err(format!("more than {MOST_VALUES} values")) } else { Ok(()) }
    }

    fn open(&mut self, node: Node, anchor: usize, has_tag: bool) -> Result<(), String> {
        if has_tag {
            return Err("a tag".to_owned());
        }
        if self.open.len() >= MOST_LEVELS {
            return Err(format!("more than {MOST_LEVELS} levels"));
        }
        let before = self.values;
        self.count(1)?;
        self.open.push(Open { node, anchor, before });
        Ok(())
    }

    /// A value is complete: it belongs to what is open, or is the document.
    fn close(&mut self, value: Value, anchor: usize, count: usize) -> Result<(), String> {
        if anchor != 0 {
            self.anchors.insert(anchor, (value.clone(), count));
        }
        match self.open.last_mut().map(|open| &mut open.node) {
            None => self.document = Some(value),
            Some(Node::List(items)) => items.push(value),
            Some(Node::Mapping { members, key }) => match (key.take(), value) {
                (Some(name), value) => {
                    if members.contains_key(&name) {
                        return Err(format!("a second {name}"));
                    }
                    members.insert(name, value);
                }
                (None, Value::Array(_) | Value::Object(_)) => return Err("a key that is no text".to_owned()),
                (None, Value::String(name)) => *key = Some(name),
                (None, value) => *key = Some(value.to_string()),
            },
        }
        Ok(())
    }
}

/// A scalar by the core schema: what is quoted is a text.
fn scalar(text: Cow<'_, str>, style: ScalarStyle, tag: Option<&Tag>) -> Result<Value, String> {
    let is_text = match tag {
        None => style != ScalarStyle::Plain,
        Some(tag) if tag.is_yaml_core_schema() && tag.suffix() == "str" => true,
        Some(_) => return Err("a tag".to_owned()),
    };
    if is_text {
        return Ok(Value::String(text.into_owned()));
    }
    Ok(match &*text {
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        "true" | "True" | "TRUE" => true.into(),
        "false" | "False" | "FALSE" => false.into(),
        _ => number(&text).unwrap_or_else(|| Value::String(text.into_owned())),
    })
}

fn number(text: &str) -> Option<Value> {
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    if let Some(digits) = text.strip_prefix("0x") {
        return u64::from_str_radix(digits, 16).ok().map(Value::from);
    }
    if let Some(digits) = text.strip_prefix("0o") {
        return u64::from_str_radix(digits, 8).ok().map(Value::from);
    }
    // Rust also reads `inf`, `nan` and the like as numbers.
    if !unsigned.starts_with(|first: char| first.is_ascii_digit() || first == '.') {
        return None;
    }
    let integer = || text.parse::<i64>().ok().map(Value::from).or_else(|| text.parse::<u64>().ok().map(Value::from));
    integer().or_else(|| text.parse::<f64>().ok().filter(|number| number.is_finite()).map(Value::from))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn scalars_are_those_of_the_core_schema() {
        let text = "[~, null, true, False, 1, -2, +3, 0x1F, 0o17, 1.5, 1e3, .5, 18446744073709551615, yes, .inf, inf, 1.2.3, 5m, '1', \"true\", !!str 7]";
        assert_eq!(
            read(text).unwrap(),
            json!([
                null,
                null,
                true,
                false,
                1,
                -2,
                3,
                31,
                15,
                1.5,
                1000.0,
                0.5,
                u64::MAX,
                "yes",
                ".inf",
                "inf",
                "1.2.3",
                "5m",
                "1",
                "true",
                "7"
            ])
        );
        assert_eq!(read("a: |\n  x\n  y\nb: >\n  x\n  y\n").unwrap(), json!({"a": "x\ny\n", "b": "x y\n"}));
        assert_eq!(read("").unwrap(), Value::Null);
        assert_eq!(read("# nothing\n").unwrap(), Value::Null);
    }

    #[test]
    fn mappings_and_lists_nest() {
        let text = "a:\n- b: 1\n  c: []\n- {d: {}}\n- - 2\n1: x\n";
        assert_eq!(read(text).unwrap(), json!({"a": [{"b": 1, "c": []}, {"d": {}}, [2]], "1": "x"}));
    }

    #[test]
    fn an_alias_is_what_it_refers_to() {
        assert_eq!(
            read("a: &x {b: &y [1]}\nc: *x\nd: *y\n").unwrap(),
            json!({"a": {"b": [1]}, "c": {"b": [1]}, "d": [1]})
        );
        assert!(read("a: *x\n").is_err());
        assert!(read("a: &x [*x]\n").is_err());
    }

    #[test]
    fn aliases_of_aliases_do_not_grow_without_bound() {
        let mut text = "a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n".to_owned();
        for level in 1..10 {
            let before = vec![format!("*a{}", level - 1); 10].join(", ");
            text.push_str(&format!("a{level}: &a{level} [{before}]\n"));
        }
        assert!(read(&text).unwrap_err().starts_with("more than 100000 values at line "));
    }

    #[test]
    fn levels_are_bounded() {
        assert!(read(&format!("{}{}", "[".repeat(127), "]".repeat(127))).is_ok());
        for text in ["[".repeat(100_000), "- ".repeat(100_000), "{a: ".repeat(100_000)] {
            assert!(read(&text).is_err());
        }
        assert!(
            read(&format!("{}{}", "[".repeat(128), "]".repeat(128))).unwrap_err().starts_with("more than 127 levels")
        );
    }

    #[test]
    fn what_json_cannot_say_is_refused_by_its_place() {
        for (text, error) in [
            ("a: 1\na: 2\n", "a second a at line 2 column 4"),
            ("{[1]: 2}", "a key that is no text at line 1"),
            ("a: !x 1\n", "a tag at line 1"),
            ("a: !x [1]\n", "a tag at line 1"),
            ("a: 1\n---\nb: 1\n", "a second document at line 2"),
        ] {
            let found = read(text).unwrap_err();
            assert!(found.starts_with(error), "{text:?}: {found}");
        }
    }
}
