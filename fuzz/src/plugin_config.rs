//! The plugin's configuration: any bytes, and documents made of known fields with fitting and odd values.
//!
//! Input: a byte that chooses the reading, then the document (even) or the choices of which one is made (odd).

use arbitrary::{Result, Unstructured};
use endpoint_picker::scheduling::MAX_RANKED;
use endpoint_picker::{Config, EndpointPicker, Plugin, Timestamp};
use serde_json::{Map, Value, json};
use snapshot::{EndpointIdentity, Load, Loads, Membership, PoolMembers, State};

use crate::stats::{Stats, send_requests};

/// Reads a configuration and runs what comes of it.
pub fn check(data: &[u8]) {
    let [kind, data @ ..] = data else { return };
    if kind % 2 == 0 {
        check_document(data);
        return;
    }
    let mut maker = Maker { choices: Unstructured::new(data), odd: false };
    let fields = if maker.choices.ratio(1, 4).unwrap_or(false) { SERVICE } else { FILTER };
    let Ok(document) = maker.object(fields) else { return };
    let accepted = check_document(document.to_string().as_bytes());
    assert!(accepted || maker.odd, "{document} has nothing odd");
}

/// Whether the document is accepted.
fn check_document(json: &[u8]) -> bool {
    let parsed = Plugin::parse(json);
    let read = endpoint_picker_config::parse(json).map(|reading| reading.plugin);
    assert!(parsed.is_err() || read == parsed, "what the core reads is read alike as JSON or YAML");
    match parsed {
        Ok(Plugin::Filter(config)) => {
            check_filter(config);
            true
        }
        Ok(Plugin::SnapshotService(service)) => {
            assert!(!service.cluster.is_empty() && !service.path.is_empty());
            assert!((1..=60_000).contains(&service.interval_ms) && service.timeout_ms > service.wait_ms);
            true
        }
        Err(error) => {
            assert!(!error.0.is_empty());
            if let Ok(Value::Object(document)) = serde_json::from_slice(json) {
                for message in &error.0 {
                    let names_field = document.keys().any(|field| message.starts_with(field.as_str()));
                    assert!(names_field && message.contains(": "), "{message}");
                }
            }
            false
        }
    }
}

/// A configuration that is accepted serves requests, with endpoints and without.
fn check_filter(config: Config) {
    assert!((1..=MAX_RANKED).contains(&config.profile.ranked) && config.profile.max_snapshot_age_micros >= 1000);
    assert!(config.profile.scorers.iter().all(|(_, weight)| (0.0..=1e6).contains(weight)));
    assert!(config.rewrites.iter().all(|rule| !rule.targets.is_empty()));
    assert!((10..=60_000).contains(&config.stats.flush_interval_ms) && config.stats.max_models >= 1);
    assert!(config.profile.max_excluded_percent <= 100 && config.stats.max_endpoints >= 1);
    let sidecar = &config.sidecar;
    assert!(!sidecar.cluster.is_empty() && !sidecar.path.is_empty() && sidecar.timeout_ms > sidecar.wait_ms);
    let load = |last: u8, waiting| Load {
        state: if last == 4 { State::Sleeping } else { State::Fresh },
        age_ms: Some(0),
        waiting,
        kv_cache_usage: Some(f64::from(last) / 8.0),
        ..Load::default()
    };
    let identities = (1..=4).map(|last| EndpointIdentity::unnamed(([10, 0, 0, last], 8000).into())).collect();
    let pools = vec![PoolMembers { name: config.pool.clone(), endpoints: identities, ..PoolMembers::default() }];
    let endpoints = vec![load(1, Some(0)), load(2, Some(u32::MAX)), load(3, None), load(4, Some(1))];
    let mut picker = EndpointPicker::new(config, 1);
    let mut stats = Stats::default();
    send_requests(&mut picker, &mut stats, 2, Timestamp::from_micros(0));
    picker.install_membership(&Membership { epoch: 1, version: 1, pools });
    let loads = Loads { epoch: 1, membership_version: 1, generation: 1, endpoints, ..Loads::default() };
    picker.install_loads(&loads, Timestamp::from_micros(1)).unwrap();
    send_requests(&mut picker, &mut stats, 5, Timestamp::from_micros(1));
    assert!(picker.pool().membership().is_some());
}

/// What a field holds.
enum Shape {
    Text,
    Boolean,
    Integer(u64, u64),
    Number(u32),
    Choice(&'static [&'static str]),
    Object(&'static [Field]),
    OneOf(&'static [Self]),
    List(&'static Self),
    /// Integers under any names.
    Priorities,
}

struct Field {
    name: &'static str,
    is_required: bool,
    shape: Shape,
}

const fn field(name: &'static str, shape: Shape) -> Field {
    Field { name, is_required: false, shape }
}

const fn required(name: &'static str, shape: Shape) -> Field {
    Field { name, is_required: true, shape }
}

const PATH: Field = field("path", Shape::Text);
const INTERVAL: Field = field("interval_ms", Shape::Integer(1, 60_000));
const WAIT: Field = field("wait_ms", Shape::Integer(0, 900));
const TIMEOUT: Field = field("timeout_ms", Shape::Integer(901, 60_000));

const SERVICE: &[Field] =
    &[required("snapshot_service", Shape::Object(&[required("cluster", Shape::Text), PATH, INTERVAL, WAIT, TIMEOUT]))];

const MOST: u64 = 10_000_000;
const WEIGHT: Field = field("weight", Shape::Number(1_000_000));
const PICKER: Shape = Shape::Choice(&["max-score-picker", "weighted-random-picker", "random-picker"]);

/// Scorers without parameters, and each that has some with all of its own.
const SCORERS: &[Shape] = &[
    Shape::Object(&[
        required(
            "name",
            Shape::Choice(&[
                "predicted-latency-scorer",
                "lmetric-scorer",
                "queue-scorer",
                "kv-cache-utilization-scorer",
                "running-requests-size-scorer",
                "lora-affinity-scorer",
                "session-affinity-scorer",
            ]),
        ),
        WEIGHT,
        field("parameters", Shape::Object(&[])),
    ]),
    Shape::Object(&[
        required("name", Shape::Choice(&["prefix-cache-scorer"])),
        WEIGHT,
        field(
            "parameters",
            Shape::Object(&[
                field("autoTune", Shape::Boolean),
                field("blockSize", Shape::Integer(0, MOST)),
                field("hashBlockSize", Shape::Integer(0, MOST)),
                field("blockSizeTokens", Shape::Integer(0, MOST)),
                field("maxPrefixBlocksToMatch", Shape::Integer(0, MOST)),
                field("maxPrefixTokensToMatch", Shape::Integer(0, MOST)),
                field("lruCapacityPerServer", Shape::Integer(0, MOST)),
                field("matchLengthWeight", Shape::Number(3)),
                field("matchLengthScaleTokens", Shape::Integer(1, MOST)),
            ]),
        ),
    ]),
    Shape::Object(&[
        required("name", Shape::Choice(&["no-hit-lru-scorer"])),
        field("parameters", Shape::Object(&[field("lruSize", Shape::Integer(1, MOST))])),
    ]),
    Shape::Object(&[
        required("name", Shape::Choice(&["active-request-scorer"])),
        field(
            "parameters",
            Shape::Object(&[
                field("requestTimeout", Shape::Text),
                field("idleThreshold", Shape::Integer(0, MOST)),
                field("maxBusyScore", Shape::Number(3)),
            ]),
        ),
    ]),
    Shape::Object(&[
        required("name", Shape::Choice(&["load-aware-scorer"])),
        field("parameters", Shape::Object(&[field("threshold", Shape::Integer(1, MOST))])),
    ]),
];

const FILTER: &[Field] = &[
    field("pool", Shape::Text),
    field("no_endpoint", Shape::Choice(&["fail_open", "fail_closed"])),
    field("missing_model", Shape::Choice(&["reject", "pass"])),
    field("objectives", Shape::Priorities),
    field(
        "scheduling",
        Shape::Object(&[
            field("scorers", Shape::List(&Shape::OneOf(SCORERS))),
            field("picker", Shape::OneOf(&[PICKER, Shape::Object(&[required("name", PICKER)])])),
            field("ranked", Shape::Integer(1, 3)),
            field("max_snapshot_age_ms", Shape::Integer(1, 3_600_000)),
            field("max_excluded_percent", Shape::Integer(0, 100)),
        ]),
    ),
    field(
        "model_rewrites",
        Shape::List(&Shape::Object(&[
            required("name", Shape::Text),
            field("model", Shape::Text),
            required(
                "targets",
                Shape::List(&Shape::Object(&[
                    required("model", Shape::Text),
                    field("weight", Shape::Integer(0, 1_000_000)),
                ])),
            ),
        ])),
    ),
    field(
        "metrics",
        Shape::Object(&[
            field("objective", Shape::Boolean),
            field("model", Shape::Boolean),
            field("max_models", Shape::Integer(1, 100_000)),
            field("flush_interval_ms", Shape::Integer(10, 60_000)),
            field("max_endpoints", Shape::Integer(1, 100_000)),
            field("max_fairness_ids", Shape::Integer(1, 100_000)),
        ]),
    ),
    field("sidecar", Shape::Object(&[field("cluster", Shape::Text), PATH, INTERVAL, WAIT, TIMEOUT])),
];

/// Makes a document of the bytes' choices, and remembers whether any of it need not be accepted.
struct Maker<'a> {
    choices: Unstructured<'a>,
    odd: bool,
}

impl Maker<'_> {
    fn object(&mut self, fields: &[Field]) -> Result<Value> {
        let mut members = Map::new();
        for field in fields {
            if field.is_required && !self.strays()? || self.choices.arbitrary()? {
                let value = self.value(&field.shape)?;
                members.insert(field.name.to_owned(), value);
            }
        }
        if self.strays()? {
            let (name, value) = (self.text()?, self.odd_value()?);
            members.insert(name, value);
        }
        Ok(Value::Object(members))
    }

    /// Whether to leave what is expected: seldom.
    fn strays(&mut self) -> Result<bool> {
        let strays = self.choices.arbitrary::<u8>()? >= 0xF0;
        self.odd |= strays;
        Ok(strays)
    }

    fn value(&mut self, shape: &Shape) -> Result<Value> {
        if self.strays()? {
            return self.odd_value();
        }
        Ok(match shape {
            Shape::Text => self.text()?.into(),
            Shape::Boolean => self.choices.arbitrary::<bool>()?.into(),
            Shape::Integer(least, most) => {
                let number = self.choices.int_in_range(*least..=*most)?;
                if self.choices.arbitrary()? { (number as f64).into() } else { number.into() }
            }
            Shape::Number(most) => (f64::from(self.choices.int_in_range(0..=*most)?) / 3.0).into(),
            Shape::Choice(words) => (*self.choices.choose(words)?).into(),
            Shape::Object(fields) => self.object(fields)?,
            Shape::OneOf(shapes) => {
                let shape = self.choices.choose(shapes)?;
                self.value(shape)?
            }
            Shape::List(shape) => {
                let length = self.choices.int_in_range(1..=3)?;
                Value::Array((0..length).map(|_| self.value(shape)).collect::<Result<_>>()?)
            }
            Shape::Priorities => {
                let length = self.choices.int_in_range(0..=3)?;
                let members = (0..length).map(|_| Ok((self.text()?, self.choices.arbitrary::<i64>()?.into())));
                Value::Object(members.collect::<Result<_>>()?)
            }
        })
    }

    /// Not empty.
    fn text(&mut self) -> Result<String> {
        let known = ["m", "default", "a/b", "\u{e9};\"\n", "org/model:v1"];
        if self.choices.arbitrary()? {
            return Ok((*self.choices.choose(&known)?).to_owned());
        }
        let text: String = self.choices.arbitrary()?;
        Ok(if text.is_empty() { "x".to_owned() } else { text })
    }

    fn odd_value(&mut self) -> Result<Value> {
        let odd = [
            Value::Null,
            json!(""),
            json!([]),
            json!({}),
            json!(-1),
            json!(0),
            json!(1.5),
            json!(u64::MAX),
            json!(1e300),
            json!("2"),
            json!([[1, {"a": null}]]),
            json!({"name": "queue-scorer", "targets": [], "model": "m"}),
            json!(true),
        ];
        self.choices.choose(&odd).cloned()
    }
}
