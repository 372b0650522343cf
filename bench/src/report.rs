//! Tables for people and JSON for the next run.

use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use local_stack::repository;
use serde_json::{Value, json};

use crate::arm::Arm;
use crate::load::{Pace, Workload};
use crate::session::Measurement;
use crate::statistics::Summary;

/// What others are compared with.
pub(crate) const BASE: &str = "plain";
/// Whose aims are printed.
const OURS: &str = "ours";

/// CPU per request of an arm over that of plain in the same round.
pub(crate) fn ratio(measurements: &[Measurement], arm: &str, workload: &str) -> Option<Summary> {
    let of = |arm: &str| {
        let arm = arm.to_owned();
        measurements.iter().filter(move |one| one.workload == workload && one.arm == arm)
    };
    let mut ratios = Vec::new();
    for one in of(arm) {
        if let Some(base) = of(BASE).find(|base| (base.start, base.round) == (one.start, one.round)) {
            ratios.push(one.per_request() / base.per_request());
        }
    }
    Summary::of(ratios)
}

fn absolute(
    measurements: &[Measurement],
    arm: &str,
    workload: &str,
    value: impl Fn(&Measurement) -> Option<f64>,
) -> Option<Summary> {
    Summary::of(measurements.iter().filter(|one| one.workload == workload && one.arm == arm).filter_map(value))
}

/// The tables, as Markdown.
pub(crate) fn markdown(measurements: &[Measurement], arms: &[Arm], workloads: &[Workload]) -> String {
    let mut lines = vec![
        "Envoy's CPU per request as a ratio to plain: median (middle half of all rounds)".to_owned(),
        String::new(),
    ];
    let row = |cells: Vec<String>| format!("| {} |", cells.join(" | "));
    let head = |first: &str| {
        let mut cells = vec![first.to_owned()];
        cells.extend(workloads.iter().map(heading));
        [row(cells), format!("|---|{}", "---|".repeat(workloads.len()))]
    };
    let mut table = |first: &str, rows: Vec<(String, Vec<String>)>| {
        lines.extend(head(first));
        for (name, cells) in rows {
            lines.push(row(std::iter::once(name).chain(cells).collect()));
        }
        lines.push(String::new());
    };
    let each = |cell: &dyn Fn(&Workload) -> Option<String>| -> Vec<String> {
        workloads.iter().map(|workload| cell(workload).unwrap_or_default()).collect()
    };

    let ratios = arms.iter().filter(|arm| arm.name != BASE).map(|arm| {
        let cells = each(&|workload| {
            let Summary { median, lower, upper, .. } = ratio(measurements, &arm.name, workload.name)?;
            Some(format!("{median:.3} ({lower:.3}–{upper:.3})"))
        });
        (arm.name.clone(), cells)
    });
    let aim = (format!("aim for {OURS}"), each(&|workload| Some(format!("{:.2}", workload.aim?))));
    table("CPU per request ÷ plain", ratios.chain([aim]).collect());

    let micros = arms.iter().map(|arm| {
        let cells = each(&|workload| {
            let Summary { median, lower, upper, .. } =
                absolute(measurements, &arm.name, workload.name, |one| Some(one.per_request() / 1e3))?;
            Some(format!("{median:.1} ({lower:.1}–{upper:.1})"))
        });
        (arm.name.clone(), cells)
    });
    table("µs of CPU per request", micros.collect());

    let per_second = |value: fn(&Measurement) -> Option<f64>, arm: &str| {
        each(&|workload| {
            let summary = absolute(measurements, arm, workload.name, |one| Some(value(one)? / one.done.seconds / 1e6))?;
            Some(format!("{:.1}", summary.median))
        })
    };
    let mut rows: Vec<(String, Vec<String>)> = Vec::new();
    for arm in arms {
        rows.push((arm.name.clone(), per_second(|one| Some(one.envoy_ns as f64), &arm.name)));
        rows.push((
            format!("{}, threads but workers", arm.name),
            per_second(|one| Some((one.envoy_ns - one.workers_ns) as f64), &arm.name),
        ));
        if arm.has_service() {
            rows.push((
                format!("{}, sidecar's process", arm.name),
                per_second(|one| one.sidecar_ns.map(|spent| spent as f64), &arm.name),
            ));
        }
    }
    table("ms of CPU per second", rows);

    let traffic = arms.iter().map(|arm| {
        let cells = each(&|workload| {
            let rate = absolute(measurements, &arm.name, workload.name, |one| {
                Some(one.done.requests as f64 / one.done.seconds)
            })?;
            let chunks = absolute(measurements, &arm.name, workload.name, |one| {
                Some(one.done.chunks as f64 / one.done.requests as f64)
            })?;
            let chunks =
                if chunks.median > 0.0 { format!(", {:.0} chunks each", chunks.median) } else { String::new() };
            Some(format!("{:.0}{chunks}", rate.median))
        });
        (arm.name.clone(), cells)
    });
    table("requests per second", traffic.collect());
    lines.join("\n")
}

fn heading(workload: &Workload) -> String {
    match workload.pace {
        Pace::Closed { connections } => format!("{} ({connections} clients)", workload.name),
        Pace::Open { per_second } => format!("{} ({per_second}/s)", workload.name),
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
    machine: &[Value],
) -> anyhow::Result<PathBuf> {
    let mut ratios = serde_json::Map::new();
    for arm in arms {
        let of_arm = workloads
            .iter()
            .map(|workload| (workload.name.to_owned(), json!(ratio(measurements, &arm.name, workload.name))));
        ratios.insert(arm.name.clone(), Value::Object(of_arm.collect()));
    }
    let aims: serde_json::Map<_, _> =
        workloads.iter().map(|workload| (workload.name.to_owned(), json!(workload.aim))).collect();
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
            start: 0,
            round,
            done,
            envoy_ns,
            workers_ns: envoy_ns,
            sidecar_ns: None,
        }
    }

    #[test]
    fn arms_are_compared_with_plain_of_the_same_round() {
        let measurements = [("plain", 0, 100), ("ours", 0, 150), ("plain", 1, 1000), ("ours", 1, 1300)]
            .map(|(arm, round, ns)| measured(arm, round, ns));
        let ratio = ratio(&measurements, "ours", "1 KB").unwrap();
        assert_eq!((ratio.median, ratio.count), (1.4, 2));
    }

    #[test]
    fn stamps_are_dates() {
        assert_eq!(stamp(0), "1970-01-01T000000Z");
        assert_eq!(stamp(951_826_554), "2000-02-29T121554Z");
        assert_eq!(stamp(1_795_320_180), "2026-11-22T040300Z");
    }
}
