//! Writes the `stats_tags` that Envoy needs to give inpick's stats their labels: `stats-tags [--check] [FILE…]`.

mod section;

use std::process::ExitCode;

use catalogue::{envoy_labels, tag_regex};

fn main() -> ExitCode {
    let section = section::Section {
        begin: "# stats_tags: begin, written by `make stats-tags`",
        end: "# stats_tags: end",
        text: tags,
        target: "stats-tags",
    };
    section.run()
}

/// YAML list items, one a label. Single quotes keep YAML from reading the backslash.
fn tags(indent: &str) -> String {
    envoy_labels()
        .into_iter()
        .map(|label| format!("{indent}- {{tag_name: {}, regex: '{}'}}\n", label.as_str(), tag_regex(label)))
        .collect()
}
