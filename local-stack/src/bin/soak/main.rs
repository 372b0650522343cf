//! `make soak`: hundreds of thousands of requests, good and bad, while pods and the sidecar die, misbehave and return, Envoy is paused
//! and the snapshot service traps, and then while the filter itself crashes; and whether nothing was lost, miscounted or leaked.

mod client;
mod memory;
mod mishap;
mod tally;
mod verdict;
mod vitals;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use catalogue::Stat;
use clap::Parser;
use client::{Phase, converse};
use local_stack::traffic::{ADAPTER, ALIAS, BASE};
use local_stack::{HttpClient, Mode, Page, Stack, interrupted};
use memory::{Sample, growth, mebibytes, thirds};
use mishap::{Mishap, repair, trouble};
use rand::SeedableRng as _;
use rand::rngs::SmallRng;
use serde_json::json;
use tally::{Figure, Outcome, Record, Tally, at_stake, labels, leaks, waits};
use tokio::task::{AbortHandle, JoinSet};
use vitals::{knows_models, knows_slots, under_way};

/// Pods: one may be in trouble, and the load of the others is still to be compared.
const PODS: usize = 4;
/// Steps of the simulated engines are this much faster than real ones, so that requests come in thousands a second.
const SPEED: &str = "20";
/// Clients at work at once.
const CLIENTS: u64 = 48;
/// Requests that each pod runs at once where the rest is to wait: so few that pages show who queues.
const FLOW_CONTROL_SLOTS: usize = 2;
/// Stats are published each second, which is what a crash may cost, and the worker may be late by a tick.
const FLUSH: Duration = Duration::from_millis(1100);
/// After this nothing is under way any more: the last flush, and the time after which a dead machine's requests expire.
const SETTLE: Duration = Duration::from_secs(20);
/// How often the pages are read meanwhile.
const LOOK: Duration = Duration::from_millis(250);
/// How often memory is looked at.
const SAMPLE: Duration = Duration::from_secs(1);
/// Samples for each line that is printed.
const SAMPLES_A_LINE: usize = 5;
/// From one crash to the next: Envoy makes a crashed machine anew after a second at the earliest.
const BETWEEN_CRASHES: Duration = Duration::from_millis(2500);
/// Unexplained endings that are shown.
const SHOWN: usize = 10;
/// A phase that makes no progress for this long hangs.
const STUCK: Duration = Duration::from_secs(30);

/// Soaks the gateway.
#[derive(Clone, Debug, Parser)]
#[command(name = "soak", version)]
struct Arguments {
    /// What of inpick runs where.
    #[arg(long, default_value_t = Mode::Wasm)]
    mode: Mode,
    /// The mode's module, built with the feature `fault-injection`: nothing else can crash it.
    #[arg(long)]
    module: PathBuf,
    /// Requests while pods, the sidecar and Envoy are in trouble; more, if not every kind of trouble has happened by then.
    #[arg(long, default_value_t = 200_000)]
    requests: i64,
    /// Crashes of the filter, after those.
    #[arg(long, default_value_t = 8)]
    crashes: u32,
    /// Has requests wait in flow control, in front of pods that run few at once.
    #[arg(long)]
    flow_control: bool,
    /// Seed of requests and mishaps.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

#[tokio::main]
async fn main() -> ExitCode {
    let stopped = match interrupted() {
        Ok(stopped) => stopped,
        Err(error) => return fail(&error.into()),
    };
    let outcome = tokio::select! {
        // Dropping the other branch drops the stack and so stops it.
        () = stopped => Err(anyhow::anyhow!("interrupted")),
        outcome = soak(Arguments::parse()) => outcome,
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => fail(&error),
    }
}

fn fail(error: &anyhow::Error) -> ExitCode {
    eprintln!("soak: {error:#}");
    ExitCode::FAILURE
}

/// True if everything is as it must be.
async fn soak(arguments: Arguments) -> anyhow::Result<bool> {
    println!("{}: starting {PODS} simulated vLLM pods and Envoy with 2 workers", arguments.mode);
    let models = format!("{BASE},{ALIAS}");
    let mut stack = Stack::builder()
        .mode(arguments.mode)
        .pods(PODS)
        .module(std::path::absolute(&arguments.module)?)
        .vllm_sim_args(["--runner", "any", "--speed", SPEED, "--served-model-name", &models])
        .vllm_sim_args(["--lora-modules", ADAPTER])
        .vllm_sim_args(arguments.flow_control.then(|| format!("--max-num-seqs={FLOW_CONTROL_SLOTS}")))
        // Made-up models reach the pods, whose refusals are counted too.
        .plugin_config(json!({"unknown_model": "pass", "flow_control": {"enabled": arguments.flow_control}}))
        .start()
        .await?;
    knows_models(&stack).await?;
    if arguments.flow_control {
        knows_slots(&stack, PODS, FLOW_CONTROL_SLOTS).await?;
    }
    let mut good = troubled(&mut stack, &arguments).await?;
    if arguments.crashes > 0 {
        good &= crashing(&mut stack, &arguments).await?;
    }
    if let Some(envoy) = stack.envoy() {
        envoy.check()?;
    }
    stack.stop().await;
    println!("{}", if good { "\nnothing was lost, miscounted or leaked" } else { "\nFAILED" });
    Ok(good)
}

/// Pods, the sidecar and Envoy are in trouble; every count must be exact.
async fn troubled(stack: &mut Stack, arguments: &Arguments) -> anyhow::Result<bool> {
    println!("\n{} requests of {CLIENTS} clients while pods, the sidecar and Envoy are in trouble", arguments.requests);
    let before = stack.envoy_page().await?;
    let mut random = SmallRng::seed_from_u64(arguments.seed);
    let mut mishaps = Vec::new();
    let traffic = Traffic::start(stack, arguments.requests, false, arguments.seed)?;
    let phase = Arc::clone(&traffic.phase);
    let (records, samples) = tokio::select! {
        ended = traffic.end() => ended?,
        error = trouble(stack, &phase, &mut random, &mut mishaps) => return Err(error),
    };
    repair(stack).await?;
    let tally = Tally::of(&records);
    describe(&tally, &records);
    println!("mishaps: {}", counted(&mishaps));
    let figures = |page: &Page| {
        let mut figures = tally.figures(&before, page);
        figures.extend(labels(page));
        figures.extend(leaks(page));
        figures.extend(arguments.flow_control.then(|| waits(&before, page)));
        figures
    };
    let agreed = settle(stack, figures).await?;
    let grown = growth(&samples);
    report_memory(&samples, grown.as_deref());
    Ok(agreed && tally.unexplained + tally.no_machine == 0 && grown.is_none())
}

/// The filter crashes time and again; no more may be lost than was at stake.
async fn crashing(stack: &mut Stack, arguments: &Arguments) -> anyhow::Result<bool> {
    println!("\n{} crashes of the filter under the same traffic", arguments.crashes);
    let before = stack.envoy_page().await?;
    let traffic = Traffic::start(stack, i64::MAX, true, arguments.seed.wrapping_add(1))?;
    let (phase, url) = (Arc::clone(&traffic.phase), stack.url("/v1/chat/completions"));
    let crashes = async {
        let client = HttpClient::new();
        let mut crashes = Vec::new();
        for _ in 0..arguments.crashes {
            tokio::time::sleep(BETWEEN_CRASHES).await;
            let asked = phase.start.elapsed();
            let request = http::Request::post(&url).header("x-inpick-fault", "panic");
            let body = http_body_util::Full::from(format!("{{\"model\": \"{BASE}\", \"prompt\": \"\"}}"));
            let reply = client.send(request.body(body)?).await?;
            crashes.push((asked, phase.start.elapsed(), reply.status));
        }
        tokio::time::sleep(BETWEEN_CRASHES).await;
        phase.end();
        anyhow::Ok(crashes)
    };
    let (crashes, ended) = tokio::join!(crashes, traffic.end());
    let (crashes, (records, samples)) = (crashes?, ended?);
    let tally = Tally::of(&records);
    describe(&tally, &records);
    // A crash of a virtual machine loses what it had not published. A panic of the native module loses nothing: at most the
    // requests that asked for it are counted too.
    let (stake, own): (u64, u64) = match arguments.mode {
        Mode::Wasm => (crashes.iter().map(|&(asked, replied, _)| at_stake(&records, asked, replied, FLUSH)).sum(), 0),
        Mode::NativeSidecar | Mode::Native => (0, crashes.len() as u64),
    };
    let figures = |page: &Page| {
        let grown = |stat: Stat| page.sum(stat.family().name, &[]) - before.sum(stat.family().name, &[]);
        let mut figures: Vec<Figure> = tally
            .figures(&before, page)
            .into_iter()
            .filter(|figure| matches!(figure.name.as_str(), "requests" | "bodies parsed" | "picks"))
            .map(|figure| Figure { low: figure.high.saturating_sub(stake), high: figure.high + own, ..figure })
            .collect();
        let crashes = u64::from(arguments.crashes);
        figures.push(match arguments.mode {
            Mode::Wasm => {
                Figure { name: "VMs made anew".to_owned(), low: 1, high: crashes, found: grown(Stat::VmStartsTotal) }
            }
            Mode::NativeSidecar | Mode::Native => {
                Figure { name: "panics".to_owned(), low: crashes, high: crashes, found: grown(Stat::PanicsTotal) }
            }
        });
        if arguments.flow_control && arguments.mode == Mode::Wasm {
            // Each of their clients was told so, or left meanwhile.
            let high = tally.no_machine + tally.left;
            let found = grown(Stat::FlowControlLostTotal);
            figures.push(Figure { name: "requests lost while they waited".to_owned(), low: 0, high, found });
        }
        figures.extend(labels(page));
        figures.extend(leaks(page));
        figures
    };
    let agreed = settle(stack, figures).await?;
    let total = Stat::ObjectiveRequestTotal.family().name;
    let [counted, _] = tally.counted();
    let lost = counted as f64 - (stack.envoy_page().await?.sum(total, &[]) - before.sum(total, &[]));
    println!(
        "lost counts: {lost} of {} requests in {} crashes; at stake were {stake} (with wasm, a second of both workers' requests, and those under way)",
        counted,
        crashes.len()
    );
    report_memory(&samples, growth(&samples).as_deref());
    let crashed = crashes.iter().all(|(_, _, status)| status.is_server_error());
    if !crashed {
        println!("FAILED: the filter did not crash when it was asked to; is its module built with `fault-injection`?");
    }
    let served = tally.good > 0 && tally.unexplained == 0;
    Ok(agreed && crashed && served)
}

/// Clients at work, and the eyes on them.
struct Traffic {
    phase: Arc<Phase>,
    clients: JoinSet<Vec<Record>>,
    watch: tokio::task::JoinHandle<Vec<Sample>>,
    _watching: Watching,
}

/// Ends the watch when the traffic is dropped.
struct Watching(AbortHandle);

impl Drop for Watching {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Traffic {
    fn start(stack: &mut Stack, requests: i64, is_enough: bool, seed: u64) -> anyhow::Result<Self> {
        let pid = stack.envoy().ok_or_else(|| anyhow::anyhow!("no Envoy"))?.id();
        let phase = Arc::new(Phase {
            gateway: stack.gateway,
            start: Instant::now(),
            left: AtomicI64::new(requests),
            done: AtomicU64::new(0),
            is_enough: AtomicBool::new(is_enough),
            trap_service: AtomicBool::new(false),
        });
        let mut clients = JoinSet::new();
        for number in 0..CLIENTS {
            let random = SmallRng::seed_from_u64(seed.wrapping_mul(1000).wrapping_add(number));
            clients.spawn(converse(Arc::clone(&phase), HttpClient::new(), random));
        }
        let watch = tokio::spawn(watch(Arc::clone(&phase), pid, format!("http://{}/stats/prometheus", stack.admin)));
        Ok(Self { phase, clients, _watching: Watching(watch.abort_handle()), watch })
    }

    /// All that the clients saw, once each of them has ended.
    async fn end(mut self) -> anyhow::Result<(Vec<Record>, Vec<Sample>)> {
        let mut records = Vec::new();
        let (mut done, mut since) = (0, Instant::now());
        let mut looks = tokio::time::interval(SAMPLE);
        loop {
            tokio::select! {
                ended = self.clients.join_next() => match ended {
                    Some(ended) => records.extend(ended?),
                    None => break,
                },
                _ = looks.tick() => {
                    let now = self.phase.done.load(Ordering::Relaxed);
                    if now != done {
                        (done, since) = (now, Instant::now());
                    }
                    anyhow::ensure!(since.elapsed() < STUCK, "no request has ended for {STUCK:?}; {done} had before");
                }
            }
        }
        // The watch ends when it sees that nothing is left.
        self.phase.end();
        Ok((records, self.watch.await?))
    }
}

/// Looks at memory until nothing is left to do.
async fn watch(phase: Arc<Phase>, pid: u32, url: String) -> Vec<Sample> {
    let client = HttpClient::new().with_timeout(STUCK);
    let (mut samples, mut last) = (Vec::new(), 0);
    while phase.goes_on() {
        tokio::time::sleep(SAMPLE).await;
        let Ok(reply) = client.get(&url).await else { continue };
        let Ok(page) = Page::parse(&reply.text()) else { continue };
        let Ok(sample) = Sample::take(phase.start.elapsed(), pid, &page) else { continue };
        samples.push(sample);
        if samples.len().is_multiple_of(SAMPLES_A_LINE) {
            let done = phase.done.load(Ordering::Relaxed);
            println!(
                "{:>5.0} s  {done:>8} requests  {:>6}/s  Envoy {:>10}  guests {:>5} pages  in flight {:>3}  fresh pods {}",
                sample.at.as_secs_f64(),
                (done - last) / (SAMPLES_A_LINE as u64 * SAMPLE.as_secs().max(1)),
                mebibytes(sample.resident),
                sample.guest_pages,
                page.sum(Stat::InFlightRequests.family().name, &[]),
                page.sum(Stat::Endpoints.family().name, &[("state", "fresh")]),
            );
            last = done;
        }
    }
    samples
}

fn describe(tally: &Tally, records: &[Record]) {
    let Tally { good, odd, rejected, exhausted, failed, truncated, refused, broken_off, bad_requests, .. } = tally;
    println!(
        "\nthe clients saw: {good} good responses, {odd} whole ones that were not asked for, {rejected} refusals of pods, {exhausted} of full pods, \
         {failed} errors or nonsense of pods, {truncated} streams without an end, {refused} errors of the proxy, {broken_off} responses \
         broken off, {bad_requests} bad bodies refused; {} left, {} left while uploading, {} met no VM; {} asked for made-up models; {} were \
         routed by load alone",
        tally.left,
        tally.left_uploading,
        tally.no_machine,
        tally.made_up,
        tally.counted()[1],
    );
    for record in records.iter().filter(|record| matches!(record.outcome, Outcome::Unexplained(_))).take(SHOWN) {
        println!("  unexplained: {:?}", record.outcome);
    }
}

fn counted(mishaps: &[Mishap]) -> String {
    let count = |mishap: &Mishap| mishaps.iter().filter(|other| *other == mishap).count();
    Mishap::ALL.iter().map(|mishap| format!("{mishap:?} {}", count(mishap))).collect::<Vec<_>>().join(", ")
}

/// Compares until all agree or everything must have been settled, and reports.
async fn settle(stack: &Stack, figures: impl Fn(&Page) -> Vec<Figure>) -> anyhow::Result<bool> {
    let deadline = Instant::now() + SETTLE;
    loop {
        let mut figures = figures(&stack.envoy_page().await?);
        figures.push(under_way(stack).await?);
        let agreed = figures.iter().all(Figure::agrees);
        if agreed || Instant::now() > deadline {
            for figure in &figures {
                let Figure { name, low, high, found } = figure;
                let expected = if low == high { low.to_string() } else { format!("{low} to {high}") };
                println!(
                    "  {name:<52} {found:>10}  expected {expected:<20} {}",
                    if figure.agrees() { "agrees" } else { "DISAGREES" }
                );
            }
            return Ok(agreed);
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn report_memory(samples: &[Sample], grown: Option<&str>) {
    match thirds(samples) {
        Some((before, after)) => println!(
            "memory: Envoy {} then {}, guests {} then {} pages (medians of the second and last third): {}",
            mebibytes(before.resident),
            mebibytes(after.resident),
            before.guest_pages,
            after.guest_pages,
            grown.unwrap_or("flat")
        ),
        None => println!("memory: too short a time to judge it"),
    }
}
