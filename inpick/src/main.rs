//! The operator's command: runs the sidecar, shows pools in a terminal, checks what it is given, and prints what goes into configurations.
//!
//! Results go to standard output; notes, warnings and errors to standard error, one a line. The exit code is 0 only when there is no
//! error, 2 for arguments that cannot be used, and of `run` 64 for flags that cannot.

mod bootstrap;
mod check;
mod configuration;
mod drain;
mod endpoint_file;
mod finding;
mod lora_syncer;
mod output;
mod page;
mod plugin;
mod source;
mod state;
mod table;
mod top;

use std::path::PathBuf;
use std::process::ExitCode;

use ::lora_syncer::SyncerFlags;
use clap::{CommandFactory, Parser, Subcommand};
use clap_complete::Shell;
use metrics_sidecar::flags::Flags;
use metrics_sidecar::process;

use crate::drain::DrainFlags;
use crate::endpoint_file::EndpointFileFlags;
use crate::output::{print, tell};
use crate::source::{Access, Source};
use crate::top::TopFlags;

/// So that a profile of the heap can be had.
#[global_allocator]
static ALLOCATOR: metrics_sidecar::profiling::Allocator = metrics_sidecar::profiling::Allocator;

/// The endpoint picker inside Envoy, for operators.
#[derive(Debug, Parser)]
#[command(name = "inpick", version, max_term_width = 100, after_help = EXAMPLES)]
struct Arguments {
    #[command(subcommand)]
    command: Subject,
}

const EXAMPLES: &str = "\
Examples:
  inpick run --pool default=envoy:pool-default     the sidecar beside an Envoy whose admin port is 9901
  inpick top                                       its endpoints, live; the same is at http://127.0.0.1:9090/
  inpick check envoy.yaml                          what is wrong with a bootstrap
  inpick check http://10.0.0.7:8000/metrics        what a pod's metrics page lacks
  inpick config convert epp.yaml > inpick.json     the endpoint picker's configuration as inpick's
  inpick completions bash > /etc/bash_completion.d/inpick

`inpick help COMMAND` says more of each.";

#[derive(Debug, Subcommand)]
enum Subject {
    /// Runs the metrics sidecar: reads pods, hands their load to Envoy, serves metrics and the live page
    Run(Box<Flags>),
    /// Shows endpoints, busiest or slowest first, live in the terminal
    ///
    /// Reads a sidecar's /api/state each second. Keys: arrows and page keys scroll, s sorts by the next column, r turns the order round, / filters,
    /// p pauses, q ends it.
    Top(TopFlags),
    /// Says what is wrong with a configuration, an Envoy bootstrap or a metrics page
    ///
    /// What it is given it tells by its content: a configuration of inpick's or the endpoint picker's (EndpointPickerConfig), an Envoy
    /// bootstrap with inpick's pieces, or a metrics page of a model server, of Envoy or of the sidecar; from files, from http:// or
    /// https:// URLs, or from standard input. Each finding is a line: where it is, the field or the line, and the reason. Warnings do not change the exit code
    /// unless --strict is given.
    Check {
        /// Files or URLs; `-` or nothing: standard input
        #[arg(value_name = "CONFIG|PAGE|URL")]
        sources: Vec<Source>,
        /// Warnings are errors
        #[arg(long)]
        strict: bool,
        #[command(flatten)]
        access: Access,
    },
    /// Prints the stats_tags that a bootstrap with the wasm filter needs, to stand below stats_config
    StatsTags,
    /// Converts and checks configurations of the plugin
    Config {
        #[command(subcommand)]
        action: Action,
    },
    /// Keeps the LoRA adapters of a vLLM server as a file says, and publishes lora_syncer_adapter_status
    ///
    /// File, flags and metric are those of the Gateway API Inference Extension's lora-syncer: below vLLMLoRAConfig the file has host and port of the server,
    /// and ensureExist and ensureNotExist with the adapters to load and to unload.
    LoraSyncer(SyncerFlags),
    /// Lets an Envoy that is to end finish its requests first
    ///
    /// Fails its health check, by which answers close their connections and load balancers go elsewhere, and returns when no request is left. It is
    /// for a pod's preStop hook, since Envoy breaks its requests off at SIGTERM.
    Drain(DrainFlags),
    /// Writes an empty list of endpoints, if there is none, for a cluster that reads its endpoints from a file: Envoy does not start without it
    EdsFile(EndpointFileFlags),
    /// Prints the completions of a shell
    Completions {
        /// Which shell
        shell: Shell,
    },
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Prints an EndpointPickerConfig, YAML or JSON, as inpick's JSON, which is YAML too and so fits into a bootstrap as it stands
    Convert {
        /// The file to read; `-` or nothing: standard input
        file: Option<PathBuf>,
    },
    /// Says what is wrong with a configuration of inpick or of the endpoint picker
    Check {
        /// The file to read; `-` or nothing: standard input
        file: Option<PathBuf>,
    },
}

fn main() -> ExitCode {
    match Arguments::parse().command {
        Subject::Run(flags) => process::run(&flags),
        Subject::Top(flags) => result(top::run(&flags).map_err(|error| vec![error])),
        Subject::Check { sources, strict, access } => check::run(&sources, strict, &access),
        Subject::LoraSyncer(flags) => lora_syncer::run(flags),
        Subject::Drain(flags) => result(drain::run(&flags).map_err(|error| vec![error])),
        Subject::EdsFile(flags) => result(endpoint_file::run(&flags).map_err(|error| vec![error])),
        Subject::StatsTags => result(print(&bootstrap::stats_tags())),
        Subject::Config { action: Action::Convert { file } } => result(configuration::convert(file.as_deref())),
        Subject::Config { action: Action::Check { file } } => result(configuration::check(file.as_deref())),
        Subject::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Arguments::command(), "inpick", &mut script);
            result(print(&String::from_utf8_lossy(&script)))
        }
    }
}

fn result(result: Result<(), Vec<String>>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(errors) => {
            for error in errors {
                tell(format_args!("error: {error}"));
            }
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_fit_together() {
        Arguments::command().debug_assert();
    }
}
