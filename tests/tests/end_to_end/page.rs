//! The sidecar's page as a scraper sees it: well formed, and with the names that dashboards of other endpoint pickers read.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::sync::Arc;

use catalogue::{Publisher, Switch};
use local_stack::{Builder, Page, repository};
use serde_json::{Value, json};
use tests::{Gateway, MODEL, Mode, builder, chat_body, eventually, figure};

tests::on_bindings! {
    both: [nothing_of_envoys_own_page_is_lost, prometheus_scrapes_the_page_as_openmetrics, families_of_the_newest_spelling_have_the_types_labels_and_bounds_of_its_own_page, families_of_the_endpoint_picker_have_the_types_labels_and_bounds_of_its_own_page, what_waits_in_flow_control_is_on_the_page_under_both_spellings, the_page_is_well_formed_and_its_histograms_are_consistent, promtool_finds_no_fault_with_the_page],
    // Natively, labels are labels.
    wasm: [a_bootstrap_without_stats_tags_gives_the_same_page],
}

const CHAT: &str = "/v1/chat/completions";
/// The page of another endpoint picker after some traffic.
const CAPTURE: &str = include_str!("../fixtures/endpoint-picker-page.txt");

/// Families of the newest spelling that are not there. Plugins: here one pass over all scorers picks, none of which is timed apart.
/// Revocations: what was sent is never called back to make room for others.
const NOT_THERE: [&str; 6] = [
    "llm_d_epp_plugin_duration_seconds",
    "llm_d_epp_flow_control_revocations_issued_total",
    "llm_d_epp_flow_control_revocations_total",
    "llm_d_epp_flow_control_reclaim_target",
    "llm_d_epp_flow_control_pending_reclaim",
    "llm_d_epp_flow_control_revocation_confirmation_seconds",
];

fn is_newest(name: &str) -> bool {
    name.starts_with("llm_d_epp_")
}

/// A gateway after traffic that leaves a trace in every family that is published, those of that spelling among them.
async fn used_gateway(mode: Mode, spelling: &str, metrics: Value) -> Gateway {
    let gateway = Gateway::start(used_builder(mode, metrics)).await;
    send_traffic(&gateway).await;
    let family = |suffix: &str| format!("{spelling}_request_{suffix}");
    gateway
        .shows(&[
            figure(&family("total"), &[], 10),
            figure(&family("error_total"), &[], 6),
            figure(&family("duration_seconds_count"), &[], 4),
        ])
        .await;
    gateway
}

fn used_builder(mode: Mode, metrics: Value) -> Builder {
    let is_llm_d = metrics["llm_d"] == true;
    let config =
        json!({"metrics": metrics, "model_rewrites": [{"name": "r", "model": "alias", "targets": [{"model": MODEL}]}]});
    let stack = builder(mode, 2, config).vllm_sim_args(["--enable-prompt-tokens-details"]);
    match mode {
        // The sidecar inside Envoy is told by the filter's document.
        Mode::Wasm | Mode::NativeSidecar if is_llm_d => stack.sidecar_args(["--llm-d", "on"]),
        Mode::Wasm | Mode::NativeSidecar | Mode::Native => stack,
    }
}

async fn send_traffic(gateway: &Gateway) {
    for model in [MODEL, "alias", "unknown/model:1"] {
        for stream in [false, true] {
            gateway.post(CHAT, chat_body(model, stream)).await;
        }
    }
    for body in ["{", "", "{}", "[]"] {
        gateway.post(CHAT, body).await;
    }
}

#[derive(Debug, Default, Eq, PartialEq)]
struct Shape {
    kind: String,
    labels: BTreeSet<Vec<String>>,
    le: Vec<String>,
}

fn shapes(page: &Page) -> BTreeMap<String, Shape> {
    let mut shapes: BTreeMap<String, Shape> = BTreeMap::new();
    for sample in page.samples() {
        let family = ["_bucket", "_sum", "_count"]
            .iter()
            .filter_map(|suffix| sample.name.strip_suffix(suffix))
            .find(|name| page.kind(name) == Some("histogram"))
            .unwrap_or(&sample.name);
        let shape = shapes.entry(family.to_owned()).or_default();
        shape.kind = page.kind(family).unwrap_or("none").to_owned();
        shape.labels.insert(sample.labels.keys().filter(|label| *label != "le").cloned().collect());
        if let Some(le) = sample.labels.get("le")
            // The buckets of the first series; that all series have the same is a matter of the other test.
            && shape.le.last().is_none_or(|last| last != "+Inf")
        {
            shape.le.push(le.clone());
        }
    }
    shapes
}

/// Compares the wanted families of their page with ours; gives how many they are.
fn compare(
    ours: &BTreeMap<String, Shape>,
    theirs: &BTreeMap<String, Shape>,
    is_wanted: impl Fn(&str) -> bool,
) -> usize {
    let wanted: Vec<_> = theirs.iter().filter(|(name, _)| is_wanted(name)).collect();
    for (name, shape) in &wanted {
        let own = ours.get(*name).unwrap_or_else(|| panic!("{name} is not on our page"));
        assert_eq!(own, *shape, "{name}");
    }
    wanted.len()
}

async fn families_of_the_newest_spelling_have_the_types_labels_and_bounds_of_its_own_page(mode: Mode) {
    let theirs = shapes(&Page::parse(CAPTURE).unwrap());
    let metrics = json!({"llm_d": true, "objective": false, "gen_ai": false});
    let gateway = used_gateway(mode, "llm_d_epp", metrics).await;
    let ours = eventually("the page is whole", async || {
        let ours = shapes(&gateway.sidecar_page().await.map_err(|error| error.to_string())?);
        let families = catalogue::Stat::ALL.iter().map(|stat| stat.family());
        let missing: Vec<_> =
            families.filter(|family| family.switch == Switch::LlmD && !ours.contains_key(family.name)).collect();
        if missing.is_empty() { Ok(ours) } else { Err(format!("without {missing:?}")) }
    })
    .await;
    assert_eq!(compare(&ours, &theirs, |name| is_newest(name) && !NOT_THERE.contains(&name)), 28);
    for name in NOT_THERE {
        assert!(!ours.contains_key(name), "{name} is on our page");
    }
    // Natively, what has no labels is there from the start.
    let is_idle = |name: &str| mode != Mode::Wasm && name.ends_with("dispatch_cycle_duration_seconds");
    let is_of_flow_control = |name: &str| name.starts_with(FLOW) || name.starts_with(NEWEST_FLOW);
    let of_flow_control = ours.keys().find(|name| is_of_flow_control(name) && !is_idle(name));
    assert_eq!(of_flow_control, None, "flow control is off");
    // Two that the other page has only once a prompt is cached and a model is rewritten.
    let of_its_sources = ["llm_d_epp_request_cached_tokens", "llm_d_epp_model_rewrite_decisions_total"];
    for name in ours.keys().filter(|name| is_newest(name)) {
        assert!(theirs.contains_key(name) || of_its_sources.contains(&name.as_str()), "{name}");
    }
}

/// The labels of each family of flow control: as the endpoint picker's documentation has them, and as that of its newest spelling has.
const FLOW_CONTROL: [(&str, &[&str], &[&str]); 6] = [
    (
        "request_queue_duration_seconds",
        &["fairness_id", "outcome", "priority"],
        &["fairness_id", "inference_pool", "model_name", "outcome", "priority", "target_model_name"],
    ),
    (
        "request_enqueue_duration_seconds",
        &["fairness_id", "outcome", "priority"],
        &["fairness_id", "outcome", "priority"],
    ),
    ("dispatch_cycle_duration_seconds", &[], &[]),
    (
        "queue_size",
        &["fairness_id", "priority"],
        &["fairness_id", "inference_pool", "model_name", "priority", "target_model_name"],
    ),
    (
        "queue_bytes",
        &["fairness_id", "priority"],
        &["fairness_id", "inference_pool", "model_name", "priority", "target_model_name"],
    ),
    ("pool_saturation", &["inference_pool"], &["inference_pool", "stage"]),
];
/// Of the newest spelling alone.
const FLOW_CONTROL_NEWEST: [(&str, &[&str]); 6] = [
    ("requests_total", &["inference_pool", "outcome", "priority"]),
    ("stale_endpoints", &["detector"]),
    ("capacity_utilization_requests", &["inference_pool", "priority"]),
    ("capacity_utilization_bytes", &["inference_pool", "priority"]),
    ("global_capacity_utilization_requests", &["inference_pool"]),
    ("global_capacity_utilization_bytes", &["inference_pool"]),
];
const FLOW: &str = "inference_extension_flow_control_";
/// What a crash cost those that waited.
const LOST: &str = "inpick_flow_control_lost_total";
const NEWEST_FLOW: &str = "llm_d_epp_flow_control_";
const WAITERS: usize = 12;

async fn what_waits_in_flow_control_is_on_the_page_under_both_spellings(mode: Mode) {
    // One pod with one slot: of requests that come together all but two wait.
    let config = json!({"flow_control": {"queue_depth": 1}, "objectives": {"high": 5}, "metrics": {"llm_d": true}});
    let stack = builder(mode, 1, config).vllm_sim_args(["--max-num-seqs=1", "--step-ms=150", "--speed=1"]);
    let gateway = Arc::new(Gateway::start(stack).await);
    // Some before, after which the model's name has a label, too.
    let before = gateway.learns_slots(1).await;
    let requests = (0..WAITERS).map(|number| {
        let gateway = Arc::clone(&gateway);
        let headers = [
            ("x-gateway-inference-fairness-id", if number % 2 == 0 { "a" } else { "b" }),
            ("x-gateway-inference-objective", if number < 4 { "high" } else { "none" }),
        ];
        tokio::spawn(async move { gateway.send("POST", CHAT, &headers, chat_body(MODEL, false)).await.status })
    });
    let requests: Vec<_> = requests.collect();
    eventually("requests that wait are on the page", async || {
        let page = gateway.sidecar_page().await.map_err(|error| error.to_string())?;
        let waiting = page.sum(&format!("{FLOW}queue_size"), &[("fairness_id", "a"), ("priority", "0")]);
        let newest = page.sum(&format!("{NEWEST_FLOW}queue_size"), &[("fairness_id", "a"), ("model_name", MODEL)]);
        let bytes = page.sum(&format!("{FLOW}queue_bytes"), &[("fairness_id", "a")]);
        let full = page.sum(&format!("{FLOW}pool_saturation"), &[]);
        if waiting > 0.0 && newest > 0.0 && bytes > 100.0 && full >= 1.0 {
            Ok(())
        } else {
            Err(format!("{waiting} and {newest} wait with {bytes} bytes, saturation {full}"))
        }
    })
    .await;
    for request in requests {
        assert_eq!(request.await.unwrap(), 200);
    }
    let page = eventually("all of them were counted, and nothing waits", async || {
        let page = gateway.sidecar_page().await.map_err(|error| error.to_string())?;
        let counted = page.sum(&format!("{FLOW}request_queue_duration_seconds_count"), &[("outcome", "Dispatched")]);
        let waiting = page.sum(&format!("{FLOW}queue_size"), &[]) + page.sum(&format!("{NEWEST_FLOW}queue_size"), &[]);
        let is_over = counted == (WAITERS as u64 + before) as f64 && waiting == 0.0;
        if is_over { Ok(page) } else { Err(format!("{counted} counted, {waiting} wait")) }
    })
    .await;
    let ours = shapes(&page);
    let labels = |name: &str| ours.get(name).unwrap_or_else(|| panic!("{name} is not on the page")).labels.clone();
    let set = |names: &[&str]| BTreeSet::from([names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()]);
    for (name, picker, newest) in FLOW_CONTROL {
        assert_eq!(labels(&format!("{FLOW}{name}")), set(picker), "{name}");
        assert_eq!(labels(&format!("{NEWEST_FLOW}{name}")), set(newest), "{name}");
    }
    for (name, newest) in FLOW_CONTROL_NEWEST {
        assert_eq!(labels(&format!("{NEWEST_FLOW}{name}")), set(newest), "{name}");
    }
    for (id, priority, count) in [("a", "5", 2.0), ("b", "5", 2.0), ("a", "0", 4.0), ("b", "0", 4.0)] {
        let of = [("fairness_id", id), ("priority", priority), ("outcome", "Dispatched")];
        assert_eq!(page.sum(&format!("{FLOW}request_queue_duration_seconds_count"), &of), count, "{id} {priority}");
    }
    assert_eq!(page.sum(&format!("{NEWEST_FLOW}requests_total"), &[("priority", "5")]), 4.0);
    assert!(page.sum(&format!("{FLOW}request_queue_duration_seconds_sum"), &[]) > 0.5);
}

async fn families_of_the_endpoint_picker_have_the_types_labels_and_bounds_of_its_own_page(mode: Mode) {
    let theirs = shapes(&Page::parse(CAPTURE).unwrap());
    let gateway = used_gateway(mode, "inference_objective", json!({"model": true})).await;
    let ours = shapes(&gateway.sidecar_page().await.unwrap());
    let compared = compare(&ours, &theirs, |name| {
        ["inference_objective_", "inference_pool_", "inference_extension_scheduler_", "inference_extension_info"]
            .iter()
            .any(|prefix| name.starts_with(prefix))
    });
    assert_eq!(compared, 17);
    assert!(!ours.keys().any(|name| is_newest(name)), "the newest spelling is off by default");
    // The older spelling differs in its prefix alone, and has no priority.
    for suffix in [
        "request_duration_seconds",
        "request_sizes",
        "response_sizes",
        "input_tokens",
        "output_tokens",
        "request_error_total",
        "running_requests",
    ] {
        assert_eq!(
            ours[&format!("inference_model_{suffix}")],
            theirs[&format!("inference_objective_{suffix}")],
            "{suffix}"
        );
    }
}

async fn the_page_is_well_formed_and_its_histograms_are_consistent(mode: Mode) {
    let gateway = used_gateway(mode, "inference_objective", json!({"model": true})).await;
    let text = gateway.client.get(&format!("http://{}/metrics", gateway.sidecar)).await.unwrap().text();
    let page = Page::parse(&text).unwrap();

    // One HELP and one TYPE a family, before its samples; no series twice.
    let mut seen = BTreeSet::new();
    for line in text.lines().filter(|line| line.starts_with("# ")) {
        let words: Vec<&str> = line.splitn(4, ' ').collect();
        assert!(seen.insert((words[1], words[2])), "{line} twice");
    }
    let mut series = BTreeSet::new();
    for sample in page.samples() {
        assert!(series.insert((&sample.name, &sample.labels)), "{} {:?} twice", sample.name, sample.labels);
        assert!(!catalogue::is_exact_sum(&sample.name), "{}", sample.name);
    }
    for stat in catalogue::Stat::ALL {
        let family = stat.family();
        if seen.contains(&("TYPE", family.name)) {
            assert!(seen.contains(&("HELP", family.name)), "{}", family.name);
            assert_eq!(page.kind(family.name), Some(family.kind.as_str()), "{}", family.name);
        }
    }

    let mut histograms = 0;
    for stat in catalogue::Stat::ALL {
        let catalogue::Kind::Histogram(bounds) = stat.family().kind else { continue };
        let name = stat.family().name;
        let (bucket, count_name) = (format!("{name}_bucket"), format!("{name}_count"));
        for count in page.select(&count_name, &[]) {
            let of_this = |sample: &&local_stack::PageSample| {
                sample.name == bucket
                    && sample
                        .labels
                        .iter()
                        .all(|(label, value)| label == "le" || count.labels.get(label) == Some(value))
                    && sample.labels.len() == count.labels.len() + 1
            };
            let buckets: Vec<_> = page.samples().iter().filter(of_this).collect();
            let le: Vec<&str> = buckets.iter().map(|sample| sample.labels["le"].as_str()).collect();
            assert_eq!(le, bounds.le().chain(["+Inf"]).collect::<Vec<_>>(), "{name} {:?}", count.labels);
            assert!(buckets.windows(2).all(|pair| pair[0].value <= pair[1].value), "{name} is not cumulative");
            assert_eq!(buckets.last().unwrap().value, count.value, "{name}");
            histograms += 1;
        }
    }
    assert!(histograms > 20, "{histograms} histograms");
}

#[allow(clippy::explicit_write, reason = "`eprintln` would go to the test harness, which swallows it")]
async fn promtool_finds_no_fault_with_the_page(mode: Mode) {
    let Ok(mut promtool) = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
    else {
        assert!(std::env::var("CI").as_deref() != Ok("true"), "promtool is missing");
        // Past the test harness, which would swallow it.
        writeln!(std::io::stderr(), "SKIPPED promtool_finds_no_fault_with_the_page: promtool is not installed")
            .unwrap();
        return;
    };
    let gateway = used_gateway(mode, "inference_objective", json!({"model": true})).await;
    // Families that Envoy has of its own come without help texts, which promtool takes amiss: the strict page helps.
    let text = gateway.client.get(&format!("http://{}/metrics?families=strict", gateway.sidecar)).await.unwrap().text();
    assert!(text.contains("inference_objective_request_total{"));
    promtool.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let checked = promtool.wait_with_output().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&checked.stdout), String::from_utf8_lossy(&checked.stderr));
    // It remarks on units and names too, by its exit code.
    assert!(checked.status.success(), "{}: {said}", checked.status);
}

#[allow(clippy::explicit_write, reason = "`eprintln` would go to the test harness, which swallows it")]
async fn prometheus_scrapes_the_page_as_openmetrics(mode: Mode) {
    let own = repository().join(".tools/bin/prometheus");
    let program = if own.exists() { own } else { "prometheus".into() };
    let gateway = used_gateway(mode, "inference_objective", json!({"model": true})).await;
    let folder = tempfile::tempdir().unwrap();
    let config = json!({"global": {"scrape_interval": "1s", "scrape_timeout": "1s"}, "scrape_configs": [
        {"job_name": "inpick", "static_configs": [{"targets": [gateway.sidecar.to_string()]}]},
    ]});
    // YAML is a superset of JSON.
    std::fs::write(folder.path().join("prometheus.yml"), config.to_string()).unwrap();
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let started = tokio::process::Command::new(program)
        .args(["--config.file=prometheus.yml", "--storage.tsdb.path=data", &format!("--web.listen-address={address}")])
        .current_dir(folder.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn();
    let Ok(_prometheus) = started else {
        writeln!(std::io::stderr(), "SKIPPED prometheus_scrapes_the_page_as_openmetrics: prometheus is not installed")
            .unwrap();
        return;
    };
    let ask = async |path: &str| -> Result<Value, String> {
        let answer = gateway.client.get(&format!("http://{address}/api/v1/{path}")).await;
        serde_json::from_str(&answer.map_err(|error| error.to_string())?.text()).map_err(|error| error.to_string())
    };
    let requests = eventually("Prometheus has scraped", async || {
        let answer = ask("query?query=sum(inference_objective_request_total)").await?;
        let value = answer["data"]["result"][0]["value"][1].as_str().map(str::to_owned);
        value.ok_or_else(|| answer.to_string())
    })
    .await;
    assert_eq!(requests, "10");
    let buckets = ask("query?query=count(inference_objective_request_duration_seconds_bucket)").await.unwrap();
    assert!(buckets["data"]["result"][0]["value"][1].as_str().is_some_and(|count| count.len() >= 2), "{buckets}");
    // Only OpenMetrics names a counter's family without `_total`.
    let about = ask("targets/metadata?metric=inference_objective_request").await.unwrap();
    assert_eq!(about["data"][0]["type"], "counter", "{about}");
    let targets = ask("targets").await.unwrap();
    let target = &targets["data"]["activeTargets"][0];
    assert_eq!((&target["health"], &target["lastError"]), (&json!("up"), &json!("")), "{targets}");
}

/// Samples of a page by name and labels.
fn series(page: &Page, wanted: impl Fn(&str) -> bool) -> BTreeSet<String> {
    let samples = page.samples().iter().filter(|sample| wanted(&sample.name));
    samples.map(|sample| format!("{} {:?}", sample.name, sample.labels)).collect()
}

async fn nothing_of_envoys_own_page_is_lost(mode: Mode) {
    let gateway = used_gateway(mode, "inference_objective", json!({"model": true})).await;
    let envoys = gateway.envoy_page().await.unwrap();
    let ours = gateway.sidecar_page().await.unwrap();
    // What only Envoy's page needs: the exact twins of sums, and gauges that the sidecar knows itself.
    let of_the_sidecar = |name: &str| catalogue::find(name).is_some_and(|family| family.publisher != Publisher::Envoy);
    let wanted = |name: &str| !catalogue::is_exact_sum(name) && !of_the_sidecar(name);
    let theirs = series(&envoys, wanted);
    let lost: Vec<_> = theirs.difference(&series(&ours, wanted)).cloned().collect();
    // A label set of a histogram that Envoy has only in part is left out until it is whole.
    let lost: Vec<_> = lost
        .iter()
        .filter(|name| !name.contains("_bucket ") && !name.contains("_sum ") && !name.contains("_count "))
        .collect();
    assert!(lost.is_empty(), "{lost:#?}");
    let own = |name: &str| name.starts_with("envoy_");
    assert!(series(&envoys, own).is_subset(&series(&ours, own)) && series(&envoys, own).len() > 500);
}

/// The sidecar's page once it has counted the traffic and has stopped to grow.
async fn whole_page(gateway: &Gateway) -> Page {
    let mut before = BTreeSet::new();
    eventually("a page that is whole", async || {
        let page = gateway.sidecar_page().await.map_err(|error| error.to_string())?;
        let counted = page.sum("inference_objective_request_total", &[]);
        let ended = page.sum("inference_objective_request_duration_seconds_count", &[]);
        let now = published(&page);
        let is_whole = counted == 10.0 && ended == 4.0 && now == std::mem::replace(&mut before, now.clone());
        tokio::time::sleep(std::time::Duration::from_millis(400)).await;
        if is_whole { Ok(page) } else { Err(format!("{counted} requests, {ended} ended")) }
    })
    .await
}

/// Picks of all endpoints as the live page shows them.
async fn shown_picks(gateway: &Gateway) -> u64 {
    let state = gateway.client.get(&format!("http://{}/api/state", gateway.sidecar)).await.unwrap().text();
    let state: Value = serde_json::from_str(&state).unwrap();
    assert_eq!(state["envoy_problem"], Value::Null);
    state["endpoints"].as_array().unwrap().iter().filter_map(|endpoint| endpoint["picks"].as_u64()).sum()
}

async fn a_bootstrap_without_stats_tags_gives_the_same_page(mode: Mode) {
    let tagged = Gateway::start(used_builder(mode, json!({"model": true}))).await;
    let untagged = used_builder(mode, json!({"model": true})).patch(|bootstrap| {
        let removed = bootstrap["stats_config"].as_object_mut().and_then(|config| config.remove("stats_tags"));
        assert!(removed.is_some(), "the bootstrap has stats_tags");
    });
    // Whether it has a snapshot is told by a label, which Envoy's page lacks there.
    let untagged = Gateway::start(untagged.wait_for_snapshot(false)).await;
    eventually("a snapshot", async || {
        let page = untagged.sidecar_page().await.map_err(|error| error.to_string())?;
        let fresh = page.sum("inpick_endpoints", &[("state", "fresh")]);
        if fresh >= 2.0 { Ok(()) } else { Err(format!("{fresh} fresh endpoints")) }
    })
    .await;
    send_traffic(&tagged).await;
    send_traffic(&untagged).await;
    let (with, without) = (whole_page(&tagged).await, whole_page(&untagged).await);
    assert!(published(&with).len() > 400, "{}", published(&with).len());
    let differing: Vec<_> = published(&with).symmetric_difference(&published(&without)).cloned().collect();
    assert!(differing.is_empty(), "{differing:#?}");
    assert_eq!(counted(&with), counted(&without));
    let (shown, shown_without) = (shown_picks(&tagged).await, shown_picks(&untagged).await);
    assert!(shown > 0 && shown == shown_without, "the live page shows {shown} and {shown_without} picks");

    // Each stat by its own name in Envoy is a series of ours, with its labels to the letter.
    let names =
        untagged.client.get(&format!("http://{}/stats?filter=wasmcustom", untagged.admin)).await.unwrap().text();
    let mut compared = 0;
    for name in
        names.lines().filter_map(|line| line.strip_prefix("wasmcustom.")?.rsplit_once(": ")).map(|(name, _)| name)
    {
        let (labels, family) = catalogue::split_stat_name(name).unwrap();
        let of_the_sidecar = catalogue::find(family).is_some_and(|family| family.publisher != Publisher::Envoy);
        if catalogue::is_exact_sum(family) || of_the_sidecar {
            continue;
        }
        let labels: Vec<(&str, &str)> = labels.iter().map(|(label, value)| (label.as_str(), *value)).collect();
        let found = without.select(family, &labels).filter(|sample| sample.labels.len() == labels.len()).count();
        assert_eq!(found, 1, "{name}");
        compared += 1;
    }
    assert!(compared > 400, "{compared} stats");
    // Nothing of ours is left on the page under a name with its labels in it.
    let garbled = series(&without, |name| {
        name.starts_with("model_name_") || name.starts_with("le_") || name.starts_with("pool_")
    });
    assert!(garbled.is_empty(), "{garbled:#?}");
    let own = |name: &str| name.starts_with("envoy_");
    assert!(series(&untagged.envoy_page().await.unwrap(), own).is_superset(&series(&without, own)));
}

/// What only the native module publishes: figures of what the wasm module does not have.
const NATIVE_ONLY: [&str; 3] =
    ["inpick_lone_picks_total", "inpick_embedded_sidecar_up", "inpick_embedded_sidecar_restarts_total"];

/// Families of the catalogue on Envoy's own page: each name with the names of its labels, and with their values where the traffic alone
/// decides them.
fn published(page: &Page) -> BTreeSet<(String, Vec<String>)> {
    let ours = page.samples().iter().filter(|sample| {
        let name = sample.name.as_str();
        let mut prefixes = ["inference_", "inpick_", "gen_ai_", "llm_d_", "normalized_"].iter();
        // What has no labels is there from the start natively, at 0, though its family is switched off.
        let is_switched = is_newest(name) || name.starts_with(FLOW) || name == LOST;
        let is_idle = is_switched && sample.labels.is_empty() && sample.value == 0.0;
        prefixes.any(|prefix| name.starts_with(prefix)) && !is_idle && !NATIVE_ONLY.contains(&name)
    });
    ours.map(|sample| {
        let is_decided = |label: &str| label == "le" || is_of_requests(&sample.name);
        let labels = sample.labels.iter().map(|(label, value)| match is_decided(label) {
            true => format!("{label}={value}"),
            false => label.clone(),
        });
        (sample.name.clone(), labels.collect())
    })
    .collect()
}

fn is_of_requests(name: &str) -> bool {
    ["inference_objective_", "inference_model_", "gen_ai_", "normalized_"].iter().any(|prefix| name.starts_with(prefix))
}

/// What must be the same number whoever counts: all that is counted of requests but for times, and for what differs by the words that a pod
/// draws and by the pod that is drawn.
fn counted(page: &Page) -> BTreeMap<String, f64> {
    let decided = page.samples().iter().filter(|sample| {
        let is_time = sample.name.contains("_seconds") && !sample.name.ends_with("_count");
        let is_drawn = [
            "_response_sizes_",
            "_response_size_",
            "_cached_tokens_",
            "_cache_read_input_tokens_",
            "_prompt_cached_tokens_",
        ]
        .iter()
        .any(|part| sample.name.contains(part));
        is_of_requests(&sample.name) && !is_time && (!is_drawn || sample.name.ends_with("_count"))
    });
    decided.map(|sample| (format!("{} {:?}", sample.name, sample.labels), sample.value)).collect()
}

#[tokio::test]
async fn both_bindings_publish_the_same_names_labels_bounds_and_counts() {
    let pages = async |mode| {
        let gateway = used_gateway(mode, "inference_objective", json!({"model": true})).await;
        // Stats are defined some at a time: the page is whole when it stays the same.
        let mut before = BTreeSet::new();
        eventually("a page that is whole", async || {
            let page = gateway.envoy_page().await.map_err(|error| error.to_string())?;
            let now = published(&page);
            let is_whole = !now.is_empty() && now == std::mem::replace(&mut before, now.clone());
            tokio::time::sleep(std::time::Duration::from_millis(400)).await;
            if is_whole { Ok((now, counted(&page))) } else { Err("it still changes".to_owned()) }
        })
        .await
    };
    let (wasm, wasm_counts) = pages(Mode::Wasm).await;
    assert!(wasm.len() > 400 && wasm_counts.len() > 300, "{} names, {} counts", wasm.len(), wasm_counts.len());
    for mode in [Mode::NativeSidecar, Mode::Native] {
        let (native, native_counts) = pages(mode).await;
        let differing: Vec<_> = wasm.symmetric_difference(&native).collect();
        assert!(differing.is_empty(), "{mode}: {differing:#?}");
        let differing: Vec<_> =
            wasm_counts.iter().filter(|(name, count)| native_counts.get(*name) != Some(count)).collect();
        assert!(differing.is_empty() && wasm_counts.len() == native_counts.len(), "{mode}: {differing:#?}");
    }
}
