//! The name of what a reader has, as it travels in `etag` and `if-none-match`.

use core::fmt;
use core::str::FromStr;

/// Names a membership and the loads that belong to it: `"epoch.membership.generation"` in hexadecimal, quotes included.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Tag {
    /// The sidecar's start.
    pub epoch: u64,
    /// Version of the membership.
    pub membership_version: u64,
    /// Generation of the loads.
    pub generation: u64,
}

/// A text is no [`Tag`].
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("not a tag of the form \"epoch.membership.generation\"")]
pub struct TagError;

impl fmt::Display for Tag {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "\"{:x}.{:x}.{:x}\"", self.epoch, self.membership_version, self.generation)
    }
}

impl FromStr for Tag {
    type Err = TagError;

    fn from_str(text: &str) -> Result<Self, TagError> {
        let inner = text.trim().strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).ok_or(TagError)?;
        let mut numbers = inner.split('.').map(|number| u64::from_str_radix(number, 16).map_err(|_| TagError));
        let mut next = || numbers.next().unwrap_or(Err(TagError));
        let tag = Self { epoch: next()?, membership_version: next()?, generation: next()? };
        if numbers.next().is_some() { Err(TagError) } else { Ok(tag) }
    }
}

#[cfg(test)]
mod tests {
    use alloc::string::ToString;

    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let tag = Tag { epoch: u64::MAX, membership_version: 3, generation: 0x1f };
        assert_eq!(tag.to_string().parse(), Ok(tag));
    }

    #[test]
    fn other_texts_are_refused() {
        for text in ["", "\"\"", "1.2.3", "\"1.2\"", "\"1.2.3.4\"", "\"x.2.3\"", "W/\"1.2.3\"", "*"] {
            assert_eq!(text.parse::<Tag>(), Err(TagError), "{text}");
        }
    }
}
