//! Which endpoint made which stored response: only that one can show, continue, cancel or delete it.
//!
//! The answer to the very next request of a client may be needed by another worker, so the map lives in the host's shared data alone: one
//! value for each bucket of ids, written by compare-and-swap before the client sees the id, and read when a request asks for one.
//! Within a bucket the oldest entry makes room for the newest. What is not found is picked for like any other request.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv6Addr, SocketAddr};

use crate::openai::ResponseId;
use crate::shared_data::{SharedData, update};

/// Entries of a bucket, so that a value has at most 1664 bytes: it is read and written whole.
const BUCKET_ENTRIES: usize = 64;
/// The id's hash, the address as IPv6 and the port.
const ENTRY_BYTES: usize = 8 + 16 + 2;

/// A map from ids of responses to the endpoints that made them, in shared data. It takes [`Self::max_bytes`] once it is full.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ResponseMakers {
    buckets: u64,
}

impl ResponseMakers {
    /// A map of at most about so many ids; 0: none.
    #[must_use]
    pub const fn new(max_ids: u64) -> Self {
        Self { buckets: max_ids.div_ceil(BUCKET_ENTRIES as u64) }
    }

    /// Whether any id is kept.
    #[must_use]
    pub const fn is_kept(self) -> bool {
        self.buckets > 0
    }

    /// Bytes of a full map, without its keys.
    #[must_use]
    pub const fn max_bytes(self) -> u64 {
        self.buckets * (BUCKET_ENTRIES * ENTRY_BYTES) as u64
    }

    /// Notes who made a response. True: it is noted.
    pub fn note(self, shared: &mut impl SharedData, id: ResponseId, maker: SocketAddr) -> bool {
        let Some(key) = self.key(id) else { return false };
        let hash = id.hash().to_le_bytes();
        let noted = update(shared, &key, |held| {
            let held = held.unwrap_or_default().as_chunks::<ENTRY_BYTES>().0;
            let kept = held.iter().filter(|entry| !entry.starts_with(&hash));
            let surplus = (kept.clone().count() + 1).saturating_sub(BUCKET_ENTRIES);
            let mut value = Vec::with_capacity((held.len() + 1) * ENTRY_BYTES);
            kept.skip(surplus).for_each(|entry| value.extend_from_slice(entry));
            value.extend_from_slice(&hash);
            let ip = match maker.ip() {
                IpAddr::V4(ip) => ip.to_ipv6_mapped(),
                IpAddr::V6(ip) => ip,
            };
            value.extend_from_slice(&ip.octets());
            value.extend_from_slice(&maker.port().to_le_bytes());
            ((), Some(value))
        });
        noted.is_ok()
    }

    /// Who made a response, as far as that is known.
    pub fn find(self, shared: &mut impl SharedData, id: ResponseId) -> Option<SocketAddr> {
        let (held, _) = shared.get(&self.key(id)?)?;
        let hash = id.hash().to_le_bytes();
        let entry = held.as_chunks::<ENTRY_BYTES>().0.iter().rev().find(|entry| entry.starts_with(&hash))?;
        let ip = Ipv6Addr::from(*entry.get(8..)?.first_chunk::<16>()?).to_canonical();
        Some(SocketAddr::new(ip, u16::from_le_bytes(*entry.last_chunk::<2>()?)))
    }

    fn key(self, id: ResponseId) -> Option<String> {
        Some(format!("inpick.responses.{}", id.hash().checked_rem(self.buckets)?))
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::shared_data::fake::FakeSharedData;

    fn id(number: u32) -> ResponseId {
        ResponseId::of(format!("resp_{number}").as_bytes()).unwrap()
    }

    fn maker(number: u32) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, 1], 8_000 + u16::try_from(number % 100).unwrap()))
    }

    #[test]
    fn makers_are_found_by_every_worker_at_once() {
        let (makers, mut shared) = (ResponseMakers::new(65_536), FakeSharedData::default());
        for number in 0..1_000 {
            assert!(makers.note(&mut shared, id(number), maker(number)));
            assert_eq!(makers.find(&mut shared, id(number)), Some(maker(number)));
        }
        assert!((0..1_000).all(|number| makers.find(&mut shared, id(number)) == Some(maker(number))));
        assert_eq!(makers.find(&mut shared, id(1_000)), None);
        let v6 = "[2001:db8::7]:443".parse().unwrap();
        assert!(makers.note(&mut shared, id(5), v6), "the newest word counts");
        assert_eq!(makers.find(&mut shared, id(5)), Some(v6));
    }

    #[test]
    fn the_oldest_makes_room_and_the_bytes_stay_bounded() {
        let (makers, mut shared) = (ResponseMakers::new(640), FakeSharedData::default());
        assert_eq!(makers.max_bytes(), 640 * 26);
        for number in 0..5_000 {
            makers.note(&mut shared, id(number), maker(number));
        }
        let bytes: usize = shared.values.values().map(|(value, _)| value.len()).sum();
        assert_eq!((shared.values.len(), bytes as u64), (10, makers.max_bytes()));
        let found = |numbers: core::ops::Range<u32>, shared: &mut FakeSharedData| {
            numbers.filter(|&number| makers.find(shared, id(number)) == Some(maker(number))).count()
        };
        assert_eq!(found(4_700..5_000, &mut shared), 300, "far fewer than there is room for");
        assert_eq!(found(0..3_500, &mut shared), 0);
    }

    #[test]
    fn writers_that_meet_lose_nothing_and_a_host_that_refuses_is_no_harm() {
        let (makers, mut shared) = (ResponseMakers::new(64), FakeSharedData::default());
        shared.lost = 3;
        assert!(makers.note(&mut shared, id(1), maker(1)));
        assert_eq!(makers.find(&mut shared, id(1)), Some(maker(1)));
        shared.refuses = true;
        assert!(!makers.note(&mut shared, id(2), maker(2)));
        let off = ResponseMakers::new(0);
        assert!(!off.note(&mut FakeSharedData::default(), id(1), maker(1)));
        assert_eq!(off.find(&mut shared, id(1)), None);
    }

    #[test]
    fn a_value_that_somebody_else_wrote_is_read_as_far_as_it_goes() {
        let (makers, mut shared) = (ResponseMakers::new(64), FakeSharedData::default());
        assert!(shared.set("inpick.responses.0", b"junk", 0).is_ok());
        assert_eq!(makers.find(&mut shared, id(1)), None);
        assert!(makers.note(&mut shared, id(1), maker(1)));
        assert_eq!(makers.find(&mut shared, id(1)), Some(maker(1)));
    }
}
