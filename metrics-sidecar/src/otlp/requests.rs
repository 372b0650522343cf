//! Metrics in requests of a size that collectors take. Pure.

use std::io::Write as _;

use axum::body::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use opentelemetry_proto::tonic::common::v1::InstrumentationScope;
use opentelemetry_proto::tonic::metrics::v1::Metric;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::resource::v1::Resource;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, message};

/// Largest request in bytes before compression: what gRPC receivers, behind which a collector may hand requests on, take unless told
/// otherwise.
pub(crate) const MOST_BYTES: usize = 4 * 1024 * 1024;

/// Numbers of the fields that a request is framed by: `ExportMetricsServiceRequest.resource_metrics`, then in `ResourceMetrics`, then in
/// `ScopeMetrics`.
const RESOURCE_METRICS: u32 = 1;
const RESOURCE: u32 = 1;
const SCOPE_METRICS: u32 = 2;
const SCOPE: u32 = 1;
const METRICS: u32 = 2;

/// A request, ready to be sent.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct ExportRequest {
    /// Its body, compressed or not.
    pub(crate) body: Bytes,
    /// Points in it.
    pub(crate) points: u64,
}

/// Fills requests. What was added is in memory as bytes alone.
#[derive(Debug)]
pub(crate) struct RequestWriter {
    /// The fields before the metrics, encoded.
    resource: Vec<u8>,
    scope: Vec<u8>,
    most_bytes: usize,
    gzip: bool,
    metrics: Vec<u8>,
    points: u64,
    requests: Vec<ExportRequest>,
    left_out: u64,
}

impl RequestWriter {
    /// Requests of at most so many bytes before compression.
    pub(crate) fn new(resource: &Resource, scope: &InstrumentationScope, most_bytes: usize, gzip: bool) -> Self {
        let (mut of_resource, mut of_scope) = (Vec::new(), Vec::new());
        message::encode(RESOURCE, resource, &mut of_resource);
        message::encode(SCOPE, scope, &mut of_scope);
        Self {
            resource: of_resource,
            scope: of_scope,
            most_bytes,
            gzip,
            metrics: Vec::new(),
            points: 0,
            requests: Vec::new(),
            left_out: 0,
        }
    }

    /// Adds a metric. One that is too large for a request goes into several, each with some of its points.
    pub(crate) fn add(&mut self, metric: Metric) {
        let bytes = message::encoded_len(METRICS, &metric);
        if self.whole(self.metrics.len() + bytes) > self.most_bytes
            && !self.metrics.is_empty()
            && self.whole(bytes) <= self.most_bytes
        {
            self.close();
        }
        if self.whole(self.metrics.len() + bytes) <= self.most_bytes {
            message::encode(METRICS, &metric, &mut self.metrics);
            self.points += points(&metric);
            return;
        }
        match halves(metric) {
            Some((first, second)) => {
                self.add(first);
                self.add(second);
            }
            None => self.left_out += 1,
        }
    }

    /// The requests, and how many points are in none since each is too large for one.
    pub(crate) fn finish(mut self) -> (Vec<ExportRequest>, u64) {
        self.close();
        (self.requests, self.left_out)
    }

    fn close(&mut self) {
        if self.metrics.is_empty() {
            return;
        }
        let scope_metrics = self.scope.len() + self.metrics.len();
        let mut body = Vec::with_capacity(self.whole(self.metrics.len()));
        encode_key(RESOURCE_METRICS, WireType::LengthDelimited, &mut body);
        encode_varint(self.resource_metrics(self.metrics.len()) as u64, &mut body);
        body.extend_from_slice(&self.resource);
        encode_key(SCOPE_METRICS, WireType::LengthDelimited, &mut body);
        encode_varint(scope_metrics as u64, &mut body);
        body.extend_from_slice(&self.scope);
        body.append(&mut self.metrics);
        let body = if self.gzip { compressed(&body) } else { body };
        self.requests.push(ExportRequest { body: body.into(), points: std::mem::take(&mut self.points) });
    }

    /// Bytes of `ResourceMetrics` with so many bytes of metrics.
    fn resource_metrics(&self, metrics: usize) -> usize {
        let scope_metrics = self.scope.len() + metrics;
        self.resource.len() + 1 + encoded_len_varint(scope_metrics as u64) + scope_metrics
    }

    /// Bytes of the request with so many bytes of metrics.
    fn whole(&self, metrics: usize) -> usize {
        let resource_metrics = self.resource_metrics(metrics);
        1 + encoded_len_varint(resource_metrics as u64) + resource_metrics
    }
}

/// How many points a metric has.
pub(crate) fn points(metric: &Metric) -> u64 {
    let count = match &metric.data {
        Some(Data::Gauge(gauge)) => gauge.data_points.len(),
        Some(Data::Sum(sum)) => sum.data_points.len(),
        Some(Data::Histogram(histogram)) => histogram.data_points.len(),
        Some(Data::Summary(summary)) => summary.data_points.len(),
        Some(Data::ExponentialHistogram(_)) | None => 0,
    };
    count as u64
}

/// The metric twice, each with half of the points. `None`: it has but one.
fn halves(mut metric: Metric) -> Option<(Metric, Metric)> {
    fn half<T>(points: &mut Vec<T>) -> Vec<T> {
        points.split_off(points.len() / 2)
    }
    if points(&metric) < 2 {
        return None;
    }
    let second = match metric.data.as_mut()? {
        Data::Gauge(gauge) => {
            let data_points = half(&mut gauge.data_points);
            Data::Gauge(opentelemetry_proto::tonic::metrics::v1::Gauge { data_points })
        }
        Data::Sum(sum) => {
            let data_points = half(&mut sum.data_points);
            Data::Sum(opentelemetry_proto::tonic::metrics::v1::Sum { data_points, ..*sum })
        }
        Data::Histogram(histogram) => {
            let data_points = half(&mut histogram.data_points);
            Data::Histogram(opentelemetry_proto::tonic::metrics::v1::Histogram { data_points, ..*histogram })
        }
        Data::Summary(summary) => {
            let data_points = half(&mut summary.data_points);
            Data::Summary(opentelemetry_proto::tonic::metrics::v1::Summary { data_points })
        }
        Data::ExponentialHistogram(_) => return None,
    };
    let Metric { name, description, unit, .. } = &metric;
    let (name, description, unit) = (name.clone(), description.clone(), unit.clone());
    let second = Metric { name, description, unit, metadata: Vec::new(), data: Some(second) };
    Some((metric, second))
}

/// Writing to memory cannot fail.
fn compressed(body: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(body.len() / 8), Compression::fast());
    let _ = encoder.write_all(body);
    encoder.finish().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
    use opentelemetry_proto::tonic::metrics::v1::{
        AggregationTemporality, Histogram, HistogramDataPoint, NumberDataPoint, Sum,
    };
    use proptest::prelude::*;
    use prost::Message as _;

    use super::super::family::attribute;
    use super::*;

    fn writer(most_bytes: usize, gzip: bool) -> RequestWriter {
        let resource = Resource { attributes: vec![attribute("service.name", "s")], ..Resource::default() };
        let scope = InstrumentationScope { name: "inpick".to_owned(), ..InstrumentationScope::default() };
        RequestWriter::new(&resource, &scope, most_bytes, gzip)
    }

    /// A sum, or a histogram, whose points have a number as their only attribute.
    fn metric(name: usize, is_sum: bool, points: usize, label_bytes: usize) -> Metric {
        let attributes = |at: usize| vec![attribute("at", &format!("{at:0>label_bytes$}"))];
        let aggregation_temporality = AggregationTemporality::Cumulative.into();
        let data = if is_sum {
            let point = |at| NumberDataPoint { attributes: attributes(at), ..NumberDataPoint::default() };
            Data::Sum(Sum {
                data_points: (0..points).map(point).collect(),
                aggregation_temporality,
                is_monotonic: true,
            })
        } else {
            let point = |at| HistogramDataPoint {
                attributes: attributes(at),
                bucket_counts: vec![1; 5],
                ..HistogramDataPoint::default()
            };
            Data::Histogram(Histogram { data_points: (0..points).map(point).collect(), aggregation_temporality })
        };
        Metric {
            name: name.to_string(),
            description: "d".to_owned(),
            unit: "s".to_owned(),
            metadata: Vec::new(),
            data: Some(data),
        }
    }

    /// Name and attribute of every point of the requests' bodies, each of which has the resource and the scope.
    fn decoded(bodies: impl Iterator<Item = Vec<u8>>) -> Vec<(String, String)> {
        let mut found = Vec::new();
        for body in bodies {
            let request = ExportMetricsServiceRequest::decode(body.as_slice()).unwrap();
            let [resource_metrics] = request.resource_metrics.as_slice() else { panic!("{request:?}") };
            assert_eq!(resource_metrics.resource.as_ref().unwrap().attributes, [attribute("service.name", "s")]);
            let [scope_metrics] = resource_metrics.scope_metrics.as_slice() else { panic!("{request:?}") };
            assert_eq!(scope_metrics.scope.as_ref().unwrap().name, "inpick");
            for metric in &scope_metrics.metrics {
                assert_eq!((metric.description.as_str(), metric.unit.as_str()), ("d", "s"));
                let attributes: Vec<_> = match metric.data.as_ref().unwrap() {
                    Data::Sum(sum) => {
                        assert!(
                            sum.is_monotonic && sum.aggregation_temporality() == AggregationTemporality::Cumulative
                        );
                        sum.data_points.iter().map(|point| &point.attributes).collect()
                    }
                    Data::Histogram(histogram) => {
                        assert_eq!(histogram.aggregation_temporality(), AggregationTemporality::Cumulative);
                        histogram.data_points.iter().map(|point| &point.attributes).collect()
                    }
                    other => panic!("{other:?}"),
                };
                assert!(!attributes.is_empty());
                found.extend(attributes.into_iter().map(|list| (metric.name.clone(), format!("{:?}", list[0].value))));
            }
        }
        found.sort();
        found
    }

    proptest! {
        #[test]
        fn no_request_is_too_large_and_no_point_is_lost_or_there_twice(
            metrics in proptest::collection::vec((any::<bool>(), 1..40usize, 1..60usize), 0..12),
            most_bytes in 250..4000usize,
        ) {
            let metrics: Vec<Metric> = metrics.into_iter().enumerate()
                .map(|(name, (is_sum, points, label_bytes))| metric(name, is_sum, points, label_bytes)).collect();
            let mut writer = writer(most_bytes, false);
            let mut whole = self::writer(usize::MAX, false);
            for metric in &metrics {
                writer.add(metric.clone());
                whole.add(metric.clone());
            }
            let ((requests, left_out), (all, _)) = (writer.finish(), whole.finish());
            prop_assert_eq!(left_out, 0);
            prop_assert!(all.len() <= 1);
            prop_assert!(requests.iter().all(|request| request.body.len() <= most_bytes));
            // Nothing is cut that fits.
            let bytes: usize = all.iter().map(|request| request.body.len()).sum();
            prop_assert!(bytes > most_bytes || requests.len() <= 1);
            let points: u64 = metrics.iter().map(points).sum();
            prop_assert_eq!(requests.iter().map(|request| request.points).sum::<u64>(), points);
            let found = decoded(requests.into_iter().map(|request| request.body.to_vec()));
            prop_assert_eq!(found.len() as u64, points);
            prop_assert_eq!(found, decoded(all.into_iter().map(|request| request.body.to_vec())));
        }
    }

    #[test]
    fn a_point_that_is_too_large_for_any_request_is_left_out_alone() {
        let mut writer = writer(300, false);
        writer.add(metric(0, true, 2, 10));
        writer.add(metric(1, true, 3, 400));
        writer.add(metric(2, true, 2, 10));
        let (requests, left_out) = writer.finish();
        assert_eq!(left_out, 3);
        assert_eq!(decoded(requests.into_iter().map(|request| request.body.to_vec())).len(), 4);
    }

    #[test]
    fn compressed_requests_say_the_same() {
        let bodies = |gzip: bool| {
            let mut writer = writer(2000, gzip);
            writer.add(metric(0, false, 100, 10));
            writer.finish().0.into_iter().map(|request| request.body.to_vec())
        };
        let inflated = bodies(true).map(|body| {
            let mut bytes = Vec::new();
            flate2::read::GzDecoder::new(body.as_slice()).read_to_end(&mut bytes).unwrap();
            bytes
        });
        assert!(bodies(false).eq(inflated) && bodies(false).count() > 1);
    }
}
