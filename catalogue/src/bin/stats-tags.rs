//! Writes the `stats_tags` that Envoy needs to give inpick's stats their labels.
//!
//! `stats-tags` prints the list; `stats-tags FILE…` rewrites it in place between the two marker comments of each file;
//! `stats-tags --check FILE…` only says, by its exit code, whether each file is up to date.

use std::process::ExitCode;

use catalogue::{envoy_labels, tag_regex};

const BEGIN: &str = "# stats_tags: begin, written by `make stats-tags`";
const END: &str = "# stats_tags: end";

fn main() -> ExitCode {
    let mut files: Vec<String> = std::env::args().skip(1).collect();
    let check = files.first().is_some_and(|argument| argument == "--check");
    if check {
        files.remove(0);
    }
    if files.is_empty() {
        print!("{}", tags(""));
        return ExitCode::SUCCESS;
    }
    let mut stale = false;
    for file in files {
        match update(&file, check) {
            Ok(true) => {
                stale = true;
                eprintln!(
                    "{file}: {}",
                    if check { "stats_tags are out of date: run `make stats-tags`" } else { "rewritten" }
                );
            }
            Ok(false) => {}
            Err(error) => {
                eprintln!("{file}: {error}");
                return ExitCode::FAILURE;
            }
        }
    }
    if check && stale { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// True: the file was (or would have to be) changed.
fn update(file: &str, check: bool) -> Result<bool, String> {
    let text = std::fs::read_to_string(file).map_err(|error| error.to_string())?;
    let (head, rest) = text.split_once(BEGIN).ok_or_else(|| format!("no line {BEGIN:?}"))?;
    let (_, tail) = rest.split_once(END).ok_or_else(|| format!("no line {END:?}"))?;
    let indent = head.rsplit('\n').next().unwrap_or_default();
    let updated = format!("{head}{BEGIN}\n{}{indent}{END}{tail}", tags(indent));
    if updated == text {
        return Ok(false);
    }
    if !check {
        std::fs::write(file, updated).map_err(|error| error.to_string())?;
    }
    Ok(true)
}

/// YAML list items, one a label. Single quotes keep YAML from reading the backslash.
fn tags(indent: &str) -> String {
    envoy_labels()
        .into_iter()
        .map(|label| format!("{indent}- {{tag_name: {}, regex: '{}'}}\n", label.as_str(), tag_regex(label)))
        .collect()
}
