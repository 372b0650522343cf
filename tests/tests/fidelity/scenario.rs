//! What happens in a scenario, step by step, without a word about who plays it.

use std::time::Duration;

use host_sim::FailurePolicy;

/// Stands for the scenario's name in scripts, headers, bodies and configurations: stats are one set per process, so whoever
/// defines one puts this into its name.
const NAME: char = '@';

/// The module under test.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Module {
    /// Our filter, with these fields of its configuration besides the pool.
    Filter(&'static str),
    /// The guest that does what the header `x-script` says.
    Guest,
}

/// Where the route leads.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Route {
    /// To the scripted upstream.
    Upstream,
    /// To the scripted upstream, which has this many milliseconds.
    Timeout(u64),
    /// To one of two addresses of the scripted upstream; a 503 is retried.
    Retrying,
    /// To a cluster without hosts.
    Nowhere,
}

/// Names and values as they are on the wire.
pub(crate) type Pairs = Vec<(Vec<u8>, Vec<u8>)>;

/// One thing that happens. The first field is the number of the stream.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// The client sends the head of a request, perhaps the whole of it.
    Request(usize, Request),
    /// A piece of the request's body.
    Body(usize, Vec<u8>),
    /// The request's end, with trailers or without. Envoy's HTTP/1 codec gives the end of a body in a call of its own.
    End(usize, Option<Pairs>),
    /// The client closes its connection.
    Leave(usize),
    /// The upstream sends the head of a response, perhaps the whole of it.
    Respond(usize, Response),
    /// A piece of the response's body.
    RespondBody(usize, Vec<u8>),
    /// The response's end.
    RespondEnd(usize, Option<Pairs>),
    /// The upstream closes its connection.
    Reset(usize),
    /// The upstream responds with a status that the router retries, so that no filter sees it.
    Retried(usize, u16),
    /// The router loses its patience with the upstream.
    TimedOut(usize),
    /// The router finds no host.
    NoHost(usize),
    /// Time passes.
    Pass(Duration),
}

#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) method: &'static str,
    pub(crate) path: &'static str,
    pub(crate) headers: Pairs,
    pub(crate) end: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) headers: Pairs,
    pub(crate) end: bool,
}

impl Request {
    /// Without a declared length a body goes in chunks.
    pub(crate) fn is_chunked(&self) -> bool {
        !self.end && !has(&self.headers, b"content-length")
    }
}

impl Response {
    /// Without a declared length a body goes in chunks.
    pub(crate) fn is_chunked(&self) -> bool {
        !self.end && !has(&self.headers, b"content-length")
    }
}

fn has(headers: &Pairs, name: &[u8]) -> bool {
    headers.iter().any(|(have, _)| have == name)
}

#[derive(Clone, Debug)]
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    pub(crate) module: Module,
    pub(crate) policy: FailurePolicy,
    /// `allow_on_headers_stop_iteration`
    pub(crate) stop_iteration: bool,
    /// `per_connection_buffer_limit_bytes`
    pub(crate) limit: Option<usize>,
    pub(crate) route: Route,
    pub(crate) steps: Vec<Step>,
    /// host-sim does not do what Envoy does here; its README says why.
    pub(crate) differs: bool,
    /// The stream that further steps are about.
    current: usize,
    streams: usize,
}

/// How long a VM must have lived to be reloaded.
pub(crate) const RELOAD_BACKOFF: Duration = Duration::from_millis(100);

impl Scenario {
    fn of(module: Module) -> Self {
        Self {
            name: "",
            module,
            policy: FailurePolicy::FailClosed,
            stop_iteration: true,
            limit: None,
            route: Route::Upstream,
            steps: Vec::new(),
            differs: false,
            current: 0,
            streams: 0,
        }
    }

    /// The scripted guest.
    pub(crate) fn guest() -> Self {
        Self::of(Module::Guest)
    }

    /// Our filter.
    pub(crate) fn filter() -> Self {
        Self::of(Module::Filter(""))
    }

    /// Our filter with further fields of its configuration, each with a comma in front.
    pub(crate) fn filter_with(fields: &'static str) -> Self {
        Self::of(Module::Filter(fields))
    }

    pub(crate) fn named(mut self, name: &'static str) -> Self {
        let put = |bytes: &mut Vec<u8>| {
            if let Ok(text) = std::str::from_utf8(bytes)
                && text.contains(NAME)
            {
                *bytes = text.replace(NAME, name).into_bytes();
            }
        };
        self.name = name;
        for step in &mut self.steps {
            match step {
                Step::Request(_, Request { headers, .. }) | Step::Respond(_, Response { headers, .. }) => {
                    headers.iter_mut().for_each(|(_, value)| put(value));
                }
                Step::Body(_, bytes) | Step::RespondBody(_, bytes) => put(bytes),
                _ => {}
            }
        }
        // A declared length is that of the body as it is now.
        let steps = self.steps.clone();
        for step in &mut self.steps {
            let (headers, length) = match step {
                Step::Request(stream, request) => (&mut request.headers, body_length(&steps, *stream, true)),
                Step::Respond(stream, response) => (&mut response.headers, body_length(&steps, *stream, false)),
                _ => continue,
            };
            for (_, value) in headers.iter_mut().filter(|(_, value)| value == MEASURED) {
                *value = length.to_string().into_bytes();
            }
        }
        self
    }

    /// The pool of our filter, or another name of the whole.
    pub(crate) const fn pool(&self) -> &'static str {
        self.name
    }

    // ---- setting ----

    pub(crate) const fn failure_policy(mut self, policy: FailurePolicy) -> Self {
        self.policy = policy;
        self
    }

    pub(crate) const fn stop_all(mut self) -> Self {
        self.stop_iteration = false;
        self
    }

    pub(crate) const fn limit(mut self, bytes: usize) -> Self {
        self.limit = Some(bytes);
        self
    }

    pub(crate) const fn route(mut self, route: Route) -> Self {
        self.route = route;
        self
    }

    pub(crate) const fn differs(mut self) -> Self {
        self.differs = true;
        self
    }

    // ---- the client ----

    fn step(mut self, step: impl FnOnce(usize) -> Step) -> Self {
        self.steps.push(step(self.current));
        self
    }

    fn begin(mut self, method: &'static str, path: &'static str, headers: &[(&str, &str)], end: bool) -> Self {
        self.current = self.streams;
        self.streams += 1;
        let headers = pairs(headers);
        self.step(|stream| Step::Request(stream, Request { method, path, headers, end }))
    }

    /// A whole GET with a script for the guest.
    pub(crate) fn get(self, script: &str) -> Self {
        self.begin("GET", "/v1/models", &[("x-script", script)], true)
    }

    /// A whole request of any kind.
    pub(crate) fn bodiless(self, method: &'static str, path: &'static str, headers: &[(&str, &str)]) -> Self {
        self.begin(method, path, headers, true)
    }

    /// The head of a POST with a script for the guest; its body goes in chunks.
    pub(crate) fn post(self, script: &str) -> Self {
        self.begin("POST", "/v1/completions", &[("x-script", script)], false)
    }

    /// The head of any request with a body.
    pub(crate) fn bodied(self, path: &'static str, headers: &[(&str, &str)]) -> Self {
        self.begin("POST", path, headers, false)
    }

    /// A whole POST of JSON in one piece with its length declared.
    pub(crate) fn json(self, path: &'static str, body: &str) -> Self {
        self.bodied(path, &[("content-type", "application/json")]).measured().body(body).end()
    }

    /// A header of the head that was the last step.
    pub(crate) fn header(mut self, name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Self {
        match self.steps.last_mut() {
            Some(Step::Request(_, Request { headers, .. }) | Step::Respond(_, Response { headers, .. })) => {
                headers.push((name.as_ref().to_vec(), value.as_ref().to_vec()))
            }
            other => panic!("no head to add a header to: {other:?}"),
        }
        self
    }

    /// The head that was the last step declares the length of its body.
    pub(crate) fn measured(self) -> Self {
        self.header("content-length", MEASURED)
    }

    pub(crate) fn body(self, bytes: impl AsRef<[u8]>) -> Self {
        self.step(|stream| Step::Body(stream, bytes.as_ref().to_vec()))
    }

    pub(crate) fn end(self) -> Self {
        self.step(|stream| Step::End(stream, None))
    }

    pub(crate) fn trailers(self, trailers: &[(&str, &str)]) -> Self {
        self.step(|stream| Step::End(stream, Some(pairs(trailers))))
    }

    pub(crate) fn leave(self) -> Self {
        self.step(Step::Leave)
    }

    /// Further steps are about this stream.
    pub(crate) const fn on(mut self, stream: usize) -> Self {
        self.current = stream;
        self
    }

    // ---- the upstream ----

    /// The head of a response, whose body goes in chunks.
    pub(crate) fn respond(self, status: u16) -> Self {
        self.step(|stream| Step::Respond(stream, Response { status, headers: Vec::new(), end: false }))
    }

    /// A whole response whose body is empty.
    pub(crate) fn respond_empty(self, status: u16) -> Self {
        self.respond_bare(status).header("content-length", "0")
    }

    /// A whole response that has no body by its status or by the request's method.
    pub(crate) fn respond_bare(self, status: u16) -> Self {
        self.step(|stream| Step::Respond(stream, Response { status, headers: Vec::new(), end: true }))
    }

    pub(crate) fn respond_body(self, bytes: impl AsRef<[u8]>) -> Self {
        self.step(|stream| Step::RespondBody(stream, bytes.as_ref().to_vec()))
    }

    pub(crate) fn respond_end(self) -> Self {
        self.step(|stream| Step::RespondEnd(stream, None))
    }

    pub(crate) fn respond_trailers(self, trailers: &[(&str, &str)]) -> Self {
        self.step(|stream| Step::RespondEnd(stream, Some(pairs(trailers))))
    }

    /// A whole response of this kind in one piece, its length declared.
    pub(crate) fn respond_with(self, status: u16, kind: &str, body: &str) -> Self {
        self.respond(status).header("content-type", kind).measured().respond_body(body).respond_end()
    }

    pub(crate) fn reset(self) -> Self {
        self.step(Step::Reset)
    }

    pub(crate) fn retried(self, status: u16) -> Self {
        self.step(|stream| Step::Retried(stream, status))
    }

    pub(crate) fn timed_out(self) -> Self {
        self.step(Step::TimedOut)
    }

    pub(crate) fn no_host(self) -> Self {
        self.step(Step::NoHost)
    }

    pub(crate) fn pass(self, milliseconds: u64) -> Self {
        self.step(|_| Step::Pass(Duration::from_millis(milliseconds)))
    }
}

/// Stands for the length of the body until the body is known.
const MEASURED: &[u8] = b"(measured)";

fn pairs(text: &[(&str, &str)]) -> Pairs {
    text.iter().map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec())).collect()
}

fn body_length(steps: &[Step], of: usize, request: bool) -> usize {
    steps
        .iter()
        .map(|step| match step {
            Step::Body(stream, bytes) if request && *stream == of => bytes.len(),
            Step::RespondBody(stream, bytes) if !request && *stream == of => bytes.len(),
            _ => 0,
        })
        .sum()
}
