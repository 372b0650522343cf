//! One reading of the page as requests, and what is remembered from one to the next. Pure.

use opentelemetry_proto::tonic::common::v1::InstrumentationScope;
use opentelemetry_proto::tonic::resource::v1::Resource;

use super::conversion::PageConverter;
use super::family::attribute;
use super::requests::{ExportRequest, RequestWriter};
use super::starts::{EnvoyReading, StreamStarts};

/// Name of the scope that all metrics have.
const SCOPE: &str = "inpick";

/// Requests that say together what the page says.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) requests: Vec<ExportRequest>,
    /// Points of the page that are in none of them: unreadable, or too large for a request each.
    pub(crate) left_out: u64,
}

/// Makes batches.
#[derive(Debug)]
pub(crate) struct BatchMaker {
    resource: Resource,
    scope: InstrumentationScope,
    most_bytes: usize,
    gzip: bool,
    starts: StreamStarts,
}

impl BatchMaker {
    /// A maker of batches about a resource whose own counters began at `began`, nanoseconds since the Unix epoch.
    pub(crate) fn new(resource: &[(String, String)], most_bytes: usize, gzip: bool, began: u64) -> Self {
        let attributes = resource.iter().map(|(key, value)| attribute(key, value)).collect();
        let (name, version) = (SCOPE.to_owned(), env!("CARGO_PKG_VERSION").to_owned());
        Self {
            resource: Resource { attributes, ..Resource::default() },
            scope: InstrumentationScope { name, version, ..InstrumentationScope::default() },
            most_bytes,
            gzip,
            starts: StreamStarts::new(began),
        }
    }

    /// Makes one of a page, read at `now`, in pieces.
    pub(crate) fn make(&mut self, now: u64, envoy: EnvoyReading, page: impl Iterator<Item = Vec<u8>> + Clone) -> Batch {
        let mut writer = RequestWriter::new(&self.resource, &self.scope, self.most_bytes, self.gzip);
        let time = self.starts.begin(now, envoy);
        if self.starts.is_in_doubt() {
            let mut converter = PageConverter::new(time, &mut self.starts);
            for piece in page.clone() {
                converter.feed(&piece, drop);
            }
            converter.finish(drop);
            self.starts.decide();
        }
        let mut converter = PageConverter::new(time, &mut self.starts);
        for piece in page {
            converter.feed(&piece, |metric| writer.add(metric));
        }
        let unreadable = converter.finish(|metric| writer.add(metric));
        self.starts.end();
        let (requests, too_large) = writer.finish();
        Batch { requests, left_out: unreadable + too_large }
    }
}
