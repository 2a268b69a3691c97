"""What a wheel and an sdist hold, and under which licences the things are that an installation brings."""

from __future__ import annotations

import fnmatch
import re
import sys
import tarfile
import zipfile
from collections.abc import Callable
from importlib.metadata import Distribution, distributions

# Words by which a licence is known that asks for no more than to be named.
PERMISSIVE = r"BSD|MIT|Apache|PSF|Python Software|ISC|Unlicense|HPND|Zlib|0BSD|CC0|MPL|Mozilla|matplotlib|NVIDIA|LLVM"
# Copyleft, and known: users install it beside this package, which neither holds nor changes any of it.
KNOWN = {"igraph": "GPL", "leidenalg": "GPL"}
# Top level of an sdist.
SDIST = ("CHANGELOG.md", "CITATION.cff", "CODE_OF_CONDUCT.md", "CONTRIBUTING.md", "LICENSE", "PKG-INFO", "README.md")
SDIST += ("SECURITY.md", "docs/*", "pyproject.toml", "scfcmi/*", "tests/*", "tutorials/*", ".gitignore")
# What is data, made by a program, or nobody else's to read.
NEVER = ("*.h5ad", "*.zarr*", "*.npz", "*.pyc", "*__pycache__*", "*.ipynb_checkpoints*", "*/.env", "*.pem", "*~")
LARGEST = 2 * 2**20


def contents(wheel: str, sdist: str, again: str) -> list[str]:
    """What is wrong with the files of a wheel, an sdist, and the wheel made of that sdist."""
    wrong = []
    held = _of_wheel(wheel)
    info = next(name.split("/")[0] for name in held if ".dist-info/" in name)
    wrong += [f"wheel: {name}" for name in held if name.split("/")[0] not in ("scfcmi", info)]
    needed = [f"{info}/licenses/LICENSE", f"{info}/entry_points.txt", "scfcmi/__init__.py", "scfcmi/py.typed"]
    wrong += [f"wheel lacks {name}" for name in needed if name not in held]
    wrong += [f"wheel: {name} is no part of a package" for name in held if not _is_package_file(name, info)]
    with tarfile.open(sdist) as file:
        members = file.getmembers()
        sizes = {member.name.partition("/")[2]: member.size for member in members if member.isfile()}
        wrong += [f"sdist: {member.name} is a link" for member in members if member.issym() or member.islnk()]
    wrong += [f"sdist: {name}" for name in sizes if not any(fnmatch.fnmatch(name, one) for one in SDIST)]
    wrong += [f"sdist: {name}" for name in sizes if any(fnmatch.fnmatch(name, one) for one in NEVER)]
    wrong += [f"sdist: {name} has {size} bytes" for name, size in sizes.items() if size > LARGEST]
    other = _of_wheel(again)
    changed = [name for name in held.keys() | other.keys() if held.get(name) != other.get(name)]
    wrong += [f"not the same in the wheel of the sdist: {name}" for name in sorted(changed)]
    print(f"wheel: {len(held)} files, sdist: {len(sizes)} files; the sdist makes the same wheel: {not changed}")
    return wrong


def _of_wheel(path: str) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as file:
        return {name: file.read(name) for name in file.namelist()}


def _is_package_file(name: str, info: str) -> bool:
    return name.startswith(f"{info}/") or name.endswith((".py", "/py.typed"))


def licences() -> list[str]:
    """What is installed here under licences that are neither permissive nor known."""
    wrong = []
    for found in sorted(distributions(), key=lambda one: one.metadata["Name"].lower()):
        name, licence = found.metadata["Name"], _licence(found)
        if name in ("scfcmi", "pip", "setuptools"):
            continue
        print(f"{name} {found.version}: {licence}")
        expected = KNOWN.get(name, PERMISSIVE)
        copyleft = re.search(r"\bA?GPL|GNU (Affero )?General", licence)
        if not re.search(expected, licence, re.IGNORECASE) or (copyleft and name not in KNOWN):
            wrong.append(f"{name}: {licence or 'it does not say'}")
    return wrong


def _licence(found: Distribution) -> str:
    """One line, from wherever it stands."""
    named = found.metadata.get("License-Expression")
    if named:
        return named
    classified = [c.rpartition(" :: ")[2] for c in found.metadata.get_all("Classifier", []) if c.startswith("License")]
    if set(classified) - {"OSI Approved"}:
        return "; ".join(classified)
    if found.metadata.get("License"):
        return found.metadata["License"].strip().splitlines()[0]
    files = [f for f in found.files or [] if "licen" in f.name.lower()]
    return " ".join(files[0].read_text().split())[:80] if files else ""


if __name__ == "__main__":
    what: Callable[..., list[str]] = {"contents": contents, "licences": licences}[sys.argv[1]]
    faults = what(*sys.argv[2:])
    for fault in faults:
        print(fault, file=sys.stderr)
    sys.exit(bool(faults))
