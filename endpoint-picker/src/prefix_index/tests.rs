use alloc::vec;
use alloc::vec::Vec;
use std::collections::BTreeMap;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

use super::*;
use crate::rng::Rng;

/// A prompt of so many marks of 10 bytes; those from `differs` on are of that family alone.
fn prompt(family: u64, differs: usize, marks: usize) -> Vec<PrefixMark> {
    let hash = |place: usize| {
        let owner = if place < differs { 0 } else { family * 100 + differs as u64 };
        (owner * 1_000 + place as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15)
    };
    (0..marks).map(|place| PrefixMark { hash: hash(place), end: (place as u32 + 1) * 10 }).collect()
}

fn found(index: &PrefixIndex, marks: &[PrefixMark]) -> BTreeMap<u32, u32> {
    let mut found = BTreeMap::new();
    index.find(marks, |slot, bytes| {
        found.entry(slot).or_insert(bytes);
    });
    found
}

#[test]
fn everybody_is_found_as_far_as_they_share_the_prompt() {
    let mut index = PrefixIndex::default();
    assert_eq!(index.insert(0, &prompt(1, 3, 8)), 0);
    assert_eq!(index.insert(1, &prompt(2, 3, 8)), 0);
    assert_eq!(index.insert(2, &prompt(3, 0, 8)), 0);
    assert_eq!(found(&index, &prompt(1, 3, 20)), BTreeMap::from([(0, 80), (1, 30)]));
    assert_eq!(found(&index, &prompt(9, 3, 20)), BTreeMap::from([(0, 30), (1, 30)]));
    assert_eq!(found(&index, &prompt(9, 0, 20)), BTreeMap::new());
    assert_eq!(found(&index, &[]), BTreeMap::new());
    assert_eq!(index.insert(0, &prompt(1, 3, 10)), 8);
}

#[test]
fn many_holders_are_all_found() {
    let mut index = PrefixIndex::default();
    for slot in 0..1_000 {
        index.insert(slot, &prompt(u64::from(slot) + 1, 5, 5 + slot as usize % 7));
    }
    let all = found(&index, &prompt(4, 5, 9));
    assert_eq!(all.len(), 1_000);
    assert_eq!((all[&3], all[&4]), (80, 50));
    index.forget(7);
    assert_eq!(found(&index, &prompt(4, 5, 9)).len(), 999);
}

#[test]
fn what_was_used_longest_ago_goes_first_and_from_the_end() {
    let mut index = PrefixIndex::default();
    index.set_capacity(0, 100);
    index.insert(0, &prompt(1, 0, 6));
    index.insert(0, &prompt(2, 0, 6));
    assert_eq!(found(&index, &prompt(1, 0, 6)), BTreeMap::from([(0, 40)]));
    assert_eq!(found(&index, &prompt(2, 0, 6)), BTreeMap::from([(0, 60)]));
    index.insert_tail(0, prompt(1, 0, 4)[3].hash);
    index.insert(0, &prompt(3, 0, 5));
    assert_eq!(found(&index, &prompt(1, 0, 6)), BTreeMap::from([(0, 40)]));
    assert_eq!(found(&index, &prompt(2, 0, 6)), BTreeMap::from([(0, 10)]));
    index.set_capacity(0, 0);
    assert!(index.is_empty());
}

#[test]
fn a_prompt_longer_than_the_cache_keeps_its_start() {
    let mut index = PrefixIndex::default();
    index.set_capacity(0, 45);
    index.insert(0, &prompt(1, 0, 9));
    assert_eq!(found(&index, &prompt(1, 0, 9)), BTreeMap::from([(0, 40)]));
}

#[test]
fn a_retry_brings_the_prompt_to_another_endpoint() {
    let mut index = PrefixIndex::default();
    let marks = prompt(1, 0, 5);
    index.insert(0, &marks);
    assert!(index.insert_tail(3, marks[4].hash));
    assert_eq!(found(&index, &marks), BTreeMap::from([(0, 50), (3, 50)]));
    assert!(!index.insert_tail(3, 77));
}

#[test]
fn what_others_sent_is_kept_where_its_beginning_is_known() {
    let (mut index, marks) = (PrefixIndex::default(), prompt(1, 0, 6));
    index.insert_behind(0, 0, &marks[..3]);
    index.insert_behind(0, marks[2].hash, &marks[3..]);
    index.insert_behind(1, marks[2].hash, &marks[3..]);
    assert_eq!(found(&index, &marks), BTreeMap::from([(0, 60)]));
    index.insert_behind(0, marks[5].hash, &[]);
    assert_eq!(index.len(), 6);
}

#[test]
fn a_mark_with_the_hash_of_another_ends_what_is_kept() {
    let mut index = PrefixIndex::default();
    let mut marks = prompt(1, 0, 6);
    // A client can look for two beginnings of its prompt with the same hash.
    marks[4].hash = marks[1].hash;
    index.insert(0, &marks);
    assert_eq!(index.insert(0, &marks), 4);
    assert_eq!((index.len(), index.extent(0, marks[0].hash)), (4, 40));
    index.insert(0, &prompt(2, 0, 3));
    assert_eq!(index.insert(0, &marks), 4);
    assert!(index.insert_tail(0, marks[3].hash));
    index.forget(0);
    assert!(index.is_empty());
    // Nor do marks that stand still or go back.
    marks[2].end = marks[1].end;
    assert_eq!((index.insert(1, &marks), index.len()), (0, 2));
}

#[test]
fn prompts_that_begin_alike_take_their_beginning_with_them() {
    let mut index = PrefixIndex::default();
    index.set_capacity(0, 150);
    for round in 0..3 {
        for family in 1..=3 {
            let known = index.insert(0, &prompt(family, 4, 7));
            let expected = match (round, family) {
                (0, 1) => 0,
                (0, _) => 4,
                _ => 7,
            };
            assert_eq!(known, expected, "{round} {family}");
            assert_eq!(index.extent(0, prompt(1, 4, 1)[0].hash), 70);
        }
    }
    // What all have was used last, and what the first has alone was used first.
    index.set_capacity(0, 90);
    let all: Vec<_> = (1..=3).map(|family| found(&index, &prompt(family, 4, 7))[&0]).collect();
    assert_eq!(all, [40, 60, 70]);
}

#[test]
fn an_endpoint_holds_as_much_as_of_the_last_prompt_that_began_so() {
    let mut index = PrefixIndex::default();
    index.insert(0, &prompt(1, 3, 8));
    let (shared, first) = (prompt(1, 3, 3), prompt(1, 3, 8));
    assert_eq!((index.holders(shared[2].hash), index.extent(0, shared[2].hash)), (1, 80));
    index.insert(0, &prompt(2, 3, 5));
    assert_eq!(index.extent(0, shared[2].hash), 50);
    // Of the other one it still holds all.
    assert_eq!(index.extent(0, first[4].hash), 80);
    index.insert_tail(0, first[7].hash);
    assert_eq!(index.extent(0, shared[0].hash), 80);
    index.insert(1, &shared);
    assert_eq!((index.holders(shared[2].hash), index.extent(1, shared[0].hash)), (2, 30));
    assert_eq!((index.holders(77), index.extent(0, 77), index.extent(9, shared[0].hash)), (0, 0, 0));
}

#[test]
fn the_whole_index_is_bounded_and_nobody_loses_a_fair_part() {
    let mut index = PrefixIndex::with_holdings(100);
    for slot in 0..4 {
        index.insert(slot, &prompt(u64::from(slot) + 1, 0, 25));
    }
    for family in 10..30 {
        index.insert(0, &prompt(family, 0, 25));
    }
    assert_eq!(index.len(), 100);
    for slot in 1..4 {
        assert_eq!(found(&index, &prompt(u64::from(slot) + 1, 0, 25)), BTreeMap::from([(slot, 250)]));
    }
    assert_eq!(found(&index, &prompt(29, 0, 25)), BTreeMap::from([(0, 250)]));
    assert!(index.entries.len() <= 130, "{}", index.entries.len());
    let mut none = PrefixIndex::with_holdings(0);
    none.insert(0, &prompt(1, 0, 5));
    assert!(none.is_empty());
}

/// The index against lists that are searched from end to end.
#[test]
fn it_agrees_with_plain_lists() {
    for seed in 0..30 {
        let mut rng = Rng::new(seed);
        let mut index = PrefixIndex::default();
        let mut lists: Vec<Vec<PrefixMark>> = vec![Vec::new(); 6];
        let capacity = 10 * (5 + rng.next_u64() % 60);
        for slot in 0..6 {
            index.set_capacity(slot, capacity);
        }
        for _ in 0..200 {
            let slot = (rng.next_u64() % 6) as usize;
            let marks = prompt(rng.next_u64() % 5, (rng.next_u64() % 8) as usize, 1 + (rng.next_u64() % 12) as usize);
            if rng.next_u64().is_multiple_of(40) {
                index.forget(slot as u32);
                lists[slot].clear();
                continue;
            }
            index.insert(slot as u32, &marks);
            let list = &mut lists[slot];
            list.retain(|held| !marks.contains(held));
            list.extend(marks.iter().rev());
            let spare = list.len().saturating_sub((capacity / 10) as usize);
            list.drain(..spare);
            let probe = prompt(rng.next_u64() % 5, (rng.next_u64() % 8) as usize, 12);
            let expected: BTreeMap<u32, u32> = (0..6)
                .filter_map(|slot| {
                    let held = probe.iter().take_while(|mark| lists[slot as usize].contains(mark)).count();
                    (held > 0).then_some((slot, held as u32 * 10))
                })
                .collect();
            assert_eq!(found(&index, &probe), expected, "seed {seed}");
        }
        let held: usize = lists.iter().map(Vec::len).sum();
        assert_eq!(index.len(), held);
    }
}
