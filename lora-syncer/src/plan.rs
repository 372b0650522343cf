//! What is to be done so that a model server has the adapters that it shall have. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::Deserialize;

use crate::config::{Adapter, Config};

/// An adapter that could not be loaded or unloaded is left alone for so long at first, then twice as long each time.
const FIRST_REST: Duration = Duration::from_secs(5);
/// It is never left alone for longer.
const LONGEST_REST: Duration = Duration::from_secs(300);

/// What `/v1/models` lists.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
pub struct Listing {
    data: Vec<ListedModel>,
}

#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
struct ListedModel {
    id: String,
    /// Where an adapter was loaded from.
    root: Option<String>,
    /// The model that an adapter adapts.
    parent: Option<String>,
}

impl Listing {
    /// Where the adapter of that name was loaded from; `None`: it is not loaded.
    #[must_use]
    pub fn source(&self, id: &str) -> Option<&str> {
        let listed = self.data.iter().find(|model| model.id == id && model.parent.is_some())?;
        Some(listed.root.as_deref().unwrap_or_default())
    }

    /// Whether a model of that name is there, be it an adapter or not.
    #[must_use]
    pub fn has(&self, id: &str) -> bool {
        self.data.iter().any(|model| model.id == id)
    }
}

/// What to do.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Plan<'a> {
    /// Adapters to load.
    pub load: Vec<&'a Adapter>,
    /// Adapters to unload.
    pub unload: Vec<&'a str>,
    /// Adapters that were loaded from elsewhere, and that place: they are left, since who loaded them may need them.
    pub elsewhere: Vec<(&'a Adapter, String)>,
    /// Wanted adapters whose name a model has that is no adapter.
    pub taken: Vec<&'a str>,
}

/// Compares what shall be with what is.
#[must_use]
pub fn plan<'a>(config: &'a Config, listing: &Listing, rests: &Rests, now: Duration) -> Plan<'a> {
    let mut plan = Plan::default();
    for adapter in &config.wanted {
        match listing.source(&adapter.id) {
            Some(source) if source.is_empty() || source == adapter.source => {}
            Some(source) => plan.elsewhere.push((adapter, source.to_owned())),
            None if listing.has(&adapter.id) => plan.taken.push(&adapter.id),
            None if rests.is_resting(&adapter.id, now) => {}
            None => plan.load.push(adapter),
        }
    }
    let loaded = config.unwanted.iter().filter(|id| listing.source(id).is_some());
    plan.unload.extend(loaded.filter(|id| !rests.is_resting(id, now)).map(String::as_str));
    plan
}

/// Each adapter that the file names, and whether it is loaded.
#[must_use]
pub fn statuses(config: &Config, listing: &Listing) -> BTreeMap<String, bool> {
    let named = config.wanted.iter().map(|adapter| &adapter.id).chain(&config.unwanted).chain(&config.disputed);
    named.map(|id| (id.clone(), listing.source(id).is_some())).collect()
}

/// Adapters that failed, and until when each is left alone.
#[derive(Clone, Debug, Default)]
pub struct Rests(BTreeMap<String, (Duration, Duration)>);

impl Rests {
    /// An adapter failed at that time.
    pub fn failed(&mut self, id: &str, now: Duration) {
        let rest = self.0.get(id).map_or(FIRST_REST, |(_, rest)| (*rest * 2).min(LONGEST_REST));
        self.0.insert(id.to_owned(), (now + rest, rest));
    }

    /// It succeeded.
    pub fn succeeded(&mut self, id: &str) {
        self.0.remove(id);
    }

    /// The file changed, or the server began anew: everything is worth another try.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// Whether it is left alone.
    #[must_use]
    pub fn is_resting(&self, id: &str, now: Duration) -> bool {
        self.0.get(id).is_some_and(|(until, _)| now < *until)
    }

    /// Forgets adapters that the file no longer names.
    pub fn keep(&mut self, named: &BTreeSet<&str>) {
        self.0.retain(|id, _| named.contains(id.as_str()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Recorded of vLLM 0.32 with two adapters.
    const MODELS: &str = include_str!("../tests/fixtures/vllm-0.32-models.json");

    fn config(text: &str) -> Config {
        Config::parse(&format!("vLLMLoRAConfig: {{{text}}}")).unwrap()
    }

    #[test]
    fn what_is_missing_is_loaded_and_what_is_too_much_unloaded() {
        let listing: Listing = serde_json::from_str(MODELS).unwrap();
        let config = config(
            "ensureExist: {models: [{id: lora-a, source: lora-a}, {id: lora-c, source: c}, {id: llama-alias, source: d}]}, \
             ensureNotExist: {models: [{id: lora-b, source: b}, {id: lora-z, source: z}, {id: llama-alias2, source: x}]}",
        );
        let rests = Rests::default();
        let plan = plan(&config, &listing, &rests, Duration::ZERO);
        assert_eq!(plan.load.iter().map(|adapter| adapter.id.as_str()).collect::<Vec<_>>(), ["lora-c"]);
        assert_eq!(plan.unload, ["lora-b"]);
        assert_eq!(plan.taken, ["llama-alias"], "a model's own name is no adapter's");
        let statuses = statuses(&config, &listing);
        let loaded: Vec<_> = statuses.iter().filter(|(_, loaded)| **loaded).map(|(id, _)| id.as_str()).collect();
        assert_eq!((statuses.len(), loaded), (6, vec!["lora-a", "lora-b"]));
    }

    #[test]
    fn one_from_elsewhere_is_left_and_told() {
        let listing: Listing = serde_json::from_str(MODELS).unwrap();
        let config = config("ensureExist: {models: [{id: lora-a, source: /new/a}]}");
        let plan = plan(&config, &listing, &Rests::default(), Duration::ZERO);
        assert_eq!((plan.load.len(), plan.elsewhere[0].1.as_str()), (0, "lora-a"));
    }

    #[test]
    fn failures_rest_longer_each_time_up_to_a_limit() {
        let config = config("ensureExist: {models: [{id: x, source: x}]}");
        let (mut rests, mut now) = (Rests::default(), Duration::ZERO);
        let mut pauses = Vec::new();
        for _ in 0..9 {
            rests.failed("x", now);
            let began = now;
            while plan(&config, &Listing::default(), &rests, now).load.is_empty() {
                now += Duration::from_secs(1);
            }
            pauses.push((now - began).as_secs());
        }
        assert_eq!(pauses, [5, 10, 20, 40, 80, 160, 300, 300, 300]);
        rests.failed("x", now);
        rests.keep(&BTreeSet::from(["y"]));
        assert!(!rests.is_resting("x", now));
        rests.failed("x", now);
        rests.succeeded("x");
        rests.failed("x", now);
        assert!(!rests.is_resting("x", now + FIRST_REST), "it begins anew after a success");
        rests.clear();
        assert!(!rests.is_resting("x", now));
    }
}
