use super::*;
use crate::gateway::SignalLoss;

fn settings() -> ContenderSettings {
    ContenderSettings { config: "{}".to_owned(), replicas: 1, workers: 1, loss: SignalLoss::default() }
}

/// Requests that ended each second in the second half of a minute.
fn completed(contender: &Contender, load: f64, seed: u64) -> f64 {
    let half = BEGIN_MICROS + 30_000_000..BEGIN_MICROS + 60_000_000;
    let record = record(contender, load, seed, Length::Whole);
    record.outcomes.iter().filter(|outcome| outcome.done.is_some_and(|at| half.contains(&at))).count() as f64 / 30.0
}

#[test]
fn the_pods_complete_as_many_requests_as_is_said() {
    let contenders = contenders(&settings()).unwrap();
    let mean = crate::distribution::mean((1..=2).map(|seed| completed(&contenders[0], 2.0, seed)));
    assert!((mean / CAPACITY - 1.0).abs() < 0.05, "{mean}");
}

#[test]
fn above_capacity_the_high_band_keeps_its_times_and_the_trickle_its_share() {
    let contenders = contenders(&settings()).unwrap();
    let score = |place: usize, load| run_one(&contenders[place], load, 1, Length::Whole);
    let (off, on) = (score(0, 2.0), score(1, 2.0));
    assert!(on.first_token[0][1] < off.first_token[0][1] / 10.0, "{on:?} {off:?}");
    assert!(on.goodput > off.goodput * 4.0, "{on:?} {off:?}");
    assert!(on.fairness > 0.95 && on.fairness > off.fairness, "{on:?} {off:?}");
    assert!(on.least_tenant < off.least_tenant, "{on:?} {off:?}");
    // By one seed; 0.021 by eight.
    assert!(on.hits > off.hits - 0.04, "{on:?} {off:?}");
}

#[test]
fn above_capacity_eight_workers_leave_slots_to_whoever_is_more_urgent_or_has_fewer() {
    let contenders = contenders(&settings()).unwrap();
    let eight = Score::mean(&[1, 2].map(|seed| run_one(&contenders[4], 2.0, seed, Length::Whole)));
    // Workers that took back what they freed came to 15 requests/s, 21 s and 39 s.
    assert!(eight.goodput > 18.0, "{eight:?}");
    assert!(eight.first_token[0][2] < 5_000.0, "{eight:?}");
    assert!(eight.least_tenant < 20_000.0, "{eight:?}");
}
