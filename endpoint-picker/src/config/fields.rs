//! One JSON object of a configuration, and what is wrong with its members.

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use serde_json::{Map, Value};

/// The members of one JSON object, taken out one by one; what is left at the end is unknown.
#[derive(Debug, Default)]
pub struct Fields {
    /// Where the object stands in the document, up to the dot before its members' names.
    pub path: String,
    /// The members that nobody has taken out yet.
    pub values: Map<String, Value>,
}

impl Fields {
    /// The members of `value`, which stands at `path`; none of them when it is no object, which is an error.
    pub fn of(value: Value, path: &str, errors: &mut Vec<String>) -> Self {
        let prefix = if path.is_empty() { String::new() } else { format!("{path}.") };
        match value {
            Value::Object(values) => Self { path: prefix, values },
            other => {
                errors.push(format!(
                    "{}: must be an object, not {other}",
                    if path.is_empty() { "the document" } else { path }
                ));
                Self { path: prefix, values: Map::new() }
            }
        }
    }

    fn take<T>(
        &mut self,
        name: &str,
        wanted: &str,
        errors: &mut Vec<String>,
        read: impl FnOnce(&Value) -> Option<T>,
    ) -> Option<T> {
        let value = self.values.remove(name)?;
        let read = read(&value);
        if read.is_none() {
            errors.push(format!("{}{name}: must be {wanted}, not {value}", self.path));
        }
        read
    }

    /// A text that is not empty.
    pub fn text(&mut self, name: &str, errors: &mut Vec<String>) -> Option<String> {
        self.take(name, "a text that is not empty", errors, |value| {
            value.as_str().filter(|text| !text.is_empty()).map(ToOwned::to_owned)
        })
    }

    /// Like [`Self::text`], but it must be there. Empty when it is not, which is an error.
    pub fn required_text(&mut self, name: &str, errors: &mut Vec<String>) -> String {
        if !self.values.contains_key(name) {
            errors.push(format!("{}{name}: missing", self.path));
        }
        self.text(name, errors).unwrap_or_default()
    }

    /// True or false.
    pub fn boolean(&mut self, name: &str, errors: &mut Vec<String>) -> Option<bool> {
        self.take(name, "true or false", errors, Value::as_bool)
    }

    /// An integer of that range. Integers may be written as `2.0`: Envoy turns a protobuf Struct into such JSON.
    pub fn integer(
        &mut self,
        name: &str,
        range: core::ops::RangeInclusive<u64>,
        errors: &mut Vec<String>,
    ) -> Option<u64> {
        let wanted = format!("an integer from {} to {}", range.start(), range.end());
        self.take(name, &wanted, errors, |value| {
            #[allow(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "whole, positive and below 2^53: checked"
            )]
            let whole = |number: f64| ((0.0..9e15).contains(&number) && number % 1.0 == 0.0).then_some(number as u64);
            value.as_u64().or_else(|| value.as_f64().and_then(whole)).filter(|integer| range.contains(integer))
        })
    }

    /// A number of that range.
    pub fn number(
        &mut self,
        name: &str,
        range: core::ops::RangeInclusive<f64>,
        errors: &mut Vec<String>,
    ) -> Option<f64> {
        let wanted = format!("a number from {} to {}", range.start(), range.end());
        self.take(name, &wanted, errors, |value| value.as_f64().filter(|number| range.contains(number)))
    }

    /// One of the words, as what it stands for.
    pub fn choice<T: Copy>(&mut self, name: &str, choices: &[(&str, T)], errors: &mut Vec<String>) -> Option<T> {
        let wanted = format!("one of {}", choices.iter().map(|(word, _)| *word).collect::<Vec<_>>().join(", "));
        self.take(name, &wanted, errors, |value| {
            choices.iter().find(|(word, _)| value.as_str() == Some(word)).map(|&(_, choice)| choice)
        })
    }

    /// Like [`Self::choice`], but it must be there.
    pub fn required_choice<T: Copy>(
        &mut self,
        name: &str,
        choices: &[(&str, T)],
        errors: &mut Vec<String>,
    ) -> Option<T> {
        if !self.values.contains_key(name) {
            errors.push(format!("{}{name}: missing", self.path));
        }
        self.choice(name, choices, errors)
    }

    /// An object; a member of another kind is an error and has no members.
    pub fn object(&mut self, name: &str, errors: &mut Vec<String>) -> Option<Self> {
        let value = self.values.remove(name)?;
        Some(Self::of(value, &format!("{}{name}", self.path), errors))
    }

    /// The items of a list, each with its path.
    pub fn list(&mut self, name: &str, errors: &mut Vec<String>) -> Option<Vec<(String, Value)>> {
        let path = format!("{}{name}", self.path);
        let items = self.take(name, "a list", errors, |value| value.as_array().cloned())?;
        Some(items.into_iter().enumerate().map(|(index, item)| (format!("{path}[{index}]"), item)).collect())
    }

    /// Names what is left as unknown.
    pub fn finish(self, errors: &mut Vec<String>) {
        errors.extend(self.values.keys().map(|name| format!("{}{name}: unknown", self.path)));
    }
}
