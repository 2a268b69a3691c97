"""Downloads from a server on this machine: kept when the checksum is right, refused when it is not."""

from __future__ import annotations

import gzip
import hashlib
import re
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from scfcmi.datasets import REGISTRY, RemoteFile, cell_mixture, fetch, pbmc, rna_mixture

CONTENT = b"cell,type\n1,T\n"


class Handler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


class Server:
    """Serves a folder; `put` adds a file and registers it."""

    def __init__(self, folder: Path, port: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.port, self.monkeypatch = folder, port, monkeypatch

    def put(self, name: str, content: bytes = CONTENT, *, sha256: str | None = None) -> RemoteFile:
        entry = RemoteFile(
            file_name=f"{name}.csv",
            url=f"http://127.0.0.1:{self.port}/{name}.csv",
            sha256=sha256 or hashlib.sha256(content).hexdigest(),
            citation="nobody",
        )
        (self.folder / entry.file_name).write_bytes(content)
        self.monkeypatch.setitem(REGISTRY, name, entry)
        return entry


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    folder = tmp_path / "served"
    folder.mkdir()
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    http = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    yield Server(folder, http.server_address[1], monkeypatch)
    http.shutdown()
    http.server_close()
    thread.join()


def test_file_is_downloaded_once(server: Server, tmp_path: Path) -> None:
    server.put("small")
    path = fetch("small", cache_dir=tmp_path / "cache")
    assert path == tmp_path / "cache" / "small.csv"
    assert path.read_bytes() == CONTENT
    (server.folder / "small.csv").unlink()
    assert fetch("small", cache_dir=tmp_path / "cache").read_bytes() == CONTENT


def test_environment_variable_names_the_folder(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server.put("small")
    monkeypatch.setenv("SCFCMI_DATA_DIR", str(tmp_path / "elsewhere"))
    assert fetch("small").parent == tmp_path / "elsewhere"
    assert fetch("small", cache_dir=tmp_path / "given").parent == tmp_path / "given"


def test_wrong_checksum_is_refused_and_nothing_is_kept(server: Server, tmp_path: Path) -> None:
    server.put("small", sha256="0" * 64)
    with pytest.raises(ValueError, match="SHA256|sha256|hash"):
        fetch("small", cache_dir=tmp_path / "cache")
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_spoilt_cache_is_replaced(server: Server, tmp_path: Path) -> None:
    server.put("small")
    path = fetch("small", cache_dir=tmp_path / "cache")
    path.write_bytes(b"spoilt")
    assert fetch("small", cache_dir=tmp_path / "cache").read_bytes() == CONTENT


def test_missing_file_and_unknown_name(server: Server, tmp_path: Path) -> None:
    server.put("small")
    (server.folder / "small.csv").unlink()
    with pytest.raises(OSError, match="404"):
        fetch("small", cache_dir=tmp_path / "cache")
    with pytest.raises(KeyError, match="there is no data set 'none'"):
        fetch("none")


def test_without_network_it_says_which_file_belongs_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entries = {}
    for name, entry in REGISTRY.items():
        if name.startswith("cell_mixture"):
            # port 9 discards, and nothing listens there
            entries[name] = RemoteFile(entry.file_name, f"http://127.0.0.1:9/{name}", entry.sha256, entry.citation)
            monkeypatch.setitem(REGISTRY, name, entries[name])
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    with pytest.raises(OSError, match="Without network") as caught:
        cell_mixture(cache_dir=tmp_path)
    assert len(entries) == 4
    for entry in entries.values():
        assert f"{entry.url}\n    as {tmp_path / entry.file_name}" in str(caught.value)


def test_file_that_was_put_there_by_hand_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = RemoteFile("small.csv", "http://127.0.0.1:9/small.csv", hashlib.sha256(CONTENT).hexdigest(), "nobody")
    monkeypatch.setitem(REGISTRY, "small", entry)
    (tmp_path / "small.csv").write_bytes(CONTENT)
    assert fetch("small", cache_dir=tmp_path) == tmp_path / "small.csv"


def test_real_cells_without_download() -> None:
    adata = pbmc()
    assert adata.X.min() == 0 and adata.X.dtype == np.float32
    assert set(adata.obs["phase"]) == {"G1", "S", "G2M"}
    sizes = adata.obs["cell_type"].value_counts()
    assert sizes["Dendritic"] == 240 and sizes.sum() == adata.n_obs == 700


def test_registry_is_complete() -> None:
    for name, entry in REGISTRY.items():
        assert re.fullmatch(r"[0-9a-f]{64}", entry.sha256), name
        assert entry.url.startswith("https://") and re.search(r"/[0-9a-f]{40}/", entry.url), f"{name}: pin the version"
        assert entry.citation
    assert len({entry.file_name for entry in REGISTRY.values()}) == len(REGISTRY)


def serve(server: Server, name: str, cells: str, genes: dict[str, tuple[str, ...]]) -> None:
    """Two cells per protocol, whose counts are the last digits of the genes' names and zero."""
    for protocol, measured in genes.items():
        rows = "".join(f'"{gene}",{gene[-1]},0\n' for gene in measured)
        server.put(f"{name}_{protocol}_counts", gzip.compress(f'"A1","A2"\n{rows}'.encode()))
        server.put(f"{name}_{protocol}_cells", gzip.compress(cells.encode()))
    for key in [key for key in REGISTRY if key.startswith(name)]:
        entry = REGISTRY[key]
        server.monkeypatch.setitem(
            REGISTRY, key, RemoteFile(f"{entry.file_name}.gz", entry.url, entry.sha256, entry.citation)
        )


def test_cell_mixture_joins_the_protocols(server: Server, tmp_path: Path) -> None:
    cells = '"cell_line_demuxlet"\n"A1","H1975"\n"A2","H2228"\n'
    genes = {"celseq2": ("ENSG1", "ENSG2", "ENSG9"), "dropseq": ("ENSG2", "ENSG1", "ENSG8")}
    serve(server, "cell_mixture", cells, genes)
    adata = cell_mixture(cache_dir=tmp_path / "cache")
    assert list(adata.var_names) == ["ENSG1", "ENSG2"]
    assert adata.obs_names.is_unique
    assert list(adata.obs["tech"].cat.categories) == ["CEL-seq2", "Drop-seq"]
    assert list(adata.obs["cell_type"]) == ["H1975", "H2228"] * 2
    np.testing.assert_array_equal(adata.X.toarray(), [[1, 2], [0, 0]] * 2)


def test_rna_mixture_names_the_shares(server: Server, tmp_path: Path) -> None:
    cells = '"mix","H2228_prop","H1975_prop","HCC827_prop"\n"A2",1,0.68,0.16,0.16\n"A1",2,0,1,0\n'
    serve(server, "rna_mixture", cells, {"celseq2": ("ENSG1", "ENSG2"), "sortseq": ("ENSG2", "ENSG3")})
    adata = rna_mixture(cache_dir=tmp_path / "cache")
    assert list(adata.var_names) == ["ENSG2"]
    assert list(adata.obs["cell_type"]) == ["0.00/1.00/0.00", "0.68/0.16/0.16"] * 2
    assert list(adata.obs["tech"]) == ["CEL-seq2"] * 2 + ["SORT-seq"] * 2


@pytest.mark.internet
@pytest.mark.skipif("'internet' not in config.getoption('-m')", reason="downloads; run with -m internet")
def test_real_cell_mixture(tmp_path: Path) -> None:
    adata = cell_mixture(cache_dir=tmp_path)
    assert adata.n_obs == 499
    assert adata.obs["cell_type"].nunique() == 3
