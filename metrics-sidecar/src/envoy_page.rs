//! Envoy's metrics page, read and merged on a thread of its own: a page of tens of megabytes must not hold up the polling of pods.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::body::Bytes;
use tokio::sync::{mpsc, oneshot};

use crate::gauges::{About, families};
use crate::page::{OwnFamily, Selection, merge};
use crate::shared::{Shared, admin_client};

/// Requests for a page that may wait at once; further ones are told that Envoy's page is not to be had.
const MAX_WAITING: usize = 256;

/// A merged page, or why there is none.
pub(crate) type Merged = Result<Bytes, String>;

struct Request {
    selection: Selection,
    reply: oneshot::Sender<Merged>,
}

/// Asks the thread for pages. The thread ends with the last of these.
#[derive(Clone, Debug)]
pub(crate) struct EnvoyPages(mpsc::Sender<Request>);

impl EnvoyPages {
    /// Starts the thread.
    ///
    /// # Errors
    ///
    /// When there can be no thread or no runtime.
    pub(crate) fn start(shared: Arc<Shared>) -> io::Result<Self> {
        let (sender, requests) = mpsc::channel(MAX_WAITING);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let failures = shared.failures.clone();
        failures.spawn_thread("envoy-page", move || runtime.block_on(run(shared, requests)))?;
        Ok(Self(sender))
    }

    /// Envoy's page merged with the sidecar's families. Requests that come while a page is read share it.
    pub(crate) async fn merged(&self, selection: Selection) -> Merged {
        let (reply, merged) = oneshot::channel();
        if self.0.try_send(Request { selection, reply }).is_err() {
            return Err("too many requests wait for Envoy's page".to_owned());
        }
        merged.await.unwrap_or_else(|_| Err("the sidecar stops".to_owned()))
    }
}

async fn run(shared: Arc<Shared>, mut requests: mpsc::Receiver<Request>) {
    while let Some(first) = requests.recv().await {
        let mut waiting = vec![first];
        let config = &shared.config;
        let mut client = admin_client(&config.envoy_admin, "/stats/prometheus", config.max_envoy_page_bytes);
        let page = {
            let reading = client.get(&shared.buffers, config.envoy_page_timeout, <[u8]>::to_vec);
            tokio::pin!(reading);
            loop {
                tokio::select! {
                    page = &mut reading => break page.map_err(|error| format!("Envoy's page cannot be read: {error}")),
                    Some(request) = requests.recv() => waiting.push(request),
                }
            }
        };
        shared.envoy_up.store(page.is_ok(), Ordering::Relaxed);
        shared.envoy_page_failures.fetch_add(u64::from(page.is_err()), Ordering::Relaxed);
        let mut merged: HashMap<Selection, Merged> = HashMap::new();
        for Request { selection, reply } in waiting {
            let merged = merged.entry(selection).or_insert_with(|| {
                let page = page.as_ref().map_err(Clone::clone)?;
                Ok(Bytes::from(merge(page, &own_families(&shared), selection)))
            });
            // A scraper that has gone away needs none.
            let _ = reply.send(merged.clone());
        }
    }
}

/// What the sidecar itself knows.
pub(crate) fn own_families(shared: &Shared) -> Vec<OwnFamily> {
    let about = About {
        commit: &shared.config.commit,
        build_ref: &shared.config.build_ref,
        llm_d: shared.config.llm_d,
        envoy_up: shared.envoy_up.load(Ordering::Relaxed),
        envoy_page_failures: shared.envoy_page_failures.load(Ordering::Relaxed),
        snapshots_sent: shared.snapshots_sent.load(Ordering::Relaxed),
        snapshots_unchanged: shared.snapshots_unchanged.load(Ordering::Relaxed),
    };
    families(&shared.fleet(), about)
}
