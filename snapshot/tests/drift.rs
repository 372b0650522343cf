//! The checked-in wire code is exactly what the schema generates. `UPDATE_GEN=1 cargo test -p snapshot` rewrites it.
#![allow(clippy::unwrap_used, reason = "a test file: a failure here is the test's failure")]

use std::path::Path;

#[test]
fn checked_in_code_matches_the_schema() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let descriptors = protox::compile(["snapshot.proto"], [root.join("proto")]).unwrap();
    let out = tempfile::tempdir().unwrap();
    prost_build::Config::new().out_dir(out.path()).compile_fds(descriptors).unwrap();
    let generated = std::fs::read_to_string(out.path().join("inpick.snapshot.v1.rs")).unwrap();
    let checked_in = root.join("src/gen/inpick.snapshot.v1.rs");
    if std::env::var_os("UPDATE_GEN").is_some() {
        std::fs::write(&checked_in, &generated).unwrap();
    }
    assert_eq!(std::fs::read_to_string(&checked_in).unwrap(), generated, "run with UPDATE_GEN=1 and commit the result");
}
