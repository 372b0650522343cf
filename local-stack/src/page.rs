//! A page of metrics in Prometheus' text format, every line a plain sample.
//!
//! Histograms are left as their `_bucket`, `_sum` and `_count` samples, since tests compare those one by one.
//! Format: <https://prometheus.io/docs/instrumenting/exposition_formats/#text-format-details>.

use std::collections::BTreeMap;

/// One line of a page.
#[derive(Clone, Debug, PartialEq)]
pub struct PageSample {
    /// Name with its suffix, `…_bucket` for instance.
    pub name: String,
    /// Labels with their values unescaped.
    pub labels: BTreeMap<String, String>,
    /// Value.
    pub value: f64,
}

/// A parsed page.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Page {
    samples: Vec<PageSample>,
    types: BTreeMap<String, String>,
}

/// A line that is not of the format.
#[derive(Debug, thiserror::Error)]
#[error("line {number} of the page is no sample: {line}")]
pub struct SampleError {
    number: usize,
    line: String,
}

impl Page {
    /// Reads a page.
    ///
    /// # Errors
    /// The first line that is neither empty, a comment nor a sample.
    pub fn parse(text: &str) -> Result<Self, SampleError> {
        let mut page = Self::default();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if let Some(comment) = line.strip_prefix('#') {
                if let Some((name, kind)) =
                    comment.trim_start().strip_prefix("TYPE ").and_then(|rest| rest.split_once(' '))
                {
                    page.types.insert(name.to_owned(), kind.trim().to_owned());
                }
            } else if !line.is_empty() {
                let sample = sample(line).ok_or_else(|| SampleError { number: index + 1, line: line.to_owned() })?;
                page.samples.push(sample);
            }
        }
        Ok(page)
    }

    /// Every sample, in the page's order.
    #[must_use]
    pub fn samples(&self) -> &[PageSample] {
        &self.samples
    }

    /// The word behind `# TYPE name`.
    #[must_use]
    pub fn kind(&self, name: &str) -> Option<&str> {
        self.types.get(name).map(String::as_str)
    }

    /// Samples of that name which carry at least these labels.
    pub fn select<'a>(
        &'a self,
        name: &'a str,
        labels: &'a [(&'a str, &'a str)],
    ) -> impl Iterator<Item = &'a PageSample> {
        self.samples.iter().filter(move |sample| {
            sample.name == name
                && labels.iter().all(|(label, value)| sample.labels.get(*label).is_some_and(|found| found == value))
        })
    }

    /// Value of the one sample of that name with at least these labels; `None` if there is none or more than one.
    #[must_use]
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let mut selected = self.select(name, labels);
        let first = selected.next()?;
        selected.next().is_none().then_some(first.value)
    }

    /// Sum over the samples of that name with at least these labels; 0 if there is none.
    #[must_use]
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.select(name, labels).fold(0.0, |sum, sample| sum + sample.value)
    }
}

fn sample(line: &str) -> Option<PageSample> {
    let end = line.find(|character: char| character == '{' || character.is_whitespace())?;
    let (name, rest) = line.split_at_checked(end)?;
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(rest) => labels(rest)?,
        None => (BTreeMap::new(), rest),
    };
    let mut words = rest.split_whitespace();
    let value = words.next()?.parse().ok()?;
    let timestamp_is_fine = words.next().is_none_or(|word| word.parse::<i64>().is_ok());
    (!name.is_empty() && timestamp_is_fine && words.next().is_none()).then(|| PageSample {
        name: name.to_owned(),
        labels,
        value,
    })
}

/// Labels up to the closing brace, and what is behind it.
fn labels(mut rest: &str) -> Option<(BTreeMap<String, String>, &str)> {
    let mut labels = BTreeMap::new();
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        if let Some(rest) = rest.strip_prefix('}') {
            return Some((labels, rest));
        }
        let (label, behind) = rest.split_once('=')?;
        let (value, behind) = quoted(behind.trim_start().strip_prefix('"')?)?;
        labels.insert(label.trim().to_owned(), value);
        rest = behind;
    }
}

/// Text up to the closing quote with its escapes undone, and what is behind it.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = text.chars();
    loop {
        match characters.next()? {
            '"' => return Some((value, characters.as_str())),
            '\\' => match characters.next()? {
                'n' => value.push('\n'),
                other => value.push(other),
            },
            other => value.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = r#"
# HELP size Bytes.
# TYPE size histogram
size_bucket{model="a",le="1"} 2
size_bucket{model="a",le="+Inf"} 3
size_sum{model="a"} 4.5
size_count{model="a"} 3
size_count{model="b"} 7 1700000000000
plain 1e3
odd{path="a\"b\\c\nd",}  +Inf
"#;

    #[test]
    fn histogram_lines_stay_plain_samples() {
        let page = Page::parse(PAGE).unwrap();
        assert_eq!(page.value("size_bucket", &[("le", "+Inf")]), Some(3.0));
        assert_eq!(page.value("size_bucket", &[("model", "a"), ("le", "1")]), Some(2.0));
        assert_eq!(page.value("size_sum", &[]), Some(4.5));
        assert_eq!(page.kind("size"), Some("histogram"));
    }

    #[test]
    fn value_needs_exactly_one_sample_and_sum_adds_all() {
        let page = Page::parse(PAGE).unwrap();
        assert_eq!(page.value("size_count", &[]), None);
        assert_eq!(page.value("size_count", &[("model", "c")]), None);
        assert_eq!(page.sum("size_count", &[]), 10.0);
        assert_eq!(page.sum("absent", &[]), 0.0);
    }

    #[test]
    fn escapes_are_undone_and_special_numbers_are_read() {
        let page = Page::parse(PAGE).unwrap();
        assert_eq!(page.value("odd", &[("path", "a\"b\\c\nd")]), Some(f64::INFINITY));
        assert_eq!(page.value("plain", &[]), Some(1000.0));
    }

    #[test]
    fn broken_line_is_named() {
        for line in ["name", "name{a=\"b\" 1", "name{a=b} 1", "name one", "name 1 2 3", "{a=\"b\"} 1"] {
            let error = Page::parse(&format!("fine 1\n{line}\n")).unwrap_err().to_string();
            assert!(error.contains("line 2") && error.contains(line), "{error}");
        }
    }
}
