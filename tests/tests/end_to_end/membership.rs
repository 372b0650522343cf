//! Pods that join and leave a running gateway.

use std::path::Path;

use serde_json::{Value, json};
use tests::{Gateway, MODEL, Mode, Wire, builder, chat_body, eventually, figure};

tests::on_bindings! {
    both: [pods_that_join_get_requests_and_those_that_leave_finish_theirs],
}

/// Envoy wants a name before it discovers anything.
pub(crate) const NODE: [&str; 4] = ["--service-node", "gateway", "--service-cluster", "gateway"];
const CLUSTER: &str = "pool-default";

/// Publishes the pool's members to Envoy's file-based discovery. Envoy looks when a file is moved to the place.
pub(crate) fn publish(file: &Path, members: &[Value]) {
    let resource = json!({
        "@type": "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
        "cluster_name": CLUSTER,
        "endpoints": [{"lb_endpoints": members}]
    });
    let next = file.with_extension("next");
    std::fs::write(&next, json!({"resources": [resource]}).to_string()).unwrap();
    std::fs::rename(next, file).unwrap();
}

/// Moves a bootstrap's pool, or the first so many of its pods, into a file of Envoy's discovery.
pub(crate) fn discover(file: &Path, pods: usize) -> impl Fn(&mut Value) + Send + Sync + 'static {
    let file = file.to_owned();
    move |tree| {
        let clusters = tree["static_resources"]["clusters"].as_array_mut().unwrap();
        let pool = clusters.iter_mut().find(|cluster| cluster["name"] == CLUSTER).unwrap().as_object_mut().unwrap();
        let listed = pool.remove("load_assignment").unwrap();
        publish(&file, &listed["endpoints"][0]["lb_endpoints"].as_array().unwrap()[..pods]);
        pool.insert("type".to_owned(), json!("EDS"));
        let config = json!({"eds_config": {"path_config_source": {"path": file}}});
        pool.insert("eds_cluster_config".to_owned(), config);
    }
}

pub(crate) fn member(addr: &str) -> Value {
    let (host, port) = addr.rsplit_once(':').unwrap();
    json!({"endpoint": {"address": {"socket_address": {"address": host, "port_value": port.parse::<u16>().unwrap()}}}})
}

async fn served(gateway: &Gateway, requests: usize) -> Vec<usize> {
    let mut pods = Vec::new();
    for _ in 0..requests {
        let reply = gateway.chat().await;
        assert_eq!(reply.status.as_u16(), 200, "{}", reply.text());
        pods.push(gateway.pod_of(&reply));
    }
    pods.sort_unstable();
    pods.dedup();
    pods
}

async fn serve_alone(gateway: &Gateway, pods: &[usize]) {
    eventually(&format!("pods {pods:?} share the requests"), async || {
        let found = served(gateway, 20).await;
        if found == pods { Ok(()) } else { Err(format!("{found:?} served")) }
    })
    .await;
}

async fn pods_that_join_get_requests_and_those_that_leave_finish_theirs(mode: Mode) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pool.json");
    let stack = builder(mode, 3, json!({})).wait_for_snapshot(false).envoy_args(NODE).patch(discover(&file, 2));
    let gateway = Gateway::start(stack).await;
    let addrs: Vec<String> = gateway.pods.iter().map(|pod| pod.addr.clone()).collect();
    serve_alone(&gateway, &[0, 1]).await;
    gateway.shows(&[figure("inference_pool_ready_pods", &[("name", "default")], 2)]).await;

    // One leaves in the middle of a stream, one joins.
    gateway.pin(1, json!({"waiting": 50})).await;
    gateway.fault(0, json!({"kind": "stall", "after_events": 2, "count": 1})).await;
    let mut held = Wire::post(gateway.gateway, "/v1/chat/completions", &chat_body(MODEL, true)).await;
    held.read_until("data: ").await;
    gateway.pin_unseen(1, json!({})).await;
    publish(&file, &[member(&addrs[1]), member(&addrs[2])]);
    serve_alone(&gateway, &[1, 2]).await;
    gateway
        .shows(&[
            figure("inference_pool_ready_pods", &[("name", "default")], 2),
            figure("inference_objective_running_requests", &[("model_name", MODEL)], 1),
        ])
        .await;
    drop(held);
    gateway
        .shows(&[
            figure("inference_objective_running_requests", &[("model_name", MODEL)], 0),
            figure("inference_objective_request_error_total", &[("error_code", "Cancelled")], 1),
            figure("inference_objective_request_error_total", &[], 1),
        ])
        .await;

    // None is left, then all are there.
    publish(&file, &[]);
    eventually("nobody is left", async || {
        let status = gateway.chat().await.status.as_u16();
        if status == 503 { Ok(()) } else { Err(status) }
    })
    .await;
    publish(&file, &[member(&addrs[0]), member(&addrs[1]), member(&addrs[2])]);
    eventually("somebody serves", async || {
        let status = gateway.chat().await.status.as_u16();
        if status == 200 { Ok(()) } else { Err(status) }
    })
    .await;
    serve_alone(&gateway, &[0, 1, 2]).await;
}
