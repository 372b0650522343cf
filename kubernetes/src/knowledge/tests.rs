use serde_json::{Value, json};

use super::*;

fn following() -> Knowledge {
    Knowledge::new(Followed::Pool { namespace: "models".to_owned(), name: "llama".to_owned(), family: None })
}

fn pool(selector: Value) -> PoolObject {
    serde_json::from_value(json!({
        "apiVersion": "inference.networking.k8s.io/v1", "kind": "InferencePool",
        "metadata": {"name": "llama", "namespace": "models"},
        "spec": {"selector": {"matchLabels": selector}, "targetPorts": [{"number": 8000}]},
    }))
    .unwrap()
}

fn pod(name: &str, ip: &str) -> PodObject {
    serde_json::from_value(json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "models"},
        "status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}], "conditions": [{"type": "Ready", "status": "True"}]},
    }))
    .unwrap()
}

fn list<K: Clone>(objects: &[K]) -> Vec<Event<K>> {
    let listed = objects.iter().cloned().map(Event::InitApply);
    [Event::Init].into_iter().chain(listed).chain([Event::InitDone]).collect()
}

impl Knowledge {
    fn take_pool_events(&mut self, events: impl IntoIterator<Item = Event<PoolObject>>) {
        events.into_iter().for_each(|event| self.take(News::Pool(Ok(event))));
    }

    fn take_pod_list(&mut self, watch: u64, pods: &[PodObject]) {
        list(pods).into_iter().for_each(|event| self.take(News::Pods(watch, Ok(event))));
    }

    /// The server has no kind of policy.
    fn without_policies(mut self) -> Self {
        for group in 0..POLICY_GROUPS.len() {
            self.take(News::Objectives(group, Err(Trouble::NoKind("none".to_owned()))));
            self.take(News::Rewrites(group, Err(Trouble::NoKind("none".to_owned()))));
        }
        self
    }

    fn number(&self) -> Option<u64> {
        self.pods_watch().map(|(number, _)| number)
    }

    fn pod_names(&self) -> Option<Vec<String>> {
        self.view().map(|view| view.endpoints.into_iter().map(|endpoint| endpoint.pod).collect())
    }
}

#[test]
fn a_pool_that_is_replaced_within_one_burst_has_its_pods_listed_anew() {
    let llama = || pool(json!({"app": "llama"}));
    let mut knowledge = following().without_policies();
    assert_eq!(knowledge.number(), None);
    knowledge.take_pool_events(list(&[llama()]));
    let first = knowledge.number().unwrap();
    knowledge.take_pod_list(first, &[pod("a", "10.0.0.1"), pod("b", "10.0.0.2")]);
    assert_eq!(knowledge.pod_names().unwrap(), ["a", "b"]);

    for replacement in [vec![Event::Delete(llama()), Event::Apply(llama())], [list(&[]), list(&[llama()])].concat()] {
        let before = knowledge.number().unwrap();
        knowledge.take_pool_events(replacement);
        let after = knowledge.number().unwrap();
        assert_ne!(after, before, "the watch that stands lists nothing any more");
        // What the old watch still tells is of no use, and what was published before stands.
        knowledge.take(News::Pods(before, Ok(Event::Apply(pod("c", "10.0.0.3")))));
        assert_eq!(knowledge.pod_names(), None);
        knowledge.take_pod_list(after, &[pod("b", "10.0.0.2")]);
        assert_eq!(knowledge.pod_names().unwrap(), ["b"]);
        assert_eq!(knowledge.trouble(), None);
    }
}

#[test]
fn only_another_selector_begins_another_watch_and_the_old_list_stands_meanwhile() {
    let mut knowledge = following().without_policies();
    knowledge.take_pool_events(list(&[pool(json!({"app": "llama"}))]));
    let first = knowledge.number().unwrap();
    knowledge.take_pod_list(first, &[pod("a", "10.0.0.1")]);
    knowledge.take_pool_events([Event::Apply(pool(json!({"app": "llama"})))]);
    assert_eq!(knowledge.number(), Some(first));
    knowledge.take_pool_events([Event::Apply(pool(json!({"app": "qwen"})))]);
    let second = knowledge.number().unwrap();
    assert_ne!(second, first);
    assert_eq!(knowledge.pod_names().unwrap(), ["a"]);
    knowledge.take_pod_list(second, &[pod("q", "10.0.0.9")]);
    assert_eq!(knowledge.pod_names().unwrap(), ["q"]);
}

#[test]
fn a_pool_that_is_gone_has_no_endpoints_and_its_pods_are_not_watched() {
    let mut knowledge = following().without_policies();
    knowledge.take_pool_events(list(&[]));
    assert_eq!((knowledge.view(), knowledge.number()), (None, None), "it may be yet to come");
    knowledge.take_pool_events([Event::Apply(pool(json!({"app": "llama"})))]);
    let number = knowledge.number().unwrap();
    knowledge.take_pod_list(number, &[pod("a", "10.0.0.1")]);
    knowledge.take_pool_events([Event::Delete(pool(json!({"app": "llama"})))]);
    assert_eq!((knowledge.pod_names(), knowledge.number()), (Some(vec![]), None));
    assert_eq!(knowledge.trouble().unwrap(), "InferencePool models/llama does not exist");
}
