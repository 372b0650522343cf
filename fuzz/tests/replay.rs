//! Every committed input through its target's check, without libFuzzer.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // A test stops at the first surprise.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Read as _;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;
use fuzz::TARGETS;

/// No committed input is larger, so that a checkout stays small.
const MAX_BYTES: usize = 64 * 1024;

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

/// An input: its name and its bytes.
type Input = (String, Vec<u8>);

/// The inputs of a target's archive.
fn corpus(target: &str) -> Vec<Input> {
    let file = File::open(folder("corpus").join(format!("{target}.tar.gz"))).expect("the target's archive");
    let mut archive = tar::Archive::new(GzDecoder::new(file));
    let entries = archive.entries().unwrap().map(|entry| {
        let mut entry = entry.unwrap();
        let mut data = Vec::new();
        entry.read_to_end(&mut data).unwrap();
        (entry.path().unwrap().display().to_string(), data)
    });
    entries.collect()
}

/// The inputs on which a target once failed.
fn past_failures(target: &str) -> Vec<Input> {
    let files = files(&folder("past_failures").join(target)).into_iter();
    files.map(|file| (file.display().to_string(), fs::read(&file).unwrap())).collect()
}

fn replay(target: &str, inputs: &[Input]) {
    let (_, check) = TARGETS.iter().find(|(name, _)| *name == target).expect("a target");
    let failed: Vec<_> = inputs
        .iter()
        .filter(|(name, data)| {
            assert!(data.len() <= MAX_BYTES, "{name} is too large");
            catch_unwind(|| check(data)).is_err()
        })
        .map(|(name, _)| name)
        .collect();
    assert!(failed.is_empty(), "{target} fails on {failed:#?}");
}

macro_rules! replays {
    ($($target:ident)*) => {
        $(
            #[test]
            fn $target() {
                let target = stringify!($target);
                let corpus = corpus(target);
                assert!(corpus.len() > 5, "the corpus is missing");
                replay(target, &corpus);
                replay(target, &past_failures(target));
            }
        )*

        #[test]
        fn every_target_is_replayed_and_has_its_binary() {
            let replayed = BTreeSet::from([$(stringify!($target)),*]);
            assert_eq!(replayed, TARGETS.iter().map(|(name, _)| *name).collect());
            let binaries = files(&folder("targets"));
            let names = binaries.iter().map(|file| file.file_stem().unwrap().to_str().unwrap());
            assert_eq!(replayed, names.collect());
            for target in files(&folder("past_failures")) {
                assert!(replayed.contains(target.file_name().unwrap().to_str().unwrap()), "{}", target.display());
            }
            for archive in files(&folder("corpus")) {
                let name = archive.file_name().unwrap().to_str().unwrap();
                let target = name.strip_suffix(".tar.gz").unwrap_or_else(|| panic!("{name}: run `scripts/fuzz.py --pack`"));
                assert!(replayed.contains(target), "{}", archive.display());
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
