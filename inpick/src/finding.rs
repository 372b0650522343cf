//! What a check finds.

use std::fmt;

/// How bad it is.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Severity {
    /// Something works in another way than one may think.
    Note,
    /// Something is worse than it could be.
    Warning,
    /// Something does not work.
    Error,
}

/// One thing that was found.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Finding {
    /// How bad it is.
    pub(crate) severity: Severity,
    /// The field, the line or the signal; empty: all of it.
    pub(crate) place: String,
    /// What is wrong, and what follows from it.
    pub(crate) reason: String,
}

impl Finding {
    pub(crate) fn error(place: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { severity: Severity::Error, place: place.into(), reason: reason.into() }
    }

    pub(crate) fn warning(place: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, place: place.into(), reason: reason.into() }
    }

    /// One that a reader of configurations spells `FIELD: REASON`, below a place.
    pub(crate) fn spelled(severity: Severity, below: &str, text: &str) -> Self {
        let is_field = |field: &str| !field.is_empty() && !field.contains(' ');
        let (field, reason) = text.split_once(": ").filter(|(field, _)| is_field(field)).unwrap_or(("", text));
        let place = [below, field].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(": ");
        Self { severity, place, reason: reason.to_owned() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.place.is_empty() {
            write!(out, "{}: ", self.place)?;
        }
        out.write_str(&self.reason)
    }
}
