"""Files and folders replaced in one step: whatever happens meanwhile, either the old or the new one is there."""

from __future__ import annotations

import ctypes
import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

if sys.platform != "win32":
    import fcntl

AT_FDCWD, EXCHANGE = -100, 2
# Seconds before attempts to remove what was written.
WAITS = (0.0, 0.01, 0.1, 1.0)


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A name to write to, which takes the place of `path` when the block ends, and vanishes when it fails.

    It is in a hidden folder beside `path`, `.<name>.scfcmi`, that only one writer at a time can have. What a writer
    that was killed has left there is cleared by the next one.

    Parameters
    ----------
    path
        File or folder, which may be there or not; of a link, what it points to is replaced.

    Yields
    ------
    The name, to which a file or folder has to be written.

    Raises
    ------
    FileNotFoundError
        If there is no folder for it.
    OSError
        If it cannot be written to, or another writer is at it.
    """
    target = _target(path)
    with _own_folder(target) as folder:
        new = folder / f"new{target.suffix}"
        yield new
        if target.exists() and target.is_dir() == new.is_dir():
            _take_over(target, new)
        _sync_all(new)
        _put(new, target, folder)


def check_replaceable(path: str | os.PathLike[str]) -> None:
    """Raise now what :func:`replacing` would raise after the work."""
    with _own_folder(_target(path)):
        pass


def recover(path: str | os.PathLike[str]) -> None:
    """Bring back what was moved away, if a writer was killed between two moves."""
    target = Path(os.path.realpath(path))
    if not os.path.lexists(target) and _old(_folder_of(target)).exists():
        with _own_folder(target):
            pass


def _target(path: str | os.PathLike[str]) -> Path:
    target = Path(os.path.realpath(path))
    recover(target)
    if target.exists() and not os.access(target, os.W_OK):
        msg = f"{path} may not be written to"
        raise PermissionError(msg)
    return target


def _folder_of(target: Path) -> Path:
    return target.with_name(f".{target.name}.scfcmi")


def _old(folder: Path) -> Path:
    return folder / "old"


@contextmanager
def _own_folder(target: Path) -> Iterator[Path]:
    """An empty folder beside the target that no other writer has; it is removed in the end."""
    folder = _folder_of(target)
    if not target.parent.is_dir():
        msg = f"there is no folder {target.parent}"
        raise FileNotFoundError(msg)
    lock = _lock(folder, target)
    try:
        if not os.path.lexists(target) and _old(folder).exists():
            os.rename(_old(folder), target)
        _clear(folder)
        yield folder
    finally:
        # While the lock is held, so that nobody else's is removed.
        _remove(folder)
        if lock is not None:
            os.close(lock)


def _lock(folder: Path, target: Path) -> int | None:
    """Make a folder this process's own until the returned handle is closed."""
    while True:
        try:
            folder.mkdir(exist_ok=True)
        except OSError as error:
            msg = f"nothing can be written beside {target}, where a copy is made before it is replaced: {error}"
            raise type(error)(error.errno, msg) from error
        if sys.platform == "win32":  # two writers at once are not told apart there
            return None
        try:
            handle = os.open(folder, os.O_RDONLY)
        except FileNotFoundError:  # its last owner has just removed it
            continue
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(handle)
            msg = f"{target} is being written by another process"
            raise OSError(msg) from error
        except OSError:  # no locks on this file system
            return handle
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle), folder.stat()):
                return handle
        os.close(handle)


def _clear(folder: Path) -> None:
    for left in folder.iterdir():
        shutil.rmtree(left) if left.is_dir() and not left.is_symlink() else left.unlink()


def _remove(folder: Path) -> None:
    """Remove the folder, whatever threads of an interrupted writer still add to it; at worst, the next one does it."""
    for wait in WAITS:
        time.sleep(wait)
        with suppress(OSError):
            _clear(folder)
            folder.rmdir()
            return


def _take_over(target: Path, new: Path) -> None:
    """Give the new one the rights of the old one."""
    shutil.copymode(target, new)
    if hasattr(os, "chown"):
        owner = target.stat()
        with suppress(PermissionError):  # only the superuser can give files away
            os.chown(new, owner.st_uid, owner.st_gid)


def _sync_all(path: Path) -> None:
    """Have everything that was written reach the disk; files with a second name were there before."""
    if path.is_dir():
        for entry in os.scandir(path):
            if entry.is_dir():
                _sync_all(Path(entry.path))
            elif entry.stat().st_nlink == 1:
                _sync(entry.path)
    _sync(path)


def _sync(path: str | Path) -> None:
    if os.name == "nt":
        return  # neither folders nor what was opened for reading can be synchronised there
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _put(new: Path, target: Path, folder: Path) -> None:
    """Put the new one in the place of the old one."""
    in_one_step = not (target.is_dir() or (target.exists() and new.is_dir()))
    if in_one_step or not _exchange(new, target):
        if not in_one_step:
            # Folders cannot be replaced in one step here: should the second one not be made, the first is undone.
            os.rename(target, _old(folder))
        try:
            os.replace(new, target)
        except OSError:
            if _old(folder).exists():
                os.rename(_old(folder), target)
            raise
    _sync(target.parent)


def _exchange(one: Path, other: Path) -> bool:
    """Let two folders change places in one step; false where the system cannot."""
    names = os.fsencode(one), os.fsencode(other)
    done = -1
    if sys.platform == "linux" and (call := getattr(ctypes.CDLL(None), "renameat2", None)):
        done = call(AT_FDCWD, names[0], AT_FDCWD, names[1], EXCHANGE)
    if sys.platform == "darwin" and (call := getattr(ctypes.CDLL(None), "renamex_np", None)):
        done = call(*names, EXCHANGE)
    return bool(done == 0)
