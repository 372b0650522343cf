//! Every committed input through its target's check, without libFuzzer.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // A test stops at the first surprise.

use std::collections::BTreeSet;
use std::fs;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

use fuzz::TARGETS;

/// No committed input is larger, so that a checkout stays small.
const MAX_BYTES: u64 = 64 * 1024;

fn folder(kind: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(kind)
}

/// Files below a folder that may be missing.
fn files(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

fn replay(kind: &str, target: &str) -> usize {
    let (_, check) = TARGETS.iter().find(|(name, _)| *name == target).expect("a target");
    let files = files(&folder(kind).join(target));
    let failed: Vec<_> = files
        .iter()
        .filter(|file| {
            let data = fs::read(file).unwrap();
            assert!(data.len() as u64 <= MAX_BYTES, "{} is too large", file.display());
            catch_unwind(|| check(&data)).is_err()
        })
        .collect();
    assert!(failed.is_empty(), "{target} fails on {failed:#?}");
    files.len()
}

macro_rules! replays {
    ($($target:ident)*) => {
        $(
            #[test]
            fn $target() {
                assert!(replay("corpus", stringify!($target)) > 5, "the corpus is missing");
                replay("past_failures", stringify!($target));
            }
        )*

        #[test]
        fn every_target_is_replayed_and_has_its_binary() {
            let replayed = BTreeSet::from([$(stringify!($target)),*]);
            assert_eq!(replayed, TARGETS.iter().map(|(name, _)| *name).collect());
            let binaries = files(&folder("targets"));
            let names = binaries.iter().map(|file| file.file_stem().unwrap().to_str().unwrap());
            assert_eq!(replayed, names.collect());
            for kind in ["corpus", "past_failures"] {
                for target in files(&folder(kind)) {
                    assert!(replayed.contains(target.file_name().unwrap().to_str().unwrap()), "{}", target.display());
                }
            }
        }
    };
}

replays! {
    envoy_page
    exchange
    http_answer
    metrics_page
    multipart
    plugin_config
    request_scanner
    response_reader
    snapshot
    sse_reader
}
