//! Models whose servers refuse to report usage for a stream, so that nobody asks them a second time.
//!
//! All workers share what one of them learned, in the host's shared data: a value for each bucket of models, in which the oldest entry makes
//! room for the newest, so that names that clients make up take no more than 4 KiB.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use crate::scheduling::model_key;
use crate::shared_data::{SharedData, update};

const BUCKETS: u64 = 64;
const BUCKET_ENTRIES: usize = 8;
const ENTRY_BYTES: usize = 8;

/// Notes that the server of a model refuses. True: it is noted.
pub fn note(shared: &mut impl SharedData, model: &str) -> bool {
    let hash = model_key(model).to_le_bytes();
    let noted = update(shared, &key(model), |held| {
        let held = held.unwrap_or_default().as_chunks::<ENTRY_BYTES>().0;
        let kept: Vec<_> = held.iter().filter(|entry| **entry != hash).collect();
        let surplus = (kept.len() + 1).saturating_sub(BUCKET_ENTRIES);
        let mut value = Vec::with_capacity(BUCKET_ENTRIES * ENTRY_BYTES);
        kept.into_iter().skip(surplus).for_each(|entry| value.extend_from_slice(entry));
        value.extend_from_slice(&hash);
        ((), Some(value))
    });
    noted.is_ok()
}

/// Whether the server of a model refused.
pub fn contains(shared: &mut impl SharedData, model: &str) -> bool {
    let Some((held, _)) = shared.get(&key(model)) else { return false };
    held.as_chunks::<ENTRY_BYTES>().0.contains(&model_key(model).to_le_bytes())
}

fn key(model: &str) -> String {
    format!("inpick.usage_refused.{}", model_key(model) % BUCKETS)
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::shared_data::fake::FakeSharedData;

    #[test]
    fn a_model_that_refused_is_known_and_no_other() {
        let mut shared = FakeSharedData::default();
        assert!(!contains(&mut shared, "a"));
        assert!(note(&mut shared, "a") && note(&mut shared, "a"));
        assert!(contains(&mut shared, "a"));
        assert!((0..1_000).all(|number| !contains(&mut shared, &format!("model-{number}"))));
    }

    #[test]
    fn made_up_models_take_no_more_room_than_there_is() {
        let mut shared = FakeSharedData::default();
        for number in 0..5_000 {
            assert!(note(&mut shared, &format!("model-{number}")));
        }
        assert!(contains(&mut shared, "model-4999"), "the newest is known");
        let bytes: usize = (0..BUCKETS)
            .filter_map(|bucket| shared.get(&format!("inpick.usage_refused.{bucket}")))
            .map(|(value, _)| value.len())
            .sum();
        assert!(bytes <= BUCKETS as usize * BUCKET_ENTRIES * ENTRY_BYTES, "{bytes}");
    }
}
