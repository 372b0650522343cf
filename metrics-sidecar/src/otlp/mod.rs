//! The page's families, pushed to an OpenTelemetry collector: OTLP over HTTP, in protobuf.
//!
//! ```text
//!  page ──lines──▶ conversion ──metrics──▶ requests ──bytes──▶ pusher ──▶ collector
//!                      └──▶ starts
//! ```
//!
//! Messages are built here and not recorded with OpenTelemetry's SDK: most figures are Envoy's, known as totals since its start, and the SDK's
//! instruments take single measurements and no finished histogram. What is sent is the page of `/metrics`, converted, so that both say the same.
//!
//! Formats: <https://opentelemetry.io/docs/specs/otlp/>, <https://opentelemetry.io/docs/specs/otel/metrics/data-model/>,
//! <https://opentelemetry.io/docs/specs/otel/compatibility/prometheus_and_openmetrics/>.

pub(crate) mod collector;
pub(crate) mod config;
pub mod flags;
pub(crate) mod pusher;
pub(crate) mod pushes;
pub(crate) mod source;

mod backoff;
mod batch;
mod conversion;
mod family;
mod requests;
pub(crate) mod schedule;
mod standing;
mod starts;
