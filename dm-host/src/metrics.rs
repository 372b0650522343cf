//! The metrics that the module defines and counts.

use std::collections::BTreeMap;
use std::fmt;

/// Whether a metric only grows.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum MetricKind {
    Counter,
    Gauge,
}

/// A metric's name and its label names; ids of the ABI are indices of it plus 1.
#[derive(Clone, Debug)]
pub(crate) struct MetricFamily {
    pub(crate) kind: MetricKind,
    pub(crate) name: String,
    pub(crate) labels: Vec<String>,
}

/// A name with label values; labels are in the order in which they were defined.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct SeriesName {
    /// The metric.
    pub name: String,
    /// Names and values of the labels.
    pub labels: Vec<(String, String)>,
}

impl SeriesName {
    fn has(&self, label: &(&str, &str)) -> bool {
        self.labels.iter().any(|(name, value)| name == label.0 && value == label.1)
    }
}

impl fmt::Display for SeriesName {
    /// As a Prometheus page has it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        let labels: Vec<String> = self.labels.iter().map(|(name, value)| format!("{name}=\"{value}\"")).collect();
        if labels.is_empty() { Ok(()) } else { write!(f, "{{{}}}", labels.join(",")) }
    }
}

/// What a scrape would show.
#[derive(Clone, Debug, Default)]
pub struct MetricValues {
    values: BTreeMap<SeriesName, u64>,
}

impl MetricValues {
    /// The value of a series; labels in any order.
    #[must_use]
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> Option<u64> {
        let is_it = |series: &SeriesName| {
            series.name == name && series.labels.len() == labels.len() && labels.iter().all(|label| series.has(label))
        };
        self.values.iter().find(|(series, _)| is_it(series)).map(|(_, value)| *value)
    }

    /// The sum over all series of the name that have these label values.
    #[must_use]
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> u64 {
        let is_one = |series: &SeriesName| series.name == name && labels.iter().all(|label| series.has(label));
        self.values.iter().filter(|(series, _)| is_one(series)).map(|(_, value)| value).sum()
    }

    /// Every series and its value.
    pub fn iter(&self) -> impl Iterator<Item = (&SeriesName, u64)> {
        self.values.iter().map(|(series, value)| (series, *value))
    }

    pub(crate) fn change(&mut self, family: &MetricFamily, values: Vec<String>, change: impl FnOnce(u64) -> u64) {
        let labels = family.labels.iter().cloned().zip(values).collect();
        let value = self.values.entry(SeriesName { name: family.name.clone(), labels }).or_default();
        *value = change(*value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_are_found_by_labels_in_any_order_and_summed() {
        let family = MetricFamily {
            kind: MetricKind::Counter,
            name: "requests".to_owned(),
            labels: vec!["model".to_owned(), "code".to_owned()],
        };
        let mut values = MetricValues::default();
        values.change(&family, vec!["m".to_owned(), "200".to_owned()], |value| value + 2);
        values.change(&family, vec!["m".to_owned(), "500".to_owned()], |value| value + 1);
        assert_eq!(values.value("requests", &[("code", "200"), ("model", "m")]), Some(2));
        assert_eq!(values.value("requests", &[("code", "200")]), None);
        assert_eq!((values.sum("requests", &[("model", "m")]), values.sum("requests", &[("code", "500")])), (3, 1));
        let shown: Vec<String> = values.iter().map(|(series, value)| format!("{series} {value}")).collect();
        assert_eq!(shown[0], "requests{model=\"m\",code=\"200\"} 2");
    }
}
