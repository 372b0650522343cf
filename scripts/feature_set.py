"""Checks that no choice of packages makes Cargo build a dependency with other features than the whole workspace does.

Cargo builds a dependency once for each set of features that it meets, and the set depends on the packages that are named. The
package `feature-set`, on which every native package depends, asks for all features at once. What is missing there, or has become
too much, makes two builds of one dependency.
"""

import concurrent.futures
import json
import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# With and without what only tests need.
EDGES = ("normal,build", "normal,build,dev")


def cargo(*arguments):
    done = subprocess.run(["cargo", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout


def parse(tree):
    """{"name version": {features, …}} of the packages of others in the output of `cargo tree`."""
    found = {}
    for line in tree.splitlines():
        if "|" not in line:
            continue
        package, features = line.split("|", 1)
        # Ours have their path behind the version. A repeated package is marked behind its features.
        if "(/" not in package:
            found.setdefault(package.removesuffix(" (proc-macro)"), set()).add(features.removesuffix(" (*)"))
    return found


def tree(edges, *selection):
    return parse(cargo("tree", "--quiet", "--prefix", "none", "--format", "{p}|{f}", "--edges", edges, *selection))


def differences(whole, part):
    """Packages that the part has with features that the whole has not."""
    for package, features in sorted(part.items()):
        for extra in sorted(features - whole.get(package, set())):
            yield f"{package} with [{extra}] instead of [{'] or ['.join(sorted(whole.get(package, ['nothing'])))}]"


def breaches():
    members = [package["name"] for package in json.loads(cargo("metadata", "--no-deps", "--format-version", "1"))["packages"]]
    whole = tree(EDGES[-1], "--workspace")
    selections = [("--workspace",), *(("--package", member) for member in sorted(members))]
    choices = [(edges, *selection) for edges in EDGES for selection in selections]
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for (edges, *selection), part in zip(choices, pool.map(lambda choice: tree(*choice), choices)):
            for difference in differences(whole, part):
                yield f"feature-set/Cargo.toml: `{' '.join(selection)}` ({edges}) builds {difference}"
