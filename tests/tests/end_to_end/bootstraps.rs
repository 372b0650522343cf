//! The files in `envoy/`.

use std::path::PathBuf;
use std::process::Command;

use local_stack::{Artifact, repository};

#[test]
fn stats_tags_of_every_bootstrap_that_has_them_are_those_of_the_catalogue() {
    // Natively, labels are labels.
    let files: Vec<PathBuf> = std::fs::read_dir(repository().join("envoy"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .filter(|path| std::fs::read_to_string(path).unwrap().contains("stats_tags: begin"))
        .collect();
    assert_eq!(files.len(), 3, "{files:?}");
    let program = Artifact::Binary("stats-tags".to_owned()).find().unwrap();
    let checked = Command::new(program).arg("--check").args(&files).output().unwrap();
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
}
