//! Batches of what the page says now.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use tracing::{info, warn};

use super::batch::{Batch, BatchMaker};
use super::config::OtlpConfig;
use super::requests::MOST_BYTES;
use super::starts::EnvoyReading;
use crate::contents::Contents;
use crate::envoy_page::{EnvoyPages, own_families};
use crate::format::Format;
use crate::page::{Printer, Selection};
use crate::shared::{Shared, lock};

/// Envoy's gauge of how many seconds it has been up.
const UPTIME: &str = "envoy_server_uptime";
/// Its gauge of how many hot restarts it came of.
const EPOCH: &str = "envoy_server_hot_restart_epoch";

/// Makes batches.
pub(crate) trait BatchSource {
    /// One of what is known now.
    fn batch(&self) -> impl Future<Output = Batch> + Send;
}

/// The page that is served.
#[derive(Debug)]
pub(crate) struct PageSource {
    shared: Arc<Shared>,
    pages: EnvoyPages,
    maker: Arc<Mutex<BatchMaker>>,
    /// Whether the last batch was without Envoy's page.
    is_partial: AtomicBool,
}

impl PageSource {
    /// The page of a sidecar that begins now.
    pub(crate) fn new(shared: Arc<Shared>, pages: EnvoyPages, config: &OtlpConfig) -> Self {
        let maker = BatchMaker::new(&config.resource, MOST_BYTES, config.gzip, wall_ns());
        Self { shared, pages, maker: Arc::new(Mutex::new(maker)), is_partial: AtomicBool::new(false) }
    }
}

impl BatchSource for PageSource {
    /// Without Envoy's page, of the sidecar's own families: what is not pushed stays in the collector as it was, unlike on a page that is
    /// scraped, and `inpick_sidecar_envoy_up` tells.
    async fn batch(&self) -> Batch {
        let (contents, envoy) = match self.pages.contents().await {
            Ok(contents) => {
                let uptime = contents.value(UPTIME).and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
                #[allow(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "a cast from a float saturates"
                )]
                let epoch = contents.value(EPOCH).map_or(0, |epoch| epoch as u64);
                (contents, EnvoyReading::Read { uptime, epoch })
            }
            Err(problem) => {
                if !self.is_partial.swap(true, Ordering::Relaxed) {
                    warn!(problem, "without Envoy's page, only the sidecar's own families are pushed");
                }
                (Arc::new(Contents::default()), EnvoyReading::Away)
            }
        };
        if envoy != EnvoyReading::Away && self.is_partial.swap(false, Ordering::Relaxed) {
            info!("the whole page is pushed again");
        }
        let now = wall_ns();
        let page = Printer::new(contents, own_families(&self.shared), Selection::Everything, Format::Text);
        let maker = Arc::clone(&self.maker);
        // A large page takes tens of milliseconds, in which pods are to be read.
        let making = tokio::task::spawn_blocking(move || lock(&maker).make(now, envoy, page)).await;
        // A runtime that ends makes none.
        making.unwrap_or(Batch { requests: Vec::new(), left_out: 0 })
    }
}

/// Nanoseconds since the Unix epoch.
fn wall_ns() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
