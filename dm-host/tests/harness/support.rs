//! A host of the guest.

use dm_host::{Hooks, HttpMessage, ModuleHost, NativeStream};

/// A host with the guest's HTTP filter.
pub(crate) fn host() -> ModuleHost {
    ModuleHost::builder(Hooks::linked()).filter("plain").workers(2).build().expect("the guest starts")
}

/// A request that asks the guest for something.
pub(crate) fn asking(wish: &str) -> HttpMessage {
    HttpMessage::post("/").header("x-do", wish)
}

/// What the guest noted about a stream.
pub(crate) fn noted(stream: &NativeStream, key: &str) -> Option<String> {
    stream.metadata("guest", key)
}
