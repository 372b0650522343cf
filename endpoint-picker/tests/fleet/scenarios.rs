//! One scenario a fault.

use crate::fleet::{Fleet, Outcome};
use crate::pod::{Behaviour, PageKind};

fn failed(outcomes: &[Outcome]) -> usize {
    outcomes.iter().filter(|outcome| outcome.status != 200 || !outcome.is_sound).count()
}

fn shares(outcomes: &[Outcome], pods: usize) -> Vec<usize> {
    (0..pods).map(|pod| outcomes.iter().filter(|outcome| outcome.pod == Some(pod)).count()).collect()
}

/// Nothing is in flight when all is over, and no error belongs to no request.
fn assert_settled(fleet: &mut Fleet) {
    assert!(fleet.in_flight().iter().all(|&count| count == 0), "{:?}", fleet.in_flight());
    let stats = fleet.stats();
    let sum =
        |family: &str| -> u64 { stats.iter().filter(|(name, _)| name.ends_with(family)).map(|(_, value)| value).sum() };
    assert!(sum("inference_objective_request_error_total") <= sum("inference_objective_request_total"));
}

#[test]
fn a_healthy_fleet_spreads_evenly() {
    for (gateways, workers) in [(1, 1), (1, 8), (4, 2)] {
        let mut fleet = Fleet::new(gateways, workers, 4);
        let outcomes = fleet.send(400, 5);
        assert_eq!(failed(&outcomes), 0);
        let shares = shares(&outcomes, 4);
        assert!(shares.iter().all(|share| (70..130).contains(share)), "{gateways} × {workers}: {shares:?}");
        assert_settled(&mut fleet);
    }
}

#[test]
fn a_pod_that_answers_500_at_once_with_an_idle_page_does_not_take_the_pool() {
    for (gateways, workers) in [(1, 1), (1, 2), (2, 1), (1, 8), (2, 4)] {
        for behaviour in [Behaviour::Answer { status: 500 }, Behaviour::Drain { millis: 50 }, Behaviour::Babble] {
            let mut fleet = Fleet::new(gateways, workers, 3);
            (fleet.pods[0].behaviour, fleet.pods[0].page) = (behaviour, PageKind::Idle);
            for pod in [1, 2] {
                fleet.pods[pod].foreign_waiting = 5;
            }
            let outcomes = fleet.send(300, 20);
            assert!(failed(&outcomes) <= 10, "{behaviour:?}, {gateways} × {workers}: {} of 300", failed(&outcomes));
            assert_settled(&mut fleet);
        }
    }
}

#[test]
fn a_burst_meets_a_failing_pod_once_and_not_again_each_time_it_is_tried() {
    let mut fleet = Fleet::new(1, 2, 3);
    (fleet.pods[0].behaviour, fleet.pods[0].page) = (Behaviour::Answer { status: 500 }, PageKind::Idle);
    for round in 0..40 {
        for _ in 0..8 {
            fleet.request("m");
        }
        fleet.run_for(100);
        let most = if round < 10 { 3 } else { 8 };
        assert!(fleet.pods[0].taken <= most, "{} in round {round}", fleet.pods[0].taken);
    }
}

#[test]
fn a_pod_that_rejects_what_the_others_serve_does_not_take_the_pool() {
    for (gateways, workers) in [(1, 1), (1, 2), (2, 1), (1, 8)] {
        for status in [302, 401, 403, 404, 429, 501] {
            let mut fleet = Fleet::new(gateways, workers, 3);
            (fleet.pods[0].behaviour, fleet.pods[0].page) = (Behaviour::Answer { status }, PageKind::Idle);
            let outcomes = fleet.send(600, 20);
            // Each worker sees for itself; the one that knows tells the others.
            let most = 20 + 8 * workers;
            assert!(failed(&outcomes) <= most, "{status}, {gateways} × {workers}: {} of 600", failed(&outcomes));
            // It is well again, and has its share soon.
            fleet.pods[0].behaviour = Behaviour::Serve { millis: 50 };
            fleet.run_for(31_000);
            fleet.send(100, 20);
            let outcomes = fleet.send(300, 20);
            assert!(failed(&outcomes) == 0 && shares(&outcomes, 3)[0] >= 60, "{status}: {:?}", shares(&outcomes, 3));
            assert_settled(&mut fleet);
        }
    }
}

#[test]
fn clients_whose_requests_every_pod_rejects_have_none_ejected() {
    for status in [401, 404] {
        let mut fleet = Fleet::new(1, 2, 3);
        for pod in &mut fleet.pods {
            pod.behaviour = Behaviour::Answer { status };
        }
        let outcomes = fleet.send(300, 20);
        assert!(shares(&outcomes, 3).iter().all(|&share| share >= 60), "{:?}", shares(&outcomes, 3));
        assert!(!fleet.stats().keys().any(|name| name.ends_with("inpick_ejections_total")));
    }
    // What names the request as the fault says nothing of a pod, even if only one says it.
    let mut fleet = Fleet::new(1, 2, 3);
    fleet.pods[0].behaviour = Behaviour::Answer { status: 400 };
    fleet.send(100, 20);
    assert!(!fleet.stats().keys().any(|name| name.ends_with("inpick_ejections_total")));
}

#[test]
fn a_503_that_was_tried_again_counts_against_the_pod_that_said_it() {
    let mut fleet = Fleet::new(1, 1, 3);
    fleet.pods[0].behaviour = Behaviour::Answer { status: 503 };
    let outcomes = fleet.send(200, 20);
    assert_eq!(failed(&outcomes), 0);
    assert!(fleet.pods[0].taken <= 10, "{} requests went there", fleet.pods[0].taken);
    let name = "pool=default;endpoint=10.0.0.1:8000;reason=no_answer;inpick_endpoint_failures_total";
    assert_eq!(fleet.stats()[name], fleet.pods[0].taken);
}

#[test]
fn slow_pages_of_most_pods_do_not_send_everything_to_the_last_one() {
    let mut fleet = Fleet::new(1, 2, 4);
    for pod in 0..3 {
        fleet.pods[pod].page = PageKind::Slow { millis: 5_000 };
    }
    fleet.run_for(6_000);
    let outcomes = fleet.send(200, 20);
    assert_eq!(failed(&outcomes), 0);
    let shares = shares(&outcomes, 4);
    assert!(shares.iter().all(|&share| (25..80).contains(&share)), "{shares:?}");
}

#[test]
fn every_pod_failing_leaves_half_of_them_to_try() {
    let mut fleet = Fleet::new(1, 1, 4);
    for pod in &mut fleet.pods {
        pod.behaviour = Behaviour::Answer { status: 500 };
    }
    fleet.send(50, 20);
    for pod in &mut fleet.pods {
        pod.behaviour = Behaviour::Serve { millis: 50 };
    }
    let outcomes = fleet.send(100, 20);
    assert_eq!(failed(&outcomes), 0, "the first good answers bring them back");
}

#[test]
fn without_signals_a_slow_pod_gets_what_it_can_serve() {
    let mut fleet = Fleet::new(1, 2, 2);
    for (pod, millis) in [(0, 1_000), (1, 50)] {
        (fleet.pods[pod].page, fleet.pods[pod].behaviour) = (PageKind::Silent, Behaviour::Serve { millis });
    }
    let outcomes = fleet.send(200, 25);
    let shares = shares(&outcomes, 2);
    assert!(shares[0] <= 40, "a pod of 1 s beside one of 50 ms: {shares:?}");
    assert!(shares[0] >= 3, "it is not starved: {shares:?}");
}

#[test]
fn a_silent_pod_among_others_is_neither_preferred_nor_starved() {
    let mut fleet = Fleet::new(1, 2, 3);
    fleet.pods[0].page = PageKind::Silent;
    let outcomes = fleet.send(300, 10);
    let shares = shares(&outcomes, 3);
    assert!(shares.iter().all(|&share| (60..150).contains(&share)), "{shares:?}");
}

#[test]
fn a_failure_that_is_reported_late_does_not_eject_a_pod_that_returned() {
    let mut fleet = Fleet::new(1, 1, 2);
    fleet.pods[1].behaviour = Behaviour::Serve { millis: 30_000 };
    fleet.pods[0].behaviour = Behaviour::Dead;
    // Each of these is refused by the first pod and waits 30 s for the second one's answer.
    for _ in 0..8 {
        fleet.request("m");
    }
    fleet.run_for(3_000);
    fleet.restart(0);
    fleet.run_for(26_000);
    let before = fleet.outcomes(8).len();
    let late = fleet.send(40, 50);
    let at_first = late.len() - before;
    assert!(shares(&late, 2)[0] * 10 >= at_first * 9, "{:?}", shares(&late, 2));
    assert!(!fleet.stats().keys().any(|name| name.contains("10.0.0.1") && name.ends_with("inpick_ejections_total")));
}

#[test]
fn a_pod_that_died_and_came_back_has_its_share_a_second_later() {
    let mut fleet = Fleet::new(1, 2, 3);
    fleet.send(30, 10);
    fleet.kill(0);
    for _ in 0..100 {
        fleet.request("m");
        fleet.run_for(30);
    }
    fleet.restart(0);
    fleet.run_for(1_000);
    let outcomes = fleet.send(200, 10);
    assert_eq!(failed(&outcomes), 0);
    assert!(shares(&outcomes, 3)[0] >= 45, "{:?}", shares(&outcomes, 3));
    assert_settled(&mut fleet);
}

#[test]
fn a_pod_that_recovers_unseen_is_tried_again_with_one_request_at_a_time() {
    let mut fleet = Fleet::new(1, 1, 3);
    fleet.pods[0].behaviour = Behaviour::Answer { status: 500 };
    let sick = fleet.send(100, 20);
    let ejected_by = failed(&sick);
    fleet.pods[0].behaviour = Behaviour::Serve { millis: 50 };
    fleet.run_for(30_000);
    let outcomes = fleet.send(200, 20);
    assert_eq!(failed(&outcomes), 0);
    assert!(shares(&outcomes, 3)[0] >= 45, "{:?} after {ejected_by} failures", shares(&outcomes, 3));
}

#[test]
fn a_frozen_engine_with_an_idle_page_gets_few_requests() {
    let mut fleet = Fleet::new(1, 2, 3);
    (fleet.pods[0].behaviour, fleet.pods[0].page) = (Behaviour::Freeze, PageKind::Idle);
    fleet.send(300, 20);
    assert!(fleet.pods[0].taken <= 20, "{}", fleet.pods[0].taken);
    fleet.abandon_all();
    assert_settled(&mut fleet);
}

#[test]
fn without_a_sidecar_requests_in_flight_decide() {
    let mut fleet = Fleet::new(1, 2, 2);
    fleet.pods[0].behaviour = Behaviour::Serve { millis: 1_000 };
    fleet.set_sidecars(false);
    fleet.run_for(3_000);
    let outcomes = fleet.send(200, 25);
    assert!(shares(&outcomes, 2)[0] <= 40, "{:?}", shares(&outcomes, 2));
    let reasons = fleet.stats();
    assert!(reasons.keys().all(|name| !name.ends_with("inpick_picks_total") || name.contains("in_flight_only")));
}

#[test]
fn pods_that_leave_and_join_lose_nothing() {
    let mut fleet = Fleet::new(2, 2, 4);
    let mut sent = 0;
    for round in 0..20 {
        fleet.set_members((0..4).filter(|pod| pod % 4 != round % 4).collect());
        for _ in 0..20 {
            fleet.request("m");
            fleet.run_for(7);
            sent += 1;
        }
    }
    fleet.run_for(10_000);
    let outcomes = fleet.outcomes(0);
    assert_eq!((outcomes.len(), failed(&outcomes)), (sent, 0));
    assert_settled(&mut fleet);
}

#[test]
fn made_up_names_take_no_more_labels_than_the_cap_on_any_path() {
    let config = r#"{"metrics": {"max_models": 20}, "model_rewrites": [{"name": "r", "targets": [{"model": "t"}]}]}"#;
    let mut fleet = Fleet::with(config, 1, 4, 2);
    for index in 0..1_500 {
        fleet.request(&format!("client-{index}"));
        fleet.run_for(3);
    }
    fleet.run_for(1_000);
    let stats = fleet.stats();
    let mut names: Vec<&str> = stats
        .keys()
        .flat_map(|name| name.split(';'))
        .filter_map(|label| label.strip_prefix("model_name=").or_else(|| label.strip_prefix("target_model_name=")))
        .filter(|name| *name != "other" && !name.is_empty())
        .collect();
    names.sort_unstable();
    names.dedup();
    assert!(names.len() <= 20, "{}: {names:?}", names.len());
    let decisions = stats.iter().filter(|(name, _)| name.ends_with("model_rewrite_decisions_total"));
    assert_eq!(decisions.map(|(_, count)| count).sum::<u64>(), 1_500);
}
