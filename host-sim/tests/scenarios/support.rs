//! Hosts of the guest that does what a script says.

use std::sync::OnceLock;

use host_sim::{CompiledModule, Host, HostBuilder, LogLine, Request};

static GUEST: OnceLock<CompiledModule> = OnceLock::new();

/// The compiled guest.
pub(crate) fn guest() -> &'static CompiledModule {
    GUEST.get_or_init(|| CompiledModule::from_file(crate::guest::path()).unwrap())
}

/// A host of the script guest in which a pause in headers lets body callbacks come.
pub(crate) fn scripted() -> HostBuilder {
    Host::builder().compiled(guest()).allow_on_headers_stop_iteration(true)
}

/// A POST with this script.
pub(crate) fn script(script: &str) -> Request {
    Request::post("/v1/completions").header("x-script", script)
}

/// The texts of log lines that begin with this word, without the word.
pub(crate) fn said(logs: &[LogLine], word: &str) -> Vec<String> {
    logs.iter().filter_map(|line| line.text.strip_prefix(word)?.strip_prefix(' ')).map(ToOwned::to_owned).collect()
}

/// What this host's guests said with this word.
pub(crate) fn heard(host: &Host, word: &str) -> Vec<String> {
    said(&host.logs(), word)
}
