"""The bill of materials of what is shipped, as CycloneDX JSON: every crate that is linked into it, with version, licence and checksum."""

import json
import re
import subprocess
import uuid
from datetime import datetime, timezone

from cyclonedx.model import HashAlgorithm, HashType
from cyclonedx.model.bom import Bom, BomMetaData
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import LicenseExpression
from cyclonedx.output import make_outputter
from cyclonedx.schema import OutputFormat, SchemaVersion
from packageurl import PackageURL

import setup

REGISTRY = "registry+https://github.com/rust-lang/crates.io-index"
# A name that makes the same serial number of the same version.
NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "inpick")
SECONDS = 120


def metadata(target):
    command = ["cargo", "metadata", "--format-version", "1", "--locked", "--filter-platform", target]
    return json.loads(subprocess.run(command, check=True, capture_output=True, timeout=SECONDS, cwd=setup.ROOT).stdout)


def reached(graph, roots):
    """Ids of the packages that are linked into these: no tests', and nothing that only builds."""
    nodes = {node["id"]: node for node in graph["resolve"]["nodes"]}
    found, left = set(), [package["id"] for package in graph["packages"] if package["name"] in roots and package["source"] is None]
    while left:
        package = left.pop()
        if package not in found:
            found.add(package)
            left += [dep["pkg"] for dep in nodes[package]["deps"] if any(kind["kind"] is None for kind in dep["dep_kinds"])]
    return found


def checksums():
    """{(name, version): SHA-256} of Cargo.lock."""
    entry = re.compile(r'^name = "([^"]+)"\nversion = "([^"]+)"\nsource = .*\nchecksum = "([^"]+)"$', re.M)
    return {(name, version): digest for name, version, digest in entry.findall((setup.ROOT / "Cargo.lock").read_text())}


def component(package, sums):
    name, version = package["name"], package["version"]
    reference = PackageURL("cargo", name=name, version=version)
    digest = sums.get((name, version))
    # Cargo's older spelling of a choice is a slash.
    licence = (package["license"] or "").replace("/", " OR ")
    return Component(
        name=name, version=version, type=ComponentType.LIBRARY, bom_ref=str(reference), purl=reference if package["source"] == REGISTRY else None,
        licenses=[LicenseExpression(licence)] if licence else [], hashes=[HashType(alg=HashAlgorithm.SHA_256, content=digest)] if digest else [],
    )


def linked(node, components):
    """What a package of the graph links, as components."""
    return [components[dep["pkg"]] for dep in node["deps"] if any(kind["kind"] is None for kind in dep["dep_kinds"])]


def text(shipped, version, time):
    """The bill for packages of the workspace by the target that they are built for. `time`: seconds since 1970."""
    sums = checksums()
    components, links, roots = {}, {}, []
    for target, names in shipped.items():
        graph = metadata(target)
        ids = reached(graph, names)
        found = [package for package in graph["packages"] if package["id"] in ids]
        components.update({package["id"]: component(package, sums) for package in found if package["id"] not in components})
        roots += [components[package["id"]] for package in found if package["source"] is None and package["name"] in names]
        for node in graph["resolve"]["nodes"]:
            if node["id"] in ids:
                links.setdefault(node["id"], set()).update(linked(node, components))
    whole = Component(name="inpick", version=version, type=ComponentType.APPLICATION, bom_ref=f"inpick@{version}",
                      licenses=[LicenseExpression("Apache-2.0")])
    bom = Bom(serial_number=uuid.uuid5(NAMESPACE, f"{version} {time} {sorted(part.bom_ref.value for part in components.values())}"), components=components.values(),
              metadata=BomMetaData(component=whole, timestamp=datetime.fromtimestamp(time, timezone.utc)))
    for package, parts in links.items():
        bom.register_dependency(components[package], parts)
    bom.register_dependency(whole, roots)
    return make_outputter(bom, OutputFormat.JSON, SchemaVersion.V1_6).output_as_string(indent=1) + "\n"
