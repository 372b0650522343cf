//! Faults: what a pod can be told to do wrong, and the plan that decides which request meets which fault.

use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Events let through before a stream breaks when the fault does not say.
const AFTER_EVENTS: u32 = 3;
/// Delay of `slow_headers` when the fault does not say, milliseconds.
const DELAY_MS: u64 = 2000;
/// Size of a `huge` page when the fault does not say: well above any buffer a scraper should grant.
const HUGE_BYTES: u64 = 32 * 1024 * 1024;
/// Where `redirect` leads when the fault does not say: as older releases of vLLM answer a scrape of `/metrics`.
const LOCATION: &str = "/metrics/";

/// What goes wrong.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultKind {
    /// Answers with `status` (default 500) and vLLM's error body, after `delay_ms` where that is given.
    Status,
    /// Sends a TCP reset after `after_events` events, or in the middle of a plain body; with 0, before any byte of the response.
    Reset,
    /// Closes the connection after `after_events` events, or in the middle of a plain body, leaving the response unfinished.
    Cut,
    /// Ends the response properly after `after_events` events, or in the middle of a plain body: good HTTP, half the content.
    Short,
    /// Accepts the request and never answers.
    Hang,
    /// Stops sending after `after_events` events and keeps the connection open.
    Stall,
    /// Holds the response headers back for `delay_ms`.
    SlowHeaders,
    /// Answers 200 with bytes that are neither JSON nor events nor metrics.
    Garbage,
    /// After `after_events` events sends vLLM's error event and `[DONE]`; plain answers become a 500.
    ErrorEvent,
    /// After all the content leaves out the event that says that the stream is over: `[DONE]`, `response.completed` or
    /// `message_stop`. Plain answers are whole.
    Unterminated,
    /// A page of `bytes` bytes; metrics only.
    Huge,
    /// A page without any `vllm:` series, as vLLM shows with its flag of that name; metrics only.
    DisableLogStats,
    /// Answers 307 to `location`. The page is also below `/metrics`, where this fault does not reach.
    Redirect,
}

/// Which requests a fault is for.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultTarget {
    /// Every POST under /v1 that computes something.
    #[default]
    Inference,
    /// GET /metrics.
    Metrics,
    /// GET /health and /ping.
    Health,
    /// GET /v1/models.
    Models,
}

/// A fault as it is asked for.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct FaultSpec {
    /// What goes wrong.
    pub kind: FaultKind,
    /// For which requests.
    #[serde(default)]
    pub target: FaultTarget,
    /// How many requests; all of them when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
    /// Chance that a request is hit, 0 to 1; always when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probability: Option<f64>,
    /// Status of `status`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Events before a stream breaks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after_events: Option<u32>,
    /// Delay of `slow_headers` and of `status`, milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delay_ms: Option<u64>,
    /// Size of `huge`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// Where `redirect` leads: a path or a URL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub location: Option<String>,
}

impl FaultSpec {
    /// A fault of this kind for every inference request.
    #[must_use]
    pub fn new(kind: FaultKind) -> Self {
        Self {
            kind,
            target: FaultTarget::Inference,
            count: None,
            probability: None,
            status: None,
            after_events: None,
            delay_ms: None,
            bytes: None,
            location: None,
        }
    }

    /// Reads a fault from JSON or from `kind=reset,after_events=3`.
    ///
    /// # Errors
    /// Text for a person: what is wrong with the fault.
    pub fn parse(text: &str) -> Result<Self, String> {
        let spec: Self = if text.trim_start().starts_with('{') {
            serde_json::from_str(text)
        } else {
            serde_json::from_value(Value::Object(pairs(text)?))
        }
        .map_err(|error| error.to_string())?;
        spec.check()?;
        Ok(spec)
    }

    /// Says what cannot work.
    ///
    /// # Errors
    /// Text for a person.
    pub fn check(&self) -> Result<(), String> {
        if self.probability.is_some_and(|p| !(0.0..=1.0).contains(&p)) {
            return Err("probability must be between 0 and 1".to_owned());
        }
        if self.status.is_some_and(|s| !(200..=599).contains(&s)) {
            return Err("status must be between 200 and 599".to_owned());
        }
        let of_pages = matches!(self.kind, FaultKind::Huge | FaultKind::DisableLogStats);
        if of_pages && self.target != FaultTarget::Metrics {
            return Err("huge and disable_log_stats are for the target metrics only".to_owned());
        }
        if self.location.as_ref().is_some_and(|to| to.bytes().any(|byte| !byte.is_ascii_graphic())) {
            return Err("location must be a path or a URL".to_owned());
        }
        Ok(())
    }

    /// Status of `status`, 500 by default.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.status.unwrap_or(500)
    }

    /// Events before a stream breaks, 3 by default.
    #[must_use]
    pub fn after_events(&self) -> u32 {
        self.after_events.unwrap_or(AFTER_EVENTS)
    }

    /// How long the answer is held back: as long as the fault says, else [`DELAY_MS`] for `slow_headers` and not at all for others.
    #[must_use]
    pub fn delay(&self) -> Duration {
        let usual = if self.kind == FaultKind::SlowHeaders { DELAY_MS } else { 0 };
        Duration::from_millis(self.delay_ms.unwrap_or(usual))
    }

    /// Where `redirect` leads, `/metrics/` by default.
    #[must_use]
    pub fn location(&self) -> &str {
        self.location.as_deref().unwrap_or(LOCATION)
    }

    /// Size of `huge`, bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes.unwrap_or(HUGE_BYTES)
    }
}

fn pairs(text: &str) -> Result<Map<String, Value>, String> {
    let mut map = Map::new();
    for pair in text.split(',') {
        let (key, value) = pair.split_once('=').ok_or_else(|| format!("`{pair}` is not key=value"))?;
        let value = serde_json::from_str(value).unwrap_or_else(|_| Value::from(value));
        map.insert(key.trim().to_owned(), value);
    }
    Ok(map)
}

/// The faults in force. Each request takes the first one that is for it.
#[derive(Debug)]
pub struct FaultPlan {
    faults: Vec<FaultSpec>,
    random: SmallRng,
}

impl FaultPlan {
    /// A plan that starts with `faults`.
    #[must_use]
    pub fn new(faults: Vec<FaultSpec>, seed: u64) -> Self {
        Self { faults, random: SmallRng::seed_from_u64(seed) }
    }

    /// Adds a fault behind those in force.
    pub fn add(&mut self, fault: FaultSpec) {
        self.faults.push(fault);
    }

    /// Ends all faults.
    pub fn clear(&mut self) {
        self.faults.clear();
    }

    /// The faults in force, with the counts that are left.
    #[must_use]
    pub fn faults(&self) -> &[FaultSpec] {
        &self.faults
    }

    /// The fault that the next request for `target` meets.
    pub fn draw(&mut self, target: FaultTarget) -> Option<FaultSpec> {
        let place = self.faults.iter().position(|fault| {
            fault.target == target && fault.probability.is_none_or(|chance| self.random.random::<f64>() < chance)
        })?;
        let fault = self.faults.get_mut(place)?;
        let drawn = fault.clone();
        if let Some(left) = &mut fault.count {
            *left = left.saturating_sub(1);
            if *left == 0 {
                self.faults.remove(place);
            }
        }
        (drawn.count != Some(0)).then_some(drawn)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_notations_mean_the_same() {
        let short = FaultSpec::parse("kind=reset,after_events=2,count=1").unwrap();
        let json = FaultSpec::parse(r#"{"kind":"reset","after_events":2,"count":1}"#).unwrap();
        assert_eq!(short, json);
    }

    #[test]
    fn unknown_kinds_and_fields_are_refused() {
        assert!(FaultSpec::parse("kind=explode").is_err());
        assert!(FaultSpec::parse("kind=reset,after=2").is_err());
        assert!(FaultSpec::parse("kind=reset,probability=2").is_err());
        for of_pages in ["kind=huge", "kind=disable_log_stats"] {
            assert!(FaultSpec::parse(of_pages).is_err());
            assert!(FaultSpec::parse(&format!("{of_pages},target=metrics")).is_ok());
        }
        assert!(FaultSpec::parse(r#"{"kind":"redirect","location":"/a b"}"#).is_err());
    }

    #[test]
    fn count_runs_out() {
        let mut plan = FaultPlan::new(vec![FaultSpec::parse("kind=hang,count=2").unwrap()], 0);
        assert!(plan.draw(FaultTarget::Metrics).is_none());
        assert!(plan.draw(FaultTarget::Inference).is_some());
        assert!(plan.draw(FaultTarget::Inference).is_some());
        assert!(plan.draw(FaultTarget::Inference).is_none());
    }

    #[test]
    fn probability_hits_its_share() {
        let mut plan = FaultPlan::new(vec![FaultSpec::parse("kind=hang,probability=0.25").unwrap()], 7);
        let hits = (0..4000).filter(|_| plan.draw(FaultTarget::Inference).is_some()).count();
        assert!((800..1200).contains(&hits), "{hits}");
    }
}
