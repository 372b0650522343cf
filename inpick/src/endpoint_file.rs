//! `inpick eds-file`: an empty list of endpoints for an Envoy that runs the sidecar itself. Envoy does not start without the file that a
//! cluster's endpoints are read from, and the sidecar in it writes that file only then.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use clap::Args;
use metrics_sidecar::eds::EdsFile;

/// What `eds-file` is told.
#[derive(Clone, Debug, Args)]
pub(crate) struct EndpointFileFlags {
    /// The Envoy cluster, as its `service_name` or its name says
    #[arg(long, value_name = "NAME")]
    cluster: String,
    /// The file. One that is there is left as it is
    file: PathBuf,
}

/// Writes an empty list if there is no file yet, as the sidecar writes one.
///
/// # Errors
///
/// Why it cannot be written, or why Envoy would not read it.
pub(crate) fn run(flags: &EndpointFileFlags) -> Result<(), String> {
    let wrong = |why: &dyn std::fmt::Display| format!("{}: {why}", flags.file.display());
    if let Some(objection) = EdsFile::objection(&flags.file) {
        return Err(wrong(&objection));
    }
    let file = EdsFile { path: flags.file.clone(), cluster: flags.cluster.clone() };
    write_new(&file.path, &file.content(&[])).map_err(|error| wrong(&error))
}

fn write_new(file: &Path, bytes: &[u8]) -> std::io::Result<()> {
    match std::fs::OpenOptions::new().write(true).create_new(true).open(file) {
        Ok(mut file) => std::io::Write::write_all(&mut file, bytes),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test file: a failure here is the test's failure")]
mod tests {
    use super::*;

    #[test]
    fn an_empty_list_is_written_once_and_a_list_that_is_there_stays() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("pool.json");
        let flags = EndpointFileFlags { cluster: "pool-default".to_owned(), file: file.clone() };
        run(&flags).unwrap();
        let list = EdsFile { path: file.clone(), cluster: flags.cluster.clone() };
        let written = std::fs::read(&file).unwrap();
        assert_eq!(written, list.content(&[]));
        assert_eq!(list.endpoints(&written), Some(Vec::new()), "the sidecar must know it for a list of its own");
        std::fs::write(&file, "of the sidecar").unwrap();
        run(&flags).unwrap();
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "of the sidecar");
        for unfit in ["away/pool.json", "pool.pb"] {
            let unfit = EndpointFileFlags { cluster: flags.cluster.clone(), file: folder.path().join(unfit) };
            let error = run(&unfit).unwrap_err();
            assert!(error.starts_with(unfit.file.to_str().unwrap()) && !unfit.file.exists(), "{error}");
        }
    }
}
