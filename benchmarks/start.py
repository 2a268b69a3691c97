"""Seconds until something can be done: imports and the command line, now and before, in one run.

    python benchmarks/start.py [--before COMMIT] [--repeats 9] [--out DIR]

Every command runs in a Python of its own. All run once unmeasured, which compiles what is not compiled yet, and then in
turn; what counts is the median. `--before` is checked out into a temporary folder for the time of the run.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd
from _results import HERE, Rows, markdown, parser, provenance

ROOT = HERE.parent
# the last commit of 0.1, which imported everything at once
BEFORE = "9f3203f136d2e9e216a8f1d626ae7fd34f9f041d"
COMMANDS = {
    "import scfcmi": "import scfcmi",
    "import scfcmi, scfcmi.tl": "import scfcmi; scfcmi.tl.fair_cluster",
    "scfcmi --help": "from scfcmi.cli import main; main(['--help'])",
    "scfcmi --version": "from scfcmi.cli import main; main(['--version'])",
    "scfcmi cluster, wrong usage": "from scfcmi.cli import main; main(['cluster'])",
}
PEERS = {"python": "pass", "import scanpy": "import scanpy"}
KEYS = ["what", "code", "repeat"]


def seconds(code: str, folder: Path) -> float:
    """Of a new Python that runs one line against the package in this folder."""
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    taken = time.perf_counter() - start
    if done.returncode not in {0, 2}:  # 2 is what wrong usage has to give
        raise SystemExit(done.stderr)
    return taken


def run(rows: Rows, before: str, repeats: int) -> None:
    """All commands in turn."""
    with tempfile.TemporaryDirectory() as made:
        old = Path(made) / "before"
        subprocess.run(["git", "worktree", "add", "--quiet", "--detach", old, before], cwd=ROOT, check=True)
        try:
            for repeat in range(-1, repeats):
                for version, folder in {"now": ROOT, "before": old}.items():
                    for what, code in (COMMANDS | (PEERS if version == "now" else {})).items():
                        taken = seconds(code, folder)
                        if repeat >= 0:
                            rows.add({"what": what, "code": version, "repeat": repeat, "seconds": taken})
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", old], cwd=ROOT, check=True)


def report(rows: Rows, out: Path) -> None:
    """The page."""
    table = rows.read()
    order = [*PEERS, *COMMANDS]
    found = table.groupby(["what", "code"])["seconds"].agg(statistics.median).unstack("code")
    found = found.reindex(order)[["before", "now"]]
    found.columns.name = None
    text = [
        "# Seconds to start",
        "",
        provenance(
            "start.py",
            f"Median of {table['repeat'].nunique()} runs of each, in turn, every one in a new Python;",
            "before is the last commit of 0.1.",
        ),
        "",
        markdown(pd.DataFrame(found), 2),
        "",
    ]
    (out / "start.md").write_text("\n".join(text), encoding="utf-8")
    print("\n".join(text))


def main() -> None:
    options = parser(__doc__ or "")
    options.add_argument("--before", default=BEFORE, help="commit to compare with")
    options.add_argument("--repeats", type=int, default=9)
    arguments = options.parse_args()
    rows = Rows(arguments.out / "start.csv", KEYS)
    if not arguments.report:
        run(rows, arguments.before, arguments.repeats)
    report(rows, arguments.out)


if __name__ == "__main__":
    main()
