//! What a pool itself says of its requests, beside the configuration, which counts before it.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;

use snapshot::PoolMembers;

use crate::rewrite::{Rule, Target};

/// What a pool itself says of its requests.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Policies {
    /// Whether requests for which nothing can be picked are refused; `None`: it does not say.
    pub fail_closed: Option<bool>,
    /// Priorities by objective name.
    pub objectives: BTreeMap<String, i64>,
    /// Model rewrites.
    pub rewrites: Vec<Rule>,
}

impl Policies {
    /// Those of a pool of the membership.
    #[must_use]
    pub fn of(pool: &PoolMembers) -> Self {
        let rewrites = pool.rewrites.iter().map(|rewrite| Rule {
            name: rewrite.name.clone(),
            model: rewrite.model.clone(),
            targets: rewrite
                .targets
                .iter()
                .map(|(model, weight)| Target { model: model.clone(), weight: *weight })
                .collect(),
        });
        Self { fail_closed: pool.fail_closed, objectives: pool.objectives.clone(), rewrites: rewrites.collect() }
    }
}
