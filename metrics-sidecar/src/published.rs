//! The bytes of the present snapshot, encoded once for all readers. Pure.

use std::time::Duration;

use axum::body::Bytes;
use snapshot::{Snapshot, Tag};

use crate::fleet::Fleet;

/// How long encoded bytes stand for unchanged content. Beyond it they are encoded again, so that a reader that comes late is
/// not told ages of long ago.
const ENCODED_FOR: Duration = Duration::from_millis(100);

/// The last snapshots that were sent: one with the membership, one without.
#[derive(Debug, Default)]
pub struct Published {
    last: [Option<Encoded>; 2],
}

#[derive(Debug)]
struct Encoded {
    tag: Tag,
    at: Duration,
    bytes: Bytes,
}

impl Published {
    /// What is new to a reader that has what `known` names; `None`: nothing.
    pub fn news(
        &mut self,
        fleet: &Fleet,
        now: Duration,
        wall_ms: impl FnOnce() -> u64,
        known: &[Tag],
    ) -> Option<Bytes> {
        let tag = fleet.tag();
        if known.contains(&tag) {
            return None;
        }
        let known = known.iter().copied().find(|known| is_same_membership(*known, tag));
        Some(self.bytes(fleet, now, wall_ms, known))
    }

    /// The snapshot of the fleet for a reader that has what `known` names. `wall_ms` is asked only when bytes are encoded.
    pub fn bytes(&mut self, fleet: &Fleet, now: Duration, wall_ms: impl FnOnce() -> u64, known: Option<Tag>) -> Bytes {
        let tag = fleet.tag();
        let known = known.filter(|known| is_same_membership(*known, tag));
        let [whole, loads] = &mut self.last;
        let last = if known.is_some() { loads } else { whole };
        let current = |last: &&Encoded| last.tag == tag && now.saturating_sub(last.at) <= ENCODED_FOR;
        if let Some(current) = last.as_ref().filter(current) {
            return current.bytes.clone();
        }
        let snapshot: Snapshot = fleet.snapshot(now, wall_ms(), known);
        let bytes = Bytes::from(snapshot.encode());
        *last = Some(Encoded { tag, at: now, bytes: bytes.clone() });
        bytes
    }
}

/// What an `If-None-Match` says that a reader has. Tags of another form, such as an older version's, name nothing.
pub fn known_tags(value: &str) -> impl Iterator<Item = Tag> {
    value.split(',').filter_map(|tag| tag.trim().trim_start_matches("W/").parse().ok())
}

/// Whether both name one membership.
#[must_use]
pub fn is_same_membership(left: Tag, right: Tag) -> bool {
    (left.epoch, left.membership_version) == (right.epoch, right.membership_version)
}
