//! Bearer tokens for metrics pages, read again and again because they are rotated.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tracing::warn;

use crate::shared::{Shared, lock};
use crate::token_file::read_token;

/// How often token files are read: a kubelet replaces a token long before it expires.
const INTERVAL: Duration = Duration::from_secs(5);

/// Keeps the token of each pool as its file says. A file that cannot be read leaves the last token in use.
pub(crate) async fn watch_tokens(shared: Arc<Shared>) {
    let files: Vec<(usize, PathBuf)> = shared
        .config
        .pools
        .iter()
        .enumerate()
        .filter_map(|(pool, settings)| Some((pool, settings.page.token_file.clone()?)))
        .collect();
    let mut ticks = tokio::time::interval(INTERVAL);
    loop {
        ticks.tick().await;
        for (pool, file) in &files {
            let path = file.clone();
            let read = tokio::task::spawn_blocking(move || read_token(&path)).await;
            match read.unwrap_or_else(|error| Err(error.to_string())) {
                Ok(token) => {
                    if let Some(kept) = lock(&shared.tokens).get_mut(*pool) {
                        *kept = Some(token);
                    }
                }
                Err(problem) => {
                    warn!(file = %file.display(), problem, "a token cannot be read, the last one stays in use")
                }
            }
        }
    }
}
