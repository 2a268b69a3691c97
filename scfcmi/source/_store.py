"""AnnData stores, `.h5ad` and `.zarr`: opened with their matrices left on disk, and changed in one go."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Self
from uuid import uuid4

import h5py
import numpy as np
import zarr
from anndata import AnnData
from anndata.io import read_elem, write_elem

from ._storage import element

ON_DISK = {"array", "csr_matrix", "csc_matrix"}


@contextmanager
def open_store(path: str | os.PathLike[str], *, writable: bool = False) -> Iterator[Any]:
    """Open an `.h5ad` file or a `.zarr` folder.

    Yields
    ------
    The root group, `h5py` or `zarr`.
    """
    path = Path(path)
    mode: Literal["r", "r+"] = "r+" if writable else "r"
    if not path.exists():
        msg = f"there is no file {path}"
        raise FileNotFoundError(msg)
    kind = ".zarr" if path.is_dir() else ".h5ad"
    try:
        # Metadata that were collected when a zarr store was written do not know what is added later.
        root = zarr.open_group(path, mode=mode, use_consolidated=False) if path.is_dir() else h5py.File(path, mode)
    except (OSError, ValueError) as error:
        msg = f"{path} cannot be read as {kind}: {error}"
        raise OSError(msg) from error
    try:
        if not all(name in root and "column-order" in root[name].attrs for name in ("obs", "var")):
            msg = f"{path} cannot be read as {kind}: it has no tables obs and var in the format of AnnData 0.7 or later"
            raise OSError(msg)
        yield root
        if writable and kind == ".zarr" and zarr.open_group(path, mode="r").metadata.consolidated_metadata is not None:
            zarr.consolidate_metadata(root.store)
    finally:
        if isinstance(root, h5py.File):
            root.close()


def leave_on_disk(root: Any) -> AnnData:
    """What an open store holds, without `uns`: tables in memory, matrices where they are."""

    def entries(group: str) -> dict[str, Any]:
        stored = {name: root[group][name] for name in root[group]} if group in root else {}
        kinds = {name: value.attrs.get("encoding-type") for name, value in stored.items()}
        tables = {name: read_elem(stored[name]) for name, kind in kinds.items() if kind == "dataframe"}
        return tables | {name: element(stored[name]) for name, kind in kinds.items() if kind in ON_DISK}

    matrix = root["X"] if "X" in root else None
    has_matrix = matrix is not None and matrix.attrs.get("encoding-type") in ON_DISK
    return AnnData(
        element(matrix) if has_matrix else None,
        obs=read_elem(root["obs"]),
        var=read_elem(root["var"]),
        layers=entries("layers"),
        obsm=entries("obsm"),
    )


class Changes:
    """Entries to be written to an open store, of which all appear, or none if anything fails in between.

    They are written to a place of their own, which readers take for an entry of `uns`, and moved by renaming when
    all are complete; what they replace is kept until then. A program that is killed while it writes leaves the
    entries of the store as they were, but may leave that place behind.

    Parameters
    ----------
    root
        The store, opened for writing.
    """

    def __init__(self, root: Any) -> None:
        self._root, self._place = root, f"uns/scfcmi_{uuid4().hex[:8]}"
        self._written: dict[str, str] = {}
        self._dropped: list[str] = []

    def __enter__(self) -> Self:
        for group in ("uns", "obsm"):
            if group not in self._root:
                write_elem(self._root, group, {})
        write_elem(self._root["uns"], self._place.removeprefix("uns/"), {})
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._move_all()
        finally:
            del self._root[self._place]

    def array(self, where: str, shape: tuple[int, int]) -> Any:
        """An array of float32 that is to be filled slice by slice."""
        group, name = self._root[self._place], self._new(where)
        if isinstance(group, h5py.Group):
            array = group.create_dataset(name, shape, "float32")
        else:
            chunks = (min(shape[0], 65_536), shape[1])
            array = group.create_array(name, shape=shape, dtype="float32", chunks=chunks)
        array.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
        return array

    def put(self, where: str, value: Any) -> None:
        """Write a whole entry, for example `obs/leiden`."""
        write_elem(self._root[self._place], self._new(where), value)

    def drop(self, where: str) -> None:
        """Take an entry away, if it is there and not written anew."""
        self._dropped.append(where)

    def _new(self, where: str) -> str:
        self._written[where] = f"new{len(self._written)}"
        return self._written[where]

    def _move_all(self) -> None:
        undo: list[tuple[str, str]] = []
        columns = [str(name) for name in self._root["obs"].attrs["column-order"]]
        try:
            for i, where in enumerate({*self._dropped, *self._written}):
                if where in self._root:
                    self._move(where, f"{self._place}/old{i}", undo)
            for where, name in self._written.items():
                self._move(f"{self._place}/{name}", where, undo)
            new = [where.removeprefix("obs/") for where in self._written if where.startswith("obs/")]
            gone = {where.removeprefix("obs/") for where in self._dropped} - set(new)
            kept = [name for name in columns if name not in gone]
            self._name_columns([*kept, *(name for name in new if name not in kept)])
        except BaseException:
            for source, target in reversed(undo):
                self._move(target, source, [])
            self._name_columns(columns)
            raise

    def _move(self, source: str, target: str, undo: list[tuple[str, str]]) -> None:
        if isinstance(self._root, h5py.File):
            self._root.move(source, target)
        else:
            folder = Path(self._root.store.root)
            os.rename(folder / source, folder / target)
        undo.append((source, target))

    def _name_columns(self, names: list[str]) -> None:
        is_hdf5 = isinstance(self._root, h5py.File)
        self._root["obs"].attrs["column-order"] = np.array(names, h5py.string_dtype()) if is_hdf5 else names
