//! The files in `envoy/`.

use std::path::PathBuf;
use std::process::Command;

use local_stack::{Artifact, repository};

#[test]
fn stats_tags_of_every_bootstrap_are_those_of_the_catalogue() {
    let files: Vec<PathBuf> = std::fs::read_dir(repository().join("envoy"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .collect();
    assert!(!files.is_empty());
    let program = Artifact::Binary("stats-tags".to_owned()).find().unwrap();
    let checked = Command::new(program).arg("--check").args(&files).output().unwrap();
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
}
