"""AnnData stores, `.h5ad` and `.zarr`: opened with their matrices left on disk, and copied with other entries."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import scipy.sparse as sp
import zarr
from anndata import AnnData
from anndata.io import read_elem, sparse_dataset, write_elem
from numpy.typing import DTypeLike

from scfcmi._replace import recover

from ._storage import element

ON_DISK = {"array", "csr_matrix", "csc_matrix"}
# Files of a zarr store that say what is in it; all others hold values, and are never written to a second time.
METADATA = {"zarr.json", ".zarray", ".zattrs", ".zgroup", ".zmetadata"}
# Left free on the disk, for tables and what the file system needs itself.
MARGIN = 16 * 2**20


@contextmanager
def open_store(path: str | os.PathLike[str]) -> Iterator[Any]:
    """Open an `.h5ad` file or a `.zarr` folder for reading.

    Yields
    ------
    The root group, `h5py` or `zarr`.
    """
    path = Path(path)
    recover(path)
    if not path.exists():
        msg = f"there is no file {path}"
        raise FileNotFoundError(msg)
    kind = ".zarr" if path.is_dir() else ".h5ad"
    try:
        # Metadata that were collected when a zarr store was written do not know what was added later.
        root = zarr.open_group(path, mode="r", use_consolidated=False) if path.is_dir() else h5py.File(path, "r")
    except (OSError, ValueError) as error:
        msg = f"{path} cannot be read as {kind}: {error}"
        raise OSError(msg) from error
    try:
        if not all(_is_table(root, name) for name in ("obs", "var")):
            msg = (
                f"{path} cannot be read as {kind}: it has no tables obs and var in the format of AnnData 0.7 or later. "
                "An older file becomes one by `anndata.read_h5ad(old).write_h5ad(new)`."
            )
            raise OSError(msg)
        yield root
    finally:
        if isinstance(root, h5py.File):
            root.close()


def leave_on_disk(root: Any) -> AnnData:
    """What an open store holds, without `uns`: tables in memory, matrices where they are."""

    def entries(group: str) -> dict[str, Any]:
        stored = {name: root[group][name] for name in root[group]} if group in root else {}
        kinds = {name: _kind(value) for name, value in stored.items()}
        tables = {name: read_elem(stored[name]) for name, kind in kinds.items() if kind == "dataframe"}
        return tables | {name: element(stored[name]) for name, kind in kinds.items() if kind in ON_DISK}

    def matrix(group: Any) -> Any:
        return element(group["X"]) if "X" in group and _kind(group["X"]) in ON_DISK else None

    raw = root["raw"] if "raw" in root and _is_table(root["raw"], "var") else None
    return AnnData(
        matrix(root),
        obs=read_elem(root["obs"]),
        var=read_elem(root["var"]),
        layers=entries("layers"),
        obsm=entries("obsm"),
        raw=None if raw is None else {"X": matrix(raw), "var": read_elem(raw["var"])},
    )


class Changes:
    """Entries that are written to a copy of a store.

    Parameters
    ----------
    root
        The copy, without what they replace.
    """

    def __init__(self, root: Any) -> None:
        self._root = root
        self._columns: list[str] = []
        self._begun: set[str] = set()

    def put(self, where: str, value: Any) -> None:
        """Write a whole entry, for example `obs/leiden`."""
        write_elem(*self._place(where), value)

    def array(self, where: str, shape: tuple[int, ...], dtype: DTypeLike = "float32") -> Any:
        """An array that is to be filled slice by slice."""
        group, name = self._place(where)
        if isinstance(group, h5py.Group):
            array = group.create_dataset(name, shape, dtype)
        else:
            chunks = (max(1, min(shape[0], 65_536)), *shape[1:])
            array = group.create_array(name, shape=shape, dtype=dtype, chunks=chunks)
        array.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
        return array

    def append(self, where: str, rows: Any) -> None:
        """Write rows of a sparse matrix below those that were written there before."""
        rows = sp.csr_matrix(rows)
        if where in self._begun:
            sparse_dataset(self._root[where]).append(rows)
        else:
            self.put(where, rows)
            self._begun.add(where)

    def _place(self, where: str) -> tuple[Any, str]:
        slot, _, name = where.partition("/")
        if slot not in self._root:
            write_elem(self._root, slot, {})
        if slot == "obs":
            self._columns.append(name)
        return self._root[slot], name

    def _name_columns(self, dropped: set[str]) -> None:
        kept = [str(name) for name in self._root["obs"].attrs["column-order"] if f"obs/{name}" not in dropped]
        names = [*kept, *(name for name in self._columns if name not in kept)]
        is_hdf5 = isinstance(self._root, h5py.File)
        self._root["obs"].attrs["column-order"] = np.array(names, h5py.string_dtype()) if is_hdf5 else names


@contextmanager
def copied(
    root: Any, path: str | os.PathLike[str], new: Path, *, without: Iterable[str], room: int = 0, share: bool = True
) -> Iterator[Changes]:
    """Copy a store without some of its entries, and write others to the copy.

    Nothing is written to the store itself. The copy holds no more than it has to, however often a store is copied.

    Parameters
    ----------
    root
        The store, open for reading.
    path
        Where it is.
    new
        Where the copy is made.
    without
        Entries that are left out, for example `obs/leiden`, whether they are there or not.
    room
        Bytes that the new entries are expected to take.
    share
        Whether values in a zarr store, which are many files, may be second names of the same files. To be used where
        the copy takes the place of the store.

    Raises
    ------
    OSError
        If there is not enough space, or writing fails.
    """
    path, dropped = Path(os.path.realpath(path)), set(without)
    if isinstance(root, h5py.File):
        _check_space(new.parent, path.stat().st_size + room)
        copy = h5py.File(new, "w")
        try:
            for name in root:
                root.copy(root[name], copy, name, expand_refs=True)
            for name in root.attrs:
                copy.attrs.create(name, root.attrs[name], dtype=root.attrs.get_id(name).dtype)
            for where in dropped & _entries(copy):
                del copy[where]
            changes = Changes(copy)
            yield changes
            changes._name_columns(dropped)
        finally:
            _close(copy, path)
    else:
        share = share and _can_share(path, new.parent)
        _check_space(new.parent, room + (0 if share else _size(path)))
        _copy_folder(path, new, dropped, share=share)
        copy = zarr.open_group(new, mode="r+", use_consolidated=False)
        changes = Changes(copy)
        yield changes
        changes._name_columns(dropped)
        if zarr.open_group(path, mode="r").metadata.consolidated_metadata is not None:
            zarr.consolidate_metadata(copy.store)


def _is_table(root: Any, name: str) -> bool:
    return name in root and "column-order" in root[name].attrs


def _kind(stored: Any) -> str | None:
    """What an entry is; older writers did not say it of arrays, and in other words of sparse matrices."""
    kind = stored.attrs.get("encoding-type")
    if kind is not None:
        return str(kind)
    if "h5sparse_format" in stored.attrs:
        return f"{stored.attrs['h5sparse_format']}_matrix"
    is_matrix = len(getattr(stored, "shape", ())) == 2 and np.dtype(stored.dtype).kind in "biuf"
    return "array" if is_matrix else None


def _entries(root: Any) -> set[str]:
    return {f"{slot}/{name}" for slot in root if isinstance(root[slot], h5py.Group) for name in root[slot]}


def _close(copy: h5py.File, path: Path) -> None:
    """Have the last of a file written, which may be what there is no space for."""
    try:
        copy.close()
    except RuntimeError as error:  # HDF5 has let go of the file, which must not be asked for anything any more
        msg = f"the copy of {path} could not be written: {error}"
        raise OSError(msg) from error


def _check_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed + MARGIN:
        msg = f"{needed / 2**20:.0f} MB are needed beside the file for a copy of it, but {free / 2**20:.0f} MB are free"
        raise OSError(errno.ENOSPC, msg, str(folder.parent))


def _can_share(path: Path, folder: Path) -> bool:
    """Whether a file of the store can have a second name in the folder."""
    file = next((path / name for name in METADATA if (path / name).is_file()), None)
    probe = folder / "probe"
    try:
        os.link(file, probe)  # type: ignore[arg-type]
    except (OSError, TypeError):
        return False
    probe.unlink()
    return True


def _size(path: Path) -> int:
    return sum(os.path.getsize(Path(folder) / name) for folder, _, names in os.walk(path) for name in names)


def _copy_folder(path: Path, new: Path, dropped: set[str], *, share: bool) -> None:
    for folder, folders, names in os.walk(path, followlinks=True):
        inside = Path(folder).relative_to(path)
        (new / inside).mkdir()
        folders[:] = [name for name in folders if (inside / name).as_posix() not in dropped]
        for name in names:
            source, target = Path(folder) / name, new / inside / name
            if share and name not in METADATA:
                os.link(source, target)
            else:
                shutil.copyfile(source, target)
    shutil.copymode(path, new)
