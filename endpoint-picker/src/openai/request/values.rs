//! Values of members and parts, as servers' validation takes them.

use alloc::{string::String, vec::Vec};
use core::ops::Range;

use super::facts::{MAX_MODEL_MEMBERS, Model, Notation, RequestError};
use crate::openai::json::{self, Scalar};

/// Longest string that can spell a boolean or a number, with room to see that a longer one does not.
pub(super) const MAX_SWITCH_BYTES: usize = 24;

/// The value of one `model` member or part.
#[derive(Clone, Debug, Default)]
pub(super) enum ModelValue {
    #[default]
    Missing,
    Named(String),
    Empty,
    TooLong,
    NotAString,
    /// At this offset of the body.
    NotUtf8(u64),
}

/// All `model` members or parts of a body: the value of the last one, and where each of them is.
#[derive(Clone, Debug, Default)]
pub(super) struct ModelValues {
    last: ModelValue,
    ranges: Vec<Range<usize>>,
    too_many: bool,
}

impl ModelValues {
    /// Adds one that lies in `range`.
    pub(super) fn add(&mut self, value: ModelValue, range: Range<u64>) {
        self.last = value;
        if self.ranges.len() >= MAX_MODEL_MEMBERS {
            self.too_many = true;
            return;
        }
        // A body is in memory, so its offsets fit.
        self.ranges.push(range.start as usize..range.end as usize);
    }

    /// The name that the last one gives, if it is one.
    pub(super) fn named(&self) -> Option<&str> {
        match &self.last {
            ModelValue::Named(name) if !self.too_many => Some(name),
            _ => None,
        }
    }

    /// The model that the last one names.
    pub(super) fn model(self, notation: Notation) -> Result<Model, RequestError> {
        if self.too_many {
            return Err(RequestError::ModelRepeated);
        }
        match self.last {
            ModelValue::Missing => Ok(Model::Missing),
            ModelValue::Named(name) => Ok(Model::Named { name, value_ranges: self.ranges, notation }),
            ModelValue::Empty => Err(RequestError::ModelEmpty),
            ModelValue::TooLong => Err(RequestError::ModelTooLong),
            ModelValue::NotAString => Err(RequestError::ModelNotAString),
            ModelValue::NotUtf8(offset) => Err(RequestError::NotUtf8 { offset }),
        }
    }
}

/// A boolean as vLLM's validation reads it; what it would refuse is false.
pub(super) fn switch(scalar: Scalar<'_>) -> bool {
    match scalar {
        Scalar::Bool(value) => value,
        Scalar::Number(token) => json::unsigned(token) == Some(1),
        Scalar::Text { text, cut: false } => {
            let words: [&[u8]; 6] = [b"true", b"t", b"yes", b"y", b"on", b"1"];
            words.iter().any(|word| text.eq_ignore_ascii_case(word))
        }
        _ => false,
    }
}

/// A whole number that is not negative, also as a string.
pub(super) fn whole(scalar: Scalar<'_>) -> Option<u64> {
    match scalar {
        Scalar::Number(text) | Scalar::Text { text, cut: false } => json::unsigned(text),
        _ => None,
    }
}

/// A whole number, also as a string.
pub(super) fn signed(scalar: Scalar<'_>) -> Option<i64> {
    match scalar {
        Scalar::Number(text) | Scalar::Text { text, cut: false } => json::signed(text),
        _ => None,
    }
}
