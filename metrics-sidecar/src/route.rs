//! The table of what the sidecar serves: a path, who may call it, and what answers.

use std::sync::Arc;

use axum::handler::Handler;
use axum::routing::{MethodRouter, get};

use crate::envoy_page::EnvoyPages;
pub(crate) use crate::gate::Access;
use crate::live::stage::Stage;
use crate::profilers::Profilers;
use crate::shared::Shared;

/// What every handler may ask for.
#[derive(Clone)]
pub(crate) struct Served {
    pub(crate) shared: Arc<Shared>,
    pub(crate) pages: EnvoyPages,
    pub(crate) stage: Stage,
    pub(crate) profilers: Profilers,
}

/// One path.
pub(crate) struct Route {
    pub(crate) path: &'static str,
    pub(crate) access: Access,
    pub(crate) handler: MethodRouter<Served>,
}

impl Route {
    /// A path that is read with GET and HEAD.
    pub(crate) fn get<H, T>(access: Access, path: &'static str, handler: H) -> Self
    where
        H: Handler<T, Served>,
        T: 'static,
    {
        Self { path, access, handler: get(handler) }
    }
}
