//! `stream_options` of a JSON body: whether it asks for usage, and how it could.

use core::ops::Range;

use super::facts::Edit;
use super::values::switch;
use crate::openai::json::{Container, Scalar};

/// What asks for usage in a body that has no `stream_options`.
pub const USAGE_MEMBER: &str = r#""stream_options":{"include_usage":true},"#;

/// What a body says in its last `stream_options`.
#[derive(Clone, Debug, Default)]
pub(super) enum StreamOptions {
    /// Nothing.
    #[default]
    Absent,
    /// `null`, in this range.
    Null(Range<u64>),
    /// An object.
    Object(Object),
    /// What no server takes for options, or asks for more than usage: not to be touched.
    Other,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Object {
    /// Offset behind the bracket that opens it.
    at: u64,
    has_members: bool,
    include_usage: bool,
    /// Where its last `include_usage` says no.
    denied: Option<Range<u64>>,
    /// Another value than yes or no.
    is_spoilt: bool,
    is_whole: bool,
}

impl StreamOptions {
    /// The value is neither array nor object.
    pub(super) fn scalar(&mut self, scalar: Scalar<'_>, range: Range<u64>) {
        *self = if scalar == Scalar::Null { Self::Null(range) } else { Self::Other };
    }

    /// The value is an array or object, which begins.
    pub(super) fn open(&mut self, container: Container, at: u64) {
        *self = match container {
            Container::Object => Self::Object(Object { at: at + 1, ..Object::default() }),
            Container::Array => Self::Other,
        };
    }

    /// A member of the object comes.
    pub(super) fn member(&mut self) {
        if let Self::Object(object) = self {
            object.has_members = true;
        }
    }

    /// The value of its `include_usage`.
    pub(super) fn switch(&mut self, scalar: Scalar<'_>, range: Range<u64>) {
        if let Self::Object(object) = self {
            object.include_usage = switch(scalar);
            let is_no = matches!(scalar, Scalar::Null | Scalar::Bool(false));
            object.is_spoilt |= !is_no && !object.include_usage;
            object.denied = is_no.then_some(range);
        }
    }

    /// The value of its `continuous_usage_stats`: with usage, each event would carry it.
    pub(super) fn continuous(&mut self, scalar: Scalar<'_>) {
        if let Self::Object(object) = self {
            object.is_spoilt |= !matches!(scalar, Scalar::Null | Scalar::Bool(false));
        }
    }

    /// A value of either is an array or object.
    pub(super) fn spoil(&mut self) {
        if let Self::Object(object) = self {
            object.is_spoilt = true;
            object.include_usage = false;
        }
    }

    /// The object ends.
    pub(super) fn close(&mut self) {
        if let Self::Object(object) = self {
            object.is_whole = true;
        }
    }

    /// Whether they ask for usage.
    pub(super) const fn include_usage(&self) -> bool {
        matches!(self, Self::Object(object) if object.include_usage)
    }

    /// What makes a body whose first member may stand at `root_at` ask for usage.
    pub(super) fn usage_edit(&self, root_at: u64) -> Option<Edit> {
        // A body is in memory, so its offsets fit.
        let range = |range: &Range<u64>| range.start as usize..range.end as usize;
        let insert = |at: u64, text| Edit { range: range(&(at..at)), text };
        match self {
            Self::Absent => Some(insert(root_at, USAGE_MEMBER)),
            Self::Null(null) => Some(Edit { range: range(null), text: r#"{"include_usage":true}"# }),
            Self::Object(object) if object.include_usage || object.is_spoilt || !object.is_whole => None,
            Self::Object(Object { denied: Some(denied), .. }) => Some(Edit { range: range(denied), text: "true" }),
            Self::Object(Object { at, has_members: true, .. }) => Some(insert(*at, r#""include_usage":true,"#)),
            Self::Object(Object { at, .. }) => Some(insert(*at, r#""include_usage":true"#)),
            Self::Other => None,
        }
    }
}
