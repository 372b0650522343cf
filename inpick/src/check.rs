//! `inpick check`: tells what it is given by its content, and says what is wrong with it.

use std::process::ExitCode;

use serde_json::Value;

use crate::bootstrap;
use crate::finding::{Finding, Severity};
use crate::output::{print, tell};
use crate::page;
use crate::plugin::read_plugin;
use crate::source::{Access, Source};

/// What was recognised.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Kind {
    Configuration,
    Bootstrap,
    Page,
}

impl Kind {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Configuration => "configuration",
            Self::Bootstrap => "bootstrap",
            Self::Page => "metrics page",
        }
    }
}

/// Members at the top of a bootstrap, one of which every one has.
const OF_A_BOOTSTRAP: [&str; 5] =
    ["static_resources", "dynamic_resources", "bootstrap_extensions", "stats_config", "layered_runtime"];

/// Checks each of them.
pub(crate) fn run(sources: &[Source], strict: bool, access: &Access) -> ExitCode {
    let input = [Source::Input];
    let sources = if sources.is_empty() { &input[..] } else { sources };
    let mut is_good = true;
    for source in sources {
        let findings = match source.read(access) {
            Ok(bytes) => {
                let (kind, findings) = check(&bytes);
                let worst = findings.iter().map(|finding| finding.severity).max();
                if worst.is_none_or(|worst| worst < Severity::Error) {
                    let printed = print(&format!("{source}: {}: no error\n", kind.as_str()));
                    for error in printed.err().into_iter().flatten() {
                        tell(format_args!("error: {error}"));
                        is_good = false;
                    }
                }
                findings
            }
            Err(error) => {
                tell(format_args!("error: {error}"));
                is_good = false;
                continue;
            }
        };
        for finding in &findings {
            let word = match finding.severity {
                Severity::Note => "note",
                Severity::Warning => "warning",
                Severity::Error => "error",
            };
            tell(format_args!("{word}: {source}: {finding}"));
            is_good &= finding.severity < if strict { Severity::Warning } else { Severity::Error };
        }
    }
    if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn check(bytes: &[u8]) -> (Kind, Vec<Finding>) {
    if is_page(bytes) {
        return (Kind::Page, page::check(bytes));
    }
    match str::from_utf8(bytes).ok().and_then(|text| serde_saphyr::from_str::<Value>(text).ok()) {
        Some(Value::Object(document)) if OF_A_BOOTSTRAP.iter().any(|member| document.contains_key(*member)) => {
            (Kind::Bootstrap, bootstrap::check(&Value::Object(document)))
        }
        _ => (Kind::Configuration, configuration(bytes)),
    }
}

/// Whether its first line that says something is a comment of the exposition format or a sample.
fn is_page(bytes: &[u8]) -> bool {
    let mut lines = bytes.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
    let is_plain = |line: &&[u8]| line.is_empty() || (line.starts_with(b"#") && !page::is_header(line));
    lines.find(|line| !is_plain(line)).is_some_and(|line| page::is_header(line) || page::is_sample(line))
}

fn configuration(bytes: &[u8]) -> Vec<Finding> {
    match read_plugin(bytes) {
        Ok(reading) => reading.notes.iter().map(|note| Finding::spelled(Severity::Note, "", note)).collect(),
        Err(errors) => errors.iter().map(|error| Finding::spelled(Severity::Error, "", error)).collect(),
    }
}

#[cfg(test)]
#[allow(clippy::indexing_slicing, reason = "a test should stop at what it did not expect")]
mod tests {
    use super::*;

    #[test]
    fn what_it_is_shows_in_its_content() {
        for (bytes, kind) in [
            ("pool: llama\n", Kind::Configuration),
            ("{\"pool\": \"llama\"}", Kind::Configuration),
            ("# a comment\npool: llama\n", Kind::Configuration),
            ("apiVersion: inference.networking.x-k8s.io/v1alpha1\nkind: EndpointPickerConfig\n", Kind::Configuration),
            ("# a comment\nstatic_resources: {}\n", Kind::Bootstrap),
            ("bootstrap_extensions: []\n", Kind::Bootstrap),
            ("# HELP a b\n# TYPE a gauge\na 1\n", Kind::Page),
            ("vllm:num_requests_waiting{engine=\"0\"} 1.0\n", Kind::Page),
            ("\n# some page\nup 1\n", Kind::Page),
        ] {
            assert_eq!(check(bytes.as_bytes()).0, kind, "{bytes}");
        }
    }

    #[test]
    fn a_field_and_its_reason_are_told_apart() {
        let (_, findings) = check(b"pool: 3\nscheduling: {picker: {}}\nunheard: of\n");
        assert!(
            findings.iter().all(|finding| finding.severity == Severity::Error && !finding.place.is_empty()),
            "{findings:?}"
        );
        let place = |place: &str| findings.iter().any(|finding| finding.place == place);
        assert!(place("pool") && place("unheard"), "{findings:?}");
        let (_, findings) = check(b"pool: 3\nsidecar: {embedded: {threads: '2'}}\n");
        let places: Vec<_> = findings.iter().map(|finding| finding.place.as_str()).collect();
        assert_eq!(places, ["pool", "sidecar.embedded.threads", ""], "{findings:?}");
        let (_, findings) = check(b"<html>nothing</html>");
        assert_eq!(findings[0].severity, Severity::Error);
    }
}
