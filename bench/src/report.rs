//! Tables for people and JSON for the next run.

use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use local_stack::repository;
use serde_json::{Value, json};

use crate::arm::{Arm, Poller};
use crate::load::{Pace, Workload};
use crate::session::Measurement;
use crate::statistics::Summary;

/// What others are compared with.
pub(crate) const BASE: &str = "plain";

/// The measurements of one arm and workload with that many workers.
fn of<'a>(
    measurements: &'a [Measurement],
    arm: &'a str,
    workload: &'a str,
    workers: usize,
) -> impl Iterator<Item = &'a Measurement> {
    measurements.iter().filter(move |one| one.workload == workload && one.arm == arm && one.workers == workers)
}

/// CPU per request of an arm over that of plain in the same round.
pub(crate) fn ratio(measurements: &[Measurement], arm: &str, workload: &str, workers: usize) -> Option<Summary> {
    let mut ratios = Vec::new();
    for one in of(measurements, arm, workload, workers) {
        let mut plain = of(measurements, BASE, workload, workers);
        if let Some(base) = plain.find(|base| (base.start, base.round) == (one.start, one.round)) {
            ratios.push(one.per_request() / base.per_request());
        }
    }
    Summary::of(ratios)
}

/// The tables of each count of workers, as Markdown.
pub(crate) fn markdown(
    measurements: &[Measurement],
    arms: &[Arm],
    workloads: &[Workload],
    workers: &[usize],
) -> String {
    let tables = workers.iter().map(|&workers| Tables { measurements, arms, workloads, workers }.markdown());
    tables.collect::<Vec<_>>().join("\n")
}

/// What one count of workers gave.
struct Tables<'a> {
    measurements: &'a [Measurement],
    arms: &'a [Arm],
    workloads: &'a [Workload],
    workers: usize,
}

impl Tables<'_> {
    fn markdown(&self) -> String {
        let plural = if self.workers == 1 { "" } else { "s" };
        let mut lines = vec![
            format!("## {} worker{plural}", self.workers),
            String::new(),
            "Medians; in brackets the least and the most of all rounds. A ratio is to plain's round of the same turn."
                .to_owned(),
            String::new(),
        ];
        let ratios = self.arms.iter().filter(|arm| arm.name != BASE).map(|arm| {
            let cells = self.each(|workload| {
                let ratio = ratio(self.measurements, &arm.name, workload.name, self.workers)?;
                Some(format!("{} of {}", spread(&ratio, 3), ratio.count))
            });
            (arm.name.clone(), cells)
        });
        let aims = [
            ("aim for wasm", self.each(|workload| Some(format!("{:.2}", workload.aims?.wasm)))),
            ("aim for native", self.each(|workload| Some(format!("{:.2}", workload.aims?.native)))),
        ];
        let rows = ratios.chain(aims.map(|(name, cells)| (name.to_owned(), cells)));
        self.table("Envoy's CPU per request ÷ plain", rows, &mut lines);

        let micros = self.arms.iter().map(|arm| {
            let cells = self.each(|workload| {
                let micros = self.summary(&arm.name, workload, |one| Some(one.per_request() / 1e3))?;
                Some(spread(&micros, 1))
            });
            (arm.name.clone(), cells)
        });
        self.table("µs of Envoy's CPU per request", micros, &mut lines);

        let per_second = |arm: &str, spent: fn(&Measurement) -> Option<u64>| {
            self.each(|workload| {
                let summary = self.summary(arm, workload, |one| Some(spent(one)? as f64 / one.done.seconds / 1e6))?;
                Some(spread(&summary, 1))
            })
        };
        let mut rows: Vec<(String, Vec<String>)> = Vec::new();
        for arm in self.arms {
            rows.push((arm.name.clone(), per_second(&arm.name, |one| Some(one.envoy_ns))));
            let others = per_second(&arm.name, |one| Some(one.envoy_ns.saturating_sub(one.workers_ns)));
            rows.push((format!("{}, threads but workers", arm.name), others));
            let poller = match arm.poller() {
                Poller::Nobody => continue,
                Poller::Sidecar => "sidecar's process",
                Poller::Thread => "sidecar's thread in Envoy",
            };
            rows.push((format!("{}, {poller}", arm.name), per_second(&arm.name, |one| one.poller_ns)));
        }
        self.table("ms of CPU per second", rows.into_iter(), &mut lines);

        let traffic = self.arms.iter().map(|arm| {
            let cells = self.each(|workload| {
                let rate =
                    self.summary(&arm.name, workload, |one| Some(one.done.requests as f64 / one.done.seconds))?;
                let chunks =
                    self.summary(&arm.name, workload, |one| Some(one.done.chunks as f64 / one.done.requests as f64))?;
                let chunks =
                    if chunks.median > 0.0 { format!(", {:.0} chunks each", chunks.median) } else { String::new() };
                Some(format!("{:.0}{chunks}", rate.median))
            });
            (arm.name.clone(), cells)
        });
        self.table("requests per second", traffic, &mut lines);
        lines.join("\n")
    }

    fn each(&self, cell: impl Fn(&Workload) -> Option<String>) -> Vec<String> {
        self.workloads.iter().map(|workload| cell(workload).unwrap_or_default()).collect()
    }

    fn summary(&self, arm: &str, workload: &Workload, value: impl Fn(&Measurement) -> Option<f64>) -> Option<Summary> {
        Summary::of(of(self.measurements, arm, workload.name, self.workers).filter_map(value))
    }

    fn table(&self, first: &str, rows: impl Iterator<Item = (String, Vec<String>)>, lines: &mut Vec<String>) {
        let row = |first: String, cells: Vec<String>| format!("| {first} | {} |", cells.join(" | "));
        lines.push(row(first.to_owned(), self.workloads.iter().map(heading).collect()));
        lines.push(format!("|---|{}", "---|".repeat(self.workloads.len())));
        lines.extend(rows.map(|(first, cells)| row(first, cells)));
        lines.push(String::new());
    }
}

/// A median with the least and the most.
fn spread(Summary { median, least, most, .. }: &Summary, digits: usize) -> String {
    format!("{median:.digits$} ({least:.digits$}–{most:.digits$})")
}

fn heading(workload: &Workload) -> String {
    match workload.pace {
        Pace::Closed { connections } => format!("{} ({connections} clients)", workload.name),
        Pace::Open { per_second, .. } => format!("{} ({per_second}/s)", workload.name),
    }
}

/// The machine, and how busy others keep it.
pub(crate) fn machine() -> Value {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model =
        cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':')).map(|(_, model)| model.trim());
    json!({
        "host": host(),
        "cpu": model,
        "cores": std::thread::available_parallelism().map_or(0, std::num::NonZero::get),
        "load_average": std::fs::read_to_string("/proc/loadavg").unwrap_or_default().trim(),
    })
}

fn host() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned()
}

/// Writes every number; returns where.
pub(crate) fn write_json(
    measurements: &[Measurement],
    arms: &[Arm],
    workloads: &[Workload],
    workers: &[usize],
    machine: &[Value],
) -> anyhow::Result<PathBuf> {
    let mut ratios = serde_json::Map::new();
    for &workers in workers {
        let of_arm = |arm: &Arm| {
            let ratios = workloads.iter().map(|workload| {
                (workload.name.to_owned(), json!(ratio(measurements, &arm.name, workload.name, workers)))
            });
            (arm.name.clone(), Value::Object(ratios.collect()))
        };
        ratios.insert(workers.to_string(), Value::Object(arms.iter().map(of_arm).collect()));
    }
    let aims: serde_json::Map<_, _> =
        workloads.iter().map(|workload| (workload.name.to_owned(), json!(workload.aims))).collect();
    let results = json!({"machine": machine, "aims": aims, "ratios": ratios, "measurements": measurements});
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let folder = repository().join("bench/results");
    std::fs::create_dir_all(&folder)?;
    let path = folder.join(format!("{}-{}.json", stamp(now), host()));
    std::fs::write(&path, format!("{results:#}\n"))?;
    Ok(path)
}

/// `YYYY-MM-DDTHHMMSSZ` of seconds since 1970, by the days-to-date conversion of Howard Hinnant's "chrono-Compatible Low-Level
/// Date Algorithms" (`civil_from_days`), for dates after 1970.
fn stamp(seconds: u64) -> String {
    let (days, second) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let date = day - (153 * month + 2) / 5 + 1;
    let (month, next) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    let year = year + era * 400 + next;
    format!("{year}-{month:02}-{date:02}T{:02}{:02}{:02}Z", second / 3_600, second / 60 % 60, second % 60)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::Done;

    fn measured(arm: &str, round: usize, envoy_ns: u64) -> Measurement {
        let done = Done { requests: 10, chunks: 0, seconds: 1.0 };
        Measurement {
            arm: arm.into(),
            workload: "1 KB",
            workers: 1,
            start: 0,
            round,
            done,
            envoy_ns,
            workers_ns: envoy_ns,
            poller_ns: None,
        }
    }

    #[test]
    fn arms_are_compared_with_plain_of_the_same_round() {
        let measurements = [("plain", 0, 100), ("wasm", 0, 150), ("plain", 1, 1000), ("wasm", 1, 1300)]
            .map(|(arm, round, ns)| measured(arm, round, ns));
        let summary = ratio(&measurements, "wasm", "1 KB", 1).unwrap();
        assert_eq!((summary.median, summary.least, summary.most, summary.count), (1.4, 1.3, 1.5, 2));
        assert!(ratio(&measurements, "wasm", "1 KB", 2).is_none());
    }

    #[test]
    fn tables_show_the_spread_and_what_polls() {
        let arms: Vec<Arm> = ["plain", "wasm", "embedded"].map(|name| name.parse().unwrap()).to_vec();
        let mut measurements: Vec<_> = [("plain", 0, 100), ("wasm", 0, 150), ("plain", 1, 1000), ("wasm", 1, 1300)]
            .map(|(arm, round, ns)| measured(arm, round, ns))
            .to_vec();
        measurements.push(Measurement { poller_ns: Some(3_000_000), ..measured("embedded", 0, 110) });
        let text = markdown(&measurements, &arms, &crate::load::WORKLOADS[..1], &[1]);
        for part in [
            "## 1 worker\n",
            "| wasm | 1.400 (1.300–1.500) of 2 |",
            "| embedded | 1.100 (1.100–1.100) of 1 |",
            "| embedded, sidecar's thread in Envoy | 3.0 (3.0–3.0) |",
            "| aim for native | 1.05 |",
        ] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
    }

    #[test]
    fn stamps_are_dates() {
        assert_eq!(stamp(0), "1970-01-01T000000Z");
        assert_eq!(stamp(951_826_554), "2000-02-29T121554Z");
        assert_eq!(stamp(1_795_320_180), "2026-11-22T040300Z");
    }
}
