//! What servers of a model answered when they were asked to report usage, so that those that refuse are not asked again.
//!
//! All workers share what one of them learned, in the host's shared data: a value for each bucket of models, in which the oldest of the
//! least telling entries makes room for a new one, so that names that clients make up take no more than 8 KiB.
//!
//! A refusal that names what asks for usage counts until Envoy restarts. One that may be of something else, which a client alone may have
//! written, only makes a doubt: the model is not asked for [`FIRST_DOUBT_MICROS`], and for twice as long after each doubt that comes when the
//! last is over, up to [`MAX_DOUBTS`]. An answer to a stream that asked ends all doubts, and for [`TRUST_MICROS`] behind it there are none.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use crate::scheduling::model_key;
use crate::shared_data::{SharedData, update};
use crate::time::Timestamp;

const BUCKETS: u64 = 64;
const BUCKET_ENTRIES: usize = 8;
const ENTRY_BYTES: usize = 16;

/// After the first doubt nobody is asked for so long: few counts are lost if it was a client's fault.
pub const FIRST_DOUBT_MICROS: u64 = 60_000_000;

/// The doubt after which the time is not doubled any more: 16 minutes, in which a server that refuses fails one stream.
pub const MAX_DOUBTS: u8 = 5;

/// For so long after an answer what is refused is taken to be a client's fault. It is also how long streams fail of servers that were
/// replaced by some that refuse.
pub const TRUST_MICROS: u64 = 300_000_000;

/// An answer is noted anew when the last one noted is so old, rather than each.
const RENEWAL_MICROS: u64 = 60_000_000;

/// What the answer to a request that asked for usage tells.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Answer {
    /// A server took it.
    Accepts,
    /// A server refused something, perhaps that.
    Doubts,
    /// A server refused that.
    Refuses,
}

/// Whether servers of a model are to be asked.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Standing {
    /// They are, and that one took it is not known, or not lately.
    Open,
    /// They are: one of them took it lately.
    Trusted,
    /// They are not.
    Closed,
}

/// What is held of a model.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum State {
    /// So many doubts in a row; nobody is asked until then.
    Doubted { times: u8, until: Timestamp },
    /// A server took it then.
    Accepts { at: Timestamp },
    /// A server refuses.
    Refuses,
}

impl State {
    /// How much it tells; who tells less makes room.
    const fn rank(self) -> u8 {
        match self {
            Self::Doubted { .. } => 0,
            Self::Accepts { .. } => 1,
            Self::Refuses => 2,
        }
    }

    /// What an answer makes of what was held; `None`: nothing else.
    fn after(held: Option<Self>, answer: Answer, now: Timestamp) -> Option<Self> {
        match (held, answer) {
            (Some(Self::Refuses), _) => None,
            (_, Answer::Refuses) => Some(Self::Refuses),
            (_, Answer::Accepts) => Some(Self::Accepts { at: now }),
            (Some(Self::Accepts { at }), Answer::Doubts) if now.micros_since(at) < TRUST_MICROS => None,
            (Some(Self::Doubted { until, .. }), Answer::Doubts) if now < until => None,
            (held, Answer::Doubts) => {
                let before = if let Some(Self::Doubted { times, .. }) = held { times } else { 0 };
                let times = before.saturating_add(1).min(MAX_DOUBTS);
                let until = now.plus_micros(FIRST_DOUBT_MICROS << (times - 1));
                Some(Self::Doubted { times, until })
            }
        }
    }
}

/// What is held of one model.
struct Entry {
    model: u64,
    state: State,
}

/// A time takes seven bytes of an entry: 2,000 years.
const TIME_BITS: u32 = 56;
const REFUSES: u64 = 0xFF;
const ACCEPTS: u64 = 0;

impl Entry {
    fn read(bytes: &[u8; ENTRY_BYTES]) -> Self {
        let number = u128::from_le_bytes(*bytes);
        let (model, held) = (number as u64, (number >> 64) as u64);
        let time = Timestamp::from_micros(held & ((1 << TIME_BITS) - 1));
        let state = match held >> TIME_BITS {
            REFUSES => State::Refuses,
            ACCEPTS => State::Accepts { at: time },
            times => State::Doubted { times: (times as u8).min(MAX_DOUBTS), until: time },
        };
        Self { model, state }
    }

    fn bytes(&self) -> [u8; ENTRY_BYTES] {
        let (tag, time) = match self.state {
            State::Refuses => (REFUSES, Timestamp::default()),
            State::Accepts { at } => (ACCEPTS, at),
            State::Doubted { times, until } => (u64::from(times), until),
        };
        let held = tag << TIME_BITS | time.as_micros().min((1 << TIME_BITS) - 1);
        (u128::from(self.model) | u128::from(held) << 64).to_le_bytes()
    }
}

fn entries(held: &[u8]) -> impl Iterator<Item = Entry> {
    held.as_chunks().0.iter().map(Entry::read)
}

/// Notes what a server of a model answered. True: it is noted, or changes nothing.
pub fn note(shared: &mut impl SharedData, model: &str, answer: Answer, now: Timestamp) -> bool {
    let hash = model_key(model);
    let noted = update(shared, &key(hash), |held| {
        let mut entries: Vec<Entry> = entries(held.unwrap_or_default()).collect();
        let own = entries.iter().position(|entry| entry.model == hash).map(|at| entries.remove(at).state);
        let Some(state) = State::after(own, answer, now) else { return ((), None) };
        while entries.len() >= BUCKET_ENTRIES {
            let ranks = entries.iter().map(|entry| entry.state.rank()).enumerate();
            let Some((at, _)) = ranks.min_by_key(|&(_, rank)| rank).filter(|&(_, rank)| rank <= state.rank()) else {
                return ((), None);
            };
            entries.remove(at);
        }
        entries.push(Entry { model: hash, state });
        ((), Some(entries.iter().flat_map(Entry::bytes).collect()))
    });
    noted.is_ok()
}

/// Whether servers of a model are to be asked.
pub fn standing(shared: &mut impl SharedData, model: &str, now: Timestamp) -> Standing {
    let hash = model_key(model);
    let Some((held, _)) = shared.get(&key(hash)) else { return Standing::Open };
    match entries(&held).find(|entry| entry.model == hash).map(|entry| entry.state) {
        Some(State::Refuses) => Standing::Closed,
        Some(State::Doubted { until, .. }) if now < until => Standing::Closed,
        Some(State::Accepts { at }) if now.micros_since(at) < RENEWAL_MICROS => Standing::Trusted,
        Some(State::Doubted { .. } | State::Accepts { .. }) | None => Standing::Open,
    }
}

fn key(model: u64) -> String {
    format!("inpick.usage_answers.{}", model % BUCKETS)
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::shared_data::fake::FakeSharedData;

    const START: Timestamp = Timestamp::from_micros(1_000_000_000);

    fn after(seconds: u64) -> Timestamp {
        START.plus_micros(seconds * 1_000_000)
    }

    #[test]
    fn a_model_that_refused_is_known_and_no_other() {
        let mut shared = FakeSharedData::default();
        assert_eq!(standing(&mut shared, "a", START), Standing::Open);
        assert!(note(&mut shared, "a", Answer::Refuses, START) && note(&mut shared, "a", Answer::Refuses, START));
        for later in [Answer::Accepts, Answer::Doubts] {
            assert!(note(&mut shared, "a", later, after(1)));
            assert_eq!(standing(&mut shared, "a", after(1_000_000_000)), Standing::Closed, "until Envoy restarts");
        }
        assert!((0..1_000).all(|number| standing(&mut shared, &format!("m-{number}"), START) == Standing::Open));
    }

    #[test]
    fn a_server_that_refuses_tersely_is_asked_ever_more_seldom() {
        let mut shared = FakeSharedData::default();
        let mut now = 0;
        for minutes in [1, 2, 4, 8, 16, 16, 16] {
            assert_eq!(standing(&mut shared, "a", after(now)), Standing::Open);
            note(&mut shared, "a", Answer::Doubts, after(now));
            // Others that were on their way make it no longer.
            note(&mut shared, "a", Answer::Doubts, after(now + 1));
            assert_eq!(standing(&mut shared, "a", after(now + minutes * 60 - 1)), Standing::Closed, "{minutes}");
            now += minutes * 60;
        }
    }

    #[test]
    fn a_clients_own_bad_requests_do_not_count_while_others_are_answered() {
        let mut shared = FakeSharedData::default();
        note(&mut shared, "a", Answer::Doubts, START);
        assert_eq!(standing(&mut shared, "a", after(59)), Standing::Closed);
        // The next who asks is answered.
        note(&mut shared, "a", Answer::Accepts, after(60));
        for second in 61..1_000 {
            note(&mut shared, "a", Answer::Doubts, after(second));
            let now = standing(&mut shared, "a", after(second));
            assert_ne!(now, Standing::Closed, "{second}");
            if now == Standing::Open {
                note(&mut shared, "a", Answer::Accepts, after(second));
            }
        }
        // The servers were replaced by some that refuse: that is found out, and the first doubt is short again.
        let last = after(1_000 + TRUST_MICROS / 1_000_000);
        note(&mut shared, "a", Answer::Doubts, last);
        assert_eq!(standing(&mut shared, "a", last), Standing::Closed);
        assert_eq!(standing(&mut shared, "a", last.plus_micros(FIRST_DOUBT_MICROS)), Standing::Open);
    }

    #[test]
    fn an_answer_is_noted_anew_only_when_the_last_is_old() {
        let mut shared = FakeSharedData::default();
        note(&mut shared, "a", Answer::Accepts, START);
        assert_eq!(standing(&mut shared, "a", after(59)), Standing::Trusted);
        assert_eq!(standing(&mut shared, "a", after(60)), Standing::Open);
    }

    #[test]
    fn made_up_models_take_no_more_room_than_there_is_and_none_of_what_tells_more() {
        let mut shared = FakeSharedData::default();
        assert!(note(&mut shared, "refuses", Answer::Refuses, START));
        assert!(note(&mut shared, "accepts", Answer::Accepts, START));
        for number in 0..5_000 {
            assert!(note(&mut shared, &format!("model-{number}"), Answer::Doubts, START));
        }
        assert_eq!(standing(&mut shared, "model-4999", START), Standing::Closed, "the newest is known");
        assert_eq!(standing(&mut shared, "accepts", START), Standing::Trusted);
        for number in 0..5_000 {
            assert!(note(&mut shared, &format!("model-{number}"), Answer::Accepts, START));
        }
        assert_eq!(standing(&mut shared, "refuses", START), Standing::Closed);
        assert_eq!(standing(&mut shared, "model-4999", START), Standing::Trusted);
        for number in 0..5_000 {
            assert!(note(&mut shared, &format!("model-{number}"), Answer::Refuses, START));
        }
        assert_eq!(standing(&mut shared, "refuses", START), Standing::Open, "the oldest made room");
        let bytes: usize = (0..BUCKETS)
            .filter_map(|bucket| shared.get(&format!("inpick.usage_answers.{bucket}")))
            .map(|(value, _)| value.len())
            .sum();
        assert_eq!(bytes, 8 * 1024);
    }
}
