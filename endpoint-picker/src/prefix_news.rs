//! What workers tell one another of the prompts that they sent: each keeps the news of the last second under a key of its own, and reads
//! the others' a few times a second. Who misses some (its machine was replaced, it was paused) predicts fewer hits for a while.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use hashbrown::HashMap;
use prost::Message;
use prost::bytes::Bytes;

use crate::board::{Order, Roster, key};
use crate::openai::PrefixMark;
use crate::picker::{EndpointPicker, SentPrompt};
use crate::shared_data::SharedData;
use crate::time::Timestamp;

/// The others' news is read this often: a conversation's next turn comes seconds after the last one.
const READ_EVERY_MICROS: u64 = 200_000;
/// News is kept for so long: five readings.
const KEPT_MICROS: u64 = 1_000_000;
/// News kept at most: one worker's thousand requests a second.
const MAX_KEPT: usize = 1_000;

/// What a worker sent in the last second.
#[derive(Clone, Message, PartialEq)]
struct PrefixNews {
    /// The membership that places are in the order of.
    #[prost(message, optional, tag = "1")]
    order: Option<Order>,
    /// Number of the first of the items; each has the next one.
    #[prost(uint64, tag = "2")]
    first: u64,
    /// One [`NewsItem`] each, encoded: it is written some twenty times and read once.
    #[prost(bytes = "bytes", repeated, tag = "3")]
    items: Vec<Bytes>,
}

/// One prompt that was sent, see [`SentPrompt`].
#[derive(Clone, Message, PartialEq)]
struct NewsItem {
    /// The member's place in the membership.
    #[prost(uint32, tag = "1")]
    place: u32,
    #[prost(fixed64, tag = "2")]
    tail: u64,
    #[prost(fixed64, repeated, tag = "3")]
    hashes: Vec<u64>,
    /// Bytes between each mark and the one before.
    #[prost(uint32, repeated, tag = "4")]
    spans: Vec<u32>,
    /// Bytes before the first mark.
    #[prost(uint32, tag = "5")]
    begin: u32,
}

/// One worker's part in that.
#[derive(Debug, Default)]
pub struct Correspondent {
    own: PrefixNews,
    /// When each of the own items was written.
    written_at: VecDeque<Timestamp>,
    is_written: bool,
    /// Number of the item that is next, by worker.
    others: HashMap<u64, u64>,
    read_at: Option<Timestamp>,
}

impl Correspondent {
    /// Writes what was sent since the last call, and reads what the others sent. `first` is the place of the pool's first member in the
    /// membership of that order.
    pub fn tick(
        &mut self,
        worker: u64,
        order: Option<Order>,
        first: u32,
        picker: &mut EndpointPicker,
        shared: &mut impl SharedData,
        now: Timestamp,
    ) {
        self.write(worker, order, picker, shared, now);
        if self.read_at.is_none_or(|at| now.micros_since(at) >= READ_EVERY_MICROS) {
            self.read_at = Some(now);
            self.read(worker, order, first, picker, shared);
        }
    }

    fn write(
        &mut self,
        worker: u64,
        order: Option<Order>,
        picker: &mut EndpointPicker,
        shared: &mut impl SharedData,
        now: Timestamp,
    ) {
        if self.own.order != order {
            self.drop_oldest(self.own.items.len());
            self.own.order = order;
        }
        let old = self.written_at.iter().take_while(|&&at| now.micros_since(at) >= KEPT_MICROS).count();
        self.drop_oldest(old);
        let sent: Vec<SentPrompt> = picker.take_sent_prompts().collect();
        if sent.is_empty() && (old == 0 || !self.is_written) {
            return;
        }
        for prompt in sent {
            let endpoint = picker.pool().endpoint(prompt.endpoint);
            let Some(member) = endpoint.filter(|endpoint| endpoint.is_member()) else { continue };
            self.own.items.push(NewsItem::new(member.place(), &prompt).encode_to_vec().into());
            self.written_at.push_back(now);
        }
        self.drop_oldest(self.own.items.len().saturating_sub(MAX_KEPT));
        self.is_written = shared.set(&key::prefixes(worker), &self.own.encode_to_vec(), 0).is_ok();
    }

    fn drop_oldest(&mut self, count: usize) {
        self.own.items.drain(..count.min(self.own.items.len()));
        self.written_at.drain(..count.min(self.written_at.len()));
        self.own.first += count as u64;
    }

    fn read(
        &mut self,
        worker: u64,
        order: Option<Order>,
        first: u32,
        picker: &mut EndpointPicker,
        shared: &mut impl SharedData,
    ) {
        let stored = shared.get(key::ROSTER);
        let Some(Ok(roster)) = stored.map(|(bytes, _)| Roster::decode(bytes.as_slice())) else { return };
        self.others.retain(|other, _| roster.workers.contains(other));
        for &other in roster.workers.iter().filter(|&&other| other != worker) {
            let stored = shared.get(&key::prefixes(other));
            let Some(Ok(news)) = stored.map(|(bytes, _)| PrefixNews::decode(Bytes::from(bytes))) else { continue };
            let next = self.others.entry(other).or_default();
            let known = usize::try_from(next.saturating_sub(news.first)).unwrap_or(usize::MAX);
            *next = news.first.saturating_add(news.items.len() as u64);
            if order.is_none() || news.order != order {
                continue;
            }
            let items = news.items.into_iter().skip(known).filter_map(|item| NewsItem::decode(item).ok());
            for item in items {
                // Before or behind the own pool's members are those of other pools, which other filters pick from.
                if let Some(place) = item.place.checked_sub(first) {
                    picker.learn_prompt(place as usize, item.tail, &item.marks());
                }
            }
        }
    }
}

impl NewsItem {
    fn new(place: u32, prompt: &SentPrompt) -> Self {
        let begin = prompt.marks.first().map_or(0, |mark| mark.end);
        let mut before = begin;
        let spans = prompt.marks.iter().map(|mark| mark.end.saturating_sub(core::mem::replace(&mut before, mark.end)));
        Self {
            place,
            tail: prompt.tail,
            spans: spans.collect(),
            hashes: prompt.marks.iter().map(|mark| mark.hash).collect(),
            begin,
        }
    }

    fn marks(&self) -> Vec<PrefixMark> {
        let mut end = self.begin;
        let marks = self.hashes.iter().zip(&self.spans).map(|(&hash, &span)| {
            end = end.saturating_add(span);
            PrefixMark { hash, end }
        });
        marks.collect()
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use snapshot::{EndpointIdentity, Membership, PoolMembers};

    use super::*;
    use crate::board::enroll;
    use crate::config::Plugin;
    use crate::openai::{Api, PromptDigest};
    use crate::record::{ExchangeRecord, Pick};
    use crate::scheduling::Reason;
    use crate::shared_data::fake::FakeSharedData;

    struct Peer {
        id: u64,
        picker: EndpointPicker,
        correspondent: Correspondent,
    }

    const ORDER: Option<Order> = Some(Order { epoch: 1, version: 1 });

    fn peer(id: u64, shared: &mut FakeSharedData) -> Peer {
        let Ok(Plugin::Filter(config)) = Plugin::parse(b"") else { panic!() };
        let mut picker = EndpointPicker::new(config, id);
        let identity = |last: u8| EndpointIdentity::unnamed(([10, 0, 0, last], 80).into());
        let endpoints = vec![identity(1), identity(2)];
        let pools = vec![PoolMembers { name: "default".into(), endpoints, ..PoolMembers::default() }];
        picker.install_membership(&Membership { epoch: 1, version: 1, pools });
        enroll(shared, id);
        Peer { id, picker, correspondent: Correspondent::default() }
    }

    fn marks(count: u64) -> Vec<PrefixMark> {
        (1..=count).map(|place| PrefixMark { hash: place * 977, end: place as u32 * 100 }).collect()
    }

    impl Peer {
        fn send(&mut self, member: usize, count: u64) {
            let mut record = ExchangeRecord::begin(Timestamp::default());
            record.api = Some(Api::ChatCompletions);
            let id = self.picker.pool().members()[member];
            record.pick = Pick::Ranked(id.into(), Reason::BestScore);
            let prompt = PromptDigest { marks: marks(count), ..PromptDigest::default() };
            let charge = self.picker.charge_to(Some(id), &record, &prompt, true, Timestamp::default());
            self.picker.settle(Some(charge), record.into(), Timestamp::default());
        }

        fn tick(&mut self, millis: u64, shared: &mut FakeSharedData) {
            let now = Timestamp::from_micros(millis * 1_000);
            self.correspondent.tick(self.id, ORDER, 0, &mut self.picker, shared, now);
        }

        fn bytes(&self, count: u64) -> Vec<(u32, u32)> {
            let mut found = Vec::new();
            self.picker.prefix_index().find(&marks(count), |slot, bytes| found.push((slot, bytes)));
            found
        }
    }

    #[test]
    fn what_one_worker_sent_all_know() {
        let mut shared = FakeSharedData::default();
        let [mut one, mut two, mut three] = [1, 2, 3].map(|id| peer(id, &mut shared));
        one.send(1, 4);
        one.tick(1_000, &mut shared);
        two.tick(1_010, &mut shared);
        assert_eq!(two.bytes(9), [(1, 400)]);
        one.send(1, 9);
        one.tick(1_050, &mut shared);
        two.tick(1_060, &mut shared);
        assert_eq!(two.bytes(9), [(1, 400)], "news is read a few times a second");
        two.tick(1_300, &mut shared);
        assert_eq!(two.bytes(9), [(1, 900)]);
        three.tick(1_300, &mut shared);
        assert_eq!(three.bytes(9), [(1, 900)]);
    }

    #[test]
    fn old_news_goes_and_nothing_is_learnt_twice_or_of_another_membership() {
        let mut shared = FakeSharedData::default();
        let [mut one, mut two] = [1, 2].map(|id| peer(id, &mut shared));
        one.send(0, 3);
        one.tick(1_000, &mut shared);
        one.tick(2_500, &mut shared);
        two.tick(2_600, &mut shared);
        assert_eq!(two.bytes(3), []);
        one.send(0, 5);
        one.tick(3_000, &mut shared);
        two.tick(3_000, &mut shared);
        assert_eq!(two.bytes(5), [], "its beginning is unknown here");
        one.send(1, 2);
        let now = Timestamp::from_micros(3_300_000);
        let other = Some(Order { epoch: 1, version: 2 });
        one.correspondent.tick(1, other, 0, &mut one.picker, &mut shared, now);
        two.tick(3_300, &mut shared);
        assert_eq!(two.bytes(5), []);
    }
}
