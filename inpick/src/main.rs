//! The operator's command.
//!
//!     inpick config convert [FILE]    prints the endpoint picker's configuration as inpick's
//!     inpick config check [FILE]      says what is wrong with either
//!
//! Without FILE, or with `-`, standard input is read. Notes and errors go to standard error, one a line; the exit code is 0 only
//! when there is no error.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use endpoint_picker_config::{Conversion, convert, is_endpoint_picker_config, parse, read};
use serde_json::Value;

/// Converts and checks configurations of inpick.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    subject: Subject,
}

#[derive(Debug, Subcommand)]
enum Subject {
    /// Configurations of the plugin.
    Config {
        #[command(subcommand)]
        action: Action,
    },
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Prints an EndpointPickerConfig, YAML or JSON, as inpick's JSON, which is YAML too and so fits into a bootstrap as it stands.
    Convert {
        /// The file to read; `-` or nothing: standard input.
        file: Option<PathBuf>,
    },
    /// Says what is wrong with a configuration of inpick or of the endpoint picker.
    Check {
        /// The file to read; `-` or nothing: standard input.
        file: Option<PathBuf>,
    },
}

fn main() -> ExitCode {
    let Arguments { subject: Subject::Config { action } } = Arguments::parse();
    let result = match &action {
        Action::Convert { file } => bytes(file.as_deref()).and_then(|bytes| converted(&bytes)),
        Action::Check { file } => bytes(file.as_deref()).and_then(|bytes| checked(&bytes)),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(errors) => {
            for error in errors {
                eprintln!("error: {error}");
            }
            ExitCode::FAILURE
        }
    }
}

fn bytes(file: Option<&Path>) -> Result<Vec<u8>, Vec<String>> {
    let mut bytes = Vec::new();
    match file.filter(|file| *file != Path::new("-")) {
        None => std::io::stdin()
            .read_to_end(&mut bytes)
            .map(|_| bytes)
            .map_err(|error| vec![format!("standard input: {error}")]),
        Some(file) => std::fs::read(file).map_err(|error| vec![format!("{}: {error}", file.display())]),
    }
}

fn converted(bytes: &[u8]) -> Result<(), Vec<String>> {
    let document = read(bytes).map_err(|error| error.0)?;
    if !is_endpoint_picker_config(&document) {
        return Err(vec!["kind: missing: this is no EndpointPickerConfig".to_owned()]);
    }
    let Conversion { document, notes } = convert(document).map_err(|error| error.0)?;
    tell(&notes);
    println!("{:#}", Value::Object(document));
    Ok(())
}

fn checked(bytes: &[u8]) -> Result<(), Vec<String>> {
    let reading = parse(bytes).map_err(|error| error.0)?;
    tell(&reading.notes);
    println!("the configuration is valid");
    Ok(())
}

fn tell(notes: &[String]) {
    for note in notes {
        eprintln!("note: {note}");
    }
}
