//! Writes the README's table of metrics from the catalogue: `metrics-table [--check] [FILE…]`.

mod section;

use std::process::ExitCode;

use catalogue::{Family, Label, Publisher, Stat, Switch};

/// What the names of the families behind `metrics.model` begin with, and those that they repeat.
const OLDER: &str = "inference_model_";
const NEWER: &str = "inference_objective_";

fn main() -> ExitCode {
    let section = section::Section {
        begin: "<!-- metrics: begin, written by `make metrics-table` -->",
        end: "<!-- metrics: end -->",
        text: |_| table(),
        target: "metrics-table",
    };
    section.run()
}

/// One row for families that follow each other and differ only in their names. Those of the older spelling share one row.
fn table() -> String {
    let mut rows: Vec<Vec<&Family>> = Vec::new();
    for family in Stat::ALL.iter().map(|stat| stat.family()) {
        match rows.last_mut() {
            Some(row) if row.first().is_some_and(|first| alike(first, family)) => row.push(family),
            _ => rows.push(vec![family]),
        }
    }
    let mut lines = vec!["| Family | Type | Labels |".to_owned(), "|---|---|---|".to_owned()];
    let mut older = false;
    for row in rows {
        match row.first() {
            Some(first) if first.switch != Switch::Model => lines.push(line(first, &row)),
            Some(_) if !older => {
                older = true;
                lines.push(older_spelling());
            }
            _ => {}
        }
    }
    lines.join("\n") + "\n"
}

fn alike(one: &Family, other: &Family) -> bool {
    let of = |family: &Family| {
        (family.kind.as_str(), family.labels, family.switch, matches!(family.publisher, Publisher::Sidecar))
    };
    of(one) == of(other) && shared(one.name, other.name) > 0
}

fn names(labels: &[Label]) -> String {
    let names: Vec<&str> = labels.iter().map(|label| label.as_str()).collect();
    if names.is_empty() { "–".to_owned() } else { names.join(", ") }
}

/// Bytes of the words that two names have in common in front, but for the last `_`.
fn shared(one: &str, other: &str) -> usize {
    let same = one.bytes().zip(other.bytes()).take_while(|(a, b)| a == b).count();
    one.get(..same).and_then(|common| common.rfind('_')).unwrap_or(0)
}

fn line(first: &Family, row: &[&Family]) -> String {
    let prefix = row.iter().skip(1).map(|family| shared(first.name, family.name)).min().unwrap_or(0);
    let others = row.iter().skip(1).map(|family| format!(", `…{}`", family.name.get(prefix..).unwrap_or(family.name)));
    let mut kind = first.kind.as_str().to_owned();
    if matches!(first.publisher, Publisher::Sidecar) {
        kind.push_str(", sidecar only");
    }
    kind.push_str(match first.switch {
        Switch::Always | Switch::Objective | Switch::Model | Switch::GenAi => "",
        Switch::LlmD => ", with `metrics.llm_d`",
        Switch::FlowControl => ", with flow control",
        Switch::LlmDFlowControl => ", with `metrics.llm_d` and flow control",
    });
    let labels = names(first.labels);
    format!("| `{}`{} | {kind} | {labels} |", first.name, others.collect::<String>())
}

/// The row of the older spelling: which families it lacks, and whose labels differ.
fn older_spelling() -> String {
    let (mut missing, mut labels) = (Vec::new(), vec!["as above".to_owned()]);
    for newer in Stat::ALL.iter().map(|stat| stat.family()) {
        let Some(rest) = newer.name.strip_prefix(NEWER) else { continue };
        match catalogue::find(&format!("{OLDER}{rest}")) {
            None => missing.push(format!("`…_{rest}`")),
            Some(older) if older.labels != newer.labels => labels.push(format!("`…_{rest}`: {}", names(older.labels))),
            Some(_) => {}
        }
    }
    let but = if missing.is_empty() { String::new() } else { format!(" but {}", missing.join(", ")) };
    format!(
        "| `{OLDER}*`: the older spelling of the families above{but}; on with `metrics.model` | as above | {} |",
        labels.join("; ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_family_is_in_the_table() {
        let table = table();
        for family in Stat::ALL.iter().map(|stat| stat.family()) {
            let ends = |end: &str| table.contains(&format!("{end}`"));
            let named = ends(family.name)
                || family.name.match_indices('_').any(|(at, _)| ends(&format!("…{}", &family.name[at..])));
            assert!(named || family.name.starts_with(OLDER), "{} is missing in\n{table}", family.name);
        }
    }

    #[test]
    fn the_older_spelling_has_the_types_of_the_newer_and_its_other_labels_are_named() {
        let row = older_spelling();
        for family in Stat::ALL.iter().map(|stat| stat.family()).filter(|family| family.switch == Switch::Model) {
            let rest = family.name.strip_prefix(OLDER).unwrap();
            let newer = catalogue::find(&format!("{NEWER}{rest}")).unwrap();
            assert_eq!(family.kind, newer.kind, "{rest}");
            let told = row.contains(&format!("`…_{rest}`: {}", names(family.labels)));
            assert_eq!(told, family.labels != newer.labels, "{rest}");
        }
    }

    #[test]
    fn names_are_shortened_at_a_word() {
        assert_eq!(shared("inpick_vm_starts_total", "inpick_vm_status"), "inpick_vm".len());
        assert_eq!(shared("inpick_a", "inference_a"), 0);
    }
}
