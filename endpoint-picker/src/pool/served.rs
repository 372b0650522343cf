//! What the members of a pool serve: models and adapters, by name.

use alloc::string::String;
use alloc::vec::Vec;

use hashbrown::HashMap;
use snapshot::PoolMembers;

/// The limit of a member that does not serve a model.
const NOT_SERVED: u32 = 0;
/// The limit of a member that serves a model and does not say how long a prompt may be, or whose list was never read.
const NO_LIMIT: u32 = u32::MAX;

/// What the members of a pool serve. Members are named by their place in the membership.
#[derive(Clone, Debug, Default)]
pub struct ServedModels {
    offers: HashMap<String, Offer>,
    /// The offer of a name that no list contains: the members whose list was never read may serve it.
    unlisted: Offer,
    /// Adapters by name, and their place in what the loads say is in use, where they have been in use at all.
    adapters: HashMap<String, Option<u32>>,
    /// Members whose list was read.
    listing: usize,
    /// Members that serve the same model take prompts of different lengths.
    has_mixed_limits: bool,
}

/// Which members serve one model.
#[derive(Clone, Debug, Default)]
pub struct Offer {
    /// Longest prompt and answer together, in tokens, by place.
    limits: Vec<u32>,
    /// The shortest limit of those who serve it.
    shortest: u32,
    /// Members that serve it.
    serving: usize,
}

/// Who may be asked for a model.
#[derive(Clone, Copy, Debug)]
pub enum Offered<'a> {
    /// Every member: no model is asked for, or nobody says what it serves.
    ByAll,
    /// Those of the offer.
    By(&'a Offer),
    /// Nobody: every member says what it serves, and it is none of that.
    ByNobody,
}

/// An adapter that is asked for: its place in what the loads say is in use; `None`: it has not been in use anywhere.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct AskedAdapter(pub(crate) Option<u32>);

impl ServedModels {
    /// What the members of `pool` list.
    pub(super) fn of(pool: &PoolMembers) -> Self {
        let mut served = Self {
            listing: pool.endpoints.iter().filter(|endpoint| endpoint.models.is_some()).count(),
            ..Self::default()
        };
        for model in pool.models.iter().filter(|model| !model.parent.is_empty()) {
            served.adapters.insert(model.name.clone(), None);
        }
        for (index, name) in pool.adapters.iter().enumerate() {
            served.adapters.insert(name.clone(), u32::try_from(index).ok());
        }
        if served.listing == 0 {
            return served;
        }
        let unlisted =
            pool.endpoints.iter().map(|endpoint| if endpoint.models.is_none() { NO_LIMIT } else { NOT_SERVED });
        served.unlisted = Offer { limits: unlisted.collect(), shortest: NO_LIMIT, serving: 0 };
        for (place, endpoint) in pool.endpoints.iter().enumerate() {
            for model in endpoint.models.iter().flatten().filter_map(|&model| pool.models.get(model as usize)) {
                if !served.offers.contains_key(&model.name) {
                    served.offers.insert(model.name.clone(), served.unlisted.clone());
                }
                let Some(offer) = served.offers.get_mut(&model.name) else { continue };
                if let Some(limit) = offer.limits.get_mut(place) {
                    *limit = (*limit).max(model.max_model_len.map_or(NO_LIMIT, |length| length.max(1)));
                }
            }
        }
        for offer in served.offers.values_mut().chain([&mut served.unlisted]) {
            let serving = || offer.limits.iter().copied().filter(|&limit| limit != NOT_SERVED);
            (offer.serving, offer.shortest) = (serving().count(), serving().min().unwrap_or(NO_LIMIT));
            served.has_mixed_limits |= serving().any(|limit| limit != offer.shortest);
        }
        served
    }

    /// Who serves that model; an empty name asks for none.
    #[must_use]
    pub fn offered(&self, model: &str) -> Offered<'_> {
        if model.is_empty() || self.listing == 0 {
            return Offered::ByAll;
        }
        match self.offers.get(model).unwrap_or(&self.unlisted) {
            offer if offer.serving == 0 => Offered::ByNobody,
            offer => Offered::By(offer),
        }
    }

    /// Whether some member says what it serves.
    #[must_use]
    pub const fn is_listed(&self) -> bool {
        self.listing > 0
    }

    /// Whether members differ in how long a prompt and its answer may be for one model.
    #[must_use]
    pub const fn has_mixed_limits(&self) -> bool {
        self.has_mixed_limits
    }

    /// Whether several models or adapters are known, so that a request's model may decide who can take it.
    #[must_use]
    pub fn has_several(&self) -> bool {
        self.offers.len() > 1 || !self.adapters.is_empty()
    }

    /// The only model that is known.
    #[must_use]
    pub fn sole(&self) -> Option<&str> {
        let (name, _) = self.offers.iter().next().filter(|_| !self.has_several())?;
        Some(name)
    }

    /// The adapter of that name; `None`: it is no adapter, or nobody said so.
    #[must_use]
    pub fn adapter(&self, model: &str) -> Option<AskedAdapter> {
        self.adapters.get(model).copied().map(AskedAdapter)
    }
}

impl Offer {
    /// Whether the member at that place serves the model.
    #[must_use]
    pub fn serves(&self, place: u32) -> bool {
        self.limit(place) != NOT_SERVED
    }

    /// Whether the member at that place serves the model and takes prompt and answer of so many tokens together, as far as it says.
    #[must_use]
    pub fn takes(&self, place: u32, tokens: u64) -> bool {
        u64::from(self.limit(place)) >= tokens.max(1)
    }

    /// Whether every member that serves the model takes so many tokens, as far as they say.
    #[must_use]
    pub fn all_take(&self, tokens: u64) -> bool {
        u64::from(self.shortest) >= tokens
    }

    /// Whether some member does not serve the model.
    #[must_use]
    pub const fn is_partial(&self) -> bool {
        self.serving < self.limits.len()
    }

    fn limit(&self, place: u32) -> u32 {
        self.limits.get(place as usize).copied().unwrap_or(NOT_SERVED)
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use snapshot::{EndpointIdentity, ServedModel};

    use super::*;

    fn served(models: &[(&str, &str, Option<u32>)], lists: &[Option<&[u32]>], adapters: &[&str]) -> ServedModels {
        let endpoints = lists.iter().zip(1..).map(|(list, port)| EndpointIdentity {
            models: list.map(<[u32]>::to_vec),
            ..EndpointIdentity::unnamed(([10, 0, 0, 1], port).into())
        });
        let models = models.iter().map(|&(name, parent, max_model_len)| ServedModel {
            name: name.into(),
            parent: parent.into(),
            max_model_len,
        });
        ServedModels::of(&PoolMembers {
            name: "p".into(),
            endpoints: endpoints.collect(),
            adapters: adapters.iter().map(|&name| name.into()).collect(),
            models: models.collect(),
            ..PoolMembers::default()
        })
    }

    fn places(served: &ServedModels, model: &str) -> Option<Vec<u32>> {
        match served.offered(model) {
            Offered::ByAll => None,
            Offered::By(offer) => Some((0..3).filter(|&place| offer.serves(place)).collect()),
            Offered::ByNobody => Some(Vec::new()),
        }
    }

    #[test]
    fn a_member_that_lists_serves_what_it_lists_and_one_that_does_not_may_serve_anything() {
        let models = [("a", "", None), ("b", "", None)];
        let all_listed = served(&models, &[Some(&[0]), Some(&[0, 1]), Some(&[])], &[]);
        assert_eq!(places(&all_listed, "a"), Some(vec![0, 1]));
        assert_eq!(places(&all_listed, "b"), Some(vec![1]));
        assert_eq!(places(&all_listed, "c"), Some(vec![]));
        assert_eq!(places(&all_listed, ""), None);
        let one_unlisted = served(&models, &[Some(&[0]), None, Some(&[1])], &[]);
        assert_eq!(places(&one_unlisted, "a"), Some(vec![0, 1]));
        assert_eq!(places(&one_unlisted, "c"), Some(vec![1]));
        for nobody_lists in [served(&models, &[None, None, None], &[]), served(&[], &[], &[]), ServedModels::default()]
        {
            assert_eq!(places(&nobody_lists, "c"), None);
        }
    }

    #[test]
    fn limits_are_each_members_own() {
        let models = [("a", "", Some(4_096)), ("a", "", Some(32_768)), ("a", "", None)];
        let served = served(&models, &[Some(&[0]), Some(&[1]), Some(&[2])], &[]);
        let Offered::By(offer) = served.offered("a") else { panic!("everybody serves it") };
        let takers = |tokens| (0..3).filter(|&place| offer.takes(place, tokens)).collect::<Vec<_>>();
        assert_eq!([4_096, 4_097, 40_000].map(takers), [vec![0, 1, 2], vec![1, 2], vec![2]]);
        assert_eq!([4_096, 4_097].map(|tokens| offer.all_take(tokens)), [true, false]);
        assert!(!offer.is_partial());
        assert!(served.has_mixed_limits());
    }

    #[test]
    fn a_model_is_the_sole_one_while_no_other_and_no_adapter_is_known() {
        let models = [("a", "", Some(4_096)), ("b", "", None)];
        let one = served(&models[..1], &[Some(&[0]), Some(&[0])], &[]);
        assert_eq!(
            (one.sole(), one.has_several(), one.has_mixed_limits(), one.is_listed()),
            (Some("a"), false, false, true)
        );
        assert_eq!(served(&models, &[Some(&[0]), Some(&[1])], &[]).sole(), None);
        assert_eq!(served(&models[..1], &[Some(&[0])], &["sql"]).sole(), None);
        let unlisted = served(&models, &[None], &[]);
        assert_eq!((unlisted.sole(), unlisted.has_several(), unlisted.is_listed()), (None, false, false));
    }

    #[test]
    fn an_adapter_is_known_by_its_parent_or_by_its_use() {
        let models = [("base", "", None), ("sql", "base", None)];
        let served = served(&models, &[Some(&[0, 1])], &["chat", "sql"]);
        assert_eq!(served.adapter("sql"), Some(AskedAdapter(Some(1))));
        assert_eq!(served.adapter("chat"), Some(AskedAdapter(Some(0))));
        assert_eq!(served.adapter("base"), None);
    }
}
