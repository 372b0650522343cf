//! The sidecar's page as a scraper sees it: well formed, and with the names that dashboards of other endpoint pickers read.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::process::{Command, Stdio};

use local_stack::Page;
use serde_json::{Value, json};
use tests::{Gateway, MODEL, Mode, builder, chat_body, eventually, figure};

tests::on_bindings! {
    both: [families_of_the_newest_spelling_have_the_types_labels_and_bounds_of_its_own_page, families_of_the_endpoint_picker_have_the_types_labels_and_bounds_of_its_own_page, the_page_is_well_formed_and_its_histograms_are_consistent, promtool_finds_no_fault_with_the_page],
}

const CHAT: &str = "/v1/chat/completions";
/// The page of another endpoint picker after some traffic.
const CAPTURE: &str = include_str!("../fixtures/endpoint-picker-page.txt");

/// Families of the newest spelling that are not there. Plugins: here one pass over all scorers picks, none of which is timed apart. Flow
/// control: requests do not queue in the proxy.
const NOT_THERE: [&str; 18] = [
    "llm_d_epp_plugin_duration_seconds",
    "llm_d_epp_flow_control_request_queue_duration_seconds",
    "llm_d_epp_flow_control_queue_size",
    "llm_d_epp_flow_control_queue_bytes",
    "llm_d_epp_flow_control_dispatch_cycle_duration_seconds",
    "llm_d_epp_flow_control_request_enqueue_duration_seconds",
    "llm_d_epp_flow_control_pool_saturation",
    "llm_d_epp_flow_control_requests_total",
    "llm_d_epp_flow_control_stale_endpoints",
    "llm_d_epp_flow_control_capacity_utilization_requests",
    "llm_d_epp_flow_control_capacity_utilization_bytes",
    "llm_d_epp_flow_control_global_capacity_utilization_requests",
    "llm_d_epp_flow_control_global_capacity_utilization_bytes",
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
    let config =
        json!({"metrics": metrics, "model_rewrites": [{"name": "r", "model": "alias", "targets": [{"model": MODEL}]}]});
    let mut stack = builder(mode, 2, config).vllm_sim_args(["--enable-prompt-tokens-details"]);
    if mode != Mode::Native && metrics["llm_d"] == true {
        // The sidecar inside Envoy is told by the filter's document.
        stack = stack.sidecar_args(["--llm-d", "on"]);
    }
    let gateway = Gateway::start(stack).await;
    for model in [MODEL, "alias", "unknown/model:1"] {
        for stream in [false, true] {
            gateway.post(CHAT, chat_body(model, stream)).await;
        }
    }
    for body in ["{", "", "{}", "[]"] {
        gateway.post(CHAT, body).await;
    }
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
            families.filter(|family| is_newest(family.name) && !ours.contains_key(family.name)).collect();
        if missing.is_empty() { Ok(ours) } else { Err(format!("without {missing:?}")) }
    })
    .await;
    assert_eq!(compare(&ours, &theirs, |name| is_newest(name) && !NOT_THERE.contains(&name)), 28);
    for name in NOT_THERE {
        assert!(!ours.contains_key(name), "{name} is on our page");
    }
    // Two that the other page has only once a prompt is cached and a model is rewritten.
    let of_its_sources = ["llm_d_epp_request_cached_tokens", "llm_d_epp_model_rewrite_decisions_total"];
    for name in ours.keys().filter(|name| is_newest(name)) {
        assert!(theirs.contains_key(name) || of_its_sources.contains(&name.as_str()), "{name}");
    }
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
        assert!(!sample.name.ends_with("_sum_microseconds"), "{}", sample.name);
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
        let is_idle = is_newest(name) && sample.labels.is_empty() && sample.value == 0.0;
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
