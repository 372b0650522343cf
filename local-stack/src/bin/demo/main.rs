//! `make demo`: the gateway under seconds of mixed traffic, in each mode, and whether its metrics say exactly what the clients saw.

mod agreement;
mod tally;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use agreement::{Figure, SPELLINGS};
use clap::Parser;
use local_stack::traffic::{ADAPTER, ALIAS, BASE, Call, Job};
use local_stack::{HttpClient, Mode, Page, Ports, Stack, StatusLine, interrupted};
use rand::SeedableRng as _;
use rand::rngs::SmallRng;
use serde_json::json;
use tally::{Served, Tally, quantile};
use tokio::task::JoinSet;

/// Requests under way at once, quarter by quarter of the demo: a ramp up and down.
const RAMP: [usize; 4] = [4, 16, 32, 8];
/// Stats are published each second, and defined some at a time: with the wasm module on a loaded machine for seconds.
const FLUSH: Duration = Duration::from_secs(20);
/// How often the pages are compared meanwhile.
const COMPARE: Duration = Duration::from_millis(250);
/// Each second a line.
const TICK: Duration = Duration::from_secs(1);
/// Figures and failures shown, at most.
const SHOWN: usize = 20;

/// Starts the gateway, drives traffic through it and compares its metrics with what the clients counted.
#[derive(Clone, Debug, Parser)]
#[command(name = "demo", version)]
struct Arguments {
    /// Seconds of traffic in each mode.
    #[arg(long, default_value_t = 8)]
    seconds: u64,
    /// What of inpick runs where, one after the other; all by default.
    #[arg(long, value_delimiter = ',', default_values_t = Mode::ALL)]
    mode: Vec<Mode>,
    /// Seed of the traffic.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Takes free ports instead of 10000, 9901, 9090 and 8001 onwards.
    #[arg(long)]
    ephemeral: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    match until_stopped(Arguments::parse()).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn until_stopped(arguments: Arguments) -> anyhow::Result<bool> {
    let stopped = interrupted()?;
    tokio::select! {
        // Dropping the other branch drops the stack and so stops it.
        () = stopped => anyhow::bail!("interrupted"),
        agreed = demo_all(arguments) => agreed,
    }
}

/// True if in each mode every request succeeded and every figure agrees.
async fn demo_all(arguments: Arguments) -> anyhow::Result<bool> {
    let mut verdicts = Vec::new();
    for &mode in &arguments.mode {
        verdicts.push((mode, demo(mode, &arguments).await?));
    }
    for (mode, agreed) in &verdicts {
        let verdict = if *agreed { "every request succeeded and every count agrees" } else { "FAILED" };
        println!("{mode:<14} {verdict}");
    }
    Ok(verdicts.iter().all(|(_, agreed)| *agreed))
}

/// True if every request succeeded and every figure agrees.
async fn demo(mode: Mode, arguments: &Arguments) -> anyhow::Result<bool> {
    let parts = match mode {
        Mode::Wasm => "the sidecar and Envoy with the wasm module",
        Mode::NativeSidecar => "the sidecar and Envoy with the native module",
        Mode::Native => "Envoy with the native module, which has the sidecar in it",
    };
    println!("{mode}: starting three simulated vLLM pods, {parts}");
    let models = format!("{BASE},{ALIAS}");
    let builder = Stack::builder()
        .mode(mode)
        .pods(3)
        .vllm_sim_args(["--runner", "any", "--served-model-name", &models, "--lora-modules", ADAPTER])
        .vllm_sim_args(["--enable-prompt-tokens-details"])
        .plugin_config(json!({"metrics": {"model": true}}));
    let builder = if arguments.ephemeral { builder } else { builder.ports(Ports::DOCUMENTED) };
    let mut stack = builder.start().await?;
    println!(
        "gateway http://{}, metrics http://{}/metrics, admin http://{}; {} s of traffic",
        stack.gateway, stack.sidecar, stack.admin, arguments.seconds
    );
    let tally = drive(&mut stack, arguments).await?;
    summarise(&stack, &tally);
    let agreed = compare(&stack, &tally).await?;
    stack.stop().await;
    println!();
    Ok(agreed && tally.failures.is_empty())
}

/// Runs the clients to their end, a line each second.
async fn drive(stack: &mut Stack, arguments: &Arguments) -> anyhow::Result<Tally> {
    let (client, gateway) = (HttpClient::new(), Arc::new(stack.url("")));
    let (start, length) = (Instant::now(), Duration::from_secs(arguments.seconds));
    let mut clients = JoinSet::new();
    for number in 0..RAMP.into_iter().max().unwrap_or(1) {
        let random = SmallRng::seed_from_u64(arguments.seed.wrapping_mul(1000).wrapping_add(number as u64));
        clients.spawn(converse(client.clone(), Arc::clone(&gateway), random, number, start, length));
    }
    let mut status = StatusLine::default();
    let mut ticks = tokio::time::interval(TICK);
    let mut last = Instant::now();
    ticks.tick().await;
    let mut tally = Tally::default();
    loop {
        tokio::select! {
            done = clients.join_next() => match done {
                Some(done) => tally.add(done?),
                None => return Ok(tally),
            },
            _ = ticks.tick() => {
                stack.check()?;
                println!("{}", status.line(&stack.sidecar_page().await?, &stack.pods, last.elapsed()));
                last = Instant::now();
            }
        }
    }
}

/// One client: sends request after request while the ramp has room for it.
async fn converse(
    client: HttpClient,
    gateway: Arc<String>,
    mut random: SmallRng,
    number: usize,
    start: Instant,
    length: Duration,
) -> Tally {
    let mut tally = Tally::default();
    while let Some(wanted) = concurrency(start.elapsed(), length) {
        if number >= wanted {
            tokio::time::sleep(COMPARE).await;
            continue;
        }
        let job = Job::draw(&mut random);
        match request(&client, &gateway, &job).await {
            Ok(request) => tally.served.push(request),
            Err(failure) => tally.failures.push(format!("{} {}: {failure}", job.call.path(), job.model)),
        }
    }
    tally
}

/// Requests that may be under way that long after the start; `None` at the end.
fn concurrency(elapsed: Duration, length: Duration) -> Option<usize> {
    let quarter = elapsed.as_secs_f64() / length.as_secs_f64().max(f64::MIN_POSITIVE) * RAMP.len() as f64;
    RAMP.get(quarter as usize).copied()
}

async fn request(client: &HttpClient, gateway: &str, job: &Job) -> Result<Served, String> {
    let url = format!("{gateway}{}", job.call.path());
    let reply = client.post_json(&url, job.body.clone()).await.map_err(|error| error.to_string())?;
    let usage = job.check(&reply)?;
    Ok(Served {
        call: job.call,
        model: job.model,
        streamed: job.streamed,
        pod: reply.header("x-inference-pod").unwrap_or("unknown").to_owned(),
        sent_bytes: job.body.len() as u64,
        received_bytes: reply.body.len() as u64,
        usage,
        first_byte: reply.first_byte,
        duration: reply.duration,
    })
}

fn summarise(stack: &Stack, tally: &Tally) {
    let all = &tally.served;
    println!("\n{} requests succeeded, {} failed", all.len(), tally.failures.len());
    for failure in tally.failures.iter().take(SHOWN) {
        println!("  {failure}");
    }
    println!("\n{:<24} {:>8} {:>7}", "pod", "requests", "share");
    for pod in &stack.pods {
        let served = all.iter().filter(|request| request.pod == pod.name).count();
        let share = 100.0 * served as f64 / all.len().max(1) as f64;
        println!("{:<24} {served:>8} {share:>6.1}%", format!("{} {}", pod.name, pod.addr));
    }
    println!(
        "\n{:<24} {:>8} {:>9} {:>9} {:>9} {:>9} {:>10} {:>10}",
        "call", "requests", "p50", "p95", "1st byte", "p95", "tokens in", "out"
    );
    for call in Call::ALL {
        for streamed in [false, true] {
            let kind: Vec<&Served> =
                all.iter().filter(|request| request.call == call && request.streamed == streamed).collect();
            if kind.is_empty() {
                continue;
            }
            let durations: Vec<Duration> = kind.iter().map(|request| request.duration).collect();
            let firsts: Vec<Duration> = kind.iter().map(|request| request.first_byte).collect();
            let first = |share| if streamed { milliseconds(quantile(firsts.clone(), share)) } else { "-".to_owned() };
            println!(
                "{:<24} {:>8} {:>9} {:>9} {:>9} {:>9} {:>10} {:>10}",
                format!("{}{}", call.path().trim_start_matches("/v1/"), if streamed { ", stream" } else { "" }),
                kind.len(),
                milliseconds(quantile(durations.clone(), 0.5)),
                milliseconds(quantile(durations, 0.95)),
                first(0.5),
                first(0.95),
                kind.iter().map(|request| request.usage.prompt).sum::<u64>(),
                kind.iter().map(|request| request.usage.completion).sum::<u64>(),
            );
        }
    }
    println!();
}

fn milliseconds(duration: Duration) -> String {
    format!("{:.1} ms", duration.as_secs_f64() * 1000.0)
}

/// Compares both pages with the tally until they agree or the stats must have been published.
async fn compare(stack: &Stack, tally: &Tally) -> anyhow::Result<bool> {
    let deadline = Instant::now() + FLUSH;
    loop {
        let pages = [("Envoy's page", stack.envoy_page().await?), ("the sidecar's page", stack.sidecar_page().await?)];
        let groups: Vec<(String, Vec<Figure>)> =
            pages.iter().flat_map(|(name, page)| figures(name, page, tally, stack)).collect();
        let seconds = agreement::seconds_out_of_line(&pages[1].1, tally);
        let agreed = seconds.is_none() && groups.iter().all(|(_, figures)| figures.iter().all(Figure::agrees));
        if agreed || Instant::now() > deadline {
            for (group, figures) in &groups {
                report(group, figures);
            }
            println!("{:<52} {}", "the sidecar's page, seconds", seconds.as_deref().unwrap_or("agree"));
            return Ok(agreed);
        }
        tokio::time::sleep(COMPARE).await;
    }
}

fn figures(name: &str, page: &Page, tally: &Tally, stack: &Stack) -> Vec<(String, Vec<Figure>)> {
    let mut groups: Vec<_> = SPELLINGS
        .iter()
        .map(|spelling| (format!("{name}, {spelling}_*"), agreement::requests(page, spelling, tally)))
        .collect();
    groups.push((format!("{name}, picks"), agreement::picks(page, tally, &stack.pods)));
    groups
}

fn report(group: &str, figures: &[Figure]) {
    let agreeing = figures.iter().filter(|figure| figure.agrees()).count();
    println!("{group:<52} {agreeing} of {} figures agree", figures.len());
    for figure in figures.iter().filter(|figure| !figure.agrees()).take(SHOWN) {
        println!("  {}: the clients counted {}, the page says {}", figure.name, figure.expected, figure.found);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ramp_goes_through_its_quarters_and_ends() {
        let length = Duration::from_secs(20);
        let at = |seconds| concurrency(Duration::from_secs(seconds), length);
        assert_eq!([at(0), at(5), at(10), at(15), at(20)], [Some(4), Some(16), Some(32), Some(8), None]);
    }
}
