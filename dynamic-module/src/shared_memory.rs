//! The core's shared data as memory of the process: values by key, written by compare-and-swap.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, TryLockError};

use endpoint_picker::shared_data::{SetError, SharedData};

/// Keys are spread over so many locks, each held for one look-up or one write: requests that name responses meet rarely.
const SHARDS: usize = 64;

/// Tries of a lock before a thread gives up: a look-up takes less than a tenth of them.
const TRIES: u32 = 10_000;

/// Values by key, shared by all threads. No thread waits for another that the system may have stopped: it finds nothing, and writes nothing.
#[derive(Debug)]
pub(crate) struct SharedMemory {
    hasher: RandomState,
    shards: [Mutex<HashMap<String, Value>>; SHARDS],
}

#[derive(Debug)]
struct Value {
    bytes: Vec<u8>,
    /// What a compare-and-swap must give; it changes with each write and is never 0.
    cas: u32,
}

impl Default for SharedMemory {
    fn default() -> Self {
        Self { hasher: RandomState::new(), shards: std::array::from_fn(|_| Mutex::default()) }
    }
}

impl SharedMemory {
    fn with_shard<T>(&self, key: &str, then: impl FnOnce(&mut HashMap<String, Value>) -> T) -> Option<T> {
        let place = self.hasher.hash_one(key) % SHARDS as u64;
        let shard = self.shards.get(usize::try_from(place).ok()?)?;
        for _ in 0..TRIES {
            match shard.try_lock() {
                Ok(mut values) => return Some(then(&mut values)),
                // Each write is whole: a panic elsewhere left nothing half done.
                Err(TryLockError::Poisoned(poisoned)) => return Some(then(&mut poisoned.into_inner())),
                Err(TryLockError::WouldBlock) => std::hint::spin_loop(),
            }
        }
        None
    }
}

impl SharedData for &SharedMemory {
    fn get(&mut self, key: &str) -> Option<(Vec<u8>, u32)> {
        self.with_shard(key, |values| values.get(key).map(|value| (value.bytes.clone(), value.cas)))?
    }

    fn set(&mut self, key: &str, value: &[u8], cas: u32) -> Result<(), SetError> {
        let set = |values: &mut HashMap<String, Value>| {
            let Some(held) = values.get_mut(key) else {
                values.insert(key.to_owned(), Value { bytes: value.to_vec(), cas: 1 });
                return Ok(());
            };
            if cas != 0 && held.cas != cas {
                return Err(SetError::Changed);
            }
            held.bytes.clear();
            held.bytes.extend_from_slice(value);
            held.cas = held.cas.wrapping_add(1).max(1);
            Ok(())
        };
        self.with_shard(key, set).unwrap_or(Err(SetError::Changed))
    }
}
