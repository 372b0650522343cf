//! Selectors of pods by their labels, as kubectl takes them.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// Longest name of a label, and longest value, in characters.
const MAX_NAME: usize = 63;
/// Longest prefix of a label's name, in characters.
const MAX_PREFIX: usize = 253;

/// Selects pods by their labels: `app=vllm,role!=prefill,tier in (a, b),!canary`. The API server does the matching.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PodSelector(String);

/// Why a text selects no pods.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum SelectorError {
    /// It would select every pod of the namespace.
    #[error("an empty selector")]
    Empty,
    /// Parentheses that do not pair, or stand where none belong.
    #[error("parentheses do not pair")]
    Parentheses,
    /// Not the name of a label.
    #[error("{0:?} is no name of a label")]
    Name(String),
    /// Not the value of a label.
    #[error("{0:?} is no value of a label")]
    Value(String),
    /// Not a comparison.
    #[error("{0:?} is none of NAME=VALUE, NAME!=VALUE, NAME in (VALUE, …), NAME notin (VALUE, …), NAME and !NAME")]
    Requirement(String),
}

impl PodSelector {
    /// Pods that have all of these labels.
    ///
    /// # Errors
    ///
    /// [`SelectorError`] for no label, and for one that no pod can have.
    pub fn of_labels(labels: &BTreeMap<String, String>) -> Result<Self, SelectorError> {
        let terms = labels.iter().map(|(name, value)| equality(name, "=", value)).collect::<Result<Vec<_>, _>>()?;
        if terms.is_empty() { Err(SelectorError::Empty) } else { Ok(Self(terms.join(","))) }
    }

    /// The selector as the API server takes it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PodSelector {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl FromStr for PodSelector {
    type Err = SelectorError;

    fn from_str(text: &str) -> Result<Self, SelectorError> {
        if text.trim().is_empty() {
            return Err(SelectorError::Empty);
        }
        let terms = split(text)?.into_iter().map(requirement).collect::<Result<Vec<_>, _>>()?;
        Ok(Self(terms.join(",")))
    }
}

/// The parts between commas that are in no parentheses.
fn split(text: &str) -> Result<Vec<&str>, SelectorError> {
    let mut parts = Vec::new();
    let mut rest = text;
    let mut is_inside = false;
    let mut from = 0;
    while let Some(at) = rest.get(from..).and_then(|rest| rest.find([',', '(', ')'])).map(|at| from + at) {
        match (rest.as_bytes().get(at), is_inside) {
            (Some(b','), false) => {
                parts.push(rest.get(..at).unwrap_or_default().trim());
                rest = rest.get(at + 1..).unwrap_or_default();
                from = 0;
                continue;
            }
            (Some(b'('), false) => is_inside = true,
            (Some(b')'), true) => is_inside = false,
            (Some(b','), true) => {}
            _ => return Err(SelectorError::Parentheses),
        }
        from = at + 1;
    }
    if is_inside {
        return Err(SelectorError::Parentheses);
    }
    parts.push(rest.trim());
    Ok(parts)
}

/// One requirement, checked and written in one way.
fn requirement(text: &str) -> Result<String, SelectorError> {
    let unknown = || SelectorError::Requirement(text.to_owned());
    if let Some((head, list)) = text.split_once('(') {
        let values = list.strip_suffix(')').ok_or(SelectorError::Parentheses)?;
        let (label, operator) = head.trim().rsplit_once(char::is_whitespace).ok_or_else(unknown)?;
        if !matches!(operator, "in" | "notin") {
            return Err(unknown());
        }
        let values = values.split(',').map(str::trim).map(value).collect::<Result<Vec<_>, _>>()?;
        return Ok(format!("{} {operator} ({})", name(label.trim())?, values.join(",")));
    }
    if let Some(label) = text.strip_prefix('!') {
        return Ok(format!("!{}", name(label.trim())?));
    }
    match text.find(['=', '!']) {
        None if text.contains(char::is_whitespace) => Err(unknown()),
        None => Ok(name(text)?.to_owned()),
        Some(at) => {
            let (label, rest) = text.split_at(at);
            let operators = [("!=", "!="), ("==", "="), ("=", "=")];
            let (operator, worth) = operators
                .into_iter()
                .find_map(|(spelling, operator)| Some((operator, rest.strip_prefix(spelling)?)))
                .ok_or_else(unknown)?;
            equality(label.trim(), operator, worth.trim())
        }
    }
}

fn equality(label: &str, operator: &str, worth: &str) -> Result<String, SelectorError> {
    Ok(format!("{}{operator}{}", name(label)?, value(worth)?))
}

/// `[PREFIX/]NAME`, the prefix being a DNS subdomain.
fn name(text: &str) -> Result<&str, SelectorError> {
    let (prefix, bare) = text.split_once('/').map_or((None, text), |(prefix, bare)| (Some(prefix), bare));
    let is_prefix = |prefix: &str| {
        let is_part =
            |part: &str| is_framed(part) && part.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'));
        prefix.len() <= MAX_PREFIX && prefix.split('.').all(is_part)
    };
    if is_word(bare) && prefix.is_none_or(is_prefix) { Ok(text) } else { Err(SelectorError::Name(text.to_owned())) }
}

fn value(text: &str) -> Result<&str, SelectorError> {
    if text.is_empty() || is_word(text) { Ok(text) } else { Err(SelectorError::Value(text.to_owned())) }
}

fn is_word(text: &str) -> bool {
    let is_inner = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    text.len() <= MAX_NAME && is_framed(text) && text.bytes().all(is_inner)
}

/// Whether a letter or a digit begins it, and one ends it.
fn is_framed(text: &str) -> bool {
    let is_end = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    is_end(text.as_bytes().first()) && is_end(text.as_bytes().last())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(text: &str) -> Result<String, SelectorError> {
        text.parse::<PodSelector>().map(|selector| selector.to_string())
    }

    #[test]
    fn what_kubectl_takes_is_taken_and_written_in_one_way() {
        for (text, expected) in [
            ("app=vllm", "app=vllm"),
            (" app == vllm ", "app=vllm"),
            ("app=vllm,role!=prefill", "app=vllm,role!=prefill"),
            ("app.kubernetes.io/name=my-model_7B.v1", "app.kubernetes.io/name=my-model_7B.v1"),
            ("tier in (a, b),x notin(c)", "tier in (a,b),x notin (c)"),
            ("tier in (a, b),x notin (c)", "tier in (a,b),x notin (c)"),
            ("tier in (a,)", "tier in (a,)"),
            ("canary,!old", "canary,!old"),
            ("! old", "!old"),
            ("app=", "app="),
        ] {
            assert_eq!(written(text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn each_way_to_be_wrong_is_refused_by_what_is_wrong() {
        let name = |text: &str| Err(SelectorError::Name(text.to_owned()));
        let value = |text: &str| Err(SelectorError::Value(text.to_owned()));
        let other = |text: &str| Err(SelectorError::Requirement(text.to_owned()));
        let long = "a".repeat(64);
        for (text, expected) in [
            ("", Err(SelectorError::Empty)),
            ("  ", Err(SelectorError::Empty)),
            (",", name("")),
            ("app=vllm,", name("")),
            ("=vllm", name("")),
            ("-app=vllm", name("-app")),
            ("App.Example/x=1", name("App.Example/x")),
            ("/x=1", name("/x")),
            ("a/b/c=1", name("a/b/c")),
            ("app=v:llm", value("v:llm")),
            ("app=-v", value("-v")),
            ("app=a b", value("a b")),
            ("app=a=b", value("a=b")),
            (long.as_str(), name(&long)),
            ("app!vllm", other("app!vllm")),
            ("app vllm", other("app vllm")),
            ("tier within (a)", other("tier within (a)")),
            ("in (a)", other("in (a)")),
            ("tier in (a", Err(SelectorError::Parentheses)),
            ("tier in a)", Err(SelectorError::Parentheses)),
            ("tier in ((a))", Err(SelectorError::Parentheses)),
            ("tier in (a) b", Err(SelectorError::Parentheses)),
        ] {
            assert_eq!(written(text), expected, "{text}");
        }
    }

    #[test]
    fn labels_make_a_selector_that_reads_as_itself() {
        let labels = BTreeMap::from([("b".to_owned(), "2".to_owned()), ("a.io/x".to_owned(), String::new())]);
        let selector = PodSelector::of_labels(&labels).unwrap();
        assert_eq!(selector.as_str(), "a.io/x=,b=2");
        assert_eq!(selector.as_str().parse(), Ok(selector));
        assert_eq!(PodSelector::of_labels(&BTreeMap::new()), Err(SelectorError::Empty));
    }
}
