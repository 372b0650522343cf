//! Why there is no host, or why it ended badly.

/// What a module did that Envoy would not bear.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// `on_program_init` said this.
    #[error("the module was built for {0:?}")]
    Version(Option<String>),
    /// The HTTP filter's `config_new` gave nothing; the module's log says why.
    #[error("the HTTP filter was refused: {0}")]
    FilterRefused(String),
    /// The bootstrap extension's `config_new` gave nothing; the module's log says why.
    #[error("the bootstrap extension was refused: {0}")]
    BootstrapRefused(String),
    /// Envoy would never serve.
    #[error("the module never completed its initialization")]
    NeverInitialized,
    /// It is to be completed once.
    #[error("the module completed its initialization {0} times")]
    InitializedAgain(u32),
    /// It is to be completed once.
    #[error("the module completed its shutdown {0} times")]
    Shutdown(u32),
    /// What the module did that it must not do.
    #[error("the module has broken rules: {0:?}")]
    Violations(Vec<String>),
    /// A thread could not be started.
    #[error("no thread: {0}")]
    Thread(#[from] std::io::Error),
}
