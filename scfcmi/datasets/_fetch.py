"""Public files by name: downloaded once, and never used unless their checksum is right."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pooch

DATA_DIR = "SCFCMI_DATA_DIR"


@dataclass(frozen=True)
class RemoteFile:
    """A file in the registry of public data.

    Parameters
    ----------
    file_name
        Name under which it is stored.
    url
        Where it comes from; fixed to a version, so that it cannot change.
    sha256
        Checksum that the content must have.
    citation
        Publication to cite.
    """

    file_name: str
    url: str
    sha256: str
    citation: str


_MIXOLOGY = "https://raw.githubusercontent.com/LuyiTian/sc_mixology/7d00ffb0bd043467f365a9358d7312f294f13c9f/data/csv/"
_TIAN = "Tian et al., Nature Methods 16, 479-487 (2019), doi:10.1038/s41592-019-0425-8; GEO GSE118767"

REGISTRY: dict[str, RemoteFile] = {
    name: RemoteFile(f"{name}.csv.gz", f"{_MIXOLOGY}{stem}.csv.gz", sha256, _TIAN)
    for name, stem, sha256 in [
        (
            "cell_mixture_celseq2_counts",
            "sc_celseq2.count",
            "a82aa89b8995aed412f4260c0adb343967e33a801af6f2e0aa647c1d897a5a21",
        ),
        (
            "cell_mixture_celseq2_cells",
            "sc_celseq2.metadata",
            "78429916bac394d92d8c972059a8f195c5479ce578da04f1eb3ba599585ef3d9",
        ),
        (
            "cell_mixture_dropseq_counts",
            "sc_dropseq.count",
            "98c0bb6a9fbf4b93967ef82cef9985d7691cf59a31dc5b0b3699f70ed1a0fd08",
        ),
        (
            "cell_mixture_dropseq_cells",
            "sc_dropseq.metadata",
            "4c48f3e13778e89192d9861095bc102cc0deb9eba1a7f47a093f5a058ce1aa6a",
        ),
        (
            "rna_mixture_celseq2_counts",
            "RNAmix_celseq2.count",
            "3bc1323f10f74779e69f068cbfd052633049745f69107bba4133368a01ec24b9",
        ),
        (
            "rna_mixture_celseq2_cells",
            "RNAmix_celseq2.metadata",
            "b4dfd97335bb24691d22b16748410d42ea08c7dee634d2d9d2584ef2d9e60956",
        ),
        (
            "rna_mixture_sortseq_counts",
            "RNAmix_sortseq.count",
            "81a2c15fc0fc1216328fa348ad3375b0b2faa604fce9811330b78a190cdfd3d0",
        ),
        (
            "rna_mixture_sortseq_cells",
            "RNAmix_sortseq.metadata",
            "1ea8edd24736c3efdf7dec102e42b01b75df18a811084cfcfd2ea5c87b89fead",
        ),
    ]
}
"""Files that :func:`scfcmi.datasets.fetch` knows, by name."""


def fetch(name: str, *, cache_dir: str | os.PathLike[str] | None = None) -> Path:
    """Local path of a public file, which is downloaded unless it is there already.

    The SHA-256 checksum is compared in both cases; a cached file whose content is not what it should be is downloaded
    again.

    Parameters
    ----------
    name
        Key of `scfcmi.datasets.REGISTRY`.
    cache_dir
        Folder for downloads; when absent, the one that the environment variable `SCFCMI_DATA_DIR` names, or else the
        user's cache folder.

    Returns
    -------
    Path of the file.

    Raises
    ------
    KeyError
        If the registry has no such file.
    ValueError
        If the downloaded content has another checksum. Nothing is kept then.
    OSError
        If the download fails, or the folder cannot be written. The message says which file to put where by hand.

    Examples
    --------
    >>> import scfcmi
    >>> sorted(scfcmi.datasets.REGISTRY)[0]
    'cell_mixture_celseq2_cells'
    >>> path = scfcmi.datasets.fetch("cell_mixture_celseq2_cells")  # doctest: +SKIP
    """
    return fetch_all([name], cache_dir=cache_dir)[0]


def fetch_all(names: Sequence[str], *, cache_dir: str | os.PathLike[str] | None = None) -> list[Path]:
    """Local paths of the files that belong together; if one cannot be had, the error names all that are missing."""
    unknown = [name for name in names if name not in REGISTRY]
    if unknown:
        msg = f"there is no data set {unknown[0]!r}; there are {sorted(REGISTRY)}."
        raise KeyError(msg)
    folder = Path(cache_dir or os.environ.get(DATA_DIR) or pooch.os_cache("scfcmi"))
    paths = []
    for name in names:
        entry = REGISTRY[name]
        try:
            path = pooch.retrieve(entry.url, known_hash=f"sha256:{entry.sha256}", fname=entry.file_name, path=folder)
        except OSError as error:
            raise OSError(_by_hand(names, folder, error)) from error
        paths.append(Path(path))
    return paths


def _by_hand(names: Sequence[str], folder: Path, error: OSError) -> str:
    """What to do where there is no network."""
    missing = [REGISTRY[name] for name in names if not (folder / REGISTRY[name].file_name).is_file()]
    files = "\n".join(f"  {entry.url}\n    as {folder / entry.file_name}" for entry in missing)
    return (
        f"the download failed: {error}\n"
        f"Without network, save these files on another machine and put each where it belongs:\n{files}\n"
        f"Another folder is named by cache_dir or the environment variable {DATA_DIR}. scfcmi.datasets.pbmc() and the "
        "simulators need no download."
    )
