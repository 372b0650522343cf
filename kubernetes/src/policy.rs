//! What `InferenceObjective` and `InferenceModelRewrite` objects say of a pool. Pure.

use std::collections::BTreeMap;

use k8s_openapi::jiff::Timestamp;
use kube::core::{ApiResource, Object, object::NotUsed};
use serde::Deserialize;

use crate::pool::{POOL_GROUP, resource};
use crate::reading::Reading;

/// Groups that have these kinds, the one whose kind counts first in front: where it is there, the other's objects are ignored, as the
/// Endpoint Picker does.
pub(crate) const POLICY_GROUPS: [&str; 2] = ["llm-d.ai", "inference.networking.x-k8s.io"];
/// Version of these kinds.
pub(crate) const POLICY_VERSION: &str = "v1alpha2";

/// An `InferenceObjective` as the API server has it.
pub(crate) type ObjectiveObject = Object<Reading<ObjectiveSpec>, NotUsed>;
/// An `InferenceModelRewrite` as the API server has it.
pub(crate) type RewriteObject = Object<Reading<RewriteSpec>, NotUsed>;

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ObjectiveSpec {
    priority: Option<i32>,
    pool_ref: PoolReference,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RewriteSpec {
    pool_ref: PoolReference,
    #[serde(default)]
    rules: Vec<RewriteRule>,
}

#[derive(Clone, Debug, Deserialize)]
struct PoolReference {
    #[serde(default = "pool_group")]
    group: String,
    name: String,
}

fn pool_group() -> String {
    POOL_GROUP.to_owned()
}

#[derive(Clone, Debug, Deserialize)]
struct RewriteRule {
    matches: Option<Vec<RewriteMatch>>,
    targets: Option<Vec<WeightedTarget>>,
}

#[derive(Clone, Debug, Deserialize)]
struct RewriteMatch {
    model: Option<ModelMatch>,
}

#[derive(Clone, Debug, Deserialize)]
struct ModelMatch {
    value: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct WeightedTarget {
    weight: Option<u32>,
    model_rewrite: String,
}

/// A rule of a rewrite, for one model or for all that no other rule names.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ModelRewrite {
    /// Name of the object.
    pub name: String,
    /// The model that clients ask for; `None`: any.
    pub model: Option<String>,
    /// What they get; not empty.
    pub targets: Vec<WeightedModel>,
}

/// What a client may get.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct WeightedModel {
    /// Name of the model.
    pub model: String,
    /// Its share of the sum of all weights; where every weight is 0, all are alike.
    pub weight: u32,
}

/// The resource of objectives in a group.
pub(crate) fn objective_resource(group: &str) -> ApiResource {
    resource(group, POLICY_VERSION, "InferenceObjective", "inferenceobjectives")
}

/// The resource of rewrites in a group.
pub(crate) fn rewrite_resource(group: &str) -> ApiResource {
    resource(group, POLICY_VERSION, "InferenceModelRewrite", "inferencemodelrewrites")
}

impl PoolReference {
    fn is_to(&self, pool: &str) -> bool {
        self.name == pool && self.group == POOL_GROUP
    }
}

fn name_of<P: Clone, U: Clone>(object: &Object<P, U>) -> &str {
    object.metadata.name.as_deref().unwrap_or_default()
}

/// The priorities of a pool's objectives by their names; an object that says none has 0. Objects that cannot be read, or are to be deleted,
/// are left out.
pub(crate) fn priorities<'a>(
    objects: impl IntoIterator<Item = &'a ObjectiveObject>,
    pool: &str,
) -> BTreeMap<String, i64> {
    objects
        .into_iter()
        .filter(|object| object.metadata.deletion_timestamp.is_none())
        .filter_map(|object| {
            let spec = object.spec.0.as_ref().ok()?;
            let priority = i64::from(spec.priority.unwrap_or(0));
            spec.pool_ref.is_to(pool).then(|| (name_of(object).to_owned(), priority))
        })
        .collect()
}

/// A pool's rewrites in the order in which they count: older objects first, rules as they stand; the first that names a model is its, and
/// the first that names none is that of all others. Objects that cannot be read, or are to be deleted, and rules without targets are left out.
pub(crate) fn rewrites<'a>(objects: impl IntoIterator<Item = &'a RewriteObject>, pool: &str) -> Vec<ModelRewrite> {
    let mut objects: Vec<(&RewriteObject, &RewriteSpec)> = objects
        .into_iter()
        .filter(|object| object.metadata.deletion_timestamp.is_none())
        .filter_map(|object| Some((object, object.spec.0.as_ref().ok()?)))
        .filter(|(_, spec)| spec.pool_ref.is_to(pool))
        .collect();
    let age =
        |object: &RewriteObject| object.metadata.creation_timestamp.as_ref().map_or(Timestamp::MAX, |time| time.0);
    objects.sort_by(|(left, _), (right, _)| age(left).cmp(&age(right)).then_with(|| name_of(left).cmp(name_of(right))));
    let mut rewrites: Vec<ModelRewrite> = Vec::new();
    for (object, spec) in objects {
        for rule in &spec.rules {
            let targets: Vec<WeightedModel> = rule.targets.iter().flatten().map(WeightedTarget::read).collect();
            if targets.is_empty() {
                continue;
            }
            let named = rule.matches.iter().flatten();
            let models: Vec<Option<&str>> = match rule.matches.as_deref() {
                None | Some([]) => vec![None],
                Some(_) => named.filter_map(|found| Some(Some(found.model.as_ref()?.value.as_str()))).collect(),
            };
            for model in models {
                if !rewrites.iter().any(|known| known.model.as_deref() == model) {
                    rewrites.push(ModelRewrite {
                        name: name_of(object).to_owned(),
                        model: model.map(str::to_owned),
                        targets: targets.clone(),
                    });
                }
            }
        }
    }
    rewrites
}

impl WeightedTarget {
    fn read(&self) -> WeightedModel {
        WeightedModel { model: self.model_rewrite.clone(), weight: self.weight.unwrap_or(0) }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn objective(name: &str, spec: Value) -> ObjectiveObject {
        serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec, "status": {}})).unwrap()
    }

    fn rewrite(name: &str, created: &str, spec: Value) -> RewriteObject {
        let metadata = json!({"name": name, "creationTimestamp": created});
        serde_json::from_value(json!({"metadata": metadata, "spec": spec})).unwrap()
    }

    fn rule(models: &[&str], target: &str) -> Value {
        let matches: Vec<Value> =
            models.iter().map(|model| json!({"model": {"type": "Exact", "value": model}})).collect();
        json!({"matches": matches, "targets": [{"modelRewrite": target}]})
    }

    #[test]
    fn objectives_of_the_pool_have_their_priority_or_none() {
        let ours = json!({"group": POOL_GROUP, "kind": "InferencePool", "name": "p"});
        let mut leaving = objective("leaving", json!({"priority": 9, "poolRef": ours}));
        leaving.metadata.deletion_timestamp = serde_json::from_value(json!("2026-11-26T10:00:00Z")).unwrap();
        let objects = [
            objective("high", json!({"priority": 10, "poolRef": ours})),
            objective("low", json!({"priority": -10, "poolRef": {"name": "p"}})),
            objective("unset", json!({"poolRef": ours})),
            objective("other-pool", json!({"priority": 1, "poolRef": {"group": POOL_GROUP, "name": "q"}})),
            objective("other-group", json!({"priority": 1, "poolRef": {"group": "x.io", "name": "p"}})),
            objective("malformed", json!({"priority": "high", "poolRef": ours})),
            leaving,
        ];
        let expected = [("high", 10), ("low", -10), ("unset", 0)].map(|(name, priority)| (name.to_owned(), priority));
        assert_eq!(priorities(&objects, "p"), BTreeMap::from(expected));
    }

    #[test]
    fn older_rewrites_count_first_and_each_model_once() {
        let of = |rules: Value| json!({"poolRef": {"name": "p"}, "rules": rules});
        let objects = [
            rewrite("young", "2026-11-26T10:00:00Z", of(json!([rule(&["m", "n"], "young"), rule(&[], "young-any")]))),
            rewrite(
                "old",
                "2026-11-25T10:00:00Z",
                of(json!([rule(&["m"], "old"), rule(&["m"], "again"), {"matches": [], "targets": []}])),
            ),
            rewrite("twin", "2026-11-26T10:00:00Z", of(json!([rule(&["n"], "twin"), rule(&["o"], "twin")]))),
            rewrite(
                "elsewhere",
                "2026-11-24T10:00:00Z",
                json!({"poolRef": {"name": "q"}, "rules": [rule(&["m"], "x")]}),
            ),
            rewrite("malformed", "2026-11-24T10:00:00Z", of(json!([{"targets": [{"modelRewrite": 3}]}]))),
        ];
        let rewrites = rewrites(&objects, "p");
        let seen: Vec<_> = rewrites
            .iter()
            .map(|rewrite| (rewrite.name.as_str(), rewrite.model.as_deref(), rewrite.targets[0].model.as_str()))
            .collect();
        assert_eq!(
            seen,
            [
                ("old", Some("m"), "old"),
                ("twin", Some("n"), "twin"),
                ("twin", Some("o"), "twin"),
                ("young", None, "young-any")
            ]
        );
    }

    #[test]
    fn weights_are_taken_as_they_are_and_absent_ones_are_alike() {
        let weighted = |weights: Value| {
            let spec = json!({"poolRef": {"name": "p"}, "rules": [{"targets": weights}]});
            let object = rewrite("r", "2026-11-26T10:00:00Z", spec);
            rewrites([&object], "p").remove(0).targets.iter().map(|target| target.weight).collect::<Vec<_>>()
        };
        assert_eq!(
            weighted(json!([{"modelRewrite": "a", "weight": 90}, {"modelRewrite": "b", "weight": 10}])),
            [90, 10]
        );
        assert_eq!(weighted(json!([{"modelRewrite": "a"}, {"modelRewrite": "b"}])), [0, 0]);
    }
}
