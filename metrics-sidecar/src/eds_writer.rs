//! Writes pools for Envoy, each before the snapshot that names its endpoints.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tracing::{info, warn};

use crate::eds::EdsFile;
use crate::endpoint::DiscoveredPod;
use crate::polling::take_targets;
use crate::shared::Shared;

/// Pause before a write that failed is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// Writes an empty list where there is none yet, so that Envoy can start. A list of an earlier run stands, and is returned: Envoy has these
/// endpoints, and nobody has said yet that they are gone.
///
/// # Errors
///
/// The file cannot be written.
pub(crate) fn prepare(file: &EdsFile) -> io::Result<Vec<DiscoveredPod>> {
    if let Some(known) = fs::read(&file.path).ok().and_then(|content| file.endpoints(&content)) {
        return Ok(known);
    }
    replace(file, &file.content(&[]))?;
    Ok(Vec::new())
}

/// Hands a pool's new list on, by way of its file if it has one.
pub(crate) fn offer_targets(shared: &Arc<Shared>, pool: usize, targets: Vec<DiscoveredPod>) {
    match shared.eds_lists.get(pool) {
        Some(Some(list)) => {
            list.send_replace(Some(targets));
        }
        _ => take_targets(shared, pool, targets),
    }
}

/// Puts a new content in the place of the file's, in one step: Envoy, which watches the folder, sees the old one or the new one.
fn replace(file: &EdsFile, content: &[u8]) -> io::Result<()> {
    let name = file.path.file_name().unwrap_or_default().to_string_lossy();
    let draft: PathBuf = file.path.with_file_name(format!(".{name}.new"));
    if let Some(folder) = file.path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        fs::create_dir_all(folder)?;
    }
    let written = fs::write(&draft, content).and_then(|()| fs::rename(&draft, &file.path));
    if written.is_err() {
        // Half a draft would take the room that the next one needs.
        let _ = fs::remove_file(&draft);
    }
    written
}

/// Counts and tells that a pool cannot be written.
pub(crate) fn tell_failed_write(shared: &Shared, pool: usize, error: &io::Error) {
    shared.fleet_as_it_is().eds_written(pool, false);
    let settings = shared.config.pools.get(pool);
    let file = settings.and_then(|settings| settings.eds.as_ref()).map(|file| file.path.display().to_string());
    let pool = settings.map(|settings| settings.name.as_str());
    warn!(pool, file, problem = %error, "the endpoint file cannot be written, Envoy's list stands");
}

/// Writes a pool's lists as they come, and hands each on once it is written. While it cannot be, the endpoints are handed on that are in the
/// new list and in the file: Envoy does not know the others yet.
pub(crate) async fn write_lists(shared: Arc<Shared>, pool: usize, file: EdsFile) {
    let Some(Some(lists)) = shared.eds_lists.get(pool) else { return };
    let mut lists = lists.subscribe();
    // What was sent before counts.
    lists.mark_changed();
    let name = shared.config.pools.get(pool).map(|pool| pool.name.clone()).unwrap_or_default();
    let before = fs::read(&file.path).ok().and_then(|content| Some((file.endpoints(&content)?, content)));
    let mut written: Option<(Vec<u8>, HashSet<SocketAddr>)> =
        before.map(|(pods, content)| (content, pods.iter().map(|pod| pod.address).collect()));
    let mut problem: Option<String> = None;
    loop {
        let news = async {
            let is_open = lists.changed().await.is_ok();
            if !is_open {
                std::future::pending::<()>().await;
            }
        };
        if problem.is_some() {
            let _ = tokio::time::timeout(RETRY, news).await;
        } else {
            news.await;
        }
        let Some(list) = lists.borrow_and_update().clone() else { continue };
        let content = file.content(&list);
        if written.as_ref().is_none_or(|(known, _)| *known != content) {
            let (target, bytes) = (file.clone(), content.clone());
            let done = tokio::task::spawn_blocking(move || replace(&target, &bytes)).await;
            let done = done.unwrap_or_else(|error| Err(io::Error::other(error)));
            match done {
                Ok(()) => {
                    shared.fleet_as_it_is().eds_written(pool, true);
                    if problem.take().is_some() {
                        info!(pool = name, file = %file.path.display(), "the endpoint file is written again");
                    }
                    written = Some((content, list.iter().map(|pod| pod.address).collect()));
                }
                Err(error) => {
                    let text = error.to_string();
                    if problem.as_ref() == Some(&text) {
                        shared.fleet_as_it_is().eds_written(pool, false);
                    } else {
                        tell_failed_write(&shared, pool, &error);
                    }
                    problem = Some(text);
                    let known =
                        |pod: &DiscoveredPod| written.as_ref().is_some_and(|(_, known)| known.contains(&pod.address));
                    take_targets(&shared, pool, list.into_iter().filter(known).collect());
                    continue;
                }
            }
        } else {
            problem = None;
        }
        take_targets(&shared, pool, list);
    }
}
