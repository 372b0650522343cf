#!/usr/bin/env python3
"""Puts together what a deployment needs and nothing else: dist/inpick-VERSION-x86_64-linux.tar.gz and the folder that is in it.

    scripts/dist.py [--built BINARY WASM NATIVE] [--output DIR]
    scripts/dist.py --verify [--quick]

Without --built the three are built from this checkout, with paths of this machine left out of them. The same commit and compiler give the same bytes:
times are the commit's (or SOURCE_DATE_EPOCH), files are sorted and nobody's. Needs the tools helm, deploy-env and wasm-target of scripts/setup.py.

--verify does all of it twice, in two clean clones of the last commit under other names, and fails unless the same bytes come of it. --quick leaves out the
optimiser of the native programs, which takes most of the time, and still finds paths and times that got into them.
"""

import argparse
import gzip
import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import bill_of_materials
import setup
from native_symbols import GLIBC, Elf, glibc

ROOT = setup.ROOT
TARGET = "x86_64-unknown-linux-gnu"
WASM_TARGET = "wasm32-wasip1"
# What is linked into what is shipped: these packages for these targets, and what they depend on there.
SHIPPED = {TARGET: ("inpick", "dynamic-module"), WASM_TARGET: ("filter",)}
BUILD_SECONDS = 3600
SECONDS = 120
# A build of native programs that are not for use: the same sources, paths and times in them.
QUICK = ("profile.native.lto=false", "profile.native.opt-level=0", "profile.native.codegen-units=16", 'profile.native.package."*".opt-level=0')
# The clones of --verify, and whether what is compiled lies outside of them.
CLONES = {"one": False, "another/of-a-longer-name": True}
# (where it is in the checkout, where it is in the folder); of a folder, what git knows.
FILES = (
    ("LICENSE", "LICENSE"),
    ("deploy/README.md", "README.md"),
    ("deploy/docs", "docs"),
    ("envoy", "envoy"),
    ("metrics-sidecar/README.md", "metrics-sidecar/README.md"),
    ("deny.toml", "deny.toml"),
    ("observability/README.md", "observability/README.md"),
    ("observability/runbook.md", "observability/runbook.md"),
    ("observability/rules.yml", "observability/rules.yml"),
    ("observability/prometheus.yml", "observability/prometheus.yml"),
    ("observability/prometheus-tls.yml", "observability/prometheus-tls.yml"),
    ("observability/prometheus-kubernetes.yml", "observability/prometheus-kubernetes.yml"),
    ("observability/helm", "observability/helm"),
    ("observability/dashboards", "observability/dashboards"),
    ("deploy/kustomize", "kustomize"),
    ("deploy/envoy-gateway", "envoy-gateway"),
    ("deploy/istio", "istio"),
    ("deploy/sidecar.Containerfile", "sidecar.Containerfile"),
    ("deploy/gateway.Containerfile", "gateway.Containerfile"),
)


class Broken(Exception):
    """What was built cannot be shipped."""


def output(*command, **options):
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=SECONDS, cwd=ROOT, **options).stdout.strip()


def version():
    """The one version, of the workspace in Cargo.toml."""
    with open(ROOT / "Cargo.toml") as file:
        inside = False
        for line in file:
            inside = line.strip() == "[workspace.package]" or (inside and not line.startswith("["))
            if inside and line.startswith("version = "):
                return line.split('"')[1]
    raise Broken("Cargo.toml has no version of the workspace")


def epoch():
    """Seconds of the commit, or of whoever says otherwise."""
    return int(os.environ.get("SOURCE_DATE_EPOCH") or output("git", "log", "-1", "--format=%ct"))


def build(quick=False):
    """Binary, wasm module and native module, built in a folder of their own: other flags would build everything anew in target/."""
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve() / "dist"
    home = Path(os.environ.get("CARGO_HOME", Path.home() / ".cargo")).resolve()
    remapped = [f"--remap-path-prefix={ROOT}=/inpick", f"--remap-path-prefix={home}=/cargo",
                f"--remap-path-prefix={output('rustc', '--print', 'sysroot')}=/rust",
                # Of several that fit the last one counts. What build scripts write may lie outside of the checkout.
                f"--remap-path-prefix={target}=/inpick/target/dist"]
    flags = ",".join(f'"{flag}"' for flag in remapped)
    environment = {**setup.environment(), "CARGO_TARGET_DIR": str(target), "SOURCE_DATE_EPOCH": str(epoch()),
                   "INPICK_COMMIT": output("git", "rev-parse", "HEAD"), "INPICK_BUILD_REF": f"v{version()}", "CARGO_INCREMENTAL": "0"}
    # An environment of RUSTFLAGS would take the place of .cargo/config.toml's, which the wasm module needs.
    environment.pop("RUSTFLAGS", None)
    common = ["--locked", "--config", f"target.{TARGET}.rustflags=[{flags}]", "--config", f"target.{WASM_TARGET}.rustflags=[{flags}]"]
    common += [word for setting in (QUICK if quick else ()) for word in ("--config", setting)]
    for what in (["--package", "filter", "--profile", "wasm", "--target", WASM_TARGET],
                 ["--package", "dynamic-module", "--package", "inpick", "--lib", "--bins", "--profile", "native", "--target", TARGET]):
        subprocess.run(["cargo", "build", *common, *what], check=True, timeout=BUILD_SECONDS, cwd=ROOT, env=environment)
    native = target / TARGET / "native"
    return native / "inpick", target / WASM_TARGET / "wasm" / "filter.wasm", native / "libinpick.so"


def needed_glibc(file):
    """The oldest C library that a program runs on. Raises Broken if the images have an older one."""
    found = glibc(Elf(file.read_bytes()))
    if found > GLIBC:
        raise Broken("{} needs glibc {}.{}, the images have {}.{}".format(file.name, *found, *GLIBC))
    return found


def known(path):
    """What git knows of a path of the checkout."""
    return output("git", "ls-files", "--", path).splitlines()


def place(folder):
    """Copies the files that are taken as they are."""
    for source, goal in FILES:
        files = known(source)
        if not files:
            raise Broken(f"{source} is not in the checkout")
        for file in files:
            copy = folder / goal / Path(file).relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            text = (ROOT / file).read_bytes()
            # These lie one folder higher than in the checkout.
            if file == "deploy/README.md":
                text = text.replace(b"](../", b"](")
            if file.startswith("deploy/docs/"):
                text = text.replace(b"](../../", b"](../")
            copy.write_bytes(text)


def packed(members, time):
    """A tar of {name: (bytes, mode)}, gzipped, in which nothing is of this machine."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, (data, mode) in sorted(members.items()):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mtime, entry.mode = len(data), time, mode
            archive.addfile(entry, io.BytesIO(data))
    zipped = io.BytesIO()
    # No name and no time in gzip's own head.
    with gzip.GzipFile(filename="", fileobj=zipped, mode="wb", compresslevel=6, mtime=0) as file:
        file.write(raw.getvalue())
    return zipped.getvalue()


def chart():
    """The files of the chart's package. Links lead to the files that they stand for."""
    root = ROOT / "deploy" / "chart"
    files = [file for file in root.rglob("*") if file.is_file()] + list((root / "files" / "dashboards").glob("*.json"))
    return {f"inpick/{file.relative_to(root)}": (file.read_bytes(), 0o644) for file in set(files)}


def contents(folder):
    return sorted(file for file in folder.rglob("*") if file.is_file())


def checksums(folder):
    """Lines that `sha256sum --check` reads."""
    lines = (f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.relative_to(folder)}\n" for file in contents(folder))
    return "".join(lines)


def put_together(binary, wasm, native, goal):
    """Writes the folder and its archive, and gives the archive."""
    name, time = f"inpick-{version()}", epoch()
    folder = goal / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    place(folder)
    for file, path, mode in ((binary, "bin/inpick", 0o755), (wasm, "modules/filter.wasm", 0o644), (native, "modules/libinpick.so", 0o755)):
        copy = folder / path
        copy.parent.mkdir(exist_ok=True)
        shutil.copyfile(file, copy)
        copy.chmod(mode)
    oldest = max(needed_glibc(folder / path) for path in ("bin/inpick", "modules/libinpick.so"))
    (folder / "REQUIREMENTS").write_text("Linux on x86-64, glibc {}.{} or newer, Envoy 1.40\n".format(*oldest))
    (folder / "chart").mkdir()
    (folder / "chart" / f"{name}.tgz").write_bytes(packed(chart(), time))
    (folder / "sbom.cdx.json").write_text(bill_of_materials.text(SHIPPED, version(), time))
    (folder / "SHA256SUMS").write_text(checksums(folder))
    members = {f"{name}/{file.relative_to(folder)}": (file.read_bytes(), 0o755 if os.access(file, os.X_OK) else 0o644) for file in contents(folder)}
    archive = goal / f"{name}-x86_64-linux.tar.gz"
    archive.write_bytes(packed(members, time))
    archive.with_name(f"{archive.name}.sha256").write_text(f"{hashlib.sha256(archive.read_bytes()).hexdigest()}  {archive.name}\n")
    return archive


def differences(one, other):
    """What is not the same in two folders of files, a line each."""
    files = [{file.relative_to(folder): file for file in contents(folder)} for folder in (one, other)]
    for name in sorted(files[0].keys() | files[1].keys()):
        if not all(name in each for each in files):
            yield f"{name} is in one of them only"
            continue
        first, second = (each[name].read_bytes() for each in files)
        if first == second:
            continue
        at = next((index for index, (a, b) in enumerate(zip(first, second)) if a != b), min(len(first), len(second)))
        yield f"{name} differs from byte {at} on: {first[at - 40 if at > 40 else 0:at + 40]!r}, {second[at - 40 if at > 40 else 0:at + 40]!r}"


def verify(quick):
    """Builds twice, each time in a clean clone; gives what is not the same, and the archive's digest."""
    with tempfile.TemporaryDirectory(prefix="inpick-verify-") as scratch:
        made = []
        for name, apart in CLONES.items():
            checkout = Path(scratch) / name
            subprocess.run(["git", "clone", "--quiet", ROOT, checkout], check=True, timeout=SECONDS)
            (checkout / ".tools").symlink_to(setup.TOOLS)
            environment = {**os.environ, "CARGO_TARGET_DIR": str(Path(scratch) / "compiled" if apart else checkout / "target")}
            command = [sys.executable, checkout / "scripts" / "dist.py", "--output", checkout / "made", *(["--quick"] if quick else [])]
            subprocess.run(command, check=True, timeout=2 * BUILD_SECONDS, cwd=checkout, env=environment)
            made.append(checkout / "made")
        digest = next(made[0].glob("*.sha256")).read_text().split()[0]
        return list(differences(*made)), digest


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--built", nargs=3, type=Path, metavar=("BINARY", "WASM", "NATIVE"), help="takes these instead of building them")
    parser.add_argument("--output", type=Path, default=ROOT / "dist", metavar="DIR")
    parser.add_argument("--verify", action="store_true", help="builds twice in clean clones, and compares")
    parser.add_argument("--quick", action="store_true", help="without the optimiser of native programs: not for use")
    options = parser.parse_args()
    try:
        if options.verify:
            found, digest = verify(options.quick)
            print("".join(f"dist: {line}\n" for line in found) or f"two builds, the same bytes: SHA-256 {digest}\n", end="")
            return int(bool(found))
        archive = put_together(*(options.built or build(options.quick)), options.output)
    except (Broken, subprocess.CalledProcessError) as error:
        print(f"dist: {error}", file=sys.stderr)
        return 1
    print(f"{archive}: {archive.stat().st_size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
