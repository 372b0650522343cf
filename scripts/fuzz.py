#!/usr/bin/env python3
"""Builds the fuzz targets once and runs them, each for a bounded time, from the committed inputs.

    scripts/fuzz.py [--seconds N] [--seed N] [--merge | --minimise | --pack] [TARGET...]

With no TARGET it runs all of them, one a core, from the committed inputs, which it unpacks from fuzz/corpus/TARGET.tar.gz into
target/fuzz, and with the same seed each time, so that the verdict on a commit is a matter of the commit. With a TARGET the seed is a new
one. What a run of one TARGET finds new is kept in .tools/fuzz/TARGET/found, and the next such run goes on from there.

These run nothing and write the archives:
--merge     adds what a run of TARGET has found, if it is small and reaches code that no committed input reaches.
--minimise  leaves out found inputs that reach nothing that the others do not reach. Inputs with a name stay.
--pack      takes in the files of the folder fuzz/corpus/TARGET/, where new inputs are put by hand.

An input that fails is copied to fuzz/past_failures/TARGET, so that `cargo test -p fuzz` fails too until the fault is mended.
Exit code 0: nothing failed. 1: something did.
"""

import argparse
import concurrent.futures
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import fuzz_corpus
import setup

ROOT = setup.ROOT
FUZZ = ROOT / "fuzz"
CORPUS = FUZZ / "corpus"
SCRATCH = setup.TOOLS / "fuzz"
LOGS = setup.TOOLS / "logs"
# On two cores all targets take about a minute, beside a build of about a minute and a half.
SECONDS = 12
# Of runs of all targets.
SEED = 1
# Beyond these seconds for one input, or this memory, something is wrong: inputs are a few KB.
INPUT_SECONDS = 10
MEMORY_MB = 1024
# The longest input that is tried: what a target can make use of, since shorter inputs run faster.
LENGTHS = {"exchange": 801, "http_answer": 2048, "plugin_config": 2048, "snapshot": 2048}
LENGTH = 4096
BUILD_SECONDS = 3600
# What libFuzzer learns from: which branches were taken, what was compared, how deep the stack was (LLVM's SanitizerCoverage). `cargo fuzz build`
# sets the same, and would be a tool to build first. No sanitizer: they need a nightly compiler and look for faults of memory, which code without
# `unsafe` cannot have. What such code can have, overflows and failed checks, panics, since debug assertions are on.
FLAGS = (
    "-Cpasses=sancov-module", "-Cllvm-args=-sanitizer-coverage-level=4", "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table", "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Cllvm-args=-sanitizer-coverage-stack-depth", "-Cllvm-args=-simplifycfg-branch-fold-threshold=0", "-Cdebug-assertions",
    "-Ccodegen-units=1", "--cfg", "fuzzing",
)
# Larger inputs stay out of the corpora: nearly all code is reached by smaller ones.
KEPT_BYTES = 300
# Lines shown of a run that failed.
TAIL = 60


def targets():
    return sorted(file.stem for file in (FUZZ / "targets").glob("*.rs"))


def build():
    """Builds every target; returns the folder of the binaries."""
    host = re.search(r"^host: (\S+)", setup.query("rustc", "-vV", cwd=ROOT) or "", re.MULTILINE).group(1)
    environment = setup.environment() | {"RUSTFLAGS": " ".join(FLAGS)}
    # With a target of its own, build scripts are not instrumented.
    command = ["cargo", "build", "--profile", "fuzz", "--package", "fuzz", "--features", "libfuzzer", "--bins", "--target", host]
    done = subprocess.run(command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, timeout=BUILD_SECONDS)
    if done.returncode != 0:
        sys.exit("the fuzz targets do not build")
    return Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve() / host / "fuzz"


def seeds(target):
    """Unpacks the committed inputs of a target; returns the folder."""
    folder = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve() / "fuzz" / target
    fuzz_corpus.unpack(CORPUS, target, folder)
    return folder


def options(target, seed):
    dictionary = FUZZ / "dictionaries" / f"{target}.txt"
    # libFuzzer takes 0 for one of its own choice.
    return [f"-seed={seed}", f"-max_len={LENGTHS.get(target, LENGTH)}", f"-timeout={INPUT_SECONDS}", f"-rss_limit_mb={MEMORY_MB}",
            *([f"-dict={dictionary}"] if dictionary.exists() else [])]


def follow(command, log, seconds, live):
    """Runs a command to its end and returns its exit code, None if it had to be ended."""
    with open(log, "w") as out, subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE if live else out, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            for line in process.stdout or ():
                out.write(line)
                print(line, end="", flush=True)
            return process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            return None
        finally:
            if process.poll() is None:
                process.kill()


def say(text):
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def figures(log):
    """(executions, a second, coverage, features) that libFuzzer reports at its end."""
    def last(pattern):
        found = re.findall(pattern, log, re.MULTILINE)
        return int(found[-1]) if found else 0

    return (last(r"^stat::number_of_executed_units: (\d+)"), last(r"^stat::average_exec_per_sec: +(\d+)"),
            last(r"^#\d+.* cov: (\d+)"), last(r"^#\d+.* ft: (\d+)"))


def run(target, binary, seconds, seed, found, live):
    """Fuzzes a target; returns whether nothing failed."""
    log, artifacts = LOGS / f"fuzz-{target}.log", SCRATCH / target
    artifacts.mkdir(parents=True, exist_ok=True)
    for old in artifacts.glob("*-*"):
        old.unlink()
    past = FUZZ / "past_failures" / target
    folders = [str(folder) for folder in (found, seeds(target), past) if folder.is_dir()]
    command = [str(binary), *folders, *options(target, seed), f"-max_total_time={seconds}", f"-artifact_prefix={artifacts}/", "-print_final_stats=1"]
    # Reading the corpus is not part of the time, and a last input may take its own.
    code = follow(command, log, seconds + 60 + 2 * INPUT_SECONDS, live)
    output = log.read_text(errors="replace")
    executed, speed, coverage, features = figures(output)
    verdict = "ok" if code == 0 else "FAILED"
    # In one piece, since others run beside.
    say(f"{target:16} {executed:>10} runs {speed:>7}/s  {coverage:>5} edges {features:>6} features  {verdict}")
    if code == 0:
        return True
    if not live:
        lines = output.splitlines()
        # The reason, which a long backtrace may follow; without one, the end.
        panic = next((place for place, line in enumerate(lines) if "panicked at" in line), max(0, len(lines) - TAIL))
        say("\n".join(lines[panic:panic + TAIL]))
    for artifact in sorted(artifacts.glob("*-*")):
        past.mkdir(parents=True, exist_ok=True)
        kept = past / artifact.name
        shutil.copy(artifact, kept)
        say(f"\nthe input is {kept}: see it fail with\n    cargo test -p fuzz --test replay {target}\n    {binary} {kept}")
    return False


def add(target, binary, kept, offered, *how):
    """Adds to the folder `kept` what of the folder `offered` reaches more than it does."""
    log = LOGS / f"fuzz-{target}.log"
    command = [str(binary), "-set_cover_merge=1", *how, "-max_len=65536", str(kept), str(offered)]
    if follow(command, log, BUILD_SECONDS, live=False) != 0:
        sys.exit("\n".join(log.read_text(errors="replace").splitlines()[-TAIL:]))


def merge(target, binary):
    """Adds to the committed inputs what they lack of the inputs found."""
    found, corpus = SCRATCH / target / "found", seeds(target)
    if not found.is_dir():
        sys.exit(f"nothing was found for {target} yet: run `scripts/fuzz.py {target}` first")
    before = len(list(corpus.iterdir()))
    with tempfile.TemporaryDirectory(prefix="inpick-fuzz-") as small:
        for file in found.iterdir():
            if file.stat().st_size <= KEPT_BYTES:
                shutil.copy(file, small)
        # Code alone counts: how often it runs would keep thousands of inputs.
        add(target, binary, corpus, small, "-use_counters=0")
    keep(target, corpus)
    say(f"{target:16} {len(list(corpus.iterdir())) - before} inputs added to {before}")


def minimise(target, binary):
    """Keeps the named inputs, and of the others those that reach more, how often counted too."""
    corpus = seeds(target)
    before = len(list(corpus.iterdir()))
    with tempfile.TemporaryDirectory(prefix="inpick-fuzz-") as kept:
        for file in corpus.iterdir():
            if not fuzz_corpus.FOUND.fullmatch(file.name):
                shutil.move(file, kept)
        add(target, binary, kept, corpus)
        left = keep(target, kept)
    say(f"{target:16} {left} inputs kept of {before}")


def keep(target, folder):
    """Makes the files of a folder the committed inputs of a target; returns how many there are."""
    inputs = fuzz_corpus.read_folder(folder)
    fuzz_corpus.write(fuzz_corpus.archive(CORPUS, target), inputs)
    shutil.rmtree(CORPUS / target, ignore_errors=True)
    return len(inputs)


def main(arguments):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=SECONDS, help="for each target; default %(default)s")
    parser.add_argument("--seed", type=int, help=f"0 for a new one; default {SEED}, and 0 where a TARGET is named")
    work = parser.add_mutually_exclusive_group()
    work.add_argument("--merge", action="store_true", help="add what was found to the committed inputs")
    work.add_argument("--minimise", action="store_true", help="leave out committed inputs that reach nothing more")
    work.add_argument("--pack", action="store_true", help="take loose files of fuzz/corpus/TARGET/ into the archive")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(targets()))
    given = parser.parse_args(arguments)
    seed = given.seed if given.seed is not None else 0 if given.targets else SEED
    unknown = set(given.targets) - set(targets())
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are: {', '.join(targets())}")
    chosen = given.targets or targets()
    if given.pack:
        for target in chosen:
            say(f"{target:16} {fuzz_corpus.pack(CORPUS, target)} inputs")
        return 0
    try:
        setup.ensure("cpp-compiler")
    except setup.Missing as missing:
        sys.exit(f"fuzzing cannot be had here: {missing}")
    binaries = build()
    LOGS.mkdir(parents=True, exist_ok=True)
    if given.merge or given.minimise:
        for target in chosen:
            (merge if given.merge else minimise)(target, binaries / target)
        return 0
    with tempfile.TemporaryDirectory(prefix="inpick-fuzz-") as scratch:
        def fuzz(target):
            kept = SCRATCH / target if given.targets else Path(scratch) / target
            found = kept / "found"
            found.mkdir(parents=True, exist_ok=True)
            return run(target, binaries / target, given.seconds, seed, found, len(chosen) == 1)

        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            return int(not all(list(pool.map(fuzz, chosen))))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
