//! What the candidates have of the adapter that a request asks for.

use xxhash_rust::xxh3::xxh3_64;

use crate::pool::Pool;

use super::candidate::{AdapterState, Candidate};
use super::rendezvous::weight;

/// Notes with each candidate what it has of the adapter `model`, if that is one, and where the adapter belongs while it is in use nowhere.
pub(super) fn note(pool: &Pool, model: &str, candidates: &mut [Candidate]) {
    let Some(asked) = pool.served().adapter(model) else { return };
    let mut is_in_use = false;
    let mut has_any_room = false;
    for candidate in candidates.iter_mut() {
        let Some(endpoint) = pool.endpoint(candidate.id) else { continue };
        let uses = pool.adapter_uses(endpoint.place());
        let mut own = uses.iter().filter(|used| Some(used.adapter) == asked.0);
        let distinct = uses.chunk_by(|left, right| left.adapter == right.adapter).count();
        let has_room = endpoint.load().max_lora.is_none_or(|most| distinct < most as usize);
        candidate.adapter = match own.next() {
            // The batch comes before the queue.
            Some(used) if !used.waiting => AdapterState::Running,
            Some(_) => AdapterState::Waiting { has_room },
            None => AdapterState::Absent { has_room },
        };
        is_in_use |= matches!(candidate.adapter, AdapterState::Running | AdapterState::Waiting { .. });
        has_any_room |= candidate.adapter == AdapterState::Absent { has_room: true };
    }
    if is_in_use {
        return;
    }
    let key = xxh3_64(model.as_bytes());
    let home = candidates
        .iter_mut()
        .filter(|candidate| !candidate.is_last && candidate.adapter == AdapterState::Absent { has_room: has_any_room })
        .max_by_key(|candidate| pool.endpoint(candidate.id).map(|endpoint| weight(key, endpoint.identity().address)));
    if let Some(home) = home {
        home.is_adapter_home = true;
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;
    use alloc::vec::Vec;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use snapshot::{AdapterUse, EndpointIdentity, Load, Loads, Membership, PoolMembers, ServedModel, State};

    use crate::time::Timestamp;

    use super::*;

    /// Another pool stands before this one, so that places and positions differ.
    fn stage(endpoints: u8, max_lora: u32, uses: &[(u32, u32, bool)]) -> Pool {
        let identities = |third: u8, count: u8| {
            (0..count).map(|last| EndpointIdentity::unnamed(([10, 0, third, last], 80).into())).collect::<Vec<_>>()
        };
        let adapter = |name: &str| ServedModel { name: name.into(), parent: "base".into(), max_model_len: None };
        let own = PoolMembers {
            name: "p".into(),
            endpoints: identities(1, endpoints),
            adapters: vec!["a".into(), "b".into(), "c".into()],
            models: vec![adapter("a"), adapter("cold")],
            ..PoolMembers::default()
        };
        let other = PoolMembers { name: "o".into(), endpoints: identities(0, 2), ..PoolMembers::default() };
        let mut pool = Pool::default();
        pool.install_membership(&Membership { epoch: 1, version: 1, pools: vec![other, own] }, "p");
        let load = Load { state: State::Fresh, age_ms: Some(0), max_lora: Some(max_lora), ..Load::default() };
        let loads = Loads {
            epoch: 1,
            membership_version: 1,
            endpoints: vec![load; 2 + usize::from(endpoints)],
            adapters: uses
                .iter()
                .map(|&(place, adapter, waiting)| AdapterUse { endpoint: place + 2, adapter, waiting })
                .chain([AdapterUse { endpoint: 0, adapter: 0, waiting: false }])
                .collect(),
            ..Loads::default()
        };
        pool.install_loads(&loads, Timestamp::from_micros(0)).unwrap();
        pool
    }

    fn noted(pool: &Pool, model: &str) -> Vec<Candidate> {
        let mut candidates: Vec<_> = pool.members().iter().map(|&id| Candidate::new(id, false)).collect();
        note(pool, model, &mut candidates);
        candidates
    }

    #[test]
    fn the_batch_the_queue_and_the_free_slots_are_told_apart() {
        let uses =
            [(1, 0, true), (0, 0, true), (0, 0, false), (2, 1, false), (2, 2, true), (3, 1, false), (3, 1, true)];
        let pool = stage(5, 2, &uses);
        let states: Vec<_> = noted(&pool, "a").iter().map(|candidate| candidate.adapter).collect();
        let absent = |has_room| AdapterState::Absent { has_room };
        assert_eq!(
            states,
            [
                AdapterState::Running,
                AdapterState::Waiting { has_room: true },
                absent(false),
                absent(true),
                absent(true)
            ],
            "one adapter in both lists takes one slot"
        );
        assert!(noted(&pool, "a").iter().all(|candidate| !candidate.is_adapter_home), "it is in use");
        assert!(noted(&pool, "base").iter().all(|candidate| candidate.adapter == AdapterState::NotAsked));
    }

    #[test]
    fn a_cold_adapter_has_one_home_among_those_with_room_and_everybody_agrees() {
        // The first two are full of another.
        let pool = stage(6, 1, &[(0, 1, false), (1, 1, false)]);
        for model in ["a", "cold"] {
            let homes = |candidates: Vec<Candidate>| -> Vec<_> {
                candidates.iter().filter(|candidate| candidate.is_adapter_home).map(|candidate| candidate.id).collect()
            };
            let home = homes(noted(&pool, model));
            assert_eq!(home.len(), 1);
            assert!(pool.members().iter().skip(2).any(|id| home == [*id]));
            let mut backwards: Vec<_> = pool.members().iter().rev().map(|&id| Candidate::new(id, false)).collect();
            note(&pool, model, &mut backwards);
            assert_eq!(homes(backwards), home, "the order of the candidates makes no difference");
        }
        let full = stage(2, 1, &[(0, 1, false), (1, 1, false)]);
        assert_eq!(noted(&full, "a").iter().filter(|candidate| candidate.is_adapter_home).count(), 1);
    }
}
