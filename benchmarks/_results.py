"""Tables of measured rows: kept as they come, replaced row by row, and written as text."""

from __future__ import annotations

import argparse
import fcntl
import multiprocessing
import os
import platform
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pandas as pd

HERE = Path(__file__).resolve().parent
PACKAGES = ["scfcmi", "scanpy", "anndata", "torch", "igraph", "harmonypy", "scvi-tools"]


class Rows:
    """A CSV file of measurements, one row for every combination of its key columns.

    Rows of several processes can be added to one file; a row that is measured again replaces the old one.
    """

    def __init__(self, path: Path, keys: Sequence[str], *, resume: bool = False) -> None:
        self.path, self.keys, self.resume = path, list(keys), resume

    def read(self) -> pd.DataFrame:
        if not self.path.exists():
            return pd.DataFrame(columns=self.keys)
        return pd.read_csv(self.path, dtype=dict.fromkeys(self.keys, str))

    def done(self, **key: object) -> bool:
        """Whether this row is there already and need not be measured again."""
        return self.resume and bool(self._where(self.read(), key).any())

    def add(self, row: dict[str, Any]) -> None:
        """Put a row into the file, instead of the one with the same key if there is one."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        folder = os.open(self.path.parent, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            table = self.read()
            table = table[~self._where(table, row)]
            new = pd.DataFrame([{**row, **{key: str(row[key]) for key in self.keys}}])
            table = new if table.empty else pd.concat([table, new])
            written = self.path.with_suffix(".part")
            table.to_csv(written, index=False, float_format="%.5g")
            written.replace(self.path)
        finally:
            os.close(folder)
        print(
            *(f"{name}={value:.3f}" if isinstance(value, float) else value for name, value in row.items()), flush=True
        )

    def _where(self, table: pd.DataFrame, row: dict[str, Any]) -> pd.Series:
        return (table[self.keys] == [str(row[key]) for key in self.keys]).all(axis=1)


def parser(doc: str, methods: Sequence[str] = (), sets: Sequence[str] | None = None) -> argparse.ArgumentParser:
    """Options that every script has."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--data", type=Path, default=HERE.parent.parent / "shared" / "data", help="folder of .h5ad files")
    made.add_argument("--sets", nargs="+", choices=sets, default=sets, help="these data sets alone")
    made.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    if methods:
        made.add_argument("--methods", nargs="+", choices=methods, default=list(methods))
    made.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="of every method")
    made.add_argument("--resume", action="store_true", help="keep rows that are there already")
    made.add_argument("--report", action="store_true", help="measure nothing, write the table of the rows there are")
    made.add_argument("--out", type=Path, default=HERE / "results")
    return made


def at_hand(arguments: argparse.Namespace) -> list[str]:
    """The data sets that were asked for and are in the folder; ends the program if none is."""
    sets = [name for name in arguments.sets if (arguments.data / f"{name}.h5ad").exists()]
    if not sets:
        raise SystemExit(f"skipped: none of the data sets is in {arguments.data}")
    return sets


def in_own_process(work: Callable[..., None], *arguments: Any, threads: int) -> None:
    """Call a function in a fresh Python, in which every library has this many threads; its failure is ours."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, str(threads)))
    try:
        process = multiprocessing.get_context("spawn").Process(target=work, args=arguments)
        process.start()
        process.join()
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name)
            else:
                os.environ[name] = value
    if process.exitcode:
        msg = f"{work.__name__}{arguments[:1]} ended with status {process.exitcode}; its own message stands above."
        raise SystemExit(msg)


def markdown(frame: pd.DataFrame, digits: int = 3, **own: int) -> str:
    """A table in text, the index as its first columns; `own` gives digits of single columns."""
    table = frame.reset_index()

    def text(value: object, column: str) -> str:
        if isinstance(value, float):
            return "" if pd.isna(value) else f"{value:.{own.get(column, digits)}f}"
        return str(value).replace("|", "×")

    head = [str(column) for column in table.columns]
    ruler = ["---:" if pd.api.types.is_numeric_dtype(kind) else "---" for kind in table.dtypes]
    rows = [
        [text(value, str(column)) for column, value in zip(table.columns, row, strict=True)]
        for row in table.astype(object).to_numpy()
    ]
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, ruler, *rows))


def provenance(script: str, *more: str) -> str:
    """Where a table comes from."""
    found = []
    for name in PACKAGES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    first = f"Made by `benchmarks/{script}`, with Python {platform.python_version()} on {platform.machine()}; "
    return " ".join([first + ", ".join(found) + ".", *more])
