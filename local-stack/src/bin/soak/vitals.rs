//! Signs that a gateway lives: its loads are fresh, its gauges move, its pods get requests.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::ensure;
use catalogue::Stat;
use local_stack::traffic::{ADAPTER, ALIAS, BASE};
use local_stack::{HttpClient, Page, Stack};
use serde_json::json;
use tokio::task::JoinSet;

use crate::client::Phase;
use crate::tally::Figure;

/// How often a sign is looked for.
const LOOK: Duration = Duration::from_millis(50);
/// A sign that is due within a second or two is seen within this, also on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(15);
/// A holder of the lease is replaced within 3 s; a loaded machine sees it later.
const REPLACED: Duration = Duration::from_secs(5);
/// The sidecar in Envoy is started again after at most 30 s.
const STARTED_AGAIN: Duration = Duration::from_secs(40);
/// Snapshots that are taken in are no older than this, seconds.
const FRESH: f64 = 2.0;
/// What a crash that was asked for leaves in Envoy's log.
const TRAPPED: &str = "asked for by x-inpick-fault";
/// The cluster that snapshots are fetched from.
const SIDECAR: (&str, &str) = ("envoy_cluster_name", "inpick-sidecar");

/// Has a request served for every model, and waits until all that is compared counts it: a histogram does once all its stats exist.
pub(crate) async fn knows_models(stack: &Stack) -> anyhow::Result<()> {
    let models = [BASE, ALIAS, ADAPTER];
    for model in models {
        let body = json!({"model": model, "prompt": "hello", "max_tokens": 2}).to_string();
        let response = HttpClient::new().post_json(&stack.url("/v1/completions"), body).await?;
        ensure!(response.status == 200, "{model}: {} {}", response.status, response.text());
    }
    let histograms = [Stat::ObjectiveRequestSizes, Stat::ObjectiveRequestDurationSeconds];
    let mut counts: Vec<String> = histograms.map(|stat| format!("{}_count", stat.family().name)).into();
    counts.push(Stat::ObjectiveRequestTotal.family().name.to_owned());
    wait(stack, "counts of every model", |page| {
        let picks = page.sum(Stat::SchedulerAttemptsTotal.family().name, &[]);
        picks == models.len() as f64
            && counts.iter().all(|name| models.iter().all(|model| page.sum(name, &[("model_name", *model)]) == 1.0))
    })
    .await
}

/// Has more requests come at once than pods run, until it is known how many they run: only then others wait for them.
pub(crate) async fn knows_slots(stack: &Stack, pods: usize, slots: usize) -> anyhow::Result<()> {
    /// Long enough for a queue to be there on several pages.
    const TOKENS: u32 = 400;
    let body = json!({"model": BASE, "prompt": "hello", "max_tokens": TOKENS, "ignore_eos": true});
    let (body, url, asked) = (body.to_string(), stack.url("/v1/completions"), Instant::now());
    loop {
        let mut burst = JoinSet::new();
        for _ in 0..pods * 4 * slots {
            let (url, body) = (url.clone(), body.clone());
            burst.spawn(async move { HttpClient::new().post_json(&url, body).await });
        }
        while let Some(response) = burst.join_next().await {
            let response = response??;
            ensure!(response.status == 200, "{} {}", response.status, response.text());
        }
        // The gauge is told once a second.
        tokio::time::sleep(Duration::from_millis(1_200)).await;
        let page = stack.envoy_page().await?;
        let known = page.select(Stat::LearnedSlots.family().name, &[]).filter(|known| known.value > 0.0).count();
        if known >= pods {
            return Ok(());
        }
        ensure!(asked.elapsed() < 4 * PATIENCE, "slots are known of {known} of {pods} pods");
    }
}

/// Has the snapshot service trap and waits until another instance asks for snapshots in its place, in time, and all goes on.
pub(crate) async fn changes_hands(stack: &mut Stack, phase: &Phase) -> anyhow::Result<()> {
    let log = stack.envoy().map(|envoy| envoy.log().to_owned()).ok_or_else(|| anyhow::anyhow!("no Envoy"))?;
    phase.trap_service.store(true, Ordering::Relaxed);
    let asked = Instant::now();
    while !std::fs::read_to_string(&log)?.contains(TRAPPED) {
        ensure!(asked.elapsed() < PATIENCE, "the service did not trap; is the module built with `fault-injection`?");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let trapped = Instant::now();
    let has_process = stack.mode().has_sidecar_process();
    let fetches = |page: &Page| match has_process {
        true => page.sum("envoy_cluster_upstream_rq_total", &[SIDECAR]),
        false => page.sum(Stat::SnapshotFetchesTotal.family().name, &[]),
    };
    let before = fetches(&stack.envoy_page().await?);
    while fetches(&stack.envoy_page().await?) <= before {
        ensure!(
            trapped.elapsed() < REPLACED,
            "nobody has asked for a snapshot since the service trapped {REPLACED:?} ago"
        );
        tokio::time::sleep(LOOK).await;
    }
    println!("  the snapshot service trapped; {:.1} s later another instance asked", trapped.elapsed().as_secs_f64());
    carries_on(stack).await
}

/// Waits until the sidecar in Envoy serves its page again.
pub(crate) async fn is_started_again(stack: &Stack) -> anyhow::Result<()> {
    let since = Instant::now();
    while stack.sidecar_page().await.is_err() {
        // Its pauses grow up to half a minute.
        ensure!(since.elapsed() < STARTED_AGAIN, "the sidecar in Envoy is not back within {STARTED_AGAIN:?}");
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}

/// Waits until snapshots are fresh and the gauges move, which they do under traffic.
pub(crate) async fn carries_on(stack: &Stack) -> anyhow::Result<()> {
    let [age, generation, in_flight, endpoints] =
        [Stat::SnapshotAgeSeconds, Stat::SnapshotGeneration, Stat::InFlightRequests, Stat::Endpoints]
            .map(|stat| stat.family().name);
    let first = stack.envoy_page().await?;
    wait(stack, "fresh snapshots and gauges that move", |page| {
        let moves = |name| page.sum(name, &[]) != first.sum(name, &[]);
        page.sum(age, &[]) <= FRESH
            && moves(generation)
            && moves(in_flight)
            && page.sum(in_flight, &[]) > 0.0
            && page.sum(endpoints, &[]) as usize == stack.pods.len()
    })
    .await
}

/// Waits until a pod that was started anew has served a request.
pub(crate) async fn returns(stack: &Stack, pod: usize) -> anyhow::Result<()> {
    let returned = Instant::now();
    while stack.pod_page(pod).await?.sum("vllm:request_success_total", &[]) < 1.0 {
        ensure!(returned.elapsed() < PATIENCE, "it returned {PATIENCE:?} ago and has got no request");
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}

/// Requests that the pods themselves have, which must be none when nothing is under way.
pub(crate) async fn under_way(stack: &Stack) -> anyhow::Result<Figure> {
    let mut found = 0.0;
    for pod in 0..stack.pods.len() {
        let page = stack.pod_page(pod).await?;
        found += page.sum("vllm:num_requests_running", &[]) + page.sum("vllm:num_requests_waiting", &[]);
    }
    Ok(Figure { name: "requests that pods run or queue".to_owned(), low: 0, high: 0, found })
}

async fn wait(stack: &Stack, what: &str, holds: impl Fn(&Page) -> bool) -> anyhow::Result<()> {
    let since = Instant::now();
    while !holds(&stack.envoy_page().await?) {
        ensure!(since.elapsed() < PATIENCE, "Envoy's page has not shown {what} within {PATIENCE:?}");
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}
