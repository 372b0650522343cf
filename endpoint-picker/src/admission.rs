//! Labels that clients can influence, and who may have one.
//!
//! Envoy never frees a stat, so the values that model names, endpoints and pods can take as labels are bounded for the whole process. One
//! table in shared data holds every value that was ever admitted, in order; a worker that meets a new one proposes it, adds it with a
//! compare-and-swap on its next tick, and until then keeps the record that needs it. Beyond the bound a value is [`Admitted::OTHER`].
//!
//! A model's name is worth a place when it is configured, when an endpoint lists it, or when a request for it was served: a name
//! that clients make up takes none. A fairness id is worth one when a request of it waits or was served.

use alloc::borrow::ToOwned;
use alloc::string::String;
use alloc::vec::Vec;

use catalogue::label_value;
use hashbrown::HashMap;
use prost::Message;

/// Stands for every value beyond the bound, and for names of models that nobody served.
pub const OTHER: &str = "other";

/// What a label is about.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Subject {
    /// A model's name, as a client wrote it or as it was sent upstream.
    Model,
    /// An endpoint's address.
    Endpoint,
    /// A pod's name.
    Pod,
    /// Whom flow control is fair to.
    Fairness,
}

/// A label's value that was admitted: only [`Admission`] makes one.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Admitted(u32);

impl Admitted {
    /// The empty value: there is no name.
    pub const NONE: Self = Self(0);
    /// [`OTHER`].
    pub const OTHER: Self = Self(1);
    const FIRST: u32 = 2;

    /// Its place among the admitted values of its subject; `None` for the two that need no place. Stable while the process lives.
    #[must_use]
    pub const fn index(self) -> Option<u32> {
        self.0.checked_sub(Self::FIRST)
    }

    /// The label as posts carry it: 0 is no name, 1 stands for all that have no label of their own, others are their place plus 2.
    #[must_use]
    pub const fn number(self) -> u32 {
        self.0
    }

    /// The value at that place.
    #[must_use]
    pub const fn at(index: u32) -> Self {
        Self(index.saturating_add(Self::FIRST))
    }
}

/// What the label of a number shows, by the values of its subject in the table; see [`Admitted::number`].
#[must_use]
pub fn text_of(number: u32, values: &[String]) -> &str {
    match number.checked_sub(Admitted::FIRST) {
        Some(place) => values.get(place as usize).map_or(OTHER, String::as_str),
        None if number == 0 => "",
        None => OTHER,
    }
}

/// How many values of each subject are admitted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Caps {
    /// Model names.
    pub models: usize,
    /// Endpoints, and as many pods.
    pub endpoints: usize,
    /// Fairness ids.
    pub fairness_ids: usize,
}

/// The table as it stands in shared data. Values are only ever appended.
#[derive(Clone, Eq, Message, PartialEq)]
pub struct Table {
    /// Model names.
    #[prost(string, repeated, tag = "1")]
    pub models: Vec<String>,
    /// Addresses of endpoints.
    #[prost(string, repeated, tag = "2")]
    pub endpoints: Vec<String>,
    /// Names of pods.
    #[prost(string, repeated, tag = "3")]
    pub pods: Vec<String>,
    /// Fairness ids.
    #[prost(string, repeated, tag = "4")]
    pub fairness_ids: Vec<String>,
}

/// One worker's copy of the table, and what it wants to add.
#[derive(Debug)]
pub struct Admission {
    caps: Caps,
    models: Values,
    endpoints: Values,
    pods: Values,
    fairness_ids: Values,
    /// Proposed values; `true`: configured, and so admitted beyond the bound.
    proposals: Vec<(Subject, String, bool)>,
    /// Times that an endpoint, and a pod, found no place.
    overflows: [u64; 2],
}

#[derive(Debug, Default)]
struct Values {
    texts: Vec<String>,
    by_text: HashMap<String, Admitted>,
}

impl Values {
    fn learn(&mut self, texts: &[String]) {
        for text in texts.iter().skip(self.texts.len()) {
            let admitted = Admitted::at(u32::try_from(self.texts.len()).unwrap_or(u32::MAX));
            self.by_text.insert(text.clone(), admitted);
            self.texts.push(text.clone());
        }
    }
}

impl Admission {
    /// A copy of an empty table. `configured` model names are admitted before and beyond all others.
    pub fn new<'a>(caps: Caps, configured: impl Iterator<Item = &'a str>) -> Self {
        let mut admission = Self {
            caps,
            models: Values::default(),
            endpoints: Values::default(),
            pods: Values::default(),
            fairness_ids: Values::default(),
            proposals: Vec::new(),
            overflows: [0; 2],
        };
        for name in configured {
            admission.add_proposal(Subject::Model, name, true);
        }
        admission
    }

    /// The label of a value; `None`: it has none yet, and there is a place for it.
    #[must_use]
    pub fn find(&self, subject: Subject, value: &str) -> Option<Admitted> {
        let text = label_value(value);
        match text.as_ref() {
            "" => Some(Admitted::NONE),
            OTHER => Some(Admitted::OTHER),
            text => {
                let values = self.values(subject);
                let is_full = values.texts.len() >= self.bound(subject);
                values.by_text.get(text).copied().or(is_full.then_some(Admitted::OTHER))
            }
        }
    }

    /// Asks for a place for a value.
    pub fn propose(&mut self, subject: Subject, value: &str) {
        match self.find(subject, value) {
            None => self.add_proposal(subject, value, false),
            Some(Admitted::OTHER) if value != OTHER => self.note_overflow(subject),
            Some(_) => {}
        }
    }

    /// What a label shows.
    #[must_use]
    pub fn text(&self, subject: Subject, value: Admitted) -> &str {
        match value {
            Admitted::NONE => "",
            Admitted::OTHER => OTHER,
            Admitted(place) => {
                let index = place.saturating_sub(Admitted::FIRST) as usize;
                self.values(subject).texts.get(index).map_or(OTHER, String::as_str)
            }
        }
    }

    /// Whether there is something to add.
    #[must_use]
    pub const fn has_proposals(&self) -> bool {
        !self.proposals.is_empty()
    }

    /// Learns the stored table and gives the table to store in its place, by compare-and-swap; `None`: it needs no change. What was
    /// stored must be given to [`Self::learn`]; when somebody else was faster, read again and merge again.
    pub fn merge(&mut self, stored: Option<&[u8]>) -> Option<Vec<u8>> {
        let table = stored.and_then(|bytes| Table::decode(bytes).ok()).unwrap_or_default();
        self.adopt(&table);
        let mut grown = table;
        let mut has_grown = false;
        for (subject, text, is_configured) in &self.proposals {
            let bound = self.bound(*subject);
            let texts = match subject {
                Subject::Model => &mut grown.models,
                Subject::Endpoint => &mut grown.endpoints,
                Subject::Pod => &mut grown.pods,
                Subject::Fairness => &mut grown.fairness_ids,
            };
            if (texts.len() < bound || *is_configured) && !texts.contains(text) {
                texts.push(text.clone());
                has_grown = true;
            }
        }
        if has_grown {
            Some(grown.encode_to_vec())
        } else {
            self.conclude();
            None
        }
    }

    /// Takes over a table that is stored now.
    pub fn learn(&mut self, stored: &[u8]) {
        if let Ok(table) = Table::decode(stored) {
            self.adopt(&table);
        }
        self.conclude();
    }

    /// How many endpoints, and pods, found no place since this was last asked; one that is proposed again counts again.
    pub fn take_overflows(&mut self) -> [u64; 2] {
        core::mem::take(&mut self.overflows)
    }

    /// What was proposed is in the table, or has no place there.
    fn conclude(&mut self) {
        for (subject, text, _) in core::mem::take(&mut self.proposals) {
            if !self.values(subject).by_text.contains_key(&text) {
                self.note_overflow(subject);
            }
        }
    }

    const fn note_overflow(&mut self, subject: Subject) {
        match subject {
            // Those are counted by the requests that they concern.
            Subject::Model | Subject::Fairness => {}
            Subject::Endpoint => self.overflows[0] += 1,
            Subject::Pod => self.overflows[1] += 1,
        }
    }

    /// Gives up what was proposed: the table cannot be stored.
    pub fn give_up(&mut self) {
        self.proposals.clear();
    }

    fn adopt(&mut self, table: &Table) {
        self.models.learn(&table.models);
        self.endpoints.learn(&table.endpoints);
        self.pods.learn(&table.pods);
        self.fairness_ids.learn(&table.fairness_ids);
    }

    fn add_proposal(&mut self, subject: Subject, value: &str, is_configured: bool) {
        let text = label_value(value);
        let is_known = self.proposals.iter().any(|(other, known, _)| *other == subject && *known == text.as_ref());
        if !text.is_empty() && text.as_ref() != OTHER && !is_known {
            self.proposals.push((subject, text.as_ref().to_owned(), is_configured));
        }
    }

    const fn values(&self, subject: Subject) -> &Values {
        match subject {
            Subject::Model => &self.models,
            Subject::Endpoint => &self.endpoints,
            Subject::Pod => &self.pods,
            Subject::Fairness => &self.fairness_ids,
        }
    }

    const fn bound(&self, subject: Subject) -> usize {
        match subject {
            Subject::Model => self.caps.models,
            Subject::Endpoint | Subject::Pod => self.caps.endpoints,
            Subject::Fairness => self.caps.fairness_ids,
        }
    }
}

#[cfg(test)]
mod tests {
    use alloc::format;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    const CAPS: Caps = Caps { models: 3, endpoints: 2, fairness_ids: 1 };

    fn admission() -> Admission {
        Admission::new(CAPS, core::iter::empty())
    }

    /// Merges into what is stored, as a worker's tick does.
    fn store(admission: &mut Admission, stored: &mut Option<Vec<u8>>) {
        if let Some(grown) = admission.merge(stored.as_deref()) {
            admission.learn(&grown);
            *stored = Some(grown);
        }
    }

    fn shown<'a>(admission: &'a Admission, name: &str) -> &'a str {
        admission.find(Subject::Model, name).map_or("?", |label| admission.text(Subject::Model, label))
    }

    #[test]
    fn the_bound_holds_over_all_workers_and_they_agree_on_places() {
        let (mut left, mut right, mut stored) = (admission(), admission(), None);
        for name in 0..10 {
            let (a, b) = (format!("a{name}"), format!("b{name}"));
            left.propose(Subject::Model, &a);
            right.propose(Subject::Model, &b);
            store(&mut left, &mut stored);
            store(&mut right, &mut stored);
        }
        store(&mut left, &mut stored);
        assert_eq!(["a0", "b0", "a1", "b1", "a2"].map(|name| shown(&left, name)), ["a0", "b0", "a1", OTHER, OTHER]);
        for name in ["a0", "b0", "a1", "b7"] {
            assert_eq!(left.find(Subject::Model, name), right.find(Subject::Model, name), "{name}");
        }
        assert_eq!(Table::decode(stored.unwrap().as_slice()).unwrap().models.len(), 3);
    }

    #[test]
    fn configured_names_have_a_place_though_others_were_faster() {
        let mut stored = None;
        let mut early = admission();
        for name in ["x", "y", "z"] {
            early.propose(Subject::Model, name);
        }
        store(&mut early, &mut stored);
        let mut late = Admission::new(CAPS, ["mine", "mine"].into_iter());
        store(&mut late, &mut stored);
        assert_eq!(["mine", "x", "new"].map(|name| shown(&late, name)), ["mine", "x", OTHER]);
    }

    #[test]
    fn a_lost_race_is_merged_again() {
        let mut stored = None;
        let (mut left, mut right) = (admission(), admission());
        left.propose(Subject::Model, "l");
        right.propose(Subject::Model, "r");
        let lost = left.merge(None).unwrap();
        store(&mut right, &mut stored);
        drop(lost);
        assert!(left.has_proposals());
        store(&mut left, &mut stored);
        assert_eq!(["l", "r"].map(|name| shown(&left, name)), ["l", "r"]);
        assert!(!left.has_proposals());
    }

    #[test]
    fn names_that_show_alike_are_one_and_special_ones_need_no_place() {
        let mut admission = admission();
        let mut stored = None;
        admission.propose(Subject::Model, "a;b");
        admission.propose(Subject::Model, "a_b");
        admission.propose(Subject::Model, "");
        admission.propose(Subject::Model, OTHER);
        store(&mut admission, &mut stored);
        assert_eq!(Table::decode(stored.unwrap().as_slice()).unwrap().models, ["a_b"]);
        assert_eq!(admission.find(Subject::Model, "a;b"), admission.find(Subject::Model, "a_b"));
        assert_eq!([Admitted::NONE, Admitted::OTHER].map(Admitted::index), [None, None]);
    }

    #[test]
    fn subjects_have_bounds_of_their_own() {
        let mut admission = admission();
        let mut stored = None;
        for value in ["1", "2", "3"] {
            for subject in [Subject::Model, Subject::Endpoint, Subject::Pod, Subject::Fairness] {
                admission.propose(subject, value);
            }
        }
        store(&mut admission, &mut stored);
        let table = Table::decode(stored.unwrap().as_slice()).unwrap();
        let sizes = [&table.models, &table.endpoints, &table.pods, &table.fairness_ids].map(Vec::len);
        assert_eq!(sizes, [3, 2, 2, 1]);
        assert_eq!(admission.find(Subject::Pod, "3"), Some(Admitted::OTHER));
        assert_eq!(admission.take_overflows(), [1, 1]);
        for value in ["2", "3", OTHER] {
            admission.propose(Subject::Pod, value);
        }
        assert_eq!((admission.take_overflows(), admission.has_proposals()), ([0, 1], false));
    }
}
