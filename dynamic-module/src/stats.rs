//! The catalogue's stats in Envoy, with their labels as Envoy's own.

use std::collections::HashMap;

use catalogue::{Family, Kind, Label, PERMILLE_SUFFIX, Stat};
use endpoint_picker::ledger::SinkKind;

use crate::envoy::{ExtensionConfig, MetricId, MetricKind};

/// Envoy's stats by name, and the series that were asked for.
#[derive(Debug, Default)]
pub(crate) struct Stats {
    by_name: HashMap<String, MetricId>,
    rows: Vec<Row>,
}

/// One series: a stat and the values of its labels.
#[derive(Debug)]
struct Row {
    id: MetricId,
    values: Box<[String]>,
}

impl Stats {
    /// Defines every stat of the catalogue, which Envoy allows only while the extension is configured.
    pub(crate) fn define(envoy: &mut ExtensionConfig<'_>) -> Self {
        let mut stats = Self::default();
        for family in Stat::published_by_envoy().map(Stat::family) {
            stats.define_family(envoy, family);
        }
        stats
    }

    fn define_family(&mut self, envoy: &mut ExtensionConfig<'_>, family: &Family) {
        let plain: Vec<&str> = family.labels.iter().map(|label| label.as_str()).collect();
        match family.kind {
            Kind::Counter => self.define_stat(envoy, MetricKind::Counter, family.name.to_owned(), &plain),
            Kind::Gauge => self.define_stat(envoy, MetricKind::Gauge, family.name.to_owned(), &plain),
            Kind::Ratio => {
                self.define_stat(envoy, MetricKind::Gauge, format!("{}{PERMILLE_SUFFIX}", family.name), &plain);
            }
            Kind::Histogram(bounds) => {
                let with_le: Vec<&str> = std::iter::once(Label::Le.as_str()).chain(plain.iter().copied()).collect();
                self.define_stat(envoy, MetricKind::Counter, format!("{}_bucket", family.name), &with_le);
                for suffix in ["_sum", "_count"].into_iter().chain(bounds.scale.exact_sum_suffix()) {
                    self.define_stat(envoy, MetricKind::Counter, format!("{}{suffix}", family.name), &plain);
                }
            }
        }
    }

    fn define_stat(&mut self, envoy: &mut ExtensionConfig<'_>, kind: MetricKind, name: String, labels: &[&str]) {
        match envoy.define(kind, &name, labels) {
            Ok(id) => {
                self.by_name.insert(name, id);
            }
            Err(refused) => log::error!("stat {name} refused: {refused:?}"),
        }
    }

    /// The number of a new series; `None`: Envoy refused its stat.
    pub(crate) fn series(&mut self, family: &str, suffix: &str, labels: &[(Label, &str)]) -> Option<u32> {
        let id = *self.by_name.get(&format!("{family}{suffix}"))?;
        let number = u32::try_from(self.rows.len()).ok()?;
        self.rows.push(Row { id, values: labels.iter().map(|(_, value)| (*value).to_owned()).collect() });
        Some(number)
    }

    /// Adds to a counter, or sets a gauge.
    pub(crate) fn change(&self, envoy: &mut ExtensionConfig<'_>, kind: SinkKind, number: u32, amount: u64) {
        let Some(row) = usize::try_from(number).ok().and_then(|number| self.rows.get(number)) else { return };
        let values = row.values.iter().map(String::as_str);
        let changed = match kind {
            SinkKind::Counter => envoy.add(row.id, values, amount),
            SinkKind::Gauge => envoy.set(row.id, values, amount),
        };
        // Ids and labels come from the definition; nothing else is a reason to refuse.
        if let Err(refused) = changed {
            log::warn!("a stat cannot be changed: {refused:?}");
        }
    }
}
