//! Whether a page of metrics says what the clients counted.

use std::time::Duration;

use catalogue::Stat;
use local_stack::{Page, Pod};

use crate::tally::{Served, Tally};

/// How much less than the clients' time the proxy may measure: its clock starts later and stops earlier, and on a busy
/// machine clients wait for a core.
const DURATION_SLACK: f64 = 0.45;

/// The two spellings of the request families.
pub(crate) const SPELLINGS: [&str; 2] = ["inference_objective", "inference_model"];

/// One number on a page beside the one that is expected.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Figure {
    pub(crate) name: String,
    pub(crate) expected: f64,
    pub(crate) found: f64,
}

impl Figure {
    pub(crate) fn agrees(&self) -> bool {
        // Counts, tokens and bytes are whole numbers far below 2^53, so they compare exactly.
        self.expected == self.found
    }
}

/// Every figure of one spelling on a page.
pub(crate) fn requests(page: &Page, spelling: &str, tally: &Tally) -> Vec<Figure> {
    let mut figures = Vec::new();
    for model in tally.models() {
        let all: Vec<&Served> = tally.of_model(model).collect();
        let labels = [("model_name", model), ("target_model_name", model)];
        let mut expect = |suffix: &str, labels: &[(&str, &str)], expected: u64| {
            let name = format!("{spelling}_{suffix}");
            let found = page.sum(&name, labels);
            figures.push(Figure { name: format!("{name} of {model}"), expected: expected as f64, found });
        };
        expect("request_total", &labels, all.len() as u64);
        expect("request_error_total", &labels, 0);
        expect("running_requests", &[("model_name", model)], 0);
        expect("request_duration_seconds_count", &labels, all.len() as u64);
        let sizes = [
            ("request_sizes", samples(&all, |request| Some(request.sent_bytes))),
            ("response_sizes", samples(&all, |request| Some(request.received_bytes))),
            ("input_tokens", samples(&all, |request| Some(request.usage.prompt))),
            ("output_tokens", samples(&all, |request| Some(request.usage.completion).filter(|tokens| *tokens > 0))),
        ];
        // Families that the older spelling never had.
        let newer = [("prompt_cached_tokens", samples(&all, |request| request.usage.cached))];
        let newer = if spelling == SPELLINGS[0] { newer.as_slice() } else { &[] };
        for (family, samples) in sizes.iter().chain(newer) {
            expect(&format!("{family}_count"), &labels, samples.len() as u64);
            expect(&format!("{family}_sum"), &labels, samples.iter().sum());
            expect(&format!("{family}_bucket"), &[labels[0], labels[1], ("le", "+Inf")], samples.len() as u64);
        }
        let generated = samples(&all, |request| Some(request.usage.completion).filter(|tokens| *tokens > 0));
        expect("normalized_time_per_output_token_seconds_count", &labels, generated.len() as u64);
        if spelling == SPELLINGS[0] {
            let streamed = all.iter().filter(|request| request.streamed).count();
            expect("request_ttft_seconds_count", &labels, streamed as u64);
            let several = all.iter().filter(|request| request.streamed && request.usage.completion > 1).count();
            expect("request_tpot_seconds_count", &labels, several as u64);
        }
    }
    figures
}

/// What each pod served, and how often a pick was made.
pub(crate) fn picks(page: &Page, tally: &Tally, pods: &[Pod]) -> Vec<Figure> {
    let name = Stat::PicksTotal.family().name;
    let mut figures: Vec<Figure> = pods
        .iter()
        .map(|pod| Figure {
            name: format!("{name} of {}", pod.addr),
            expected: tally.served.iter().filter(|request| request.pod == pod.name).count() as f64,
            found: page.sum(name, &[("endpoint", &pod.addr)]),
        })
        .collect();
    let name = Stat::SchedulerAttemptsTotal.family().name;
    let (expected, found) = (tally.served.len() as f64, page.sum(name, &[("status", "success")]));
    figures.push(Figure { name: name.to_owned(), expected, found });
    figures
}

/// The proxy's sum of seconds, if it does not fit what the clients measured around it. Only a page with exact sums can be asked.
pub(crate) fn seconds_out_of_line(page: &Page, tally: &Tally) -> Option<String> {
    let clients: Duration = tally.served.iter().map(|request| request.duration).sum();
    let clients = clients.as_secs_f64();
    let proxy = page.sum("inference_objective_request_duration_seconds_sum", &[]);
    let fits = proxy <= clients && proxy >= clients * (1.0 - DURATION_SLACK);
    (!fits).then(|| format!("the proxy measured {proxy:.3} s in all, the clients {clients:.3} s"))
}

fn samples(served: &[&Served], of: impl Fn(&Served) -> Option<u64>) -> Vec<u64> {
    served.iter().filter_map(|request| of(request)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use local_stack::traffic::{Call, TokenCounts};

    fn request(pod: &str, prompt: u64, completion: u64) -> Served {
        Served {
            call: Call::Chat,
            model: "m",
            streamed: true,
            pod: pod.to_owned(),
            sent_bytes: 100,
            received_bytes: 1000,
            usage: TokenCounts { prompt, completion, cached: None },
            first_byte: Duration::from_millis(100),
            duration: Duration::from_secs(1),
        }
    }

    fn tally() -> Tally {
        Tally { served: vec![request("pod-1", 3, 4), request("pod-2", 5, 0)], failures: Vec::new() }
    }

    fn found(figures: &[Figure], start: &str) -> Figure {
        figures.iter().find(|figure| figure.name.starts_with(start)).cloned().unwrap()
    }

    #[test]
    fn sums_and_counts_are_expected_of_what_was_sent_and_answered() {
        let page =
            Page::parse("inference_model_input_tokens_sum{model_name=\"m\",target_model_name=\"m\"} 8\n").unwrap();
        let figures = requests(&page, "inference_model", &tally());
        assert!(found(&figures, "inference_model_input_tokens_sum").agrees());
        // A response without output gives no sample of it.
        assert_eq!(found(&figures, "inference_model_output_tokens_count").expected, 1.0);
        assert_eq!(found(&figures, "inference_model_request_sizes_sum").expected, 200.0);
        assert!(!found(&figures, "inference_model_request_total").agrees());
        assert!(found(&figures, "inference_model_request_error_total").agrees());
        assert!(!figures.iter().any(|figure| figure.name.contains("ttft")));
    }

    #[test]
    fn a_figure_that_is_off_by_one_disagrees() {
        let page = "inpick_picks_total{endpoint=\"10.0.0.1:1\",reason=\"tie\"} 2\n";
        let pod = |name: &str, addr: &str| Pod { name: name.into(), addr: addr.into(), pool: "default".into() };
        let pods = [pod("pod-1", "10.0.0.1:1"), pod("pod-2", "10.0.0.1:2")];
        let figures = picks(&Page::parse(page).unwrap(), &tally(), &pods);
        assert_eq!(figures.iter().map(Figure::agrees).collect::<Vec<_>>(), [false, false, false]);
        let page = "inpick_picks_total{endpoint=\"10.0.0.1:1\",reason=\"tie\"} 1\ninpick_picks_total{endpoint=\"10.0.0.1:2\",reason=\"best_score\"} 1\n\
                    inference_extension_scheduler_attempts_total{status=\"success\"} 2\n";
        assert!(picks(&Page::parse(page).unwrap(), &tally(), &pods).iter().all(Figure::agrees));
    }

    #[test]
    fn proxy_cannot_have_measured_more_than_the_clients() {
        let page = |seconds: f64| {
            Page::parse(&format!("inference_objective_request_duration_seconds_sum {seconds}\n")).unwrap()
        };
        assert_eq!(seconds_out_of_line(&page(1.9), &tally()), None);
        assert!(seconds_out_of_line(&page(2.1), &tally()).is_some());
        assert!(seconds_out_of_line(&page(1.0), &tally()).is_some());
    }
}
