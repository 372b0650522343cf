//! Which pod gets a request.

use std::collections::BTreeSet;

use serde_json::json;
use tests::{Gateway, MODEL, Mode, Uploader, builder, chat_body, eventually, figure};

tests::on_bindings! {
    both: [least_loaded_pod_wins_and_the_served_host_is_the_pick, every_answered_request_is_one_pick_of_the_endpoint_that_served_it, a_client_cannot_choose_its_pod_and_pods_never_see_the_choice, a_path_that_is_no_inference_passes_untouched],
    // They need a sidecar that can be ended, or that is not there.
    both_beside_a_sidecar: [workers_share_what_they_have_in_flight],
    // With wasm it always does.
    native: [the_choice_travels_as_a_header_where_that_is_wanted],
}

const DESTINATION: &str = "x-gateway-destination-endpoint";

/// Sends rounds of requests until one round is served by one pod alone, and says by which.
async fn all_go_to(gateway: &Gateway, pod: usize) {
    eventually(&format!("all requests go to pod {pod}"), async || {
        for _ in 0..10 {
            let served = gateway.pod_of(&gateway.chat().await);
            if served != pod {
                return Err(format!("pod {served} got one"));
            }
        }
        Ok(())
    })
    .await;
}

async fn least_loaded_pod_wins_and_the_served_host_is_the_pick(mode: Mode) {
    let gateway = Gateway::start(builder(mode, 3, json!({}))).await;
    let addrs: Vec<String> = gateway.pods.iter().map(|pod| pod.addr.clone()).collect();

    for (pod, waiting) in [(0, 60), (1, 30), (2, 90)] {
        gateway.pin(pod, json!({"waiting": waiting, "kv_cache_usage": 0.5})).await;
    }
    all_go_to(&gateway, 1).await;
    let before = gateway.envoy_page().await.unwrap();
    let picks = |reason| before.sum("inpick_picks_total", &[("endpoint", &addrs[1]), ("reason", reason)]) as u64;
    let best = picks("best_score");

    // Everything below the API's prefix goes by load; what only asks for the proxy's health does not count as a pick.
    let mut sent = 0;
    for path in ["/v1/chat/completions", "/v1/completions"] {
        let body = if path.ends_with("chat/completions") {
            chat_body(MODEL, false)
        } else {
            json!({"model": MODEL, "prompt": "one two three", "max_tokens": 3}).to_string()
        };
        for _ in 0..10 {
            let reply = gateway.post(path, body.clone()).await;
            assert_eq!((reply.status.as_u16(), gateway.pod_of(&reply)), (200, 1));
            sent += 1;
        }
    }
    for _ in 0..5 {
        let reply = gateway.get("/v1/models").await;
        assert_eq!((reply.status.as_u16(), gateway.pod_of(&reply)), (200, 1));
        sent += 1;
    }
    eventually("picks are counted", async || {
        let page = gateway.envoy_page().await.unwrap();
        let found = page.sum("inpick_picks_total", &[("endpoint", &addrs[1]), ("reason", "best_score")]) as u64;
        // The rounds above were flushed at some time between the two pages, so only a lower bound is certain.
        if found >= best + sent { Ok(()) } else { Err(format!("{found} picks, {best} before {sent} more")) }
    })
    .await;

    // The other signal decides when queues are equal.
    for (pod, usage) in [(0, 0.9), (1, 0.9), (2, 0.1)] {
        gateway.pin(pod, json!({"waiting": 7, "kv_cache_usage": usage})).await;
    }
    all_go_to(&gateway, 2).await;
}

async fn every_answered_request_is_one_pick_of_the_endpoint_that_served_it(mode: Mode) {
    let gateway = Gateway::start(builder(mode, 3, json!({}))).await;
    let mut served = [0_u64; 3];
    for _ in 0..30 {
        served[gateway.pod_of(&gateway.chat().await)] += 1;
    }
    for _ in 0..6 {
        served[gateway.pod_of(&gateway.get("/v1/models").await)] += 1;
    }
    assert!(served.iter().all(|count| *count > 0), "ties fall to one pod: {served:?}");
    // Below the API's prefix, but with nothing in it that the picker reads.
    let count = json!({"model": MODEL, "messages": [{"role": "user", "content": "x"}]}).to_string();
    for _ in 0..4 {
        let reply = gateway.post("/v1/messages/count_tokens", count.clone()).await;
        assert_eq!(reply.status.as_u16(), 200, "{}", reply.text());
        served[gateway.pod_of(&reply)] += 1;
    }
    for _ in 0..4 {
        assert_eq!(gateway.get("/health").await.status.as_u16(), 200);
    }
    let mut figures = vec![
        figure("inpick_picks_total", &[("pool", "default")], 40),
        figure("inference_extension_scheduler_attempts_total", &[("status", "success")], 40),
        figure(
            "inference_extension_scheduler_attempts_total",
            &[("status", "success"), ("target_model_name", MODEL)],
            30,
        ),
        figure("inference_extension_scheduler_attempts_total", &[("status", "failure")], 0),
        figure("inference_extension_scheduler_e2e_duration_seconds_count", &[], 40),
        figure("inference_objective_request_total", &[], 30),
        figure("inpick_request_bodies_total", &[("outcome", "parsed")], 30),
        figure("inpick_request_bodies_total", &[], 30),
    ];
    for (pod, count) in gateway.pods.iter().zip(served) {
        let (_, port) = pod.addr.rsplit_once(':').unwrap();
        figures.push(figure("inpick_picks_total", &[("endpoint", &pod.addr)], count));
        figures.push(figure("inference_extension_scheduler_attempts_total", &[("port", port)], count));
    }
    gateway.shows(&figures).await;
}

async fn a_client_cannot_choose_its_pod_and_pods_never_see_the_choice(mode: Mode) {
    let gateway = Gateway::start(builder(mode, 2, json!({}))).await;
    for (pod, waiting) in [(0, 50), (1, 3)] {
        gateway.pin(pod, json!({"waiting": waiting})).await;
    }
    all_go_to(&gateway, 1).await;
    let wanted = gateway.pods[0].addr.clone();
    for name in [DESTINATION, "X-Gateway-Destination-Endpoint"] {
        let reply = gateway.send("POST", "/v1/chat/completions", &[(name, &wanted)], chat_body(MODEL, false)).await;
        assert_eq!(gateway.pod_of(&reply), 1);
        let reply = gateway.send("GET", "/v1/models", &[(name, &wanted)], "").await;
        assert_eq!(gateway.pod_of(&reply), 1);
    }
    // Twice in one request, to a pod that does not exist, on a path that the filter leaves alone.
    for _ in 0..10 {
        let twice = [(DESTINATION, "127.0.0.1:1"), (DESTINATION, "127.0.0.1:2")];
        let reply = gateway.send("GET", "/version", &twice, "").await;
        assert_eq!(reply.status.as_u16(), 200);
    }
    gateway.chat().await;
    for pod in 0..2 {
        let Some(headers) = gateway.last_headers(pod).await else { continue };
        assert!(!headers.contains(DESTINATION), "pod {pod} saw {headers}");
    }
    assert!(gateway.last_headers(1).await.is_some());
}

/// The cluster reads and removes the header as that of the wasm bootstraps does.
async fn the_choice_travels_as_a_header_where_that_is_wanted(mode: Mode) {
    const EXTENSIONS: &str = "type.googleapis.com/envoy.extensions";
    let stack = builder(mode, 2, json!({"destination": "header"})).patch(|tree| {
        let clusters = tree["static_resources"]["clusters"].as_array_mut().unwrap();
        let cluster = clusters.iter_mut().find(|cluster| cluster["name"] == "pool-default").unwrap();
        let policy = &mut cluster["load_balancing_policy"]["policies"][0]["typed_extension_config"]["typed_config"];
        policy["override_host_sources"] = json!([{"header": DESTINATION}]);
        let options = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
        cluster["typed_extension_protocol_options"][options]["http_filters"] = json!([
            {"name": "envoy.filters.http.header_mutation", "typed_config": {
                "@type": format!("{EXTENSIONS}.filters.http.header_mutation.v3.HeaderMutation"),
                "mutations": {"request_mutations": [{"remove": DESTINATION}]},
            }},
            {"name": "envoy.filters.http.upstream_codec", "typed_config": {
                "@type": format!("{EXTENSIONS}.filters.http.upstream_codec.v3.UpstreamCodec"),
            }},
        ]);
    });
    let mut gateway = Gateway::start(stack).await;
    for preferred in [1, 0] {
        gateway.pin(preferred, json!({"waiting": 1})).await;
        gateway.pin(1 - preferred, json!({"waiting": 60})).await;
        all_go_to(&gateway, preferred).await;
    }
    let wanted = gateway.pods[1].addr.clone();
    let reply = gateway.send("POST", "/v1/chat/completions", &[(DESTINATION, &wanted)], chat_body(MODEL, false)).await;
    assert_eq!(gateway.pod_of(&reply), 0, "a client's own is removed");
    assert!(!gateway.last_headers(0).await.unwrap().contains(DESTINATION));
    // The list is longer than one: a retry goes to the second.
    gateway.stack.pod(0).unwrap().kill().await;
    assert_eq!(gateway.pod_of(&gateway.chat().await), 1);
}

async fn a_path_that_is_no_inference_passes_untouched(mode: Mode) {
    let gateway = Gateway::start(builder(mode, 1, json!({}))).await;
    for path in ["/health", "/ping", "/version"] {
        let reply = gateway.get(path).await;
        let direct = gateway.client.get(&gateway.pod_url(0, path).unwrap()).await.unwrap();
        assert_eq!((reply.status, reply.body), (direct.status, direct.body), "{path}");
    }
    gateway.shows(&[figure("inpick_picks_total", &[], 0)]).await;
    // A tokenizer's body is not read, not even one that is no JSON: any pod can serve it.
    let reply = gateway.send("POST", "/tokenize", &[], "{not json").await;
    assert_eq!((reply.status.as_u16(), gateway.pod_of(&reply)), (400, 0));
    assert_eq!(gateway.last_body(0).await, "{not json");
    gateway
        .shows(&[
            figure("inpick_picks_total", &[], 1),
            figure("inpick_load_only_requests_total", &[("outcome", "ModelServerRejected")], 1),
            figure("inference_objective_request_total", &[], 0),
            figure("inference_objective_request_error_total", &[], 0),
            figure("inpick_request_bodies_total", &[], 0),
        ])
        .await;
}

/// Two connections, and so two workers, hold four requests each on eight pods. Without load figures only requests in flight rank
/// the pods, so each pod must get one; workers that did not know of each other would meet that by chance once in seventy.
async fn workers_share_what_they_have_in_flight(mode: Mode) {
    let stack = builder(mode, 8, json!({"scheduling": {"max_snapshot_age_ms": 300}})).workers(2).patch(|tree| {
        // Hands connections to workers in turn.
        tree["static_resources"]["listeners"][0]["connection_balance_config"] = json!({"exact_balance": {}});
    });
    let mut gateway = Gateway::start(stack).await;
    for pod in 0..8 {
        gateway.fault(pod, json!({"kind": "stall", "after_events": 1})).await;
    }
    gateway.sidecar_process().unwrap().kill().await;
    gateway.snapshot_is_old().await;

    let addr = gateway.gateway;
    let (first, second) = (Uploader::http2(), Uploader::http2());
    let body = vec![chat_body(MODEL, true).into()];
    let mut held = Vec::new();
    let mut served = Vec::new();
    for (round, client) in [first, second].iter().enumerate() {
        for _ in 0..4 {
            let response = client.begin(addr, "/v1/chat/completions", body.clone(), None).await;
            served.push(response.headers()["x-inference-pod"].to_str().unwrap().to_owned());
            held.push(response);
        }
        let running = 4 * (round as u64 + 1);
        gateway.envoy_shows(&[figure("inference_objective_running_requests", &[("model_name", MODEL)], running)]).await;
    }
    let workers = gateway.envoy_page().await.unwrap();
    let per_worker: Vec<f64> =
        workers.select("envoy_listener_worker_downstream_cx_active", &[]).map(|s| s.value).collect();
    assert_eq!(served.iter().collect::<BTreeSet<_>>().len(), 8, "{served:?}, connections by worker: {per_worker:?}");

    drop(held);
    gateway
        .envoy_shows(&[
            figure("inference_objective_running_requests", &[], 0),
            figure("inference_objective_request_error_total", &[("error_code", "Cancelled")], 8),
            figure("inpick_picks_total", &[("reason", "in_flight_only")], 8),
        ])
        .await;
}
