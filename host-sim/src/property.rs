//! Properties: typed values and the bytes a guest reads.

use std::time::Duration;

/// A property's value, with the type that decides its bytes
/// (Envoy `serializeValue`, `source/extensions/common/wasm/context.cc`).
#[derive(Clone, Debug, PartialEq)]
pub enum PropertyValue {
    /// Strings and bytes: as they are.
    Bytes(Vec<u8>),
    /// 8 bytes, little endian.
    Int(i64),
    /// 8 bytes, little endian.
    Uint(u64),
    /// 8 bytes, IEEE 754, little endian.
    Double(f64),
    /// 1 byte.
    Bool(bool),
    /// Nanoseconds as 8 bytes, little endian, signed; for a point in time, since the Unix epoch.
    Duration(Duration),
    /// The lookup returns `NotFound`, even where the host has a default.
    Missing,
}

impl PropertyValue {
    /// The bytes for the guest; `None` for [`PropertyValue::Missing`].
    #[must_use]
    pub fn bytes(&self) -> Option<Vec<u8>> {
        Some(match self {
            Self::Bytes(bytes) => bytes.clone(),
            Self::Int(value) => value.to_le_bytes().to_vec(),
            Self::Uint(value) => value.to_le_bytes().to_vec(),
            Self::Double(value) => value.to_le_bytes().to_vec(),
            Self::Bool(value) => vec![u8::from(*value)],
            Self::Duration(value) => i64::try_from(value.as_nanos()).unwrap_or(i64::MAX).to_le_bytes().to_vec(),
            Self::Missing => return None,
        })
    }
}

impl From<&str> for PropertyValue {
    fn from(text: &str) -> Self {
        Self::Bytes(text.as_bytes().to_vec())
    }
}

impl From<String> for PropertyValue {
    fn from(text: String) -> Self {
        Self::Bytes(text.into_bytes())
    }
}

impl From<Vec<u8>> for PropertyValue {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Bytes(bytes)
    }
}

impl From<&[u8]> for PropertyValue {
    fn from(bytes: &[u8]) -> Self {
        Self::Bytes(bytes.to_vec())
    }
}

impl From<u64> for PropertyValue {
    fn from(value: u64) -> Self {
        Self::Uint(value)
    }
}

impl From<i64> for PropertyValue {
    fn from(value: i64) -> Self {
        Self::Int(value)
    }
}

impl From<bool> for PropertyValue {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl From<f64> for PropertyValue {
    fn from(value: f64) -> Self {
        Self::Double(value)
    }
}

impl From<Duration> for PropertyValue {
    fn from(value: Duration) -> Self {
        Self::Duration(value)
    }
}

/// Splits a path as the guest gives it: parts separated by NUL.
pub(crate) fn parts(path: &[u8]) -> Vec<String> {
    path.split(|byte| *byte == 0).map(|part| String::from_utf8_lossy(part).into_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_eight_bytes_little_endian_and_bools_one() {
        assert_eq!(PropertyValue::from(258_u64).bytes(), Some(vec![2, 1, 0, 0, 0, 0, 0, 0]));
        assert_eq!(PropertyValue::from(-1_i64).bytes(), Some(vec![0xff; 8]));
        assert_eq!(PropertyValue::from(true).bytes(), Some(vec![1]));
        assert_eq!(PropertyValue::from(Duration::from_micros(1)).bytes(), Some(vec![0xe8, 3, 0, 0, 0, 0, 0, 0]));
        assert_eq!(PropertyValue::Missing.bytes(), None);
    }

    #[test]
    fn a_path_is_split_at_nul() {
        assert_eq!(parts(b"upstream\0address"), ["upstream", "address"]);
    }
}
