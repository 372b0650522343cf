//! A metrics page: can it be read, and what does it lack of what is read there? Pure.

use catalogue::Stat;
use metrics_sidecar::exposition::{Sample, split_name};
use metrics_sidecar::signals::{PageError, Signals};

use crate::finding::Finding;

/// Lines that are told of, at most: a page that is no page has thousands.
const MAX_LINES: usize = 10;

/// Whether a line is a comment that the format gives a meaning.
pub(crate) fn is_header(line: &[u8]) -> bool {
    [&b"# HELP "[..], b"# TYPE ", b"# UNIT ", b"# EOF"].iter().any(|word| line.starts_with(word))
}

/// Whether a line is a sample: a name, perhaps labels, a number. What ends with a colon is rather a field of a document.
pub(crate) fn is_sample(line: &[u8]) -> bool {
    problem(line).is_none() && !split_name(line).0.ends_with(b":")
}

/// What is wrong with a line that should be a sample.
fn problem(line: &[u8]) -> Option<String> {
    let (name, rest) = split_name(line);
    let is_begin = |byte: &u8| byte.is_ascii_alphabetic() || matches!(byte, b'_' | b':');
    let is_name = name.first().is_some_and(is_begin) && name.iter().all(|byte| is_begin(byte) || byte.is_ascii_digit());
    let sample = match Sample::split(rest) {
        Ok(sample) => sample,
        Err(error) => return Some(error.to_string()),
    };
    if !is_name && sample.quoted_name().is_none() {
        return Some("it begins with no metric name".to_owned());
    }
    let labels = sample.labels().find_map(Result::err);
    labels.or_else(|| sample.value().err()).map(|error| error.to_string())
}

/// What is wrong with a page.
pub(crate) fn check(page: &[u8]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let lines = page.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let mut samples = 0;
    let mut unread = 0;
    for (number, line) in (1..).zip(lines).filter(|(_, line)| !line.is_empty() && !line.starts_with(b"#")) {
        samples += 1;
        if let Some(problem) = problem(line) {
            unread += 1;
            if unread <= MAX_LINES {
                findings.push(Finding::error(format!("line {number}"), problem));
            }
        }
    }
    if unread > MAX_LINES {
        findings.push(Finding::error("", format!("{} more lines cannot be read", unread - MAX_LINES)));
    }
    if samples == 0 {
        findings.push(Finding::error("", "the page has no sample"));
        return findings;
    }
    let has = |prefix: &[u8]| page.split(|byte| *byte == b'\n').any(|line| line.starts_with(prefix));
    if has(b"envoy_") || has(b"inpick_") || has(b"wasmcustom") {
        findings.extend(of_a_gateway(page));
    } else {
        findings.extend(of_a_pod(page));
    }
    findings
}

/// A page of a model server: what the sidecar reads of it.
fn of_a_pod(page: &[u8]) -> Vec<Finding> {
    let signals = match Signals::read(page) {
        Ok(signals) => signals,
        // The line was told of already.
        Err(PageError::Line { .. }) => return Vec::new(),
        Err(error) => return vec![Finding::error("", error.to_string())],
    };
    if signals.engine.is_none() {
        let reason = "no signal of any model server that the sidecar knows; its endpoints are picked by requests in flight alone";
        return vec![Finding::error("engine", reason)];
    }
    let missing = signals.missing().map(|signal| {
        let reason = match signal {
            "waiting" => "the page does not say how many requests wait, so a queue that others filled is not seen",
            "running" => "the page does not say how many requests run, so how busy the engine is shows in requests in flight alone",
            "kv_cache_usage" => "the page does not say how full the KV cache is, so preemption is not foreseen",
            "cache_config" => "the page does not say the size and number of KV blocks; 16 tokens a block are taken for granted",
            _ => "the page has no counter that moves while requests run, so an engine that froze is not seen",
        };
        Finding::warning(signal, reason)
    });
    missing.collect()
}

/// A page of Envoy or of the sidecar: are inpick's families there, with their labels?
fn of_a_gateway(page: &[u8]) -> Vec<Finding> {
    let names: Vec<&[u8]> = page.split(|byte| *byte == b'\n').map(|line| split_name(line).0).collect();
    let has = |stat: Stat| names.iter().any(|name| *name == stat.family().name.as_bytes());
    // Envoy spells `;` and `=` of a name whose labels nothing cut out as underscores, in front of the family.
    let is_uncut = |name: &&[u8]| {
        Stat::ALL.iter().any(|stat| {
            let family = stat.family();
            let rest = name.strip_suffix(family.name.as_bytes());
            !family.labels.is_empty()
                && rest.is_some_and(|rest| {
                    family.labels.iter().any(|label| {
                        rest.strip_prefix(b"wasmcustom_")
                            .unwrap_or(rest)
                            .starts_with(format!("{}_", label.as_str()).as_bytes())
                    })
                })
        })
    };
    let mut findings = Vec::new();
    if let Some(name) = names.iter().find(|name| is_uncut(name)) {
        let name = String::from_utf8_lossy(name).into_owned();
        let reason =
            "the labels are part of the name: the bootstrap lacks the stats_tags that `inpick stats-tags` prints";
        findings.push(Finding::error(name, reason));
    } else if !has(Stat::VmStartsTotal) && !has(Stat::SnapshotFetchesTotal) {
        let reason = "no family of inpick's filter: Envoy does not run it, or has not counted anything yet";
        findings.push(Finding::error(Stat::VmStartsTotal.family().name, reason));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::Severity;

    fn places(page: &str) -> Vec<(Severity, String)> {
        check(page.as_bytes()).into_iter().map(|finding| (finding.severity, finding.place)).collect()
    }

    fn error(place: &str) -> (Severity, String) {
        (Severity::Error, place.to_owned())
    }

    fn warning(place: &str) -> (Severity, String) {
        (Severity::Warning, place.to_owned())
    }

    const GOOD: &str = "# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{engine=\"0\"} 1.0
vllm:num_requests_running{engine=\"0\"} 2.0
vllm:kv_cache_usage_perc{engine=\"0\"} 0.5
vllm:cache_config_info{block_size=\"16\",num_gpu_blocks=\"100\",engine=\"0\"} 1.0
vllm:generation_tokens_total{engine=\"0\"} 7.0
vllm:prompt_tokens_total{engine=\"0\"} 7.0
vllm:iteration_tokens_total_count{engine=\"0\"} 7.0
";

    #[test]
    fn what_a_pods_page_lacks_is_named() {
        assert_eq!(places(GOOD), []);
        let without = |name: &str| {
            GOOD.lines().filter(|line| !line.contains(name)).map(|line| format!("{line}\n")).collect::<String>()
        };
        assert_eq!(places(&without("waiting")), [warning("waiting")]);
        assert_eq!(places(&without("running")), [warning("running")]);
        assert_eq!(places(&without("kv_cache")), [warning("kv_cache_usage")]);
        assert_eq!(places(&without("cache_config")), [warning("cache_config")]);
        assert_eq!(places("up 1\n"), [error("engine")]);
        assert_eq!(places("# HELP a b\n"), [error("")]);
    }

    #[test]
    fn lines_that_cannot_be_read_are_named_by_number() {
        assert_eq!(places("a 1\nb{c=\"d\" 1\nvllm:num_requests_waiting one\n"), [error("line 2"), error("line 3")]);
        let many = "1x 2\n".repeat(12);
        assert_eq!(
            check(many.as_bytes()).iter().filter(|finding| finding.place.starts_with("line ")).count(),
            MAX_LINES
        );
        assert!(check(many.as_bytes()).iter().any(|finding| finding.reason.starts_with("2 more lines")));
    }

    #[test]
    fn labels_that_nothing_cut_out_are_seen_on_a_gateways_page() {
        assert_eq!(places("envoy_x 1\ninpick_vm_starts_total 2\ninpick_picks_total{pool=\"p\"} 1\n"), []);
        assert_eq!(places("envoy_x 1\n"), [error("inpick_vm_starts_total")]);
        let name = "pool_p_endpoint_10_0_0_1_80_reason_tie_inpick_picks_total";
        assert_eq!(places(&format!("envoy_x 1\ninpick_vm_starts_total 2\n{name}{{}} 1\n")), [error(name)]);
    }
}
