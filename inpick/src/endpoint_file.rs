//! `inpick eds-file`: an empty list of endpoints for an Envoy that runs the sidecar itself. Envoy does not start without the file that a
//! cluster's endpoints are read from, and the sidecar in it writes that file only then.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use clap::Args;

/// What `eds-file` is told.
#[derive(Clone, Debug, Args)]
pub(crate) struct EndpointFileFlags {
    /// The Envoy cluster, as its `service_name` or its name says
    #[arg(long, value_name = "NAME")]
    cluster: String,
    /// The file. One that is there is left as it is
    file: PathBuf,
}

/// Writes an empty list if there is no file yet.
///
/// # Errors
///
/// Why it cannot be written.
pub(crate) fn run(flags: &EndpointFileFlags) -> Result<(), String> {
    let assignment = serde_json::json!({
        "@type": "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
        "cluster_name": flags.cluster,
    });
    let list = serde_json::json!({ "version_info": "empty", "resources": [assignment] });
    write_new(&flags.file, list.to_string().as_bytes()).map_err(|error| format!("{}: {error}", flags.file.display()))
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
        let list: serde_json::Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        assert_eq!(list.pointer("/resources/0/cluster_name").unwrap(), "pool-default");
        assert!(list.pointer("/resources/0/endpoints").is_none());
        std::fs::write(&file, "of the sidecar").unwrap();
        run(&flags).unwrap();
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "of the sidecar");
        let away = EndpointFileFlags { file: folder.path().join("away/pool.json"), ..flags };
        assert!(run(&away).is_err());
    }
}
