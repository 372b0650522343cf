//! inpick's binding to Envoy: a proxy-wasm module with two kinds of plugin.
//!
//! The HTTP filter ([`plugin`], [`stream`]) turns callbacks into calls of the endpoint picker's core and its directives into
//! host calls, and so does the singleton snapshot service of a bootstrap, which is a [`plugin`] too. Neither decides anything;
//! [`envoy`] gives the core's machines what they ask for between requests, [`host`] is the only file that talks to Envoy.

mod envoy;
#[cfg(feature = "fault-injection")]
mod fault;
mod host;
mod log_sink;
mod picker;
mod plugin;
mod stream;

#[allow(missing_docs, reason = "the entry point is written by the SDK's macro")]
mod entry {
    use crate::{log_sink, plugin};

    proxy_wasm::main! {{
        log_sink::install();
        proxy_wasm::set_root_context(|_| Box::new(plugin::Root::default()));
    }}
}
