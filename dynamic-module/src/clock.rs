//! Time and chance.

use std::hash::{BuildHasher, Hasher};
use std::sync::LazyLock;
use std::time::Instant;

use endpoint_picker::Timestamp;

/// The core takes 0 for never, and subtracts; so the clock begins a day late.
const ORIGIN_MICROS: u64 = 24 * 60 * 60 * 1_000_000;

static ORIGIN: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Now, on the monotonic clock of the process.
pub(crate) fn now() -> Timestamp {
    let elapsed = u64::try_from(ORIGIN.elapsed().as_micros()).unwrap_or(u64::MAX);
    Timestamp::from_micros(elapsed.saturating_add(ORIGIN_MICROS))
}

/// 64 random bits.
pub(crate) fn random() -> u64 {
    // Its keys are drawn by the operating system's random generator.
    std::hash::RandomState::new().build_hasher().finish()
}
