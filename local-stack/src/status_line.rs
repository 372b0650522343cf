//! The line that `make run` prints each second.

use std::time::Duration;

use catalogue::Stat;

use crate::{Page, Pod};

/// Turns pages into lines; remembers the last page for rates.
#[derive(Clone, Debug, Default)]
pub struct StatusLine {
    requests: f64,
    picks: Vec<f64>,
}

impl StatusLine {
    /// The line for a page taken that long after the last one: requests, their rate, each pod's share of the picks in between (of
    /// all picks when there were none), requests waiting and KV cache use.
    pub fn line(&mut self, page: &Page, pods: &[Pod], since_last: Duration) -> String {
        let requests = page.sum(Stat::ObjectiveRequestTotal.family().name, &[]);
        let errors = page.sum(Stat::ObjectiveRequestErrorTotal.family().name, &[]);
        let rate = (requests - self.requests).max(0.0) / since_last.as_secs_f64().max(f64::MIN_POSITIVE);
        let picks: Vec<f64> =
            pods.iter().map(|pod| page.sum(Stat::PicksTotal.family().name, &[("endpoint", &pod.addr)])).collect();
        let before = self.picks.iter().copied().chain(std::iter::repeat(0.0));
        let recent: Vec<f64> = picks.iter().zip(before).map(|(now, before)| (now - before).max(0.0)).collect();
        let moved = recent.iter().sum::<f64>() > 0.0;
        let shares = shares(if moved { &recent } else { &picks });

        let waiting = page.sum(Stat::PoolPerPodQueueSize.family().name, &[]);
        let running = page.sum(Stat::PoolRunningRequests.family().name, &[]);
        let kv = page
            .select(Stat::PoolKvCacheUtilizationPermille.family().name, &[])
            .map(|sample| sample.value / 10.0)
            .fold(f64::NAN, f64::max);
        let kv = if kv.is_nan() { "-".to_owned() } else { format!("{kv:.1}%") };
        (self.requests, self.picks) = (requests, picks);
        format!(
            "requests {requests:>7}  {rate:>6.0}/s  errors {errors}  pods {shares}  running {running}  waiting {waiting}  fullest KV {kv}"
        )
    }
}

/// `33% 33% 34%`, or dashes where nothing was picked yet.
pub(crate) fn shares(counts: &[f64]) -> String {
    let total: f64 = counts.iter().sum();
    let share = |count: &f64| if total > 0.0 { format!("{:.0}%", 100.0 * count / total) } else { "-".to_owned() };
    counts.iter().map(share).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pods() -> Vec<Pod> {
        let pod =
            |port| Pod { name: format!("pod-{port}"), addr: format!("10.0.0.1:{port}"), pool: "default".to_owned() };
        vec![pod(1), pod(2)]
    }

    fn page(requests: u32, first: u32, second: u32) -> Page {
        Page::parse(&format!(
            "inference_objective_request_total{{model_name=\"m\"}} {requests}\n\
             inpick_picks_total{{endpoint=\"10.0.0.1:1\",reason=\"tie\"}} {first}\n\
             inpick_picks_total{{endpoint=\"10.0.0.1:2\",reason=\"tie\"}} {second}\n\
             inference_pool_per_pod_queue_size{{model_server_pod=\"a\"}} 3\n\
             inference_pool_per_pod_queue_size{{model_server_pod=\"b\"}} 4\n\
             inference_pool_kv_cache_utilization_permille{{model_server_pod=\"a\"}} 125\n\
             inference_pool_kv_cache_utilization_permille{{model_server_pod=\"b\"}} 25\n"
        ))
        .unwrap()
    }

    #[test]
    fn rate_and_shares_are_those_since_the_last_line() {
        let mut status = StatusLine::default();
        let first = status.line(&page(100, 75, 25), &pods(), Duration::from_secs(1));
        assert!(first.contains("100/s") && first.contains("pods 75% 25%"), "{first}");
        let second = status.line(&page(120, 75, 45), &pods(), Duration::from_secs(2));
        assert!(second.contains("10/s") && second.contains("pods 0% 100%"), "{second}");
        let idle = status.line(&page(120, 75, 45), &pods(), Duration::from_secs(1));
        assert!(idle.contains(" 0/s") && idle.contains("pods 62% 38%"), "{idle}");
    }

    #[test]
    fn queues_are_added_and_the_fullest_cache_is_shown() {
        let line = StatusLine::default().line(&page(1, 1, 0), &pods(), Duration::from_secs(1));
        assert!(line.contains("waiting 7") && line.contains("fullest KV 12.5%"), "{line}");
    }

    #[test]
    fn page_without_any_series_gives_a_line_too() {
        let line = StatusLine::default().line(&Page::default(), &pods(), Duration::from_secs(1));
        assert!(line.contains("pods - -") && line.contains("fullest KV -"), "{line}");
    }
}
