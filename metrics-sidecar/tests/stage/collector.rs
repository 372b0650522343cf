//! A collector's receiver of OTLP metrics over HTTP that takes nothing but what the protocol and the data model allow.
//!
//! <https://opentelemetry.io/docs/specs/otlp/>, <https://opentelemetry.io/docs/specs/otel/metrics/data-model/>.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::io::Read as _;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse as _, Response};
use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsPartialSuccess, ExportMetricsServiceRequest, ExportMetricsServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value};
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value;
use opentelemetry_proto::tonic::metrics::v1::{AggregationTemporality, HistogramDataPoint, Metric};
use prost::Message as _;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// How long a test waits for a push.
const PATIENCE: Duration = Duration::from_secs(20);
/// What collectors take unless told otherwise.
const MOST_BYTES: usize = 4 * 1024 * 1024;
/// How far a point's time may be from the collector's clock.
const SKEW_NS: u64 = 60_000_000_000;

/// How the collector answers a request.
#[derive(Clone, Debug)]
pub enum Answering {
    /// All of it is taken.
    Taken,
    /// All but so many points.
    Partial(i64, &'static str),
    /// A status, headers, and the message of a `google.rpc.Status`.
    Status(u16, &'static [(&'static str, &'static str)], &'static str),
    /// It reads and never answers.
    Silent,
}

/// A stream: the metric's name and its attributes.
pub type StreamKey = (String, BTreeMap<String, String>);

/// A point of a stream.
#[derive(Clone, Debug, PartialEq)]
pub enum Point {
    Gauge(f64),
    Sum(f64),
    Histogram { count: u64, sum: Option<f64>, bounds: Vec<f64>, buckets: Vec<u64> },
}

/// A request.
#[derive(Clone, Debug)]
pub struct Arrival {
    pub at: Instant,
    pub path: String,
    pub headers: HeaderMap,
    /// Bytes before decompression, and after.
    pub bytes: (usize, usize),
    /// Time of its points.
    pub time_ns: u64,
    pub resource: BTreeMap<String, String>,
    pub points: HashMap<StreamKey, (u64, Point)>,
}

#[derive(Default)]
struct Ledger {
    answers: VecDeque<Answering>,
    otherwise: Option<Answering>,
    arrivals: Vec<Arrival>,
    faults: Vec<String>,
    /// Kind, unit and description of each metric.
    identities: HashMap<String, (u8, String, String)>,
    /// Last time, start and point of each stream.
    streams: HashMap<StreamKey, (u64, u64, Point)>,
}

pub struct Collector {
    pub address: SocketAddr,
    ledger: Arc<Mutex<Ledger>>,
    task: JoinHandle<()>,
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Collector {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let ledger = Arc::new(Mutex::new(Ledger::default()));
        let router =
            axum::Router::new().fallback(receive).layer(DefaultBodyLimit::disable()).with_state(Arc::clone(&ledger));
        let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { address, ledger, task }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// How the next requests are answered; those after them are taken.
    pub fn answer(&self, answers: &[Answering]) {
        self.ledger.lock().unwrap().answers.extend(answers.iter().cloned());
    }

    /// How all further requests are answered.
    pub fn answer_always(&self, answering: Answering) {
        let mut ledger = self.ledger.lock().unwrap();
        ledger.answers.clear();
        ledger.otherwise = Some(answering);
    }

    pub fn arrivals(&self) -> Vec<Arrival> {
        self.ledger.lock().unwrap().arrivals.clone()
    }

    /// What was against the rules so far.
    pub fn faults(&self) -> Vec<String> {
        self.ledger.lock().unwrap().faults.clone()
    }

    /// Waits for so many requests in all; panics for any fault.
    pub async fn arrived(&self, count: usize) -> Vec<Arrival> {
        self.until(|arrivals| arrivals.len() >= count).await
    }

    /// Waits until the requests are as wanted; panics for any fault.
    pub async fn until(&self, wanted: impl Fn(&[Arrival]) -> bool) -> Vec<Arrival> {
        let began = Instant::now();
        loop {
            let (arrivals, faults) = (self.arrivals(), self.faults());
            assert!(faults.is_empty(), "{faults:#?}");
            if wanted(&arrivals) {
                return arrivals;
            }
            assert!(began.elapsed() < PATIENCE, "{} requests came", arrivals.len());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

async fn receive(
    State(ledger): State<Arc<Mutex<Ledger>>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let answering = {
        let mut ledger = ledger.lock().unwrap();
        let answering = ledger.answers.pop_front().or_else(|| ledger.otherwise.clone()).unwrap_or(Answering::Taken);
        // What is not taken is not part of any stream.
        let is_taken = matches!(answering, Answering::Taken | Answering::Partial(..));
        if let Err(fault) = ledger.take(&method, &uri, headers, &body, is_taken) {
            ledger.faults.push(fault);
        }
        answering
    };
    let encoded = |partial_success| ExportMetricsServiceResponse { partial_success }.encode_to_vec();
    let protobuf = [("content-type", "application/x-protobuf")];
    match answering {
        Answering::Taken => (protobuf, encoded(None)).into_response(),
        Answering::Partial(rejected_data_points, message) => {
            let error_message = message.to_owned();
            (protobuf, encoded(Some(ExportMetricsPartialSuccess { rejected_data_points, error_message })))
                .into_response()
        }
        Answering::Status(status, headers, message) => {
            // Field 2 of `google.rpc.Status`, of less than 128 bytes.
            let mut status_body = vec![0x12, u8::try_from(message.len()).unwrap()];
            status_body.extend_from_slice(message.as_bytes());
            let mut response = (StatusCode::from_u16(status).unwrap(), protobuf, status_body).into_response();
            for (name, value) in headers {
                response.headers_mut().insert(*name, value.parse().unwrap());
            }
            response
        }
        Answering::Silent => std::future::pending().await,
    }
}

impl Ledger {
    fn take(
        &mut self,
        method: &Method,
        uri: &Uri,
        headers: HeaderMap,
        body: &[u8],
        is_taken: bool,
    ) -> Result<(), String> {
        let header = |name: &str| headers.get(name).map_or("", |value| value.to_str().unwrap());
        rule(method == Method::POST, "a request is a POST")?;
        rule(header("content-type") == "application/x-protobuf", "a request is protobuf")?;
        rule(!header("user-agent").is_empty(), "an exporter says who it is")?;
        let decoded = match header("content-encoding") {
            "" => body.to_vec(),
            "gzip" => {
                let mut bytes = Vec::new();
                flate2::read::GzDecoder::new(body).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
                bytes
            }
            other => return Err(format!("{other} is no known encoding")),
        };
        rule(decoded.len() <= MOST_BYTES, "a request has at most 4 MiB")?;
        let request = ExportMetricsServiceRequest::decode(decoded.as_slice()).map_err(|error| error.to_string())?;
        let mut arrival = Arrival {
            at: Instant::now(),
            path: uri.path().to_owned(),
            bytes: (body.len(), decoded.len()),
            time_ns: 0,
            resource: BTreeMap::new(),
            points: HashMap::new(),
            headers,
        };
        rule(!request.resource_metrics.is_empty(), "an empty request is not sent")?;
        for resource_metrics in &request.resource_metrics {
            let resource = resource_metrics.resource.as_ref().ok_or("metrics are of a resource")?;
            arrival.resource = attributes(&resource.attributes)?;
            for needed in ["service.name", "service.instance.id"] {
                rule(
                    arrival.resource.get(needed).is_some_and(|value| !value.is_empty()),
                    &format!("a resource has {needed}"),
                )?;
            }
            for scope_metrics in &resource_metrics.scope_metrics {
                let scope = scope_metrics.scope.as_ref().ok_or("metrics are of a scope")?;
                rule(!scope.name.is_empty(), "a scope has a name")?;
                rule(!scope_metrics.metrics.is_empty(), "a scope has metrics")?;
                for metric in &scope_metrics.metrics {
                    self.metric(metric, &mut arrival, is_taken).map_err(|fault| format!("{}: {fault}", metric.name))?;
                }
            }
        }
        self.arrivals.push(arrival);
        Ok(())
    }

    fn metric(&mut self, metric: &Metric, arrival: &mut Arrival, is_taken: bool) -> Result<(), String> {
        let is_name = |name: &str| {
            name.starts_with(|first: char| first.is_ascii_alphabetic())
                && name.len() <= 255
                && name.chars().all(|character| character.is_ascii_alphanumeric() || "_.-/".contains(character))
        };
        rule(is_name(&metric.name), "a metric has a name")?;
        rule(!metric.description.is_empty(), "here each metric is described")?;
        let bare = metric.name.strip_suffix("_total").unwrap_or(&metric.name);
        for (suffix, unit) in [("_seconds", "s"), ("_bytes", "By"), ("_ratio", "1"), ("_tokens", "{token}")] {
            rule(bare.ends_with(suffix) == (metric.unit == unit), "the unit is that of the name")?;
        }
        let cumulative = AggregationTemporality::Cumulative as i32;
        let kind = match metric.data.as_ref().ok_or("a metric has data")? {
            Data::Gauge(gauge) => {
                rule(!gauge.data_points.is_empty(), "a gauge has points")?;
                for point in &gauge.data_points {
                    let value = number(point.value)?;
                    let times = (point.start_time_unix_nano, point.time_unix_nano);
                    self.point(arrival, metric, &point.attributes, times, Point::Gauge(value), is_taken)?;
                }
                0
            }
            Data::Sum(sum) => {
                rule(!sum.data_points.is_empty(), "a sum has points")?;
                rule(
                    sum.aggregation_temporality == cumulative && sum.is_monotonic,
                    "a counter is cumulative and monotonic",
                )?;
                for point in &sum.data_points {
                    let value = number(point.value)?;
                    rule(value.is_finite() && value >= 0.0, "a counter is not negative")?;
                    let times = (point.start_time_unix_nano, point.time_unix_nano);
                    self.point(arrival, metric, &point.attributes, times, Point::Sum(value), is_taken)?;
                }
                1
            }
            Data::Histogram(histogram) => {
                rule(!histogram.data_points.is_empty(), "a histogram has points")?;
                rule(histogram.aggregation_temporality == cumulative, "a histogram is cumulative")?;
                for point in &histogram.data_points {
                    let times = (point.start_time_unix_nano, point.time_unix_nano);
                    self.point(arrival, metric, &point.attributes, times, buckets(point)?, is_taken)?;
                }
                2
            }
            other => return Err(format!("{other:?} is not what a page has")),
        };
        let identity = (kind, metric.unit.clone(), metric.description.clone());
        let known = self.identities.entry(metric.name.clone()).or_insert_with(|| identity.clone());
        rule(*known == identity, "a name has one kind, unit and description")
    }

    fn point(
        &mut self,
        arrival: &mut Arrival,
        metric: &Metric,
        of: &[KeyValue],
        (start, time): (u64, u64),
        point: Point,
        is_taken: bool,
    ) -> Result<(), String> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        let now = u64::try_from(now.as_nanos()).unwrap();
        rule(time.abs_diff(now) < SKEW_NS, "a point is of now")?;
        rule(start <= time, "a point does not begin after its time")?;
        rule((start == 0) == matches!(point, Point::Gauge(_)), "what adds up has a start, and a gauge has none")?;
        rule(arrival.time_ns == 0 || arrival.time_ns == time, "points of a request are of one reading")?;
        arrival.time_ns = time;
        let key = (metric.name.clone(), attributes(of)?);
        rule(!arrival.points.contains_key(&key), &format!("{key:?} is there once"))?;
        if let Some((last_time, last_start, last)) = self.streams.get(&key) {
            rule(time > *last_time, &format!("{key:?}: time goes on"))?;
            rule(start >= *last_start, &format!("{key:?}: a start never moves back"))?;
            if start > *last_start {
                rule(start >= *last_time, &format!("{key:?}: after a reset a stream begins where it ended"))?;
            } else {
                rule(grows(last, &point), &format!("{key:?}: {last:?} fell to {point:?} without a reset"))?;
            }
        }
        if is_taken {
            self.streams.insert(key.clone(), (time, start, point.clone()));
        }
        arrival.points.insert(key, (start, point));
        Ok(())
    }
}

/// Whether a point may come after another one of the same start.
fn grows(before: &Point, after: &Point) -> bool {
    match (before, after) {
        (Point::Gauge(_), Point::Gauge(_)) => true,
        (Point::Sum(before), Point::Sum(after)) => after >= before,
        (
            Point::Histogram { count, sum, bounds, buckets },
            Point::Histogram { count: more, sum: larger, bounds: same, buckets: fuller },
        ) => {
            more >= count
                && larger >= sum
                && same == bounds
                && fuller.iter().zip(buckets).all(|(after, before)| after >= before)
        }
        _ => false,
    }
}

fn buckets(point: &HistogramDataPoint) -> Result<Point, String> {
    let (bounds, buckets) = (point.explicit_bounds.clone(), point.bucket_counts.clone());
    rule(buckets.len() == bounds.len() + 1, "there is a bucket more than bounds")?;
    rule(bounds.iter().all(|bound| bound.is_finite()), "bounds are finite")?;
    rule(bounds.windows(2).all(|pair| pair[0] < pair[1]), "bounds grow")?;
    rule(buckets.iter().sum::<u64>() == point.count, "buckets add up to the count")?;
    let sum = point.sum;
    rule(sum.is_none_or(f64::is_finite), "a sum is finite")?;
    rule(point.count > 0 || sum.is_none_or(|sum| sum == 0.0), "the sum of nothing is 0")?;
    Ok(Point::Histogram { count: point.count, sum, bounds, buckets })
}

#[allow(clippy::cast_precision_loss)]
fn number(value: Option<Value>) -> Result<f64, String> {
    match value.ok_or("a point has a value")? {
        Value::AsDouble(value) => Ok(value),
        Value::AsInt(value) => Ok(value as f64),
    }
}

fn attributes(list: &[KeyValue]) -> Result<BTreeMap<String, String>, String> {
    let mut keys = HashSet::new();
    let read = |pair: &KeyValue| match pair.value.as_ref().and_then(|value| value.value.as_ref()) {
        Some(any_value::Value::StringValue(value)) if !pair.key.is_empty() => Ok((pair.key.clone(), value.clone())),
        other => Err(format!("{}={other:?} is no attribute with a text", pair.key)),
    };
    rule(list.iter().all(|pair| keys.insert(&pair.key)), "keys of attributes are unique")?;
    list.iter().map(read).collect()
}

fn rule(is_kept: bool, rule: &str) -> Result<(), String> {
    if is_kept { Ok(()) } else { Err(rule.to_owned()) }
}
