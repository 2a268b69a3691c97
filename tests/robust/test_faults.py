"""Results are written to a user's file: whatever happens at whatever moment, it is as it was or complete."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import zarr
from anndata import AnnData
from scipy import sparse

from scfcmi._replace import check_replaceable, replacing
from scfcmi.source import copied, leave_on_disk, open_store

from .conftest import LONG, next_moment

pytestmark = [
    pytest.mark.filterwarnings("default"),
    pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are killed that were forked"),
]
N = 40
# What changes something on the disk, as Python and as the kernel call it.
EVENTS = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.chmod", "os.chown", "shutil.copyfile"}
CALLS = (
    "write,pwrite64,writev,pwritev,rename,renameat,renameat2,link,linkat,unlink,unlinkat,mkdir,mkdirat,rmdir,"
    "fsync,ftruncate,copy_file_range,sendfile,fchmodat,chmod,chown"
)
WRITES = "write,pwrite64,writev,pwritev,ftruncate,copy_file_range,sendfile,mkdir,mkdirat,link,linkat"
OLD = ["obs/run", "obs/run_stability", "obsm/X_run", "obsm/run_leaves", "uns/run"]


def example() -> AnnData:
    cells = AnnData(
        sparse.random(N, 9, 0.4, format="csr", dtype=np.float32, random_state=0),
        obs=pd.DataFrame(
            {"tech": pd.Categorical(["a", "b"] * (N // 2)), "n": np.arange(N)}, index=[f"cell{i}" for i in range(N)]
        ),
        obsm={"X_pca": np.arange(3.0 * N).reshape(N, 3), "X_run": np.ones((N, 7))},
        uns={"note": "stays", "run": {"params": {"seed": 1, "name": "old"}}},
    )

    cells.obs["run"] = pd.Categorical(["x"] * N)
    cells.obs["run_stability"] = 1.0
    return cells


def write(cells: AnnData, path: Path) -> Path:
    cells.write_zarr(path) if path.suffix == ".zarr" else cells.write_h5ad(path)
    return path


def read(path: Path) -> AnnData:
    return ad.read_zarr(path) if path.suffix == ".zarr" else ad.read_h5ad(path)


def contents(path: Path) -> str:
    """All that a store holds, as its own library lists it."""
    listed: list[str] = []

    def note(name: str, item: Any) -> None:
        values = np.asarray(item[()]).tolist() if hasattr(item, "shape") else ""
        listed.append(f"{name} {sorted((k, np.asarray(v).tolist()) for k, v in item.attrs.items())} {values}")

    if path.suffix == ".zarr":
        for name, item in sorted(zarr.open_group(path, mode="r").members(max_depth=None)):
            note(name, item)
    else:
        with h5py.File(path) as file:
            file.visititems(note)
    return "\n".join(listed)


def work(path: Path) -> None:
    """What a run writes: tables, arrays, sparse rows, a record, in the place of those of an earlier one."""
    with replacing(path) as new, open_store(path) as root, copied(root, path, new, without=OLD) as changes:
        array = changes.array("obsm/X_run", (N, 4))
        for first in range(0, N, 10):
            array[first : first + 10] = first
            changes.append("obsm/run_leaves", sparse.eye(10, 6, format="csr", dtype=np.float32) * (first + 1))
        changes.put("obs/run", pd.Categorical([str(i % 3) for i in range(N)]))
        changes.put("uns/run", {"params": {"seed": 2, "names": np.array(["a", "b"])}, "history": {"rec": np.ones(3)}})


def is_done(path: Path) -> bool:
    found = read(path)
    return "run_leaves" in found.obsm and found.obs["run"].nunique() == 3 and "run_stability" not in found.obs


@pytest.fixture(params=["h5ad", "zarr"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return write(example(), tmp_path / f"cells.{request.param}")


def leftovers(path: Path) -> list[str]:
    return [name for name in os.listdir(path.parent) if name != path.name]


def fork(job: Callable[[], None]) -> int:
    """Run something in a process of its own."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            job()
            code = 0
        finally:
            os._exit(code)
    return child


def outcome(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def at_event(n: int, strike: Callable[[], None]) -> None:
    """Strike before the n-th change of the disk, and before all later ones."""
    seen = 0

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal seen
        if event in EVENTS or (event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR)):
            seen += 1
            if seen >= n:
                strike()

    sys.addaudithook(watch)


def kill_self() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def no_space() -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_everything_is_replaced_together(path: Path) -> None:
    before = read(path)
    work(path)
    found = read(path)
    assert is_done(path)
    assert found.uns["run"]["params"]["seed"] == 2 and "name" not in found.uns["run"]["params"]
    np.testing.assert_array_equal(found.obsm["X_run"][:, 0], np.arange(N) // 10 * 10)
    assert found.obsm["run_leaves"].sum() == sum(6 * (i + 1) for i in range(0, N, 10))
    assert list(found.obs) == ["tech", "n", "run"]
    assert found.uns["note"] == before.uns["note"]
    np.testing.assert_array_equal(found.obsm["X_pca"], before.obsm["X_pca"])
    assert (found.X != before.X).nnz == 0
    assert not leftovers(path)


@pytest.mark.parametrize("strike", [kill_self, no_space])
def test_struck_before_any_change_of_the_disk(path: Path, strike: Callable[[], None]) -> None:
    before = contents(path)
    n, struck = 1, 0
    while True:

        def job(n: int = n) -> None:
            at_event(n, strike)
            work(path)

        result = outcome(fork(job))
        if result == 0:
            break
        struck += 1
        if not is_done(path):
            assert contents(path) == before, n
        else:  # only what is cleared away afterwards was left to do
            shutil.rmtree(path) if path.is_dir() else path.unlink()
            write(example(), path)
        n = next_moment(n)
    assert struck > 4
    work(path)
    assert is_done(path)
    assert not leftovers(path)


@pytest.mark.slow
@pytest.mark.skipif(not LONG, reason="takes minutes: set SCFCMI_LONG")
@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is what strikes at calls of the kernel")
@pytest.mark.parametrize("fault", ["kill", "full"])
def test_struck_at_every_call_of_the_kernel(path: Path, fault: str) -> None:
    inject = f"{CALLS}:signal=SIGKILL:when=" if fault == "kill" else f"{WRITES}:error=ENOSPC:when="
    fresh = path.with_name(f"fresh{path.suffix}")
    write(example(), fresh)
    before, n, struck = contents(path), 1, 0

    def job() -> None:
        os.kill(os.getpid(), signal.SIGSTOP)
        work(path)

    while True:
        child = fork(job)
        os.waitpid(child, os.WUNTRACED)
        when = f"{inject}{n}" + ("" if fault == "kill" else "+")
        log = path.parent / "log"
        tracer = subprocess.Popen(
            ["strace", "-f", "-qq", "-o", str(log), "-e", f"inject={when}", "-e", f"trace={CALLS}", "-p", str(child)],
            stderr=subprocess.DEVNULL,
        )
        while f"TracerPid:\t{tracer.pid}" not in Path(f"/proc/{child}/status").read_text():
            time.sleep(0.005)
        os.kill(child, signal.SIGCONT)
        result = outcome(child)
        tracer.wait()
        log.unlink(missing_ok=True)
        if result == 0:
            break
        struck += 1
        done = is_done(path)
        assert done or contents(path) == before, n
        # The next run is right, whatever this one has left, and leaves nothing.
        work(path)
        assert is_done(path)
        assert set(leftovers(path)) == {fresh.name}
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        shutil.copytree(fresh, path) if fresh.is_dir() else shutil.copyfile(fresh, path)
        n += 1 + n // 40
    print(f"{path.suffix}, {fault}: struck at {struck} calls")
    assert struck > 20


def test_runs_do_not_make_the_file_grow(path: Path) -> None:
    def size() -> int:
        files = [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]
        return sum(file.stat().st_size for file in files)

    work(path)
    first = size()
    for _ in range(20 if path.is_file() else 4):
        work(path)
    assert size() <= first


def test_a_file_that_may_not_grow(path: Path) -> None:
    before = contents(path)

    def job() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
        try:
            work(path)
        except OSError as error:
            assert "too large" in str(error).lower() or error.errno == errno.EFBIG, error
        else:
            raise AssertionError("it was written")

    assert outcome(fork(job)) == 0
    assert contents(path) == before
    assert not leftovers(path)


def test_space_is_looked_for_first(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = contents(path)
    usage = shutil.disk_usage(path.parent)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(OSError, match="MB are needed beside the file") as error:
        work(path)
    assert error.value.errno == errno.ENOSPC
    assert contents(path) == before
    assert not leftovers(path)


@pytest.mark.parametrize("suffix", ["h5ad", "zarr"])
def test_folder_that_may_not_be_written_to(suffix: str) -> None:
    with tempfile.TemporaryDirectory() as folder:  # that of pytest is not open to other users
        closed_folder(write(example(), Path(folder) / f"cells.{suffix}"))


def closed_folder(path: Path) -> None:
    before = contents(path)

    def job() -> None:
        if os.geteuid() == 0:
            os.seteuid(65534)
        try:
            work(path)
        except PermissionError as error:
            assert "beside" in str(error) or "may not be written" in str(error)
        else:
            raise AssertionError("it was written")

    path.parent.chmod(0o555)
    try:
        assert outcome(fork(job)) == 0
    finally:
        path.parent.chmod(0o755)
    assert contents(path) == before
    assert not leftovers(path)


def test_file_that_may_not_be_written_to(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    for job in (work, check_replaceable):
        with pytest.raises(PermissionError, match="may not be written to"):
            job(path)
    assert not leftovers(path)


@pytest.mark.parametrize("in_one_step", [True, False])
def test_a_folder_and_a_file_replace_each_other(
    tmp_path: Path, in_one_step: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not in_one_step:
        monkeypatch.setattr("scfcmi._replace._exchange", lambda *_: False)
    target = tmp_path / "out"
    for _ in range(2):
        with replacing(target) as new:
            new.write_text("a")
        assert target.read_text() == "a"
        with replacing(target) as new:
            new.mkdir()
            (new / "b").write_text("b")
        assert (target / "b").read_text() == "b"
    assert os.listdir(tmp_path) == ["out"]


def test_what_can_be_written_is_known_before(tmp_path: Path) -> None:
    check_replaceable(tmp_path / "new.csv")
    assert not list(tmp_path.iterdir())
    with pytest.raises(FileNotFoundError, match="there is no folder .*none"):
        check_replaceable(tmp_path / "none" / "new.csv")
    with replacing(tmp_path / "new.csv"):
        with pytest.raises(OSError, match="is being written by another process"):
            check_replaceable(tmp_path / "new.csv")
        (tmp_path / ".new.csv.scfcmi" / "new.csv").write_text("a")
    assert (tmp_path / "new.csv").read_text() == "a"
    assert [file.name for file in tmp_path.iterdir()] == ["new.csv"]


def test_two_writers_at_once(path: Path) -> None:
    with replacing(path) as new:
        with pytest.raises(OSError, match="is being written by another process"):
            work(path)
        shutil.copytree(path, new) if path.is_dir() else shutil.copyfile(path, new)
    work(path)
    assert is_done(path)


def test_what_a_killed_writer_left_is_cleared(path: Path) -> None:
    left = path.with_name(f".{path.name}.scfcmi")
    (left / "new.zarr" / "obs").mkdir(parents=True)
    (left / "new.h5ad").write_bytes(b"half")
    work(path)
    assert is_done(path)
    assert not leftovers(path)


def test_folders_that_cannot_change_places_in_one_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scfcmi._replace._exchange", lambda *_: False)
    path = write(example(), tmp_path / "cells.zarr")
    before = contents(path)
    place = os.replace

    def fail(*names: Any) -> None:
        if Path(names[1]) == path:
            raise KeyboardInterrupt
        place(*names)

    def killed() -> None:
        monkeypatch.setattr(os, "replace", lambda *names: kill_self() if Path(names[1]) == path else place(*names))
        work(path)

    # Killed between two moves: the next reader or writer brings the old one back.
    assert outcome(fork(killed)) == -signal.SIGKILL
    assert not path.exists()
    with open_store(path) as root:
        assert list(leave_on_disk(root).obs) == ["tech", "n", "run", "run_stability"]
    assert contents(path) == before
    work(path)
    assert is_done(path)
    assert not leftovers(path)
    # An error between them brings it back at once.
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", lambda *names: no_space() if Path(names[1]) == path else place(*names))
        with pytest.raises(OSError, match="No space"):
            work(path)
    assert is_done(path)


def test_a_link_stays_a_link(path: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    link = tmp_path / "elsewhere" / path.name
    link.symlink_to(path)
    path.chmod(0o750)
    work(link)
    assert link.is_symlink() and is_done(path)
    assert path.stat().st_mode & 0o777 == 0o750
    assert os.listdir(link.parent) == [path.name]


def test_values_of_another_store_are_copied(tmp_path: Path) -> None:
    """A result is a store of its own: changing it later does not change the one that it was made from."""
    path, output = write(example(), tmp_path / "cells.zarr"), tmp_path / "out.zarr"
    for share in (False, True):
        with replacing(output) as new, open_store(path) as root:
            with copied(root, path, new, without=OLD, share=share):
                pass
        names = [file.stat().st_nlink for file in output.rglob("*") if file.is_file()]
        assert (max(names) > 1) == share
        assert read(output).uns == {"note": "stays"}
    assert "run" in read(path).uns


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_formats_of_zarr(tmp_path: Path, zarr_format: int) -> None:
    with ad.settings.override(zarr_write_format=zarr_format):
        path = write(example(), tmp_path / "cells.zarr")
    zarr.consolidate_metadata(path)
    work(path)
    assert is_done(path)
    root = zarr.open_group(path, mode="r")
    assert root.metadata.zarr_format == zarr_format
    assert root.metadata.consolidated_metadata is not None
    assert "uns/run/history" in root and "obs/run_stability" not in root


def test_older_writers(tmp_path: Path) -> None:
    """A dense matrix without a word on what it is, categories in a place of their own: as AnnData 0.7 wrote them."""
    cells = example()
    cells.X, cells.raw = cells.X.toarray(), cells.copy()
    path = write(cells, tmp_path / "cells.h5ad")
    with h5py.File(path, "r+") as file:
        for name in ("X", "raw/X", "obsm/X_pca", "obsm", "uns", "/", "obs/_index"):
            for attribute in ("encoding-type", "encoding-version"):
                del file[name].attrs[attribute]
        codes, categories = file["obs/tech/codes"][()], file["obs/tech/categories"][()]
        del file["obs/tech"]
        file["raw/X"].attrs.update({"h5sparse_format": "csr", "h5sparse_shape": (N, 9)})
        file["obs"].attrs["encoding-version"] = "0.1.0"
        file["obs/tech"] = codes
        file["obs/__categories/tech"] = categories
        file["obs/__categories/tech"].attrs["ordered"] = False
        file["obs/tech"].attrs["categories"] = file["obs/__categories/tech"].ref
    with open_store(path) as root:
        opened = leave_on_disk(root)
        assert isinstance(opened.X, h5py.Dataset) and isinstance(opened.obsm["X_pca"], h5py.Dataset)
        np.testing.assert_array_equal(opened.X[:5], cells.X[:5])
        assert (opened.raw.X[:5] != cells.raw.X[:5]).nnz == 0
        assert opened.obs["tech"].tolist() == cells.obs["tech"].tolist()
    work(path)
    found = read(path)
    assert found.obs["tech"].tolist() == cells.obs["tech"].tolist()
    assert is_done(path)
    np.testing.assert_array_equal(found.X, cells.X)


def test_a_file_of_before_07_says_what_to_do(tmp_path: Path) -> None:
    path = write(example(), tmp_path / "cells.h5ad")
    with h5py.File(path, "r+") as file:
        del file["obs"].attrs["column-order"]
    with pytest.raises(OSError, match=r"AnnData 0\.7 or later.*read_h5ad"), open_store(path):
        pass
