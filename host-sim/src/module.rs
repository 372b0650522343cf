//! A compiled module, cheap to clone and to share between hosts.

use std::path::Path;

use wasmtime::{Config, Engine, ExternType, Linker, Module};

use crate::error::Error;
use crate::state::State;
use crate::{abi, wasi};

/// The markers of the ABI versions this host speaks.
const ABI_MARKERS: [&str; 2] = ["proxy_abi_version_0_2_1", "proxy_abi_version_0_2_0"];

/// A module that is compiled and whose imports are all known to this host.
#[derive(Clone)]
pub struct CompiledModule {
    engine: Engine,
    module: Module,
    linker: Linker<State>,
}

impl std::fmt::Debug for CompiledModule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CompiledModule").field("imports", &self.imports()).finish()
    }
}

impl CompiledModule {
    /// Reads and compiles a file.
    ///
    /// # Errors
    /// [`Error::ReadModule`], and what [`CompiledModule::from_bytes`] returns.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        let bytes = std::fs::read(path).map_err(|source| Error::ReadModule { path: path.to_owned(), source })?;
        Self::from_bytes(&bytes)
    }

    /// Compiles a binary module (text too, when wasmtime's `wat` feature is on).
    ///
    /// # Errors
    /// [`Error::Compile`], [`Error::UnknownAbi`], or [`Error::UnknownImports`] with every import that this
    /// host does not provide.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Error> {
        let mut config = Config::new();
        config.consume_fuel(true);
        let engine = Engine::new(&config).map_err(|error| Error::Compile(format!("{error:#}")))?;
        let module = Module::new(&engine, bytes).map_err(|error| Error::Compile(format!("{error:#}")))?;
        if !ABI_MARKERS.iter().any(|marker| module.get_export(marker).is_some()) {
            return Err(Error::UnknownAbi);
        }
        let mut linker = Linker::new(&engine);
        abi::link(&mut linker)
            .and_then(|()| wasi::link(&mut linker))
            .map_err(|error| Error::Compile(format!("{error:#}")))?;
        let compiled = Self { engine, module, linker };
        compiled.check_imports()?;
        Ok(compiled)
    }

    /// `module.name` of every import, in order.
    #[must_use]
    pub fn imports(&self) -> Vec<String> {
        self.module.imports().map(|import| format!("{}.{}", import.module(), import.name())).collect()
    }

    /// Names of every export, in order.
    #[must_use]
    pub fn exports(&self) -> Vec<String> {
        self.module.exports().map(|export| export.name().to_owned()).collect()
    }

    pub(crate) const fn engine(&self) -> &Engine {
        &self.engine
    }

    pub(crate) const fn module(&self) -> &Module {
        &self.module
    }

    pub(crate) const fn linker(&self) -> &Linker<State> {
        &self.linker
    }

    fn check_imports(&self) -> Result<(), Error> {
        let mut store = wasmtime::Store::new(&self.engine, State::new(crate::settings::Settings::default()));
        let mut unknown = Vec::new();
        for import in self.module.imports() {
            let name = format!("{}.{}", import.module(), import.name());
            let provided = self.linker.get(&mut store, import.module(), import.name());
            match (import.ty(), provided) {
                (ExternType::Func(wanted), Ok(wasmtime::Extern::Func(provided))) => {
                    let provided = provided.ty(&store);
                    if !provided.matches(&wanted) {
                        unknown.push(format!("{name} with type {wanted} (it is {provided})"));
                    }
                }
                (ExternType::Func(wanted), _) => unknown.push(format!("{name} with type {wanted}")),
                (_, _) => unknown.push(format!("{name}, which is no function")),
            }
        }
        if unknown.is_empty() { Ok(()) } else { Err(Error::UnknownImports { imports: unknown }) }
    }
}
