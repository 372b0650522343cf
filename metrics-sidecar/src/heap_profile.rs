//! Where the process's memory went, by the allocator's samples.

use std::sync::Arc;

use crate::profilers::{ProfileBytes, ProfileError};

/// What is allocated now.
pub(crate) async fn heap() -> ProfileBytes {
    let Some(control) = jemalloc_pprof::PROF_CTL.as_ref() else {
        let why = "The allocator does not sample: start the process with _RJEM_MALLOC_CONF=prof:true,lg_prof_sample:19";
        return Err(ProfileError::Absent(why.to_owned()));
    };
    let mut control = Arc::clone(control).lock_owned().await;
    let dumping = tokio::task::spawn_blocking(move || control.dump_pprof().map_err(|error| format!("{error:#}")));
    let failed = |error: String| ProfileError::Failed(format!("the heap cannot be profiled: {error}"));
    dumping.await.map_err(|error| failed(error.to_string()))?.map_err(failed)
}
