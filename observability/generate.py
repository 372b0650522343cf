#!/usr/bin/env python3
"""Writes dashboards/*.json from sources/, and helm/values.yaml from the Prometheus files: `generate.py [--check]`.

With --check nothing is written; the exit code is 1 if a file is not what it would be.
"""

import sys
from pathlib import Path

import grafana
import helm
from sources import DASHBOARDS

HERE = Path(__file__).resolve().parent


def files():
    """Each generated file, and its text."""
    for dashboard in DASHBOARDS:
        yield HERE / "dashboards" / f"{dashboard.uid}.json", grafana.dashboard_json(dashboard)
    yield HERE / "helm" / "values.yaml", helm.values(HERE)


def main(arguments):
    if arguments not in ([], ["--check"]):
        print(__doc__, file=sys.stderr)
        return 2
    stale = 0
    expected = dict(files())
    for file in sorted({*expected, *(HERE / "dashboards").glob("*.json")}):
        text = expected.get(file)
        if file.exists() and text is not None and file.read_text() == text:
            continue
        stale += 1
        name = file.relative_to(HERE.parent)
        if arguments:
            print(f"{name}: out of date: run `make dashboards`", file=sys.stderr)
        elif text is None:
            file.unlink()
            print(f"{name}: removed", file=sys.stderr)
        else:
            file.parent.mkdir(exist_ok=True)
            file.write_text(text)
            print(f"{name}: written", file=sys.stderr)
    return int(bool(arguments) and stale > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
