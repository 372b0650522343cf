//! Plays a scenario on host-sim. What Envoy does around a filter (its connection manager's headers, its router's retries) is done
//! here, since host-sim has neither.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use host_sim::{HeaderMap, Host, HttpOutcome, HttpStream, Sent, StreamEnd, StreamProgress};
use snapshot::{EndpointIdentity, Load, Loads, Membership, PoolMembers, Snapshot, State};

use crate::bootstrap;
use crate::modules;
use crate::observed::{self, Message, Milestone, Observed};
use crate::scenario::{Module, Pairs, RELOAD_BACKOFF, Request, Response, Route, Scenario, Step};
use crate::upstream::{BACKEND_RESPONSE, Upstreams};

/// Information; Envoy runs at this level.
const LOG_LEVEL: u32 = 2;
/// Time between two steps.
const STEP: Duration = Duration::from_millis(10);
/// All ticks, definitions of stats and flushes are over after this.
const SETTLE: Duration = Duration::from_secs(20);

/// The addresses that serve a scenario.
pub(crate) fn addresses<'a>(scenario: &Scenario, upstreams: &'a Upstreams) -> &'a [SocketAddr] {
    match scenario.route {
        Route::Upstream | Route::Timeout(_) => &upstreams.scripted[..1],
        Route::Retrying => &upstreams.scripted,
        Route::Nowhere => &[],
    }
}

/// The snapshot that our filter gets, with a pool for each scenario.
pub(crate) fn snapshot<'a>(scenarios: impl Iterator<Item = &'a Scenario>, upstreams: &Upstreams) -> Vec<u8> {
    let load = Load {
        state: State::Fresh,
        age_ms: Some(0),
        waiting: Some(0),
        running: Some(0),
        kv_cache_usage: Some(0.0),
        ..Load::default()
    };
    let pools = scenarios.filter(|scenario| matches!(scenario.module, Module::Filter(_))).map(|scenario| PoolMembers {
        name: scenario.pool().into(),
        endpoints: addresses(scenario, upstreams).iter().copied().map(EndpointIdentity::unnamed).collect(),
        ..PoolMembers::default()
    });
    let membership = Membership { epoch: 1, version: 1, pools: pools.collect() };
    let endpoints = vec![load; membership.endpoint_count()];
    let loads = Loads { epoch: 1, membership_version: 1, generation: 1, endpoints, ..Loads::default() };
    Snapshot { membership: Some(membership), loads }.encode()
}

fn host(scenario: &Scenario, upstreams: &Upstreams) -> Host {
    let mut builder = Host::builder()
        .compiled(modules::compiled(scenario.module))
        .plugin_name(scenario.name)
        .root_id(scenario.name)
        .plugin_configuration(bootstrap::configuration(scenario))
        .vm_id(scenario.name)
        .log_level(LOG_LEVEL)
        .reload_backoff(RELOAD_BACKOFF)
        .failure_policy(scenario.policy)
        .allow_on_headers_stop_iteration(scenario.stop_iteration)
        .cluster(
            "backend",
            [HttpOutcome::response(200, BACKEND_RESPONSE).header("content-length", BACKEND_RESPONSE.len().to_string())],
        )
        .cluster("dead", [HttpOutcome::unreachable()])
        .cluster("silent", [HttpOutcome::silence()])
        .cluster("nowhere", [HttpOutcome::refused()]);
    if let Some(limit) = scenario.limit {
        builder = builder.request_buffer_limit(limit).response_buffer_limit(limit);
    }
    if matches!(scenario.module, Module::Filter(_)) {
        let bytes = snapshot(std::iter::once(scenario), upstreams);
        builder = builder.service(bootstrap::SERVICE_CONFIGURATION).cluster_script("inpick-sidecar", move |call| {
            let known = call.headers.get("if-none-match").is_some();
            let outcome =
                if known { HttpOutcome::response(304, "") } else { HttpOutcome::response(200, bytes.clone()) };
            outcome.header("etag", "\"1-1\"").after(Duration::from_millis(1))
        });
    }
    let host = builder.build().expect("the module starts");
    host.advance(Duration::from_secs(1));
    host.clear_trace();
    host
}

/// A stream and what was done around its filter.
struct Around {
    stream: HttpStream,
    /// Addresses that were tried, the last one by now.
    tried: Vec<SocketAddr>,
    left: bool,
}

/// Plays it.
pub(crate) fn observe(scenario: &Scenario, upstreams: &Upstreams) -> Observed {
    let host = host(scenario, upstreams);
    let mut streams: Vec<Around> = Vec::new();
    let mut impossible = Vec::new();
    let mut milestones = Vec::new();
    for step in &scenario.steps {
        if let Step::Request(number, request) = step {
            let stream = host.request(envoy_request(request, scenario, *number)).unwrap();
            streams.push(Around { stream, tried: Vec::new(), left: false });
        } else if let Some(problem) = take(step, &host, &mut streams) {
            impossible.push(problem.to_owned());
        }
        // What responds at once does so between two steps.
        host.advance(STEP);
        for around in &mut streams {
            around.contact(scenario, upstreams);
        }
        let so_far: Vec<_> = streams.iter().map(Around::observed).collect();
        milestones.push(Milestone::of(&so_far, said(&host, scenario).len()));
    }
    let mut observed = Observed { impossible, milestones, ..Observed::default() };
    observed.streams = streams.iter().map(Around::observed).collect();
    observed.said = said(&host, scenario);
    if matches!(scenario.module, Module::Filter(_)) {
        host.advance(SETTLE);
    }
    let stats = host.stats();
    observed.stats = stats
        .counters()
        .chain(stats.gauges())
        .filter(|(name, value)| Observed::compares(name, *value, scenario.name))
        .map(|(name, value)| (name.to_owned(), value))
        .collect::<BTreeMap<_, _>>();
    observed
}

/// What the scripted guest has said; our filter says what it likes.
fn said(host: &Host, scenario: &Scenario) -> Vec<String> {
    if scenario.module != Module::Guest {
        return Vec::new();
    }
    let logs = host.logs();
    let lines = logs.iter().filter(|line| line.level >= LOG_LEVEL);
    lines.filter_map(|line| line.text.lines().next()).map(|line| line.trim_end().to_owned()).collect()
}

/// The request as Envoy's connection manager hands it to the filters: without what belongs to the connection, with a header of
/// its own.
fn envoy_request(request: &Request, scenario: &Scenario, number: usize) -> host_sim::Request {
    let mut sent = host_sim::Request::new(request.method, request.path).header(":authority", "gateway");
    for (name, value) in request.headers.iter().filter(|(name, _)| name != b"expect") {
        sent = sent.header(name, value);
    }
    let cluster = match scenario.route {
        Route::Nowhere => "nowhere",
        Route::Retrying => "upstreams",
        Route::Upstream | Route::Timeout(_) => "upstream",
    };
    sent = sent
        .property("xds.cluster_name", cluster)
        .header("x-stream", format!("{}/{number}", scenario.name))
        .header("x-forwarded-proto", "http");
    if request.end { sent } else { sent.unfinished() }
}

fn envoy_response(response: &Response) -> host_sim::Response {
    let mut sent = host_sim::Response::new(response.status);
    for (name, value) in &response.headers {
        sent = sent.header(name, value);
    }
    if response.is_chunked() {
        sent = sent.header("transfer-encoding", "chunked");
    }
    if response.end { sent } else { sent.unfinished() }
}

fn map(pairs: &Pairs) -> HeaderMap {
    pairs.iter().map(|(name, value)| (name, value)).collect()
}

/// Takes a step other than a request; says if it cannot be taken.
fn take(step: &Step, host: &Host, streams: &mut [Around]) -> Option<&'static str> {
    const NOT_ASKED: &str = "a response of an upstream that was not asked";
    // A client may go on sending when nobody reads any more, and an upstream when nobody wants its response.
    match step {
        Step::Request(..) => None,
        Step::Pass(time) => {
            host.advance(*time);
            None
        }
        Step::Body(number, bytes) => {
            streams[*number].stream.send_body(bytes, false).ok();
            None
        }
        Step::End(number, None) => {
            streams[*number].stream.send_body("", true).ok();
            None
        }
        Step::End(number, Some(trailers)) => {
            streams[*number].stream.send_trailers(map(trailers)).ok();
            None
        }
        Step::Leave(number) => {
            let around = &mut streams[*number];
            around.left = true;
            around.stream.client_reset().ok();
            None
        }
        Step::Respond(number, response) => {
            let around = &streams[*number];
            if around.tried.is_empty() {
                return Some(NOT_ASKED);
            }
            around.stream.respond(envoy_response(response)).ok();
            None
        }
        Step::RespondBody(number, bytes) => {
            streams[*number].stream.respond_body(bytes, false).ok();
            None
        }
        Step::RespondEnd(number, None) => {
            streams[*number].stream.respond_body("", true).ok();
            None
        }
        Step::RespondEnd(number, Some(trailers)) => {
            streams[*number].stream.respond_trailers(map(trailers)).ok();
            None
        }
        Step::Reset(number) => {
            let around = &streams[*number];
            if around.tried.is_empty() {
                return Some(NOT_ASKED);
            }
            around.stream.upstream_reset().ok();
            None
        }
        Step::Retried(number, _) => streams[*number].retry(),
        Step::TimedOut(number) => {
            streams[*number].stream.upstream_timeout().ok();
            None
        }
        Step::NoHost(number) => {
            streams[*number].stream.no_healthy_upstream().ok();
            None
        }
    }
}

impl Around {
    /// The router takes the request as soon as the filter lets it through.
    fn contact(&mut self, scenario: &Scenario, upstreams: &Upstreams) {
        if !self.tried.is_empty() || self.stream.sent_upstream().headers.is_none() {
            return;
        }
        let chosen = self.choices().first().copied();
        if let Some(address) = chosen.or_else(|| addresses(scenario, upstreams).first().copied()) {
            self.tried.push(address);
            self.stream.set_property("upstream.address", address.to_string());
        }
    }

    fn choices(&self) -> Vec<SocketAddr> {
        let sent = self.stream.sent_upstream();
        let list = sent.header("x-gateway-destination-endpoint").unwrap_or_default();
        String::from_utf8_lossy(list).split(',').filter_map(|address| address.parse().ok()).collect()
    }

    fn retry(&mut self) -> Option<&'static str> {
        let Some(next) = self.choices().get(self.tried.len()).copied() else {
            return Some("a retry without another endpoint");
        };
        self.tried.push(next);
        self.stream.set_property("upstream.address", next.to_string());
        self.stream.set_property("upstream.request_attempt_count", self.tried.len() as u64);
        None
    }

    fn observed(&self) -> observed::Stream {
        let over = matches!(self.stream.progress(), StreamProgress::Over(_));
        let request = self.stream.sent_upstream();
        let attempts = self.tried.iter().map(|address| {
            let start = |header| String::from_utf8_lossy(request.header(header).unwrap_or_default()).into_owned();
            let start = format!("{} {} at {address}", start(":method"), start(":path"));
            // A request of which not all came before its end was cut off.
            let progress = match (request.ended, over) {
                (true, _) => observed::Progress::Whole,
                (false, true) => observed::Progress::Cut,
                (false, false) => observed::Progress::Unfinished,
            };
            message(start, &request, progress, &[(":authority", "host")])
        });
        let sent = self.stream.sent_downstream();
        let progress = match self.stream.end() {
            Some(StreamEnd::Complete) => observed::Progress::Whole,
            Some(StreamEnd::UpstreamReset | StreamEnd::LocalReset) => observed::Progress::Cut,
            Some(StreamEnd::ClientReset) | None => observed::Progress::Unfinished,
        };
        let response = sent.headers.is_some().then(|| {
            let status = sent.status().unwrap_or_default().to_string();
            message(status, &sent, progress, &[])
        });
        observed::Stream {
            dropped: !self.left && response.is_none() && over,
            response,
            attempts: attempts.collect(),
            details: self.stream.code_details().filter(|_| over),
        }
    }
}

/// What has left a filter, with pseudo headers as HTTP/1.1 has them.
fn message(start: String, sent: &Sent, progress: observed::Progress, renamed: &[(&str, &str)]) -> Message {
    let mut headers = Vec::new();
    for (name, value) in sent.headers.iter().flat_map(HeaderMap::iter) {
        let renamed = renamed.iter().find(|(from, _)| from.as_bytes() == name);
        match renamed {
            Some((_, to)) => headers.push((to.as_bytes().to_vec(), value.to_vec())),
            None if name.starts_with(b":") => {}
            None => headers.push((name.to_vec(), value.to_vec())),
        }
    }
    // The HTTP/1 codec declares the length of what ends with its head but could have a body.
    let bare = sent.ended && sent.chunks.is_empty() && sent.trailers.is_none();
    let framed = sent.header("content-length").or(sent.header("transfer-encoding")).is_some();
    if bare && !framed && sent.status().is_some_and(|status| !matches!(status, 204 | 304)) {
        headers.push((b"content-length".to_vec(), b"0".to_vec()));
    }
    let trailers = sent.trailers.iter().flat_map(HeaderMap::iter).map(|(name, value)| (name.to_vec(), value.to_vec()));
    Message { start, headers, body: sent.body(), trailers: trailers.collect(), progress }
}
