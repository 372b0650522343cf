//! What the clients saw, and between which numbers each counter must therefore be.

use std::collections::BTreeSet;
use std::time::Duration;

use catalogue::Stat;
use local_stack::Page;
use local_stack::traffic::{ADAPTER, ALIAS, BASE};

use crate::verdict::Verdict;

/// Names of models that no pod serves begin so. Each is sent once.
pub(crate) const MADE_UP: &str = "made-up-";
/// What the models without a label of their own are counted under.
const OTHER: &str = "other";

/// How one request ended, as its client saw it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Outcome {
    /// A pod's whole response.
    Responded(Verdict),
    /// A well-formed error of the proxy, since no pod responded.
    Refused,
    /// A well-formed 400 to a body that is no JSON, or nobody waited for it.
    BadRequest,
    /// The response began and did not end.
    BrokenOff,
    /// The client left when its whole request had been sent.
    Left,
    /// The client left before that.
    LeftUploading,
    /// A request that is routed by load alone got its response.
    LoadOnly,
    /// Such a request failed.
    LoadOnlyFailed,
    /// The client of such a request left.
    LoadOnlyLeft,
    /// A well-formed 503: the worker's VM was gone.
    NoMachine,
    /// What must not be.
    Unexplained(String),
}

/// One request.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub(crate) outcome: Outcome,
    pub(crate) body_bytes: u64,
    /// It asked for a model that no pod serves.
    pub(crate) is_made_up: bool,
    /// Since the start of its phase.
    pub(crate) begun: Duration,
    pub(crate) ended: Duration,
}

impl Record {
    /// Its whole body reached the filter and could be read.
    pub(crate) fn parsed(&self) -> bool {
        matches!(
            self.outcome,
            Outcome::Responded(_) | Outcome::Refused | Outcome::BrokenOff | Outcome::Left | Outcome::Unexplained(_)
        )
    }
}

/// One number and what it must be.
#[derive(Clone, Debug)]
pub(crate) struct Figure {
    pub(crate) name: String,
    /// At least.
    pub(crate) low: u64,
    /// At most.
    pub(crate) high: u64,
    pub(crate) found: f64,
}

impl Figure {
    pub(crate) fn agrees(&self) -> bool {
        // Counts and bytes are whole numbers far below 2^53.
        (self.low as f64..=self.high as f64).contains(&self.found)
    }
}

/// The counts of a phase, by outcome.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) parsed: u64,
    pub(crate) parsed_bytes: u64,
    /// Of the parsed ones, those for a model that no pod serves.
    pub(crate) made_up: u64,
    pub(crate) good: u64,
    pub(crate) odd: u64,
    pub(crate) rejected: u64,
    pub(crate) exhausted: u64,
    pub(crate) failed: u64,
    pub(crate) truncated: u64,
    pub(crate) refused: u64,
    pub(crate) broken_off: u64,
    pub(crate) bad_requests: u64,
    pub(crate) left: u64,
    pub(crate) left_uploading: u64,
    pub(crate) load_only: u64,
    pub(crate) load_only_failed: u64,
    pub(crate) load_only_left: u64,
    pub(crate) no_machine: u64,
    pub(crate) unexplained: u64,
}

impl Tally {
    /// Requests that the filter counts under the names of models, and those that it counts apart.
    pub(crate) fn counted(&self) -> [u64; 2] {
        [
            self.parsed + self.bad_requests + self.left_uploading,
            self.load_only + self.load_only_failed + self.load_only_left,
        ]
    }

    pub(crate) fn of(records: &[Record]) -> Self {
        let mut tally = Self::default();
        for record in records {
            if record.parsed() {
                tally.parsed += 1;
                tally.parsed_bytes += record.body_bytes;
                tally.made_up += u64::from(record.is_made_up);
            }
            *match &record.outcome {
                Outcome::Responded(Verdict::Good) => &mut tally.good,
                Outcome::Responded(Verdict::Odd) => &mut tally.odd,
                Outcome::Responded(Verdict::Rejected) => &mut tally.rejected,
                Outcome::Responded(Verdict::Exhausted) => &mut tally.exhausted,
                Outcome::Responded(Verdict::Failed) => &mut tally.failed,
                Outcome::Responded(Verdict::Truncated) => &mut tally.truncated,
                Outcome::Refused => &mut tally.refused,
                Outcome::BadRequest => &mut tally.bad_requests,
                Outcome::BrokenOff => &mut tally.broken_off,
                Outcome::Left => &mut tally.left,
                Outcome::LeftUploading => &mut tally.left_uploading,
                Outcome::LoadOnly => &mut tally.load_only,
                Outcome::LoadOnlyFailed => &mut tally.load_only_failed,
                Outcome::LoadOnlyLeft => &mut tally.load_only_left,
                Outcome::NoMachine => &mut tally.no_machine,
                Outcome::Unexplained(_) => &mut tally.unexplained,
            } += 1;
        }
        tally
    }

    /// Every figure of a phase without crashes: how much `after` shows more than `before`. What is known only up to how far a
    /// request had got when its client left has room for those requests.
    pub(crate) fn figures(&self, before: &Page, after: &Page) -> Vec<Figure> {
        let grown = |name: &str, labels: &[(&str, &str)]| after.sum(name, labels) - before.sum(name, labels);
        let total = Stat::ObjectiveRequestTotal.family().name;
        let errors = Stat::ObjectiveRequestErrorTotal.family().name;
        let bodies = Stat::RequestBodiesTotal.family().name;
        let code = |codes: &[&str]| codes.iter().map(|code| grown(errors, &[("error_code", code)])).sum::<f64>();
        let duration = format!("{}_count", Stat::ObjectiveRequestDurationSeconds.family().name);
        let sizes = Stat::ObjectiveRequestSizes.family().name;
        let good = self.good + self.odd;
        let responded = good + self.rejected + self.exhausted + self.failed + self.truncated;
        let exactly = |what: &str, expected: u64, found: f64| Figure {
            name: what.to_owned(),
            low: expected,
            high: expected,
            found,
        };
        let about =
            |what: &str, low: u64, found: f64| Figure { name: what.to_owned(), low, high: low + self.left, found };
        // Requests whose body could not be read are counted without a model.
        let unread = self.bad_requests + self.left_uploading;
        let [requests, load_only] = self.counted();
        let complete = grown(Stat::LoadOnlyRequestsTotal.family().name, &[("outcome", "complete")]);
        let all_codes = [
            "BadRequest",
            "ModelServerError",
            "ModelServerRejected",
            "ResourceExhausted",
            "UpstreamReset",
            "ServiceUnavailable",
            "Timeout",
            "Internal",
            "Cancelled",
        ];
        // Who leaves while it waits is never picked for.
        let queued = format!("{}_count", Stat::FlowRequestQueueDuration.family().name);
        let left_waiting = grown(&queued, &[("outcome", "EvictedContextCancelled")]);
        let picks = (self.parsed + load_only).saturating_sub(left_waiting as u64);
        vec![
            exactly("bodies parsed", self.parsed, grown(bodies, &[("outcome", "parsed")])),
            exactly("bodies malformed", self.bad_requests, grown(bodies, &[("outcome", "malformed")])),
            exactly("bodies incomplete", self.left_uploading, grown(bodies, &[("outcome", "incomplete")])),
            exactly("requests", requests, grown(total, &[])),
            exactly("requests without a model", unread, grown(total, &[("model_name", "")])),
            exactly("requests for made-up models", self.made_up, grown(total, &[("model_name", OTHER)])),
            exactly("bytes of request bodies", self.parsed_bytes, grown(&format!("{sizes}_sum"), &[])),
            exactly("requests routed by load alone", load_only, grown(Stat::LoadOnlyRequestsTotal.family().name, &[])),
            Figure {
                name: "requests routed by load alone, complete".to_owned(),
                low: self.load_only,
                high: self.load_only + self.load_only_left,
                found: complete,
            },
            exactly("picks", picks, grown(Stat::SchedulerAttemptsTotal.family().name, &[])),
            exactly("errors: BadRequest", self.bad_requests, code(&["BadRequest"])),
            about("errors: ModelServerError", self.failed, code(&["ModelServerError"])),
            about("errors: ModelServerRejected", self.rejected, code(&["ModelServerRejected"])),
            about("errors: ResourceExhausted", self.exhausted, code(&["ResourceExhausted"])),
            about(
                "errors: UpstreamReset and other ends by the proxy",
                self.refused + self.broken_off + self.truncated,
                code(&["UpstreamReset", "ServiceUnavailable", "Timeout", "Internal"]),
            ),
            about("errors: Cancelled", self.left_uploading, code(&["Cancelled"])),
            exactly("errors: any other", 0, grown(errors, &[]) - code(&all_codes)),
            about("requests without an error", good, grown(total, &[]) - grown(errors, &[])),
            about("durations", responded, grown(&duration, &[])),
        ]
    }
}

/// Whatever clients ask for, only models that pods serve have a label, and the rest share one.
pub(crate) fn labels(page: &Page) -> Vec<Figure> {
    let names: BTreeSet<&str> = page
        .samples()
        .iter()
        .flat_map(|sample| ["model_name", "target_model_name"].map(|label| sample.labels.get(label)))
        .flatten()
        .map(String::as_str)
        .collect();
    let served = [BASE, ALIAS, ADAPTER];
    let count = |holds: &dyn Fn(&str) -> bool| names.iter().filter(|name| holds(name)).count() as f64;
    let figure = |name: &str, expected, found| Figure { name: name.to_owned(), low: expected, high: expected, found };
    vec![
        figure("labels of models that pods serve", served.len() as u64, count(&|name| served.contains(&name))),
        figure("labels of made-up models", 0, count(&|name| name.starts_with(MADE_UP))),
        figure(
            "labels beyond these, none and `other`",
            0,
            count(&|name| !(served.contains(&name) || name.starts_with(MADE_UP) || name.is_empty() || name == OTHER)),
        ),
    ]
}

/// What must be zero when nothing is under way.
pub(crate) fn leaks(page: &Page) -> Vec<Figure> {
    let nothing = |name: &str, found: f64| Figure { name: name.to_owned(), low: 0, high: 0, found };
    [
        Stat::ObjectiveRunningRequests.family().name,
        Stat::InFlightRequests.family().name,
        Stat::PoolRunningRequests.family().name,
        Stat::PoolPerPodQueueSize.family().name,
        Stat::FlowQueueSize.family().name,
        Stat::FlowQueueBytes.family().name,
        "envoy_http_downstream_rq_active",
        "envoy_cluster_upstream_rq_active",
    ]
    .map(|name| {
        // The page itself, and what asks for the snapshot, are requests of the same kinds.
        let own: f64 = [("envoy_http_conn_manager_prefix", "admin"), ("envoy_cluster_name", "inpick-sidecar")]
            .map(|label| page.sum(name, &[label]))
            .iter()
            .sum();
        nothing(name, page.sum(name, &[]) - own)
    })
    .into()
}

/// Whether requests waited in flow control, each of whose looks for somebody to send is counted.
pub(crate) fn waits(before: &Page, page: &Page) -> Figure {
    let name = format!("{}_count", Stat::FlowDispatchCycleDuration.family().name);
    let found = page.sum(&name, &[]) - before.sum(&name, &[]);
    Figure { name: "looks for a request to send".to_owned(), low: 1, high: u64::MAX, found }
}

/// Requests that a crash between `asked` and `replied` may cost: those that had ended after the last flush before it, and those
/// under way. Both workers' are counted, since a client cannot know whose its request was; the 503s of a missing VM are
/// not, since nothing of them can be lost.
pub(crate) fn at_stake(records: &[Record], asked: Duration, replied: Duration, flush: Duration) -> u64 {
    let from = asked.saturating_sub(flush);
    let hit =
        |record: &&Record| record.outcome != Outcome::NoMachine && record.begun <= replied && record.ended >= from;
    records.iter().filter(hit).count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(outcome: Outcome, begun: u64, ended: u64) -> Record {
        let [begun, ended] = [begun, ended].map(Duration::from_millis);
        Record { outcome, body_bytes: 10, is_made_up: false, begun, ended }
    }

    #[test]
    fn clients_that_left_leave_room_and_nobody_else_does() {
        let responded = Outcome::Responded(Verdict::Good);
        let records = [
            record(responded.clone(), 0, 1),
            record(responded, 0, 1),
            record(Outcome::Left, 0, 1),
            record(Outcome::LeftUploading, 0, 1),
        ];
        let page = |cancelled: u32| {
            Page::parse(&format!(
                "inference_objective_request_total{{model_name=\"m\"}} 3\n\
                 inference_objective_request_total{{model_name=\"\"}} 1\n\
                 inference_objective_request_error_total{{model_name=\"\",error_code=\"Cancelled\"}} 1\n\
                 inference_objective_request_error_total{{model_name=\"m\",error_code=\"Cancelled\"}} {cancelled}\n"
            ))
            .unwrap()
        };
        let of = |page: &Page, name: &str| {
            let figures = Tally::of(&records).figures(&Page::default(), page);
            figures.into_iter().find(|figure| figure.name == name).unwrap()
        };
        for (cancelled, agrees) in [(0, true), (1, true), (2, false)] {
            assert_eq!(of(&page(cancelled), "errors: Cancelled").agrees(), agrees, "{cancelled}");
            assert_eq!(of(&page(cancelled), "requests without an error").agrees(), agrees, "{cancelled}");
        }
        assert!(of(&page(0), "requests").agrees());
        assert!(of(&page(0), "requests without a model").agrees());
        assert!(!of(&page(0), "bodies parsed").agrees());
    }

    #[test]
    fn each_verdict_has_its_error_code() {
        let verdicts = [Verdict::Good, Verdict::Rejected, Verdict::Exhausted, Verdict::Failed, Verdict::Truncated];
        let records = verdicts.map(|verdict| record(Outcome::Responded(verdict), 0, 1));
        let page = |code: &str| {
            let line = format!("inference_objective_request_error_total{{model_name=\"m\",error_code=\"{code}\"}} 1");
            Page::parse(&line).unwrap()
        };
        for code in ["ModelServerRejected", "ResourceExhausted", "ModelServerError", "UpstreamReset"] {
            let figures = Tally::of(&records).figures(&Page::default(), &page(code));
            let agreed =
                |figure: &&Figure| figure.name.starts_with("errors: ") && figure.found == 1.0 && figure.agrees();
            assert_eq!(figures.iter().filter(agreed).count(), 1, "{code}");
        }
    }

    #[test]
    fn a_made_up_model_with_a_label_is_told() {
        let page = |extra: &str| {
            let names = [BASE, ALIAS, ADAPTER, OTHER, "", extra];
            let line = |name: &str| format!("inference_objective_request_total{{model_name=\"{name}\"}} 1\n");
            Page::parse(&names.map(line).concat()).unwrap()
        };
        assert!(labels(&page(OTHER)).iter().all(Figure::agrees));
        assert!(!labels(&page(&format!("{MADE_UP}1"))).iter().all(Figure::agrees));
        assert!(!labels(&page("llama-2")).iter().all(Figure::agrees));
        assert!(!labels(&Page::default()).iter().all(Figure::agrees));
    }

    #[test]
    fn a_crash_may_cost_what_was_not_flushed_and_what_was_under_way() {
        let records = [
            record(Outcome::Left, 0, 900),
            record(Outcome::Left, 0, 1000),
            record(Outcome::BrokenOff, 1990, 2500),
            record(Outcome::NoMachine, 1995, 2005),
            record(Outcome::Refused, 2011, 2020),
        ];
        let [asked, replied, flush] = [2000, 2010, 1000].map(Duration::from_millis);
        assert_eq!(at_stake(&records, asked, replied, flush), 2);
    }

    #[test]
    fn what_is_under_way_at_the_end_is_a_leak_but_not_the_question_itself() {
        let page = |active: u32| {
            Page::parse(&format!(
                "envoy_http_downstream_rq_active{{envoy_http_conn_manager_prefix=\"admin\"}} 1\n\
                 envoy_http_downstream_rq_active{{envoy_http_conn_manager_prefix=\"gateway\"}} {active}\n"
            ))
            .unwrap()
        };
        assert!(leaks(&page(0)).iter().all(Figure::agrees));
        assert!(!leaks(&page(1)).iter().all(Figure::agrees));
    }
}
