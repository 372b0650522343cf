//! Where metrics are pushed to: flags and the variables that OpenTelemetry has for all its programs, parsed into settings that need no
//! further checks.
//!
//! <https://opentelemetry.io/docs/specs/otel/protocol/exporter/>,
//! <https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/>.

use std::path::{Path, PathBuf};
use std::time::Duration;

use axum::http::HeaderMap;
use axum::http::header::{
    CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderName, HeaderValue, TRANSFER_ENCODING,
    USER_AGENT,
};
use clap::Args;
use percent_encoding::percent_decode_str;

use super::config::{CollectorTarget, CollectorTrust, OtlpConfig};
use crate::durations::parse_duration;
use crate::paths::any_path;

/// How often metrics are pushed, as OpenTelemetry has it.
const INTERVAL: Duration = Duration::from_secs(60);
/// How long one request may take, as OpenTelemetry has it.
const TIMEOUT: Duration = Duration::from_secs(10);
/// What is appended to an endpoint for all signals.
const SIGNAL_PATH: &str = "v1/metrics";
/// Name of the service, if it is given none.
const SERVICE: &str = "inpick";

const SERVICE_NAME: &str = "service.name";
const INSTANCE_ID: &str = "service.instance.id";
const VERSION: &str = "service.version";

/// Headers that say what a request is, or how it is sent.
const RESERVED: [HeaderName; 7] =
    [CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HOST, TRANSFER_ENCODING, USER_AGENT];

/// Flags about pushes to an OpenTelemetry collector. Each stands before the variables that say the same.
#[derive(Args, Clone, Debug, Default)]
pub struct OtlpFlags {
    /// OpenTelemetry collector to which everything on /metrics is pushed, over HTTP in protobuf, such as http://collector:4318; /v1/metrics is
    /// appended. Without it, OTEL_EXPORTER_OTLP_METRICS_ENDPOINT (taken as it is) or OTEL_EXPORTER_OTLP_ENDPOINT; without these nothing is
    /// pushed. Headers, such as tokens, are in OTEL_EXPORTER_OTLP_HEADERS, attributes of the resource in OTEL_SERVICE_NAME and
    /// OTEL_RESOURCE_ATTRIBUTES
    #[arg(long, value_name = "URL")]
    otlp_endpoint: Option<String>,
    /// How often metrics are pushed to the collector [default: OTEL_METRIC_EXPORT_INTERVAL, or 60s]
    #[arg(long, value_name = "DURATION")]
    otlp_interval: Option<String>,
    /// How long one request to the collector may take, and the last push when the sidecar ends [default: OTEL_EXPORTER_OTLP_TIMEOUT, or 10s]
    #[arg(long, value_name = "DURATION")]
    otlp_timeout: Option<String>,
    /// How requests to the collector are compressed [default: OTEL_EXPORTER_OTLP_COMPRESSION, or none]
    #[arg(long, value_name = "gzip|none")]
    otlp_compression: Option<String>,
    /// Certificates (PEM) that an https: collector's must lead to, read again for each push [default: OTEL_EXPORTER_OTLP_CERTIFICATE, or
    /// what the system trusts]
    #[arg(long, value_name = "FILE", value_parser = any_path())]
    otlp_ca_file: Option<PathBuf>,
}

/// What is wrong with such a flag or variable.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum OtlpFlagError {
    /// Not the URL of a collector.
    #[error("{name} {text:?}: expected http://HOST[:PORT][/PATH] or https://…")]
    Endpoint {
        /// The flag with its dashes, or the variable.
        name: &'static str,
        /// What it says.
        text: String,
    },
    /// Not a duration as flags spell it.
    #[error("{name} {text:?}: expected a number above zero with ms, s or m, such as 60s")]
    Duration {
        /// The flag.
        name: &'static str,
        /// What it says.
        text: String,
    },
    /// Not a duration as variables spell it.
    #[error("{name} {text:?}: expected a whole number of milliseconds above zero")]
    Milliseconds {
        /// The variable.
        name: &'static str,
        /// What it says.
        text: String,
    },
    /// Another compression.
    #[error("{name} {text:?}: expected gzip or none")]
    Compression {
        /// The flag or the variable.
        name: &'static str,
        /// What it says.
        text: String,
    },
    /// Another protocol.
    #[error("{name} {text:?}: only http/protobuf is spoken here")]
    Protocol {
        /// The variable.
        name: &'static str,
        /// What it says.
        text: String,
    },
    /// Not a list of names and values.
    #[error("{name}: {why}")]
    Pairs {
        /// The variable. What it says may be secret.
        name: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// Certificates that cannot be used.
    #[error("{name}: {why}")]
    Certificates {
        /// The flag or the variable.
        name: &'static str,
        /// What is wrong with them.
        why: String,
    },
}

/// A value, and the flag or variable that it is of.
type Named = (&'static str, String);

impl OtlpFlags {
    /// Reads every flag and, if something is pushed, every variable; `env` is the process's environment. `port` is where the page is served,
    /// which tells the sidecar from others of the machine. `None`: nothing is pushed.
    ///
    /// # Errors
    ///
    /// All that is wrong at once.
    pub(crate) fn parse_all(
        &self,
        port: u16,
        env: impl Fn(&str) -> Option<String>,
    ) -> Result<Option<OtlpConfig>, Vec<OtlpFlagError>> {
        let mut errors = Vec::new();
        let of_flags = Flagged {
            interval: self.otlp_interval.as_ref().and_then(|text| duration("--otlp-interval", text, &mut errors)),
            timeout: self.otlp_timeout.as_ref().and_then(|text| duration("--otlp-timeout", text, &mut errors)),
            gzip: self.otlp_compression.as_ref().and_then(|text| gzip("--otlp-compression", text, &mut errors)),
            trust: self.otlp_ca_file.as_ref().map(|file| trust("--otlp-ca-file", file, &mut errors)),
        };
        // An empty variable is none.
        let variable = |names: &[&'static str]| -> Option<Named> {
            let value = |name: &&'static str| Some((*name, env(name).filter(|text| !text.trim().is_empty())?));
            names.iter().find_map(value)
        };
        let Some((name, url, path)) = self.endpoint(variable) else {
            return if errors.is_empty() { Ok(None) } else { Err(errors) };
        };
        let target = CollectorTarget::read(url.trim(), path);
        if target.is_none() {
            errors.push(OtlpFlagError::Endpoint { name, text: url });
        }
        if let Some((name, text)) = variable(&["OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"])
            && text.trim() != "http/protobuf"
        {
            errors.push(OtlpFlagError::Protocol { name, text });
        }
        let interval = of_flags.interval.or_else(|| {
            let (name, text) = variable(&["OTEL_METRIC_EXPORT_INTERVAL"])?;
            milliseconds(name, &text, &mut errors)
        });
        let timeout = of_flags.timeout.or_else(|| {
            let (name, text) = variable(&["OTEL_EXPORTER_OTLP_METRICS_TIMEOUT", "OTEL_EXPORTER_OTLP_TIMEOUT"])?;
            milliseconds(name, &text, &mut errors)
        });
        let gzip = of_flags.gzip.or_else(|| {
            let names = ["OTEL_EXPORTER_OTLP_METRICS_COMPRESSION", "OTEL_EXPORTER_OTLP_COMPRESSION"];
            let (name, text) = variable(&names)?;
            gzip(name, text.trim(), &mut errors)
        });
        let trust = of_flags.trust.or_else(|| {
            let names = ["OTEL_EXPORTER_OTLP_METRICS_CERTIFICATE", "OTEL_EXPORTER_OTLP_CERTIFICATE"];
            let (name, file) = variable(&names)?;
            Some(trust(name, Path::new(file.trim()), &mut errors))
        });
        let trust = trust.unwrap_or(CollectorTrust::System);
        if trust == CollectorTrust::System
            && target.as_ref().is_some_and(|target| target.is_tls)
            && let Err(why) = trust.tls()
        {
            errors.push(OtlpFlagError::Certificates { name, why: format!("{why}; --otlp-ca-file names others") });
        }
        let headers = variable(&["OTEL_EXPORTER_OTLP_METRICS_HEADERS", "OTEL_EXPORTER_OTLP_HEADERS"]);
        let headers = headers.map_or_else(HeaderMap::new, |(name, text)| headers_of(name, &text, &mut errors));
        let attributes = variable(&["OTEL_RESOURCE_ATTRIBUTES"]);
        let attributes = attributes.map_or_else(Vec::new, |(name, text)| pairs(name, &text, &mut errors));
        let resource = resource(attributes, variable(&["OTEL_SERVICE_NAME"]).map(|(_, name)| name), port);
        match target {
            Some(target) if errors.is_empty() => Ok(Some(OtlpConfig {
                target,
                interval: interval.unwrap_or(INTERVAL),
                timeout: timeout.unwrap_or(TIMEOUT),
                gzip: gzip.unwrap_or(false),
                headers,
                trust,
                resource,
            })),
            _ => Err(errors),
        }
    }

    /// The endpoint, what it is of and what is appended to it. Variables that switch OpenTelemetry off in a program switch those off that give an
    /// endpoint, and not the flag.
    fn endpoint(
        &self,
        variable: impl Fn(&[&'static str]) -> Option<Named>,
    ) -> Option<(&'static str, String, &'static str)> {
        if let Some(url) = &self.otlp_endpoint {
            return Some(("--otlp-endpoint", url.clone(), SIGNAL_PATH));
        }
        let says = |name: &'static str, word: &str| {
            variable(&[name]).is_some_and(|(_, text)| text.trim().eq_ignore_ascii_case(word))
        };
        if says("OTEL_SDK_DISABLED", "true") || says("OTEL_METRICS_EXPORTER", "none") {
            return None;
        }
        let own = variable(&["OTEL_EXPORTER_OTLP_METRICS_ENDPOINT"]).map(|(name, url)| (name, url, ""));
        own.or_else(|| variable(&["OTEL_EXPORTER_OTLP_ENDPOINT"]).map(|(name, url)| (name, url, SIGNAL_PATH)))
    }
}

/// What flags alone say.
struct Flagged {
    interval: Option<Duration>,
    timeout: Option<Duration>,
    gzip: Option<bool>,
    trust: Option<CollectorTrust>,
}

fn duration(name: &'static str, text: &str, errors: &mut Vec<OtlpFlagError>) -> Option<Duration> {
    let read = parse_duration(text);
    if read.is_none() {
        errors.push(OtlpFlagError::Duration { name, text: text.to_owned() });
    }
    read
}

fn milliseconds(name: &'static str, text: &str, errors: &mut Vec<OtlpFlagError>) -> Option<Duration> {
    let read = text.trim().parse().ok().filter(|millis| *millis > 0).map(Duration::from_millis);
    if read.is_none() {
        errors.push(OtlpFlagError::Milliseconds { name, text: text.to_owned() });
    }
    read
}

fn gzip(name: &'static str, text: &str, errors: &mut Vec<OtlpFlagError>) -> Option<bool> {
    match text {
        "gzip" => Some(true),
        "none" => Some(false),
        _ => {
            errors.push(OtlpFlagError::Compression { name, text: text.to_owned() });
            None
        }
    }
}

fn trust(name: &'static str, file: &Path, errors: &mut Vec<OtlpFlagError>) -> CollectorTrust {
    let trust = CollectorTrust::File(file.to_owned());
    errors.extend(trust.tls().err().map(|why| OtlpFlagError::Certificates { name, why }));
    trust
}

/// `NAME=VALUE,…` with values that may be percent-encoded.
fn pairs(name: &'static str, text: &str, errors: &mut Vec<OtlpFlagError>) -> Vec<(String, String)> {
    let mut pairs = Vec::new();
    for (at, item) in (1..).zip(text.split(',')).filter(|(_, item)| !item.trim().is_empty()) {
        let pair =
            item.split_once('=').map(|(key, value)| (key.trim(), value.trim())).filter(|(key, _)| !key.is_empty());
        let decoded = |text: &str| percent_decode_str(text).decode_utf8().ok().map(|text| text.into_owned());
        match pair.and_then(|(key, value)| Some((decoded(key)?, decoded(value)?))) {
            Some(pair) => pairs.push(pair),
            None => errors.push(OtlpFlagError::Pairs { name, why: format!("item {at} is not NAME=VALUE") }),
        }
    }
    pairs
}

fn headers_of(name: &'static str, text: &str, errors: &mut Vec<OtlpFlagError>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (key, value) in pairs(name, text, errors) {
        let header = HeaderName::try_from(key.as_str()).ok().filter(|header| !RESERVED.contains(header));
        match header.zip(HeaderValue::try_from(value).ok()) {
            Some((header, mut value)) => {
                value.set_sensitive(true);
                headers.append(header, value);
            }
            None => errors.push(OtlpFlagError::Pairs { name, why: format!("{key:?} cannot be a header of a push") }),
        }
    }
    headers
}

/// The attributes of the resource. A name of its own stands before one among the attributes; of a key that is given twice the last counts. Two
/// sidecars of one service would write the same streams, so each has an id that stays when it is started again.
fn resource(given: Vec<(String, String)>, service: Option<String>, port: u16) -> Vec<(String, String)> {
    let mut attributes: Vec<(String, String)> = Vec::new();
    let named = service.map(|service| (SERVICE_NAME.to_owned(), service.trim().to_owned()));
    for (key, value) in given.into_iter().chain(named) {
        attributes.retain(|(known, _)| *known != key);
        attributes.push((key, value));
    }
    let host = dns_lookup::get_hostname().unwrap_or_else(|_| "localhost".to_owned());
    for (key, value) in [
        (SERVICE_NAME, SERVICE.to_owned()),
        (INSTANCE_ID, format!("{host}:{port}")),
        (VERSION, env!("CARGO_PKG_VERSION").to_owned()),
    ] {
        if !attributes.iter().any(|(known, _)| known == key) {
            attributes.push((key.to_owned(), value));
        }
    }
    attributes
}

#[cfg(test)]
mod tests;
