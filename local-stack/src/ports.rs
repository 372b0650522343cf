//! The ports of a stack.

/// Where the README says the gateway is.
const GATEWAY: u16 = 10_000;
/// Envoy's admin port in its own examples.
const ADMIN: u16 = 9901;
/// Where scrape configs for an endpoint picker look.
const SIDECAR: u16 = 9090;
/// Behind vLLM's own 8000, which may be in use.
const FIRST_POD: u16 = 8001;

/// Which ports a stack takes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Ports {
    /// Free ones, so that stacks do not meet.
    Ephemeral,
    /// These.
    Fixed {
        /// For clients.
        gateway: u16,
        /// Envoy's admin page.
        admin: u16,
        /// The sidecar's pages.
        sidecar: u16,
        /// The first simulated pod; the others follow.
        first_pod: u16,
    },
}

impl Ports {
    /// Those of the README: gateway 10000, admin 9901, sidecar 9090, pods from 8001.
    pub const DOCUMENTED: Self = Self::Fixed { gateway: GATEWAY, admin: ADMIN, sidecar: SIDECAR, first_pod: FIRST_POD };
}
