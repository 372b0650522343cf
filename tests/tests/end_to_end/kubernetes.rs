//! The sidecar follows an API server of Kubernetes, and Envoy reads the pool from the file that the sidecar writes.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tests::{Gateway, MODEL, Mode, builder, chat_body, eventually, figure};

use crate::cluster::{Cluster, OBJECTIVES, PODS, POOLS, REWRITES};

tests::on_bindings! {
    both_beside_a_sidecar: [pods_of_a_pool_serve_while_they_are_there_and_its_policies_hold],
    native: [the_sidecar_in_envoy_writes_the_file_that_envoy_reads],
}

/// Envoy wants a name before it discovers anything.
const NODE: [&str; 4] = ["--service-node", "gateway", "--service-cluster", "gateway"];
const CLUSTER: &str = "pool-default";

/// A gateway of simulated pods that nobody has told it of.
async fn start(mode: Mode, cluster: &Cluster, folder: &Path) -> Gateway {
    std::fs::write(folder.join("token"), "the-token").unwrap();
    std::fs::write(folder.join("namespace"), "ns").unwrap();
    let file = folder.join("eds/default.json");
    let watched: PathBuf = folder.join("eds");
    let arguments = [
        "--pool=default=inferencepool:my".to_owned(),
        format!("--pool-option=default=eds-file={}", file.display()),
        format!("--pool-option=default=eds-cluster={CLUSTER}"),
        format!("--kubernetes-api-server=http://{}", cluster.address),
        format!("--kubernetes-token-file={}", folder.join("token").display()),
    ];
    let stack = builder(mode, 3, json!({})).wait_for_snapshot(false).envoy_args(NODE).sidecar_args(arguments);
    let stack = stack.patch(move |tree| {
        let clusters = tree["static_resources"]["clusters"].as_array_mut().unwrap();
        let pool = clusters.iter_mut().find(|cluster| cluster["name"] == CLUSTER).unwrap().as_object_mut().unwrap();
        pool.remove("load_assignment");
        pool.insert("type".to_owned(), json!("EDS"));
        let source = json!({"path": file, "watched_directory": {"path": watched}});
        let config = json!({"resource_api_version": "V3", "path_config_source": source});
        pool.insert("eds_cluster_config".to_owned(), json!({"eds_config": config}));
    });
    Gateway::start(stack).await
}

fn port(gateway: &Gateway, pod: usize) -> u16 {
    gateway.pods[pod].addr.rsplit_once(':').unwrap().1.parse().unwrap()
}

/// The simulated pod of that number as the API server has it: all are at one address, so that their ports tell them apart.
fn pod(gateway: &Gateway, number: usize) -> Value {
    json!({
        "metadata": {
            "labels": {"app": "vllm"},
            "annotations": {"inference.networking.k8s.io/active-ports": port(gateway, number).to_string()},
        },
        "spec": {},
        "status": {"phase": "Running", "podIP": "127.0.0.1", "conditions": [{"type": "Ready", "status": "True"}]},
    })
}

fn pool(gateway: &Gateway, mode: &str) -> Value {
    let ports: Vec<Value> = (0..3).map(|number| json!({"number": port(gateway, number)})).collect();
    let picker = json!({"name": "epp", "failureMode": mode});
    json!({"metadata": {}, "spec": {"selector": {"matchLabels": {"app": "vllm"}}, "targetPorts": ports, "endpointPickerRef": picker}})
}

/// Waits until just these pods serve; each request on the way is answered by one of those that may.
async fn until_served_by(gateway: &Gateway, pods: &[usize]) {
    eventually(&format!("pods {pods:?} share the requests"), async || {
        let mut found = Vec::new();
        for _ in 0..20 {
            let reply = gateway.chat().await;
            if reply.status.as_u16() != 200 {
                return Err(format!("{} {}", reply.status, reply.text()));
            }
            found.push(gateway.pod_of(&reply));
        }
        found.sort_unstable();
        found.dedup();
        if found == pods { Ok(()) } else { Err(format!("{found:?} served")) }
    })
    .await;
}

async fn until_status(gateway: &Gateway, status: u16) {
    eventually(&format!("the status is {status}"), async || {
        let seen = gateway.chat().await.status.as_u16();
        if seen == status { Ok(()) } else { Err(seen) }
    })
    .await;
}

async fn pods_of_a_pool_serve_while_they_are_there_and_its_policies_hold(mode: Mode) {
    let (cluster, folder) = (Cluster::start().await, tempfile::tempdir().unwrap());
    cluster.with(|world| {
        world.serve(OBJECTIVES);
        world.serve(REWRITES);
    });
    let gateway = start(mode, &cluster, folder.path()).await;
    cluster.with(|world| {
        world.put(POOLS, "my", pool(&gateway, "FailClose"));
        world.put(PODS, "a", pod(&gateway, 0));
        world.put(PODS, "b", pod(&gateway, 1));
    });
    until_served_by(&gateway, &[0, 1]).await;
    gateway.shows(&[figure("inference_pool_ready_pods", &[("name", "default")], 2)]).await;

    // One leaves, one comes: no request fails on the way.
    cluster.with(|world| {
        world.put(PODS, "c", pod(&gateway, 2));
        let mut leaving = pod(&gateway, 0);
        leaving["metadata"]["deletionTimestamp"] = json!("2026-11-26T10:00:00Z");
        world.put(PODS, "a", leaving);
    });
    for _ in 0..40 {
        assert_eq!(gateway.chat().await.status.as_u16(), 200);
    }
    until_served_by(&gateway, &[1, 2]).await;

    // A file that somebody broke changes nothing.
    let file = folder.path().join("eds/default.json");
    let whole = std::fs::read(&file).unwrap();
    let broken = folder.path().join("broken");
    std::fs::write(&broken, &whole[..whole.len() / 2]).unwrap();
    std::fs::rename(&broken, &file).unwrap();
    for _ in 0..10 {
        assert_eq!(gateway.chat().await.status.as_u16(), 200);
    }

    // Policies hold without a restart.
    let rule = json!({"matches": [{"model": {"value": "alias"}}], "targets": [{"modelRewrite": MODEL}]});
    cluster.with(|world| {
        world.put(REWRITES, "r", json!({"metadata": {}, "spec": {"poolRef": {"name": "my"}, "rules": [rule]}}));
        world.put(OBJECTIVES, "urgent", json!({"metadata": {}, "spec": {"priority": 7, "poolRef": {"name": "my"}}}));
    });
    eventually("the rewrite holds", async || {
        let body = json!({"model": "alias", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2});
        let status = gateway.post("/v1/chat/completions", body.to_string()).await.status.as_u16();
        if status == 200 { Ok(()) } else { Err(status) }
    })
    .await;
    eventually("the objective has its priority", async || {
        let headers = [("x-gateway-inference-objective", "urgent")];
        let reply = gateway.send("POST", "/v1/chat/completions", &headers, chat_body(MODEL, false)).await;
        assert_eq!(reply.status.as_u16(), 200);
        let page = gateway.envoy_page().await.unwrap();
        let seen = page.sum("inference_objective_request_total", &[("priority", "7")]);
        if seen >= 1.0 { Ok(()) } else { Err(seen) }
    })
    .await;

    // The last one leaves too: the pool says whether requests are refused.
    cluster.with(|world| {
        for name in ["a", "b", "c"] {
            world.delete(PODS, name);
        }
    });
    until_status(&gateway, 503).await;
    cluster.with(|world| world.put(PODS, "d", pod(&gateway, 2)));
    until_status(&gateway, 200).await;
    until_served_by(&gateway, &[2]).await;
    assert_eq!(cluster.with(|world| world.complaints.clone()), Vec::<String>::new());
}

async fn the_sidecar_in_envoy_writes_the_file_that_envoy_reads(mode: Mode) {
    let (cluster, folder) = (Cluster::start().await, tempfile::tempdir().unwrap());
    // Envoy opens the file before it loads the module that writes it, so any JSON must be there.
    std::fs::create_dir(folder.path().join("eds")).unwrap();
    std::fs::write(folder.path().join("eds/default.json"), "{}").unwrap();
    let gateway = start(mode, &cluster, folder.path()).await;
    cluster.with(|world| {
        world.put(POOLS, "my", pool(&gateway, "FailOpen"));
        world.put(PODS, "a", pod(&gateway, 0));
        world.put(PODS, "b", pod(&gateway, 1));
    });
    until_served_by(&gateway, &[0, 1]).await;
    cluster.with(|world| world.delete(PODS, "a"));
    until_served_by(&gateway, &[1]).await;
}
