//! Values by number, of which the last ones are kept.

/// Numbers in a row that have a value of their own.
pub(super) const LENGTH: u64 = 64;

/// Values by number: those whose numbers are [`LENGTH`] apart share a place.
#[derive(Clone, Debug)]
pub(super) struct Ring<T>([T; LENGTH as usize]);

impl<T: Copy + Default> Default for Ring<T> {
    fn default() -> Self {
        Self([T::default(); LENGTH as usize])
    }
}

impl<T: Copy + Default> Ring<T> {
    /// The value at that number's place.
    pub(super) fn get(&self, number: u64) -> T {
        self.0.get(index(number)).copied().unwrap_or_default()
    }

    /// The same, to be changed.
    pub(super) fn get_mut(&mut self, number: u64) -> Option<&mut T> {
        self.0.get_mut(index(number))
    }
}

#[allow(clippy::cast_possible_truncation, reason = "a remainder below 64")]
const fn index(number: u64) -> usize {
    (number % LENGTH) as usize
}
