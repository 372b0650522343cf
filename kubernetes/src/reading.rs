//! A part of an object that need not be as expected: it must not spoil the list that the object is in.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};

/// The part, or why it cannot be read.
#[derive(Clone, Debug)]
pub(crate) struct Reading<T>(pub(crate) Result<T, String>);

impl<T: Default> Default for Reading<T> {
    fn default() -> Self {
        Self(Ok(T::default()))
    }
}

impl<'de, T: DeserializeOwned> Deserialize<'de> for Reading<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let value = serde_json::Value::deserialize(from)?;
        Ok(Self(serde_json::from_value(value).map_err(|error| error.to_string())))
    }
}
