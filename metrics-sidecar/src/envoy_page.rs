//! Envoy's metrics page, read and printed on a thread of its own: a page of tens of megabytes must not hold up the polling of pods.

use std::io::{self, Write as _};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::body::Bytes;
use axum::http::Request;
use axum::http::header::{HOST, USER_AGENT};
use flate2::Compression;
use flate2::write::GzEncoder;
use http_body_util::Full;
use tokio::sync::{mpsc, oneshot};

use crate::contents::{Contents, ContentsReader};
use crate::format::Format;
use crate::gauges::{About, families};
use crate::page::{OwnFamily, Printer, Selection};
use crate::request::{RequestError, connect, send};
use crate::shared::Shared;

/// Requests for a page that may wait at once; further ones are told that Envoy's page is not to be had.
const MAX_WAITING: usize = 256;
/// Pieces of a page that wait for its reader.
const PIECES_AHEAD: usize = 4;
/// A reader that takes no piece for so long gets no more.
const STALLED: Duration = Duration::from_secs(30);
/// Envoy's page for Prometheus.
const PAGE_PATH: &str = "/stats/prometheus";
/// The stats of wasm modules by their own names: `^wasmcustom\.`.
const NAMES_PATH: &str = "/stats?filter=%5Ewasmcustom%5C.";

/// How a page is wanted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    pub(crate) selection: Selection,
    pub(crate) format: Format,
    pub(crate) gzip: bool,
}

/// What is sent of a page.
#[derive(Debug)]
pub(crate) enum Piece {
    Bytes(Bytes),
    /// Without it the page is not whole.
    End,
}

/// A page on its way, or why there is none.
pub(crate) type Pieces = Result<mpsc::Receiver<Piece>, String>;

/// Who waits for a page.
enum Waiting {
    /// For the page as it is served.
    Page { wanted: Wanted, reply: oneshot::Sender<Pieces> },
    /// For what Envoy's holds.
    #[cfg(feature = "otlp")]
    Contents(oneshot::Sender<Result<Arc<Contents>, String>>),
}

/// Asks the thread for pages. The thread ends with the last of these.
#[derive(Clone, Debug)]
pub(crate) struct EnvoyPages(mpsc::Sender<Waiting>);

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

    /// Envoy's page merged with the sidecar's families. Requests that come while a page is read share what was read.
    pub(crate) async fn merged(&self, wanted: Wanted) -> Pieces {
        let (reply, merged) = oneshot::channel();
        self.ask(Waiting::Page { wanted, reply }, merged).await
    }

    /// What Envoy's page holds.
    #[cfg(feature = "otlp")]
    pub(crate) async fn contents(&self) -> Result<Arc<Contents>, String> {
        let (reply, contents) = oneshot::channel();
        self.ask(Waiting::Contents(reply), contents).await
    }

    async fn ask<T>(&self, waiting: Waiting, reply: oneshot::Receiver<Result<T, String>>) -> Result<T, String> {
        if self.0.try_send(waiting).is_err() {
            return Err("too many requests wait for Envoy's page".to_owned());
        }
        reply.await.unwrap_or_else(|_| Err("the sidecar stops".to_owned()))
    }
}

async fn run(shared: Arc<Shared>, mut requests: mpsc::Receiver<Waiting>) {
    while let Some(first) = requests.recv().await {
        let mut waiting = vec![first];
        let contents = {
            let reading = tokio::time::timeout(shared.config.envoy_page_timeout, read(&shared));
            tokio::pin!(reading);
            loop {
                tokio::select! {
                    read = &mut reading => break read,
                    Some(request) = requests.recv() => waiting.push(request),
                }
            }
        };
        let contents = contents.unwrap_or(Err(RequestError::Timeout(shared.config.envoy_page_timeout)));
        shared.envoy_up.store(contents.is_ok(), Ordering::Relaxed);
        shared.envoy_page_failures.fetch_add(u64::from(contents.is_err()), Ordering::Relaxed);
        let contents = contents.map(Arc::new).map_err(|error| format!("Envoy's page cannot be read: {error}"));
        for waiting in waiting {
            match waiting {
                Waiting::Page { wanted, reply } => {
                    let pieces = contents.as_ref().map_err(Clone::clone).map(|contents| {
                        let (sender, pieces) = mpsc::channel(PIECES_AHEAD);
                        tokio::spawn(print(Arc::clone(contents), own_families(&shared), wanted, sender));
                        pieces
                    });
                    // A scraper that has gone away needs none.
                    let _ = reply.send(pieces);
                }
                #[cfg(feature = "otlp")]
                Waiting::Contents(reply) => {
                    let _ = reply.send(contents.clone());
                }
            }
        }
    }
}

/// Reads Envoy's page and, where it lacks the labels, the names that have them.
async fn read(shared: &Shared) -> Result<Contents, RequestError> {
    let mut reader = ContentsReader::default();
    get(shared, PAGE_PATH, |piece| reader.feed(piece)).await?;
    if reader.wants_names() {
        get(shared, NAMES_PATH, |piece| reader.feed_names(piece)).await?;
    }
    Ok(reader.finish())
}

async fn get(shared: &Shared, path: &str, take: impl FnMut(&[u8])) -> Result<(), RequestError> {
    let admin = &shared.config.envoy_admin;
    let request = Request::get(path).header(HOST, admin.to_string()).header(USER_AGENT, "inpick-metrics-sidecar");
    let request = request.body(Full::default()).map_err(|error| RequestError::Lost(error.to_string()))?;
    let mut answer = send(connect(&admin.host, admin.port).await?, request).await?;
    match answer.status() {
        200 => answer.read(shared.config.max_envoy_page_bytes, take).await,
        status => Err(RequestError::Status(status)),
    }
}

async fn print(contents: Arc<Contents>, own: Vec<OwnFamily>, wanted: Wanted, sender: mpsc::Sender<Piece>) {
    for bytes in pieces(contents, own, wanted) {
        let sending = tokio::time::timeout(STALLED, sender.send(Piece::Bytes(bytes)));
        if !matches!(sending.await, Ok(Ok(()))) {
            return;
        }
        // Others are printed on this thread too.
        tokio::task::yield_now().await;
    }
    let _ = sender.send(Piece::End).await;
}

/// The page as it is sent, piece by piece.
pub(crate) fn pieces(
    contents: Arc<Contents>,
    own: Vec<OwnFamily>,
    wanted: Wanted,
) -> Box<dyn Iterator<Item = Bytes> + Send> {
    let printer = Printer::new(contents, own, wanted.selection, wanted.format);
    if wanted.gzip {
        let encoder = Some(GzEncoder::new(Vec::new(), Compression::fast()));
        Box::new(Compressed { printer, encoder })
    } else {
        Box::new(printer.map(Bytes::from))
    }
}

/// A page with gzip. It ends where writing fails, which it cannot: it is written to memory.
struct Compressed {
    printer: Printer,
    encoder: Option<GzEncoder<Vec<u8>>>,
}

impl Iterator for Compressed {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        loop {
            let encoder = self.encoder.as_mut()?;
            match self.printer.next() {
                Some(piece) => encoder.write_all(&piece).ok()?,
                None => return self.encoder.take()?.finish().ok().map(Bytes::from),
            }
            if !encoder.get_ref().is_empty() {
                return Some(Bytes::from(std::mem::take(encoder.get_mut())));
            }
        }
    }
}

/// What the sidecar itself knows.
pub(crate) fn own_families(shared: &Shared) -> Vec<OwnFamily> {
    let (away, rights) = (shared.away(), shared.rights());
    let about = About {
        away: &away,
        rights: &rights,
        commit: &shared.config.commit,
        build_ref: &shared.config.build_ref,
        llm_d: shared.config.llm_d,
        envoy_up: shared.envoy_up.load(Ordering::Relaxed),
        envoy_page_failures: shared.envoy_page_failures.load(Ordering::Relaxed),
        snapshots_sent: shared.snapshots_sent.load(Ordering::Relaxed),
        snapshots_unchanged: shared.snapshots_unchanged.load(Ordering::Relaxed),
    };
    #[cfg_attr(not(feature = "otlp"), expect(unused_mut, reason = "only pushes add to them"))]
    let mut families = families(&shared.fleet(), about);
    #[cfg(feature = "otlp")]
    if shared.config.otlp.is_some() {
        families.extend(shared.pushes.families());
    }
    families
}
