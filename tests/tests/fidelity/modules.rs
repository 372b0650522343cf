//! The two modules under test, as files for Envoy and compiled for host-sim.

use std::path::PathBuf;
use std::sync::OnceLock;

use host_sim::CompiledModule;

use crate::guest;
use crate::scenario::Module;

/// The module's file.
pub(crate) fn file(module: Module) -> PathBuf {
    match module {
        Module::Filter(_) => local_stack::Artifact::Wasm.find().expect("`make wasm` builds the module"),
        Module::Guest => guest::path().to_owned(),
    }
}

/// The module for host-sim.
pub(crate) fn compiled(module: Module) -> &'static CompiledModule {
    static FILTER: OnceLock<CompiledModule> = OnceLock::new();
    static GUEST: OnceLock<CompiledModule> = OnceLock::new();
    let slot = match module {
        Module::Filter(_) => &FILTER,
        Module::Guest => &GUEST,
    };
    slot.get_or_init(|| CompiledModule::from_file(file(module)).unwrap())
}
