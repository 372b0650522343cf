use std::collections::BTreeMap;

use opentelemetry_proto::tonic::common::v1::any_value;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value;
use opentelemetry_proto::tonic::metrics::v1::{AggregationTemporality, HistogramDataPoint, Sum};
use proptest::prelude::*;

use super::super::starts::EnvoyReading;
use super::*;
use crate::exposition::escape_into;

const NOW: u64 = 1_700_000_000_000_000_000;

/// The metrics of a page that comes in pieces of so many bytes, and how many samples could not be read.
fn convert(page: &str, piece: usize) -> (Vec<Metric>, u64) {
    let mut starts = StreamStarts::new(NOW - 5);
    let time = starts.begin(NOW, EnvoyReading::Read { uptime: None, epoch: 0 });
    let mut metrics = Vec::new();
    let mut converter = PageConverter::new(time, &mut starts);
    for piece in page.as_bytes().chunks(piece) {
        converter.feed(piece, |metric| metrics.push(metric));
    }
    let unreadable = converter.finish(|metric| metrics.push(metric));
    (metrics, unreadable)
}

fn only(page: &str) -> Metric {
    let (mut metrics, unreadable) = convert(page, usize::MAX);
    assert_eq!((metrics.len(), unreadable), (1, 0), "{page}");
    metrics.remove(0)
}

fn histogram(metric: &Metric) -> &HistogramDataPoint {
    let Some(Data::Histogram(histogram)) = &metric.data else { panic!("{metric:?}") };
    assert_eq!(histogram.aggregation_temporality(), AggregationTemporality::Cumulative);
    &histogram.data_points[0]
}

fn sum(metric: &Metric) -> &Sum {
    let Some(Data::Sum(sum)) = &metric.data else { panic!("{metric:?}") };
    sum
}

#[test]
fn a_counter_becomes_a_monotonic_sum_with_unit_and_description() {
    let metric = only(concat!(
        "# HELP x_seconds_total What\\nit \\\\ is.\n# TYPE x_seconds_total counter\n",
        "x_seconds_total{b=\"1\",a=\"q\\\"\"} 3\nx_seconds_total{a=\"\"} 2.5\n"
    ));
    assert_eq!((metric.name.as_str(), metric.unit.as_str()), ("x_seconds_total", "s"));
    assert_eq!(metric.description, "What\nit \\ is.");
    let sum = sum(&metric);
    assert!(sum.is_monotonic && sum.aggregation_temporality() == AggregationTemporality::Cumulative);
    let [whole, part] = sum.data_points.as_slice() else { panic!("{sum:?}") };
    assert_eq!((whole.value, part.value), (Some(Value::AsInt(3)), Some(Value::AsDouble(2.5))));
    assert_eq!((whole.start_time_unix_nano, whole.time_unix_nano), (NOW, NOW));
    let keys: Vec<&str> = whole.attributes.iter().map(|attribute| attribute.key.as_str()).collect();
    assert_eq!(keys, ["a", "b"]);
    assert_eq!(text(&whole.attributes[0].value), "q\"");
}

#[test]
fn units_are_those_that_names_end_with() {
    for (name, expected) in [
        ("gen_ai_server_request_duration_seconds", "s"),
        ("inference_objective_request_sizes", ""),
        ("envoy_cluster_upstream_cx_rx_bytes_total", "By"),
        ("inpick_ttft_ratio", "1"),
        ("x_percent", "%"),
        ("inference_objective_input_tokens", "{token}"),
        ("seconds", ""),
    ] {
        assert_eq!(only(&format!("# TYPE {name} gauge\n{name} 1\n")).unit, expected, "{name}");
    }
}

#[test]
fn a_gauge_has_no_start_and_may_be_anything() {
    let metric = only("# TYPE x gauge\nx{a=\"1\"} -7\nx{a=\"2\"} NaN\nx{a=\"3\"} +Inf\n");
    let Some(Data::Gauge(gauge)) = &metric.data else { panic!("{metric:?}") };
    assert_eq!(gauge.data_points.len(), 3);
    assert!(gauge.data_points.iter().all(|point| point.start_time_unix_nano == 0 && point.time_unix_nano == NOW));
    let untyped = only("# TYPE x untyped\nx 1\n");
    assert!(matches!(untyped.data, Some(Data::Gauge(_))));
}

#[test]
fn a_histogram_has_the_samples_of_each_bucket_alone() {
    let metric = only(concat!(
        "# TYPE x histogram\nx_bucket{a=\"1\",le=\"0.5\"} 2\nx_bucket{a=\"1\",le=\"1\"} 5\nx_bucket{a=\"1\",le=\"+Inf\"} 9\n",
        "x_sum{a=\"1\"} 12.25\nx_count{a=\"1\"} 9\n"
    ));
    let point = histogram(&metric);
    assert_eq!((point.explicit_bounds.as_slice(), point.bucket_counts.as_slice()), (&[0.5, 1.0][..], &[2, 3, 4][..]));
    assert_eq!((point.count, point.sum), (9, Some(12.25)));
    assert_eq!(point.attributes.len(), 1);
}

#[test]
fn a_histogram_that_does_not_add_up_is_made_to() {
    let torn = only(concat!(
        "# TYPE x histogram\nx_bucket{le=\"2\"} 4\nx_bucket{le=\"1\"} 7\nx_bucket{le=\"1\"} 9\nx_bucket{le=\"+Inf\"} 5\n",
        "x_count 6\nx_sum NaN\n"
    ));
    let point = histogram(&torn);
    assert_eq!((point.explicit_bounds.as_slice(), point.bucket_counts.as_slice()), (&[1.0, 2.0][..], &[4, 0, 1][..]));
    assert_eq!((point.count, point.sum), (5, None));
    let without_largest = only("# TYPE x histogram\nx_bucket{le=\"1\"} 1\nx_count 3\n");
    assert_eq!(histogram(&without_largest).bucket_counts, [1, 2]);
}

#[test]
fn a_summary_has_its_quantiles() {
    let metric = only(
        "# TYPE x summary\nx{quantile=\"0.99\"} 4\nx{quantile=\"0.5\"} 1.5\nx{quantile=\"0.9\"} NaN\nx_sum 6\nx_count 3\n",
    );
    let Some(Data::Summary(summary)) = &metric.data else { panic!("{metric:?}") };
    let point = &summary.data_points[0];
    let quantiles: Vec<_> = point.quantile_values.iter().map(|value| (value.quantile, value.value)).collect();
    assert_eq!((point.count, point.sum, quantiles), (3, 6.0, vec![(0.5, 1.5), (0.99, 4.0)]));
}

#[test]
fn what_cannot_be_a_point_is_counted_and_the_rest_stays() {
    let (metrics, unreadable) = convert(
        concat!(
            "# TYPE a counter\na{x=\"1\"} -1\na{x=\"2\"} NaN\na{x=\"3\"} 1\na{x=\"3\"} 2\na{x=\"4} 1\na{x=\"5\"} one\n",
            "# TYPE b histogram\nb_sum 1\n# TYPE c gauge\n# TYPE d gauge\nd 1\n",
        ),
        usize::MAX,
    );
    assert_eq!(metrics.iter().map(|metric| metric.name.as_str()).collect::<Vec<_>>(), ["a", "d"]);
    let [point] = sum(&metrics[0]).data_points.as_slice() else { panic!("{metrics:?}") };
    assert_eq!(point.value, Some(Value::AsInt(1)), "of a series that is there twice the first counts");
    assert!(unreadable >= 4, "{unreadable}");
}

/// A sample: its name, its labels and its value.
type Flat = (String, BTreeMap<String, String>, String);

fn text(value: &Option<opentelemetry_proto::tonic::common::v1::AnyValue>) -> &str {
    match value.as_ref().and_then(|value| value.value.as_ref()) {
        Some(any_value::Value::StringValue(text)) => text,
        other => panic!("{other:?}"),
    }
}

/// Metrics as the samples of a page.
fn flatten(metrics: &[Metric]) -> Vec<Flat> {
    let mut samples = Vec::new();
    for metric in metrics {
        let mut add = |suffix: &str, attributes: &[_], extra: Option<(&str, f64)>, value: f64| {
            let pair = |attribute: &opentelemetry_proto::tonic::common::v1::KeyValue| {
                (attribute.key.clone(), text(&attribute.value).to_owned())
            };
            let mut labels: BTreeMap<_, _> = attributes.iter().map(pair).collect();
            labels.extend(extra.map(|(key, bound)| (key.to_owned(), bound.to_string())));
            samples.push((format!("{}{suffix}", metric.name), labels, value.to_string()));
        };
        match metric.data.as_ref().unwrap() {
            Data::Gauge(gauge) => {
                for point in &gauge.data_points {
                    add("", &point.attributes, None, number(point.value));
                }
            }
            Data::Sum(sum) => {
                for point in &sum.data_points {
                    add("", &point.attributes, None, number(point.value));
                }
            }
            Data::Histogram(histogram) => {
                for point in &histogram.data_points {
                    let mut total = 0;
                    let bounds = point.explicit_bounds.iter().copied().chain([f64::INFINITY]);
                    for (bound, count) in bounds.zip(&point.bucket_counts) {
                        total += count;
                        add("_bucket", &point.attributes, Some(("le", bound)), total as f64);
                    }
                    add("_sum", &point.attributes, None, point.sum.unwrap());
                    add("_count", &point.attributes, None, point.count as f64);
                }
            }
            other => panic!("{other:?}"),
        }
    }
    samples.sort();
    samples
}

fn number(value: Option<Value>) -> f64 {
    match value.unwrap() {
        Value::AsDouble(value) => value,
        Value::AsInt(value) => value as f64,
    }
}

/// Names and values, in the order of a line.
type Labels = Vec<(String, String)>;

#[derive(Clone, Debug)]
enum Drawn {
    Number {
        kind: &'static str,
        rows: BTreeMap<Labels, f64>,
    },
    /// Samples of each bucket alone, and their sum.
    Histogram {
        rows: BTreeMap<Labels, (Vec<u32>, f64)>,
    },
}

fn labels() -> impl Strategy<Value = Labels> {
    let pairs = proptest::collection::btree_map("[a-d][a-z_]{0,3}", ".{0,8}", 0..4);
    pairs.prop_map(|pairs| pairs.into_iter().filter(|(name, _)| name != "le").collect())
}

fn drawn() -> impl Strategy<Value = Vec<Drawn>> {
    let rows = || {
        proptest::collection::btree_map(labels(), prop_oneof![(0..1_000_000u32).prop_map(f64::from), 0.0..1e9], 1..5)
    };
    let number = (prop_oneof![Just("counter"), Just("gauge"), Just("untyped")], rows())
        .prop_map(|(kind, rows)| Drawn::Number { kind, rows });
    let buckets = (proptest::collection::vec(0..1000u32, 1..6), 0.0..1e6);
    let histogram = proptest::collection::btree_map(labels(), buckets, 1..4).prop_map(|rows| Drawn::Histogram { rows });
    proptest::collection::vec(prop_oneof![number, histogram], 0..6)
}

/// The page that says so, and its samples.
fn page(families: &[Drawn]) -> (String, Vec<Flat>) {
    let (mut page, mut samples) = (String::new(), Vec::new());
    for (index, family) in families.iter().enumerate() {
        let name = format!("family_{index}");
        let kind = match family {
            Drawn::Number { kind, .. } => kind,
            Drawn::Histogram { .. } => "histogram",
        };
        page.push_str(&format!("# HELP {name} Of a test.\n# TYPE {name} {kind}\n"));
        let mut add = |suffix: &str, labels: &[(String, String)], le: Option<f64>, value: f64| {
            let mut all = labels.to_vec();
            all.extend(le.map(|le| ("le".to_owned(), le.to_string())));
            let spelled = all.iter().map(|(name, value)| {
                let mut text = format!("{name}=\"");
                // Prometheus spells infinity in its own way.
                escape_into(&mut text, if value == "inf" && name == "le" { "+Inf" } else { value });
                text + "\""
            });
            let spelled: Vec<String> = spelled.collect();
            page.push_str(&format!("{name}{suffix}{{{}}} {value}\n", spelled.join(",")));
            samples.push((format!("{name}{suffix}"), all.into_iter().collect(), value.to_string()));
        };
        match family {
            Drawn::Number { rows, .. } => rows.iter().for_each(|(labels, value)| add("", labels, None, *value)),
            Drawn::Histogram { rows } => {
                for (labels, (buckets, sum)) in rows {
                    let mut total = 0;
                    for (at, count) in buckets.iter().enumerate() {
                        total += count;
                        let bound = if at + 1 == buckets.len() { f64::INFINITY } else { at as f64 / 4.0 };
                        add("_bucket", labels, Some(bound), f64::from(total));
                    }
                    add("_sum", labels, None, *sum);
                    add("_count", labels, None, f64::from(total));
                }
            }
        }
    }
    samples.sort();
    (page, samples)
}

proptest! {
    #[test]
    fn every_sample_of_the_page_is_in_the_metrics_and_no_other(families in drawn(), piece in 1..200usize) {
        let (page, samples) = page(&families);
        let (metrics, unreadable) = convert(&page, piece);
        prop_assert_eq!(unreadable, 0);
        prop_assert_eq!(metrics.len(), families.len());
        prop_assert_eq!(flatten(&metrics), samples);
    }

    #[test]
    fn no_page_makes_the_converter_panic(page in "(# (TYPE|HELP) [ab] (counter|histogram|summary|x)\n|[ab](_bucket|_sum|_count)?(\\{(le|quantile|x)=\"[0-9+.InfNa]{0,4}\"\\})? [0-9.eN+-]{0,6}\n|.{0,20}\n){0,20}", piece in 1..50usize) {
        let (metrics, _) = convert(&page, piece);
        for metric in &metrics {
            if let Some(Data::Histogram(found)) = &metric.data {
                for point in &found.data_points {
                    prop_assert_eq!(point.bucket_counts.len(), point.explicit_bounds.len() + 1);
                    prop_assert_eq!(point.bucket_counts.iter().sum::<u64>(), point.count);
                    prop_assert!(point.explicit_bounds.windows(2).all(|pair| pair[0] < pair[1]));
                }
            }
        }
    }
}
