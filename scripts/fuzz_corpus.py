"""The committed inputs of a fuzz target: one archive, `fuzz/corpus/TARGET.tar.gz`, so that a reader of the tree sees code.

An archive holds plain files, sorted by name, without dates or owners: the same inputs give the same archive. New inputs are put
into a folder beside it, `fuzz/corpus/TARGET/`, under names that say what they show; packing takes them in.
"""

import gzip
import io
import re
import shutil
import tarfile
from pathlib import Path

# libFuzzer names what it finds by its SHA-1.
FOUND = re.compile(r"[0-9a-f]{40}")


def archive(corpus, target):
    return Path(corpus) / f"{target}.tar.gz"


def read(file):
    """{name: bytes} of an archive, empty if there is none."""
    if not file.exists():
        return {}
    with tarfile.open(file, "r:gz") as packed:
        return {member.name: packed.extractfile(member).read() for member in packed.getmembers() if member.isfile()}


def write(file, inputs):
    """Writes an archive; leaves the file alone when it holds just these inputs."""
    if file.exists() and read(file) == inputs:
        return
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name in sorted(inputs):
            member = tarfile.TarInfo(name)
            member.size = len(inputs[name])
            archive.addfile(member, io.BytesIO(inputs[name]))
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(gzip.compress(packed.getvalue(), 9, mtime=0))


def read_folder(folder):
    """{name: bytes} of the files in a folder, empty if there is none."""
    return {file.name: file.read_bytes() for file in Path(folder).iterdir()} if Path(folder).is_dir() else {}


def unpack(corpus, target, folder):
    """Replaces a folder by the target's inputs, loose ones included; returns how many there are."""
    inputs = {**read(archive(corpus, target)), **read_folder(Path(corpus) / target)}
    shutil.rmtree(folder, ignore_errors=True)
    Path(folder).mkdir(parents=True)
    for name, data in inputs.items():
        (Path(folder) / name).write_bytes(data)
    return len(inputs)


def pack(corpus, target):
    """Takes the loose inputs of a target into its archive; returns how many it holds then."""
    loose = Path(corpus) / target
    inputs = {**read(archive(corpus, target)), **read_folder(loose)}
    write(archive(corpus, target), inputs)
    shutil.rmtree(loose, ignore_errors=True)
    return len(inputs)
