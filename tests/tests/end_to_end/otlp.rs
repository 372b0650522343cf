//! Pushes to an OpenTelemetry collector: the same figures as on the page, by the rules of the data model, which the collector holds them to.

use std::collections::BTreeMap;

use local_stack::Page;
use serde_json::json;
use tests::{Gateway, MODEL, Mode, builder, chat_body, eventually, figure};

use crate::collector::{Arrival, Collector, Point};

tests::on_bindings! {
    both: [every_figure_of_the_page_reaches_the_collector_and_no_other],
    // Only then Envoy can be restarted without the sidecar.
    both_beside_a_sidecar: [after_a_restart_of_envoy_its_streams_begin_anew_and_the_sidecars_go_on],
}

const CHAT: &str = "/v1/chat/completions";
const REQUESTS: &str = "inference_objective_request_total";
const SNAPSHOTS: &str = "inpick_sidecar_snapshot_requests_total";

/// Figures by name and labels, a histogram's as a page has them.
type Figures = BTreeMap<(String, BTreeMap<String, String>), f64>;

async fn pushing(mode: Mode, collector: &Collector) -> Gateway {
    let flags = ["--otlp-endpoint", &collector.url(), "--otlp-interval", "400ms"];
    Gateway::start(builder(mode, 2, json!({})).sidecar_args(flags)).await
}

fn of_page(page: &Page) -> Figures {
    let figures = page.samples().iter().map(|sample| {
        let mut labels = sample.labels.clone();
        // One number has several spellings.
        if let Some(le) = labels.get_mut("le").filter(|_| sample.name.ends_with("_bucket")) {
            *le = le.parse::<f64>().unwrap().to_string();
        }
        ((sample.name.clone(), labels), sample.value)
    });
    figures.collect()
}

fn of_arrival(arrival: &Arrival) -> Figures {
    let mut figures = Figures::new();
    for ((name, labels), (_, point)) in &arrival.points {
        match point {
            Point::Gauge(value) | Point::Sum(value) => {
                figures.insert((name.clone(), labels.clone()), *value);
            }
            Point::Histogram { count, sum, bounds, buckets } => {
                let mut total = 0.0;
                for (bound, samples) in bounds.iter().copied().chain([f64::INFINITY]).zip(buckets) {
                    total += *samples as f64;
                    let mut labels = labels.clone();
                    labels.insert("le".to_owned(), bound.to_string());
                    figures.insert((format!("{name}_bucket"), labels), total);
                }
                figures.insert((format!("{name}_sum"), labels.clone()), sum.unwrap());
                figures.insert((format!("{name}_count"), labels.clone()), *count as f64);
            }
        }
    }
    figures
}

async fn every_figure_of_the_page_reaches_the_collector_and_no_other(mode: Mode) {
    let collector = Collector::start().await;
    let gateway = pushing(mode, &collector).await;
    for stream in [false, true, true] {
        assert_eq!(gateway.post(CHAT, chat_body(MODEL, stream)).await.status.as_u16(), 200);
    }
    gateway.post(CHAT, "{").await;
    gateway.shows(&[figure(REQUESTS, &[], 4), figure("inference_objective_request_error_total", &[], 1)]).await;

    let is_of_requests = |name: &str| name.starts_with("gen_ai_") || name.starts_with("inference_objective_");
    // What is the same on a page before a push and on one after it, the push has too. Stats of the last request may come one after the other.
    let (before, arrival, after) = eventually("a push is between two pages of the same requests", async || {
        let before = of_page(&gateway.sidecar_page().await.unwrap());
        let known = collector.arrivals().len();
        // The next one was perhaps read before the page was.
        let arrivals = collector.arrived(known + 2).await;
        let after = of_page(&gateway.sidecar_page().await.unwrap());
        let has_moved = |(key, value): (&(String, _), &f64)| is_of_requests(&key.0) && after[key] != *value;
        if !before.keys().eq(after.keys()) {
            Err("families came or went")
        } else if before.iter().any(has_moved) {
            Err("figures of requests moved")
        } else {
            Ok((before, arrivals[known + 1].clone(), after))
        }
    })
    .await;
    let pushed = of_arrival(&arrival);
    let names = |figures: &Figures, others: &Figures| -> Vec<_> {
        figures.keys().filter(|key| !others.contains_key(*key)).cloned().collect()
    };
    assert_eq!(names(&before, &pushed), [], "they are on the page and were not pushed");
    assert_eq!(names(&pushed, &before), [], "they were pushed and are not on the page");
    let mut equal = 0;
    for (key, value) in &pushed {
        let (before, after) = (before[key], after[key]);
        let is_same = before == after;
        equal += usize::from(is_same);
        let is_gauge = matches!(arrival.points.get(key), Some((_, Point::Gauge(_))));
        // Envoy counts what is active while a page is read: it may go up and come back between two pages.
        let lies_between = is_gauge || (before..=after).contains(value);
        assert!(
            if is_same && !(is_gauge && key.0.starts_with("envoy_")) { *value == before } else { lies_between },
            "{key:?}: {value}, with {before} and {after} on the page"
        );
    }
    assert!(equal > 500 && equal * 2 > pushed.len(), "{equal} of {} did not move", pushed.len());
    for name in [
        "inference_objective_request_duration_seconds_sum",
        "gen_ai_server_time_to_first_token_seconds_bucket",
        "inference_pool_average_kv_cache_utilization",
        "inpick_picks_total",
        "inpick_sidecar_scrapes_total",
        "inpick_sidecar_otlp_pushes_total",
        "envoy_server_uptime",
        "envoy_cluster_upstream_rq_time_bucket",
    ] {
        assert!(pushed.keys().any(|(known, _)| known == name), "{name}");
    }
    assert_eq!(arrival.resource["service.name"], "inpick");
    assert!(arrival.headers["user-agent"].to_str().unwrap().starts_with("inpick-metrics-sidecar/"));
    // What requests left counts since Envoy began, a few seconds ago.
    let counted = arrival.points.iter().filter(|((name, _), _)| name == REQUESTS);
    for (_, (start, point)) in counted {
        let age = arrival.time_ns - start;
        assert!(
            age > 0 && age < 600_000_000_000 && matches!(point, Point::Sum(count) if *count > 0.0),
            "{age} ns, {point:?}"
        );
    }
    assert!(collector.faults().is_empty());
}

/// Start and sum of a family's streams; the latest start.
fn total(arrival: &Arrival, family: &str) -> Option<(u64, f64)> {
    let streams = arrival.points.iter().filter(|((name, _), _)| name == family);
    streams.fold(None, |total, (_, (start, point))| {
        let Point::Sum(value) = point else { panic!("{family} is no counter") };
        let (latest, sum) = total.unwrap_or((0, 0.0));
        Some((latest.max(*start), sum + value))
    })
}

async fn after_a_restart_of_envoy_its_streams_begin_anew_and_the_sidecars_go_on(mode: Mode) {
    let collector = Collector::start().await;
    let mut gateway = pushing(mode, &collector).await;
    for _ in 0..3 {
        gateway.chat().await;
    }
    let is_counted = |arrivals: &[Arrival], wanted: f64, after: u64| {
        let found =
            arrivals.iter().filter(|arrival| arrival.time_ns > after).filter_map(|arrival| total(arrival, REQUESTS));
        found.into_iter().any(|(_, count)| count == wanted)
    };
    let arrivals = collector.until(|arrivals| is_counted(arrivals, 3.0, 0)).await;
    let last = arrivals.last().unwrap();
    let ((began, _), (own, _)) = (total(last, REQUESTS).unwrap(), total(last, SNAPSHOTS).unwrap());

    gateway.stack.restart_envoy().await.unwrap();
    eventually("requests are served again", async || match gateway.chat().await.status.as_u16() {
        200 => Ok(()),
        status => Err(status),
    })
    .await;
    let arrivals = collector.until(|arrivals| is_counted(arrivals, 1.0, last.time_ns)).await;
    let again =
        arrivals.iter().rev().find(|arrival| total(arrival, REQUESTS).is_some_and(|(_, count)| count == 1.0)).unwrap();
    let (start, _) = total(again, REQUESTS).unwrap();
    assert!(start > began && start >= last.time_ns, "{start} is not after {began} and {}", last.time_ns);
    assert_eq!(total(again, SNAPSHOTS).unwrap().0, own, "the sidecar was there all the time");
}
