//! What the workers of one proxy share, as plain values. Tests include this file.

use std::collections::HashMap;

use endpoint_picker::shared_data::{SetError, SharedData};

/// Envoy's shared data.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    values: HashMap<String, (Vec<u8>, u32)>,
    /// Reads and writes.
    pub(crate) calls: usize,
}

impl SharedData for Shared {
    fn get(&mut self, key: &str) -> Option<(Vec<u8>, u32)> {
        self.calls += 1;
        self.values.get(key).cloned()
    }

    fn set(&mut self, key: &str, value: &[u8], cas: u32) -> Result<(), SetError> {
        self.calls += 1;
        let number = self.values.get(key).map_or(0, |&(_, number)| number);
        if cas != 0 && number != 0 && cas != number {
            return Err(SetError::Changed);
        }
        self.values.insert(key.to_owned(), (value.to_vec(), number + 1));
        Ok(())
    }
}
