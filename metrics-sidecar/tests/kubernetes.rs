//! A whole sidecar against an API server of Kubernetes that does all that one may do.
#![cfg(feature = "kubernetes")]
#![allow(
    missing_docs,
    unreachable_pub,
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test should stop at what it did not expect"
)]

mod stage;

use std::path::Path;
use std::time::{Duration, Instant};

use metrics_sidecar::Running;
use serde_json::{Value, json};
use snapshot::PoolMembers;
use stage::cluster::{Cluster, NEWER_OBJECTIVES, OBJECTIVES, PODS, POOLS, REWRITES};
use stage::{get, sidecar, snapshot, until_text};

const PATIENCE: Duration = Duration::from_secs(30);

fn pod(ip: &str, app: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"labels": {"app": app}, "managedFields": [{"manager": "kubelet"}]},
        "spec": {"containers": [{"name": "vllm"}]},
        "status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}], "conditions": [{"type": "Ready", "status": "True"}]},
    })
}

fn pool(app: &str, ports: &[u16], mode: &str) -> Value {
    let ports: Vec<Value> = ports.iter().map(|port| json!({"number": port})).collect();
    json!({
        "apiVersion": "inference.networking.k8s.io/v1", "kind": "InferencePool", "metadata": {},
        "spec": {"selector": {"matchLabels": {"app": app}}, "targetPorts": ports, "endpointPickerRef": {"name": "epp", "failureMode": mode}},
    })
}

/// A sidecar of that cluster, which writes its pool into the folder.
async fn follower(cluster: &Cluster, folder: &Path, source: &str) -> Running {
    let token = folder.join("token");
    std::fs::write(&token, "the-token").unwrap();
    std::fs::write(folder.join("namespace"), "ns\n").unwrap();
    sidecar(&[
        "--pool",
        &format!("p={source}"),
        "--pool-option",
        &format!("p=eds-file={}/eds/p.json", folder.display()),
        "--pool-option",
        "p=eds-cluster=model-servers",
        "--kubernetes-api-server",
        &format!("http://{}", cluster.address),
        "--kubernetes-token-file",
        token.to_str().unwrap(),
    ])
    .await
}

/// The pool once it is as wanted.
async fn members(running: &Running, wanted: impl Fn(&PoolMembers) -> bool) -> PoolMembers {
    let until = Instant::now() + PATIENCE;
    loop {
        let seen = snapshot(running).await.membership.unwrap().pools.remove(0);
        if wanted(&seen) {
            return seen;
        }
        assert!(Instant::now() < until, "{seen:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn addresses(pool: &PoolMembers) -> Vec<String> {
    let mut addresses: Vec<String> = pool.endpoints.iter().map(|endpoint| endpoint.address.to_string()).collect();
    addresses.sort();
    addresses
}

async fn until_addresses(running: &Running, wanted: &[&str]) -> PoolMembers {
    members(running, |pool| addresses(pool) == wanted).await
}

/// The addresses in the file, which is there and whole at any moment.
fn written(folder: &Path) -> Vec<String> {
    let content: Value = serde_json::from_slice(&std::fs::read(folder.join("eds/p.json")).unwrap()).unwrap();
    assert_eq!(content["resources"][0]["cluster_name"], "model-servers");
    let endpoints = content["resources"][0]["endpoints"][0]["lb_endpoints"].as_array().unwrap();
    let mut addresses: Vec<String> = endpoints
        .iter()
        .map(|endpoint| &endpoint["endpoint"]["address"]["socket_address"])
        .map(|socket| format!("{}:{}", socket["address"].as_str().unwrap(), socket["port_value"]))
        .collect();
    addresses.sort();
    addresses
}

async fn metric(running: &Running, name: &str) -> f64 {
    let page = get(running.addr(), "/metrics?families=sidecar", "").await.text();
    let line = page.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{name} is not in {page}"));
    line.rsplit_once(' ').unwrap().1.parse().unwrap()
}

async fn until_metric(running: &Running, name: &str, wanted: impl Fn(f64) -> bool) {
    let until = Instant::now() + PATIENCE;
    loop {
        let value = metric(running, name).await;
        if wanted(value) {
            return;
        }
        assert!(Instant::now() < until, "{name} is {value}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

const AWAY: &str = "inpick_sidecar_kubernetes_away_seconds{pool=\"p\",resource=\"pods\"}";

#[tokio::test]
async fn pods_come_and_leave_in_the_snapshot_and_before_it_in_the_file() {
    let (cluster, folder) = (Cluster::start().await, tempfile::tempdir().unwrap());
    cluster.with(|world| world.put(PODS, "other", pod("10.0.0.9", "other")));
    let running = follower(&cluster, folder.path(), "pods:app=vllm,role!=prefill:8000,8001").await;
    assert_eq!(written(folder.path()), Vec::<String>::new());
    let mut starting = pod("10.0.0.1", "vllm");
    starting["status"]["conditions"][0]["status"] = json!("False");
    cluster.with(|world| {
        world.put(PODS, "a", starting);
        world.put(PODS, "b", pod("10.0.0.2", "vllm"));
    });
    let pool = until_addresses(&running, &["10.0.0.2:8000", "10.0.0.2:8001"]).await;
    assert_eq!(written(folder.path()), ["10.0.0.2:8000", "10.0.0.2:8001"]);
    let first = &pool.endpoints[0];
    assert_eq!((first.pod.as_str(), first.namespace.as_str()), ("b", "ns"));
    assert_eq!(first.labels, [("app".to_owned(), "vllm".to_owned())]);
    let mut narrowed = pod("10.0.0.1", "vllm");
    narrowed["metadata"]["annotations"] = json!({"inference.networking.k8s.io/active-ports": "8001"});
    cluster.with(|world| world.put(PODS, "a", narrowed));
    until_addresses(&running, &["10.0.0.1:8001", "10.0.0.2:8000", "10.0.0.2:8001"]).await;
    let mut leaving = pod("10.0.0.2", "vllm");
    leaving["metadata"]["deletionTimestamp"] = json!("2026-11-26T10:00:00Z");
    cluster.with(|world| world.put(PODS, "b", leaving));
    until_addresses(&running, &["10.0.0.1:8001"]).await;
    assert_eq!(written(folder.path()), ["10.0.0.1:8001"]);
    cluster.with(|world| world.delete(PODS, "a"));
    until_addresses(&running, &[]).await;
    assert_eq!(written(folder.path()), Vec::<String>::new());
    let complaints = cluster.with(|world| world.complaints.clone());
    assert_eq!(complaints, Vec::<String>::new());
    running.stop().await;
}

#[tokio::test]
async fn a_pool_may_be_absent_change_leave_and_return() {
    let (cluster, folder) = (Cluster::start().await, tempfile::tempdir().unwrap());
    cluster.with(|world| {
        world.put(PODS, "a", pod("10.0.0.1", "one"));
        world.put(PODS, "b", pod("10.0.0.2", "two"));
        world.put(POOLS, "another", pool("two", &[1], "FailOpen"));
    });
    let running = follower(&cluster, folder.path(), "inferencepool:my").await;
    until_text(&running, "/readyz", |text| text.contains("InferencePool ns/my does not exist")).await;
    cluster.with(|world| world.put(POOLS, "my", pool("one", &[8000], "FailClose")));
    let seen = until_addresses(&running, &["10.0.0.1:8000"]).await;
    assert_eq!(seen.fail_closed, Some(true));
    cluster.with(|world| world.put(POOLS, "my", pool("one", &[8000, 9000], "FailOpen")));
    let seen = until_addresses(&running, &["10.0.0.1:8000", "10.0.0.1:9000"]).await;
    assert_eq!(seen.fail_closed, Some(false));
    cluster.with(|world| world.put(POOLS, "my", pool("two", &[8000], "FailOpen")));
    until_addresses(&running, &["10.0.0.2:8000"]).await;
    // One that cannot be used changes nothing.
    let mut bad = pool("two", &[], "FailOpen");
    bad["spec"]["targetPorts"] = json!("none");
    cluster.with(|world| world.put(POOLS, "my", bad));
    cluster.with(|world| world.put(PODS, "c", pod("10.0.0.3", "two")));
    until_addresses(&running, &["10.0.0.2:8000", "10.0.0.3:8000"]).await;
    cluster.with(|world| world.delete(POOLS, "my"));
    until_addresses(&running, &[]).await;
    assert_eq!(written(folder.path()), Vec::<String>::new());
    cluster.with(|world| world.put(POOLS, "my", pool("two", &[8000], "FailOpen")));
    until_addresses(&running, &["10.0.0.2:8000", "10.0.0.3:8000"]).await;
    assert_eq!(cluster.with(|world| world.complaints.clone()), Vec::<String>::new());
    running.stop().await;
}

#[tokio::test]
async fn the_last_list_stands_while_the_server_is_away_and_what_was_missed_is_found() {
    let (cluster, folder) = (Cluster::start().await, tempfile::tempdir().unwrap());
    cluster.with(|world| world.put(PODS, "a", pod("10.0.0.1", "vllm")));
    let running = follower(&cluster, folder.path(), "pods:app=vllm:8000").await;
    until_addresses(&running, &["10.0.0.1:8000"]).await;
    until_metric(&running, AWAY, |seconds| seconds == 0.0).await;
    let (address, world) = cluster.stop().await;
    until_metric(&running, AWAY, |seconds| seconds > 0.5).await;
    assert_eq!(written(folder.path()), ["10.0.0.1:8000"]);
    until_addresses(&running, &["10.0.0.1:8000"]).await;
    world.lock().unwrap().put(PODS, "b", pod("10.0.0.2", "vllm"));
    let cluster = Cluster::resume(address, world).await;
    until_addresses(&running, &["10.0.0.1:8000", "10.0.0.2:8000"]).await;
    until_metric(&running, AWAY, |seconds| seconds == 0.0).await;
    // A compaction: the version is gone, and so is a pod.
    cluster.with(|world| {
        world.bookmark(PODS, "Pod");
        world.disconnect();
        world.delete(PODS, "a");
        world.compact();
    });
    until_addresses(&running, &["10.0.0.2:8000"]).await;
    // A watch that ends in the middle of a line, and one that ends at all.
    cluster.with(|world| {
        world.babble(PODS, "{\"type\":\"ADDED\",\"obj");
        world.disconnect();
    });
    cluster.with(|world| world.put(PODS, "c", pod("10.0.0.3", "vllm")));
    until_addresses(&running, &["10.0.0.2:8000", "10.0.0.3:8000"]).await;
    running.stop().await;
}

#[tokio::test]
async fn a_right_that_is_missing_is_named_and_taken_up_once_it_is_granted() {
    for verb in ["list", "watch"] {
        let (cluster, folder) = (Cluster::start().await, tempfile::tempdir().unwrap());
        cluster.with(|world| {
            world.forbidden.insert((verb, "pods"));
            world.put(PODS, "a", pod("10.0.0.1", "vllm"));
        });
        let running = follower(&cluster, folder.path(), "pods:app=vllm:8000").await;
        if verb == "list" {
            let text = until_text(&running, "/readyz", |text| text.contains("missing")).await;
            assert!(text.contains("the right to list pods is missing"), "{text}");
        }
        until_metric(&running, AWAY, |seconds| seconds > 0.0).await;
        cluster.with(|world| world.forbidden.clear());
        until_metric(&running, AWAY, |seconds| seconds == 0.0).await;
        until_addresses(&running, &["10.0.0.1:8000"]).await;
        running.stop().await;
    }
}

/// The gauge of a right in the pool `p`.
fn forbidden(group: &str, resource: &str, verb: &str) -> String {
    format!(
        "inpick_sidecar_kubernetes_forbidden{{group=\"{group}\",pool=\"p\",resource=\"{resource}\",verb=\"{verb}\"}}"
    )
}

#[tokio::test]
async fn each_right_that_is_missing_is_on_the_page_until_it_is_granted() {
    let rights = [
        ("", "pods"),
        ("inference.networking.k8s.io", "inferencepools"),
        ("inference.networking.x-k8s.io", "inferenceobjectives"),
        ("inference.networking.x-k8s.io", "inferencemodelrewrites"),
    ];
    let rights = rights.into_iter().flat_map(|right| ["list", "watch"].map(|verb| (right, verb)));
    let all: Vec<_> = rights
        .map(async |((group, resource), verb)| {
            let (cluster, folder) = (Cluster::start().await, tempfile::tempdir().unwrap());
            cluster.with(|world| {
                world.serve(OBJECTIVES);
                world.serve(REWRITES);
                world.put(PODS, "a", pod("10.0.0.1", "vllm"));
                world.put(POOLS, "my", pool("vllm", &[8000], "FailOpen"));
                world.forbidden.insert((verb, resource));
            });
            let running = follower(&cluster, folder.path(), "inferencepool:my").await;
            until_metric(&running, &forbidden(group, resource, verb), |value| value == 1.0).await;
            let page = get(running.addr(), "/metrics?families=sidecar", "").await.text();
            let refused: Vec<_> = page
                .lines()
                .filter(|line| line.starts_with("inpick_sidecar_kubernetes_forbidden{") && line.ends_with(" 1"))
                .collect();
            assert_eq!(refused, [format!("{} 1", forbidden(group, resource, verb))]);
            // It stays while the other verb is granted again and again.
            tokio::time::sleep(Duration::from_secs(6)).await;
            assert_eq!(metric(&running, &forbidden(group, resource, verb)).await, 1.0, "{verb} {resource}");
            cluster.with(|world| world.forbidden.clear());
            until_metric(&running, &forbidden(group, resource, verb), |value| value == 0.0).await;
            until_addresses(&running, &["10.0.0.1:8000"]).await;
            running.stop().await;
        })
        .collect();
    futures_util::future::join_all(all).await;
}

#[tokio::test]
async fn a_kind_that_a_cluster_does_not_have_lacks_no_right() {
    let (cluster, folder) = (Cluster::start().await, tempfile::tempdir().unwrap());
    cluster.with(|world| {
        world.put(PODS, "a", pod("10.0.0.1", "vllm"));
        world.put(POOLS, "my", pool("vllm", &[8000], "FailOpen"));
        world.serve(REWRITES);
        world.forbidden.insert(("list", "inferenceobjectives"));
    });
    let running = follower(&cluster, folder.path(), "inferencepool:my").await;
    // The server refuses the list without a look at whether there is such a kind.
    until_addresses(&running, &["10.0.0.1:8000"]).await;
    let (newer, older) = ("llm-d.ai", "inference.networking.x-k8s.io");
    let of = |group| forbidden(group, "inferenceobjectives", "list");
    assert_eq!((metric(&running, &of(newer)).await, metric(&running, &of(older)).await), (0.0, 0.0));
    // Once there is, the right is missing in its group.
    cluster.with(|world| world.serve(OBJECTIVES));
    until_metric(&running, &of(older), |value| value == 1.0).await;
    assert_eq!(metric(&running, &of(newer)).await, 0.0);
    running.stop().await;
}

#[tokio::test]
async fn a_malformed_object_hides_no_other() {
    let (cluster, folder) = (Cluster::start().await, tempfile::tempdir().unwrap());
    let mut bad = pod("10.0.0.1", "vllm");
    bad["status"]["conditions"] = json!({"Ready": true});
    cluster.with(|world| {
        world.put(PODS, "bad", bad.clone());
        world.put(PODS, "good", pod("10.0.0.2", "vllm"));
    });
    let running = follower(&cluster, folder.path(), "pods:app=vllm:8000").await;
    until_addresses(&running, &["10.0.0.2:8000"]).await;
    cluster.with(|world| {
        world.babble(PODS, "nonsense\n");
        world.put(PODS, "worse", bad);
        world.put(PODS, "better", pod("10.0.0.3", "vllm"));
    });
    until_addresses(&running, &["10.0.0.2:8000", "10.0.0.3:8000"]).await;
    running.stop().await;
}

#[tokio::test]
async fn objectives_and_rewrites_are_followed_whenever_their_kinds_come() {
    let (cluster, folder) = (Cluster::start().await, tempfile::tempdir().unwrap());
    let of = |priority: i32| json!({"metadata": {}, "spec": {"priority": priority, "poolRef": {"name": "my"}}});
    cluster.with(|world| {
        world.put(PODS, "a", pod("10.0.0.1", "vllm"));
        world.put(POOLS, "my", pool("vllm", &[8000], "FailOpen"));
    });
    let running = follower(&cluster, folder.path(), "inferencepool:my").await;
    let seen = until_addresses(&running, &["10.0.0.1:8000"]).await;
    assert!(seen.objectives.is_empty() && seen.rewrites.is_empty());
    let quiet = "inpick_sidecar_kubernetes_away_seconds{pool=\"p\",resource=\"inferenceobjectives\"}";
    assert_eq!(metric(&running, quiet).await, 0.0);
    // Installed while the sidecar runs.
    cluster.with(|world| {
        world.serve(OBJECTIVES);
        world.serve(REWRITES);
        world.put(OBJECTIVES, "batch", of(-1));
        let rule = json!({"matches": [{"model": {"type": "Exact", "value": "alias"}}], "targets": [{"modelRewrite": "base", "weight": 3}]});
        let spec = json!({"poolRef": {"group": "inference.networking.k8s.io", "name": "my"}, "rules": [rule]});
        world.put(REWRITES, "canary", json!({"metadata": {"creationTimestamp": "2026-11-26T10:00:00Z"}, "spec": spec}));
    });
    let seen = members(&running, |pool| !pool.objectives.is_empty() && !pool.rewrites.is_empty()).await;
    assert_eq!(seen.objectives.into_iter().collect::<Vec<_>>(), [("batch".to_owned(), -1)]);
    assert_eq!((seen.rewrites[0].name.as_str(), seen.rewrites[0].model.as_deref()), ("canary", Some("alias")));
    assert_eq!(seen.rewrites[0].targets, [("base".to_owned(), 3)]);
    cluster.with(|world| world.put(OBJECTIVES, "batch", of(-5)));
    members(&running, |pool| pool.objectives.get("batch") == Some(&-5)).await;
    // The newer group counts alone once it is there.
    cluster.with(|world| {
        world.serve(NEWER_OBJECTIVES);
        world.put(NEWER_OBJECTIVES, "urgent", of(7));
    });
    let seen = members(&running, |pool| pool.objectives.contains_key("urgent")).await;
    assert_eq!(seen.objectives.len(), 1);
    assert_eq!(seen.rewrites.len(), 1);
    running.stop().await;
}

#[tokio::test]
async fn a_file_that_cannot_be_written_holds_new_endpoints_back_until_it_can() {
    let (cluster, folder) = (Cluster::start().await, tempfile::tempdir().unwrap());
    // A file stands where the folder should be.
    std::fs::write(folder.path().join("eds"), "").unwrap();
    cluster.with(|world| world.put(PODS, "a", pod("10.0.0.1", "vllm")));
    let running = follower(&cluster, folder.path(), "pods:app=vllm:8000").await;
    let failures = "inpick_sidecar_eds_writes_total{outcome=\"failure\",pool=\"p\"}";
    until_metric(&running, failures, |count| count >= 2.0).await;
    until_addresses(&running, &[]).await;
    std::fs::remove_file(folder.path().join("eds")).unwrap();
    until_addresses(&running, &["10.0.0.1:8000"]).await;
    assert_eq!(written(folder.path()), ["10.0.0.1:8000"]);
    let successes = "inpick_sidecar_eds_writes_total{outcome=\"success\",pool=\"p\"}";
    let before = metric(&running, successes).await;
    // What changes no endpoint writes nothing.
    let mut relabelled = pod("10.0.0.1", "vllm");
    relabelled["metadata"]["labels"]["more"] = json!("yes");
    cluster.with(|world| world.put(PODS, "a", relabelled));
    members(&running, |pool| pool.endpoints[0].labels.len() == 2).await;
    assert_eq!(metric(&running, successes).await, before);
    running.stop().await;
}

#[tokio::test]
async fn a_restart_while_the_server_is_away_goes_on_with_the_list_in_the_file() {
    let (cluster, folder) = (Cluster::start().await, tempfile::tempdir().unwrap());
    cluster.with(|world| world.put(PODS, "a", pod("10.0.0.1", "vllm")));
    let running = follower(&cluster, folder.path(), "pods:app=vllm:8000").await;
    until_addresses(&running, &["10.0.0.1:8000"]).await;
    running.stop().await;
    cluster.with(|world| {
        world.forbidden.insert(("list", "pods"));
    });
    let running = follower(&cluster, folder.path(), "pods:app=vllm:8000").await;
    assert_eq!(written(folder.path()), ["10.0.0.1:8000"]);
    let seen = until_addresses(&running, &["10.0.0.1:8000"]).await;
    assert_eq!(seen.endpoints[0].pod, "a");
    until_text(&running, "/readyz", |text| text.contains("missing")).await;
    cluster.with(|world| {
        world.forbidden.clear();
        world.delete(PODS, "a");
    });
    until_addresses(&running, &[]).await;
    running.stop().await;
}
