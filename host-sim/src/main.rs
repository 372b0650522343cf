//! Runs one request through a proxy-wasm module and prints what came of it.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Parser, Subcommand, ValueEnum};
use host_sim::{
    Cost, Direction, FailurePolicy, Host, HttpOutcome, HttpStream, Request, Response, Sent, StreamProgress,
};

/// Modules flush their stats every second or some seconds.
const DEFAULT_SETTLE_MS: u64 = 10_000;

/// A proxy-wasm host for trying out filters: Envoy's rules, virtual time, no network.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs one request through a module and prints headers, body, stats and crossings.
    Run(Box<Run>),
    /// Lists what a module imports and exports; fails if this host does not provide an import.
    Inspect {
        /// The module.
        module: PathBuf,
    },
}

#[derive(clap::Args)]
struct Run {
    /// The module.
    module: PathBuf,
    /// Plugin configuration, given to `proxy_on_configure` as it is.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// VM configuration, given to `proxy_on_vm_start` as it is.
    #[arg(long, value_name = "FILE")]
    vm_config: Option<PathBuf>,
    /// Adds a singleton service with this configuration.
    #[arg(long, value_name = "FILE")]
    service_config: Option<PathBuf>,
    /// The request: a plain HTTP/1.1 message.
    #[arg(long, value_name = "FILE")]
    request: PathBuf,
    /// The upstream's response: a plain HTTP/1.1 message. Without it the stream stops at the upstream.
    #[arg(long, value_name = "FILE")]
    response: Option<PathBuf>,
    /// An upstream for `proxy_http_call`: its cluster's name and the HTTP/1.1 response it gives.
    #[arg(long, value_name = "NAME=FILE", value_parser = cluster)]
    cluster: Vec<(String, PathBuf)>,
    /// Virtual milliseconds that pass between the start and the request, so that ticks and calls happen.
    #[arg(long, value_name = "MS", default_value_t = 0)]
    advance: u64,
    /// Virtual milliseconds that pass after the stream, so that what a module writes on ticks is among the stats.
    #[arg(long, value_name = "MS", default_value_t = DEFAULT_SETTLE_MS)]
    settle: u64,
    /// A property that the module reads once the response comes, such as `upstream.address=10.0.0.1:8000`.
    #[arg(long, value_name = "NAME=TEXT", value_parser = property)]
    property: Vec<(String, String)>,
    /// Cuts bodies into chunks of this many bytes.
    #[arg(long, value_name = "BYTES")]
    chunk: Option<std::num::NonZeroUsize>,
    /// The plugin's root id.
    #[arg(long, default_value = "")]
    root_id: String,
    /// Which worker serves the request.
    #[arg(long, default_value_t = 0)]
    worker: usize,
    /// How many workers there are.
    #[arg(long, default_value_t = 1)]
    workers: usize,
    /// A pause in a headers callback stops everything, as in Envoy without `allow_on_headers_stop_iteration`.
    #[arg(long)]
    stop_all_on_headers_pause: bool,
    /// What a VM that has failed means for its streams.
    #[arg(long, value_enum, default_value_t = Policy::Closed)]
    failure_policy: Policy,
    /// Prints every callback and host call.
    #[arg(long)]
    trace: bool,
    /// Prints instructions, host calls and allocations of each kind of callback.
    #[arg(long)]
    instructions: bool,
    /// Exchanges that go before the one that is printed, so that what a module does only once is done.
    #[arg(long, value_name = "COUNT", default_value_t = 0)]
    before: usize,
}

#[derive(Clone, Copy, ValueEnum)]
enum Policy {
    Closed,
    Open,
    Reload,
}

impl From<Policy> for FailurePolicy {
    fn from(policy: Policy) -> Self {
        match policy {
            Policy::Closed => Self::FailClosed,
            Policy::Open => Self::FailOpen,
            Policy::Reload => Self::FailReload,
        }
    }
}

fn cluster(text: &str) -> Result<(String, PathBuf), String> {
    let (name, file) = text.split_once('=').ok_or("it has the form NAME=FILE")?;
    Ok((name.to_owned(), PathBuf::from(file)))
}

fn property(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("it has the form NAME=TEXT")?;
    Ok((name.to_owned(), value.to_owned()))
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let mut out = std::io::stdout().lock();
    let done = match &arguments.command {
        Command::Run(arguments) => run(arguments, &mut out),
        Command::Inspect { module } => inspect(module, &mut out),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nothing more can be done when standard error is closed too.
            let _ = writeln!(std::io::stderr(), "host-sim: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn inspect(module: &Path, out: &mut impl Write) -> anyhow::Result<()> {
    let compiled = host_sim::CompiledModule::from_file(module)?;
    for import in compiled.imports() {
        writeln!(out, "import {import}")?;
    }
    for export in compiled.exports() {
        writeln!(out, "export {export}")?;
    }
    Ok(())
}

fn run(arguments: &Run, out: &mut impl Write) -> anyhow::Result<()> {
    let mut builder = Host::builder()
        .module(&arguments.module)
        .root_id(&arguments.root_id)
        .workers(arguments.workers)
        .allow_on_headers_stop_iteration(!arguments.stop_all_on_headers_pause)
        .failure_policy(arguments.failure_policy.into());
    if let Some(file) = &arguments.config {
        builder = builder.plugin_configuration(read(file)?);
    }
    if let Some(file) = &arguments.vm_config {
        builder = builder.vm_configuration(read(file)?);
    }
    if let Some(file) = &arguments.service_config {
        builder = builder.service(read(file)?);
    }
    for (name, file) in &arguments.cluster {
        builder = builder.cluster(name, [HttpOutcome::parse(&read(file)?)?]);
    }
    let mut request =
        Request::parse(&read(&arguments.request)?).with_context(|| arguments.request.display().to_string())?;
    let mut response = match &arguments.response {
        None => None,
        Some(file) => Some(Response::parse(&read(file)?).with_context(|| file.display().to_string())?),
    };
    if let Some(size) = arguments.chunk {
        request = request.rechunked(size);
        response = response.map(|response| response.rechunked(size));
    }
    let host = builder.build()?;
    host.advance(Duration::from_millis(arguments.advance));
    let request = request.worker(arguments.worker);
    for _ in 0..arguments.before {
        exchange(&host, &request, response.as_ref(), &arguments.property)?;
    }
    if arguments.before > 0 {
        host.advance(Duration::from_millis(arguments.settle));
        host.clear_trace();
    }
    let (stream, directive) = exchange(&host, &request, response.as_ref(), &arguments.property)?;
    host.advance(Duration::from_millis(arguments.settle));
    report(&host, &stream, &directive, arguments, out)
}

/// One request and, if it goes upstream, its response; with what the filter made of the request.
fn exchange(
    host: &Host,
    request: &Request,
    response: Option<&Response>,
    properties: &[(String, String)],
) -> anyhow::Result<(HttpStream, String)> {
    let stream = host.request(request.clone())?;
    let directive = directive(&stream);
    if let Some(response) = response
        && stream.progress() == StreamProgress::Upstream
    {
        for (name, value) in properties {
            stream.set_property(name, value.as_str());
        }
        stream.respond(response.clone())?;
    }
    Ok((stream, directive))
}

fn read(file: &Path) -> anyhow::Result<Vec<u8>> {
    std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))
}

/// What the filter made of the request.
fn directive(stream: &HttpStream) -> String {
    if let Some(reply) = stream.local_reply() {
        return format!("local reply {} ({:?}, details {:?})", reply.status, reply.origin, reply.details);
    }
    match stream.progress() {
        StreamProgress::Over(end) => format!("over ({end:?})"),
        StreamProgress::RequestPaused => "paused".to_owned(),
        _ if stream.is_request_paused() => "continued, then paused".to_owned(),
        StreamProgress::Upstream | StreamProgress::ResponsePaused | StreamProgress::Responding => {
            "continued".to_owned()
        }
    }
}

fn report(
    host: &Host,
    stream: &HttpStream,
    directive: &str,
    arguments: &Run,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    if arguments.trace {
        writeln!(out, "# trace")?;
        for record in host.trace() {
            writeln!(out, "{record}")?;
        }
    }
    writeln!(out, "# directive\n{directive}")?;
    half(out, "upstream", &stream.sent_upstream())?;
    half(out, "downstream", &stream.sent_downstream())?;
    writeln!(out, "# log")?;
    for line in host.logs() {
        writeln!(out, "{} level {}: {}", line.vm, line.level, line.text)?;
    }
    writeln!(out, "# stats")?;
    let stats = host.stats();
    for (name, value) in stats.counters() {
        writeln!(out, "counter {name} {value}")?;
    }
    for (name, value) in stats.gauges() {
        writeln!(out, "gauge {name} {value}")?;
    }
    for (name, values) in stats.histograms() {
        writeln!(out, "histogram {name} {values:?}")?;
    }
    let crossings = stream.crossings();
    writeln!(out, "# crossings of the stream: {}", crossings.total())?;
    for (direction, name, count) in crossings.iter() {
        let arrow = if direction == Direction::HostToGuest { "->" } else { "<-" };
        writeln!(out, "{count:>6} {arrow} {name}")?;
    }
    if arguments.instructions {
        writeln!(out, "# instructions of the stream: {}", crossings.instructions())?;
        writeln!(
            out,
            "{:<30}{:>10}{:>14}{:>12}{:>13}",
            "callback", "callbacks", "instructions", "host calls", "allocations"
        )?;
        for (callback, Cost { callbacks, instructions, calls, allocations }) in crossings.costs() {
            let name = callback.name();
            writeln!(out, "{name:<30}{callbacks:>10}{instructions:>14}{calls:>12}{allocations:>13}")?;
        }
    }
    for vm in host.vms() {
        let state = host.failure(vm).map_or_else(|| "alive".to_owned(), |reason| format!("dead: {reason}"));
        writeln!(out, "# {vm}: {} pages of memory at most, {state}", host.peak_memory_pages(vm))?;
    }
    Ok(())
}

fn half(out: &mut impl Write, name: &str, sent: &Sent) -> anyhow::Result<()> {
    let Some(headers) = &sent.headers else {
        writeln!(out, "# {name}: nothing")?;
        return Ok(());
    };
    writeln!(out, "# {name}: {}", if sent.ended { "complete" } else { "not complete" })?;
    for (name, value) in headers.iter() {
        writeln!(out, "{}: {}", name.escape_ascii(), String::from_utf8_lossy(value))?;
    }
    writeln!(out)?;
    let body = sent.body();
    if !body.is_empty() {
        out.write_all(&body)?;
        writeln!(out)?;
    }
    for (name, value) in sent.trailers.iter().flat_map(host_sim::HeaderMap::iter) {
        writeln!(out, "{}: {}", name.escape_ascii(), String::from_utf8_lossy(value))?;
    }
    Ok(())
}
