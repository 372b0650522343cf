//! What all virtual machines of one Envoy share: values by key, written by compare-and-swap.

use alloc::vec::Vec;

/// The host's shared data.
pub trait SharedData {
    /// A value, and the number that a compare-and-swap must give; `None` when nobody wrote it yet.
    fn get(&mut self, key: &str) -> Option<(Vec<u8>, u32)>;
    /// Replaces a value if `cas` is still its number; 0 replaces it whatever it is. A key that nobody wrote takes any number.
    ///
    /// # Errors
    ///
    /// See [`SetError`].
    fn set(&mut self, key: &str, value: &[u8], cas: u32) -> Result<(), SetError>;
}

/// Why a value was not written.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum SetError {
    /// Somebody else wrote it since it was read.
    Changed,
    /// The host refuses.
    Refused,
}

/// The number for a key that is to be created: no value has it, so a key that somebody else created meanwhile stays as it is.
const CREATE: u32 = u32::MAX;
/// Compare-and-swaps that may fail in a row before the next tick tries again.
const TRIES: usize = 8;

/// Replaces a value by what `change` makes of it; `None` of `change` leaves it as it is. Gives what was read last, and whether it was
/// written.
///
/// # Errors
///
/// [`SetError::Changed`] when others were faster several times, [`SetError::Refused`] when the host refuses.
pub fn update<T>(
    shared: &mut impl SharedData,
    key: &str,
    mut change: impl FnMut(Option<&[u8]>) -> (T, Option<Vec<u8>>),
) -> Result<T, SetError> {
    for _ in 0..TRIES {
        let held = shared.get(key);
        let cas = held.as_ref().map_or(CREATE, |&(_, cas)| cas);
        let (result, value) = change(held.as_ref().map(|(bytes, _)| bytes.as_slice()));
        let Some(value) = value else { return Ok(result) };
        match shared.set(key, &value, cas) {
            Ok(()) => return Ok(result),
            Err(SetError::Changed) => {}
            Err(SetError::Refused) => return Err(SetError::Refused),
        }
    }
    Err(SetError::Changed)
}

#[cfg(test)]
pub(crate) mod fake {
    use alloc::borrow::ToOwned;
    use alloc::string::String;

    use hashbrown::HashMap;

    use super::*;

    /// Shared data as Envoy keeps them, with mishaps on demand.
    #[derive(Default)]
    pub(crate) struct FakeSharedData {
        pub(crate) values: HashMap<String, (Vec<u8>, u32)>,
        last: u32,
        /// Writes that find that somebody else was faster.
        pub(crate) lost: usize,
        /// Every write is refused.
        pub(crate) refuses: bool,
        /// Writes that succeeded.
        pub(crate) writes: usize,
    }

    impl SharedData for FakeSharedData {
        fn get(&mut self, key: &str) -> Option<(Vec<u8>, u32)> {
            self.values.get(key).cloned()
        }

        fn set(&mut self, key: &str, value: &[u8], cas: u32) -> Result<(), SetError> {
            if self.refuses {
                return Err(SetError::Refused);
            }
            let current = self.values.get(key).map(|&(_, cas)| cas);
            if self.lost > 0 && cas != 0 {
                self.lost -= 1;
                return Err(SetError::Changed);
            }
            if cas != 0 && current.is_some_and(|current| current != cas) {
                return Err(SetError::Changed);
            }
            self.last += 1;
            self.writes += 1;
            self.values.insert(key.to_owned(), (value.to_vec(), self.last));
            Ok(())
        }
    }
}
