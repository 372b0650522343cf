//! inpick's binding to Envoy: a proxy-wasm module with two kinds of plugin.
//!
//! The HTTP filter ([`plugin`], [`stream`]) turns callbacks into calls of the endpoint picker's core and its directives into
//! host calls. The singleton service ([`service`]) fetches the sidecar's snapshots for all workers. Neither decides anything;
//! [`host`] is the only file that talks to Envoy.

mod host;
mod log_sink;
mod plugin;
mod service;
mod sink;
mod stream;

#[allow(missing_docs, reason = "the entry point is written by the SDK's macro")]
mod entry {
    use crate::{log_sink, plugin};

    proxy_wasm::main! {{
        log_sink::install();
        proxy_wasm::set_root_context(|_| Box::new(plugin::Root::default()));
    }}
}
