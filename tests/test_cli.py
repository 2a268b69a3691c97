"""The console script: what it writes, what it refuses, and how it says so."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

import scfcmi
from scfcmi._options import OPTIONS
from scfcmi.cli import OF_A_FIT, main
from scfcmi.published import NetworkOptions
from scfcmi.source._store import Changes

COMMANDS = ("demo", "cluster", "predict", "map", "recut", "diagnose", "evaluate", "plot", "report")
CPU = ["--device", "cpu"]


@pytest.fixture
def cells(adata: AnnData, tmp_path: Path) -> Path:
    """A file with 300 cells and a clustering of them."""
    adata.obs["leiden"] = pd.Categorical((np.arange(adata.n_obs) % 4).astype(str))
    path = tmp_path / "cells.h5ad"
    adata.write_h5ad(path)
    return path


@pytest.fixture(scope="module")
def clustered(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A file that the command clustered, and the model of it; not to be changed."""
    folder = tmp_path_factory.mktemp("clustered")
    make_adata().write_h5ad(folder / "cells.h5ad")
    out, model = folder / "clustered.h5ad", folder / "model.safetensors"
    arguments = ["cluster", str(folder / "cells.h5ad"), "--sensitive-key", "tech", "-o", str(out), *CPU]
    assert main([*arguments, "--n-clusters", "3", "--save-model", str(model)]) == 0
    return out, model


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Calls that would have gone to `fair_cluster`, which only writes labels here."""
    calls: list[dict[str, Any]] = []

    def fair_cluster(adata: AnnData, sensitive_key: str, **kwargs: Any) -> None:
        calls.append({"sensitive_key": sensitive_key, **kwargs})
        adata.obs[kwargs["key_added"]] = pd.Categorical((np.arange(adata.n_obs) % 3).astype(str))

    monkeypatch.setattr(scfcmi.tl, "fair_cluster", fair_cluster)
    return calls


def make_adata() -> AnnData:
    """300 cells of three types and two technologies, log-normalised, counts in a layer."""
    rng = np.random.default_rng(0)
    kind, tech = np.arange(300) % 3, np.arange(300) // 3 % 2
    rate = rng.gamma(1, 2, size=(1, 60)) * (1 + 4 * np.eye(3)[kind].repeat(20, axis=1))
    counts = rng.poisson(rate * np.exp(rng.normal(size=(2, 60)) / 2)[tech]).astype(np.float32)
    logged = np.log1p(1e4 * counts / counts.sum(1, keepdims=True))
    obs = pd.DataFrame({"tech": pd.Categorical.from_codes(tech, ["a", "b"]), "cell_type": kind.astype(str)})
    obs.index = [f"cell{i}" for i in range(300)]
    var = pd.DataFrame(index=[f"gene{i}" for i in range(60)])
    return AnnData(sparse.csr_matrix(logged), obs=obs, var=var, layers={"counts": sparse.csr_matrix(counts)})


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


def error_of(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on stderr."""
    said = capsys.readouterr().err
    assert "Traceback" not in said
    assert said.startswith("scfcmi: error: ") and said.count("\n") == 1, said
    return said


# help ---------------------------------------------------------------------------------------------------------------


def test_help_names_the_commands_and_their_options(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([], *([command] for command in COMMANDS)):
        with pytest.raises(SystemExit) as caught:
            main([*arguments, "--help"])
        assert caught.value.code == 0
        said = capsys.readouterr().out
        assert all(command in said for command in COMMANDS) if not arguments else "--traceback" in said
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out.strip() == f"scfcmi {scfcmi.__version__}"


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nonsense"],
        ["cluster"],
        ["cluster", "in.h5ad", "--sensitive-key", "tech"],
        ["cluster", "in.h5ad", "--sensitive-key", "tech", "-o", "out.csv"],
        ["cluster", "in.h5ad", "--sensitive-key", "tech", "-o", "out.h5ad", "--n-clusters", "many"],
        ["cluster", "in.h5ad", "--sensitive-key", "tech", "-o", "out.h5ad", "--preset", "best"],
        ["cluster", "in.h5ad", "--sensitive-key", "tech", "-o", "out.h5ad", "--save-model", "model.pkl"],
        ["cluster", "in.h5ad", "--sensitive-key", "tech", "-o", "out.h5ad", "--network", "max_epochs"],
        ["predict", "in.h5ad", "-o", "out.h5ad"],
        ["map", "in.h5ad", "--model", "m.safetensors", "-o", "out.h5ad"],
        ["recut", "in.h5ad", "-o", "out.h5ad"],
        ["recut", "in.h5ad", "-o", "out.h5ad", "--n-clusters", "3", "--resolution", "2"],
        ["plot", "in.h5ad", "umap", "-o", "figure.txt"],
        ["plot", "in.h5ad", "violin", "-o", "figure.png"],
        ["report", "in.h5ad", "-o", "page.pdf"],
        ["evaluate", "in.h5ad", "--sensitive-key", "tech"],
    ],
)
def test_wrong_usage_exits_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage: scfcmi" in capsys.readouterr().err


def test_help_needs_no_large_library() -> None:
    """What takes seconds to import has to wait until the arguments were understood."""
    script = (
        "import sys; from scfcmi.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "print(sorted({'numpy', 'pandas', 'torch', 'anndata', 'scanpy', 'sklearn', 'matplotlib'} & set(sys.modules)))"
    )
    for arguments in (["--help"], ["cluster", "--help"], ["--version"], ["cluster"]):
        done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=True)
        assert done.stdout.splitlines()[-1] == "[]"


def test_options_of_a_fit_are_those_of_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    decided_here = {"network", "standardize", "progress_bar"}
    assert set(OF_A_FIT) == set(OPTIONS) - decided_here
    with pytest.raises(SystemExit):
        main(["cluster", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    for name in OF_A_FIT:
        assert f"--{name.replace('_', '-')}" in said and OPTIONS[name].help in said


# cluster ------------------------------------------------------------------------------------------------------------


def test_cluster_writes_a_copy(cells: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = cells.read_bytes()
    out = tmp_path / "out.h5ad"
    arguments = ["cluster", str(cells), "--sensitive-key", "tech", "-o", str(out), "--n-clusters", "3"]
    assert main([*arguments, "--label-key", "cell_type", *CPU]) == 0
    found = ad.read_h5ad(out)
    assert found.obs["fair_cluster"].nunique() <= 3
    assert found.obsm["X_fair_cluster"].shape[0] == found.obsm["fair_cluster_proba"].shape[0] == found.n_obs
    assert found.uns["fair_cluster"]["metrics"]["nmi"] >= 0
    assert cells.read_bytes() == before
    said = capsys.readouterr()
    assert "conditional_fairness" in said.out and str(out) in said.err
    assert not leftovers(tmp_path)


@pytest.mark.parametrize("in_memory", [False, True])
@pytest.mark.parametrize(("source", "target"), [("h5ad", "h5ad"), ("zarr", "zarr"), ("zarr", "h5ad")])
@pytest.mark.filterwarnings("default")
def test_cluster_without_reading_the_matrix_at_once(
    source: str,
    target: str,
    in_memory: bool,
    adata: AnnData,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    adata.var["mine"] = np.arange(100) > 9
    adata.uns["note"] = "stays"
    cells, out, model = tmp_path / f"in.{source}", tmp_path / f"out.{target}", tmp_path / "m.safetensors"
    adata.write_zarr(cells) if source == "zarr" else adata.write_h5ad(cells)
    options = ["--n-clusters", "3", *CPU, "--mask-var", "mine"]
    arguments = ["cluster", str(cells), "--sensitive-key", "tech", "-o", str(out), "--save-model", str(model), *options]
    if not in_memory:
        monkeypatch.setattr(ad, "read_h5ad", lambda *_, **__: pytest.fail("the whole file was read"))
        monkeypatch.setattr(ad, "read_zarr", lambda *_, **__: pytest.fail("the whole file was read"))
    if source != target and not in_memory:
        assert main(arguments) == 1
        assert "--in-memory" in error_of(capsys)
        return
    assert main([*arguments, *(["--in-memory"] if in_memory else [])]) == 0
    monkeypatch.undo()
    found = ad.read_zarr(out) if target == "zarr" else ad.read_h5ad(out)
    scfcmi.tl.fair_cluster(adata, "tech", 3, mask_var="mine", device="cpu", progress_bar=False)
    assert found.obs["fair_cluster"].tolist() == adata.obs["fair_cluster"].tolist()
    assert set(found.obsm) == set(adata.obsm) and set(found.uns) == {"fair_cluster", "note"}
    assert scfcmi.model.FCMI.load(model).n_features_in_ == 90
    assert not leftovers(tmp_path)
    if not in_memory:
        assert main(["cluster", str(out), "--sensitive-key", "tech", "-o", str(out), *options, "--overwrite"]) == 0
        assert main(["evaluate", str(out), "--cluster-key", "fair_cluster", "--sensitive-key", "tech"]) == 0
        assert not leftovers(tmp_path)


def test_every_option_reaches_the_function(cells: Path, tmp_path: Path, stub: list[dict[str, Any]]) -> None:
    out = str(tmp_path / "out.h5ad")
    assert main(["cluster", str(cells), "--sensitive-key", "tech", "-o", out]) == 0
    options = (
        "--n-clusters 7 --resolution 2 --label-key cell_type --layer counts --preset paper --key-added mine "
        "--random-state 5 --device cpu --fairness 0.25 --mask-var mine --overwrite --devices 2 --n-init 3 "
        "--continuous-keys depth mito --network max_epochs=9 hidden=[16,8] precision=64-true"
    )
    assert main(["cluster", str(cells), "--sensitive-key", "tech", "-o", out, *options.split()]) == 0
    plain, full = stub
    assert plain == {name: OPTIONS[name].default for name in OF_A_FIT} | {
        "sensitive_key": ["tech"],
        "continuous_keys": None,
        "use_rep": None,
        "layer": None,
        "mask_var": "highly_variable",
        "label_key": None,
        "network": None,
        "key_added": "fair_cluster",
        "n_init": 1,
        "return_model": True,
    }
    assert full == {
        "sensitive_key": ["tech"],
        "n_clusters": 7,
        "resolution": 2.0,
        "continuous_keys": ["depth", "mito"],
        "use_rep": None,
        "layer": "counts",
        "mask_var": "mine",
        "label_key": "cell_type",
        "preset": "paper",
        "fairness": 0.25,
        "network": NetworkOptions(max_epochs=9, hidden=(16, 8), precision="64-true"),
        "key_added": "mine",
        "random_state": 5,
        "n_init": 3,
        "device": "cpu",
        "devices": 2,
        "return_model": True,
    }
    assert "mine" in ad.read_h5ad(out).obs


def test_existing_output_is_refused_before_any_work(
    cells: Path, tmp_path: Path, stub: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.h5ad"
    out.write_text("precious")
    arguments = ["cluster", str(cells), "--sensitive-key", "tech", "-o", str(out)]
    assert main(arguments) == 1
    assert "use --overwrite" in error_of(capsys)
    assert out.read_text() == "precious" and not stub
    assert main([*arguments, "--overwrite"]) == 0
    assert ad.read_h5ad(out).n_obs == 300


def test_a_file_can_be_replaced_by_its_result(cells: Path, stub: list[dict[str, Any]]) -> None:
    assert main(["cluster", str(cells), "--sensitive-key", "tech", "-o", str(cells), "--overwrite"]) == 0
    assert "fair_cluster" in ad.read_h5ad(cells).obs


@pytest.mark.parametrize("place", ["nowhere/out.h5ad", "file.h5ad/out.h5ad", "folder.h5ad"])
def test_impossible_output_is_refused_before_any_work(
    place: str, cells: Path, tmp_path: Path, stub: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file.h5ad").touch()
    (tmp_path / "folder.h5ad").mkdir()
    arguments = ["cluster", str(cells), "--sensitive-key", "tech", "-o", str(tmp_path / place), "--overwrite"]
    assert main(arguments) == 1
    assert place.split("/")[0] in error_of(capsys)
    assert not stub


@pytest.mark.parametrize(
    "error",
    [
        ValueError("no such\nthing"),
        *(kind("no such thing") for kind in (KeyError, OSError, TypeError, RuntimeError, FloatingPointError)),
    ],
)
def test_failure_leaves_no_file_and_one_line(
    error: Exception,
    cells: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*_args: object, **_kwargs: object) -> None:
        raise error

    monkeypatch.setattr(scfcmi.tl, "fair_cluster", fail)
    arguments = ["cluster", str(cells), "--sensitive-key", "tech", "-o", str(tmp_path / "out.h5ad")]
    assert main(arguments) == 1
    assert error_of(capsys) == "scfcmi: error: no such thing\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cells.h5ad"]
    with pytest.raises(type(error)):
        main([*arguments, "--traceback"])


def test_interrupted_write_keeps_the_old_file(
    cells: Path, stub: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = cells.read_bytes()

    def half(self: Changes, where: str, value: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Changes, "put", half)
    assert main(["cluster", str(cells), "--sensitive-key", "tech", "-o", str(cells), "--overwrite"]) == 1
    assert "No space left" in error_of(capsys)
    assert cells.read_bytes() == before
    assert not leftovers(cells.parent)


def test_ctrl_c(
    cells: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_args: object, **_kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(scfcmi.tl, "fair_cluster", interrupt)
    assert main(["cluster", str(cells), "--sensitive-key", "tech", "-o", str(tmp_path / "out.h5ad")]) == 130
    assert capsys.readouterr().err == "scfcmi: interrupted; every output is complete or as it was\n"


def test_faults_of_the_program_keep_their_traceback(
    cells: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_args: object, **_kwargs: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(scfcmi.tl, "fair_cluster", fail)
    with pytest.raises(ZeroDivisionError):
        main(["cluster", str(cells), "--sensitive-key", "tech", "-o", str(tmp_path / "out.h5ad")])


def test_warnings_are_one_line(
    cells: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fair_cluster(adata: AnnData, *_args: object, **_kwargs: object) -> None:
        warnings.warn("counts, probably", stacklevel=2)
        adata.obs["fair_cluster"] = adata.obs["leiden"]

    monkeypatch.setattr(scfcmi.tl, "fair_cluster", fair_cluster)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        assert main(["cluster", str(cells), "--sensitive-key", "tech", "-o", str(tmp_path / "out.h5ad")]) == 0
    assert "scfcmi: warning: counts, probably\n" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--sensitive-key", "plate"], "'plate' is not a column"),
        (["--sensitive-key", "tech", "--layer", "none"], "none"),
        (["--sensitive-key", "tech", "--n-clusters", "1000"], "n_clusters"),
    ],
)
def test_what_the_function_refuses(
    options: list[str], message: str, cells: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["cluster", str(cells), *options, "-o", str(tmp_path / "out.h5ad")]) == 1
    assert message in error_of(capsys)


@pytest.mark.parametrize("found", [True, False])
def test_raw_counts_are_normalised_first(
    found: bool, adata: AnnData, tmp_path: Path, stub: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    inner = scfcmi.tl.fair_cluster

    def fair_cluster(adata: AnnData, sensitive_key: str, **kwargs: Any) -> None:
        seen.append(adata.X.toarray())
        inner(adata, sensitive_key, **kwargs)

    monkeypatch.setattr(scfcmi.tl, "fair_cluster", fair_cluster)
    if found:
        adata.X = adata.layers["counts"].copy()
    adata.write_h5ad(tmp_path / "in.h5ad")
    arguments = ["cluster", str(tmp_path / "in.h5ad"), "--sensitive-key", "tech", "--raw-counts"]
    for more in ([], ["--in-memory", "--overwrite"]):
        assert main([*arguments, "-o", str(tmp_path / "out.h5ad"), *more]) == 0
        counts = adata.layers["counts"].toarray()
        want = np.log1p(1e4 * counts / counts.sum(1, keepdims=True)) if found else adata.X.toarray()
        np.testing.assert_allclose(seen.pop(), want, rtol=1e-4)
        written = ad.read_h5ad(tmp_path / "out.h5ad")
        np.testing.assert_array_equal(written.X.toarray(), adata.X.toarray())
        assert set(written.uns) <= {"fair_cluster"} and "fair_cluster" in written.obs


def test_summary_as_json(cells: Path, tmp_path: Path, stub: Any, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["cluster", str(cells), "--sensitive-key", "tech", "-o", str(tmp_path / "out.h5ad"), "--json"]
    assert main([*arguments, "--label-key", "cell_type"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["key"], found["n_cells"], found["n_clusters"]) == ("fair_cluster", 300, 3)
    assert found["sizes"] == {"0": 100, "1": 100, "2": 100} and 0 <= found["scores"]["mnce"] <= 1
    arguments = ["evaluate", str(cells), "--cluster-key", "leiden", "--sensitive-key", "tech", "--json"]
    assert main([*arguments, "--per-cluster"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found["scores"]) == {"leiden"} and set(found["clusters"]["leiden"]) == set("0123")


@pytest.mark.parametrize("command", ["cluster", "evaluate"])
def test_unreadable_input(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rest = ["-o", str(tmp_path / "out.h5ad")] if command == "cluster" else ["--cluster-key", "leiden"]
    assert main([command, str(tmp_path / "none.h5ad"), "--sensitive-key", "tech", *rest]) == 1
    assert "there is no file" in error_of(capsys)
    (tmp_path / "text.h5ad").write_text("not HDF5")
    assert main([command, str(tmp_path / "text.h5ad"), "--sensitive-key", "tech", *rest]) == 1
    assert "cannot be read as .h5ad" in error_of(capsys)


# evaluate -----------------------------------------------------------------------------------------------------------


def test_evaluate_prints_and_writes(cells: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "scores.csv"
    arguments = ["evaluate", str(cells), "--cluster-key", "leiden", "cell_type", "--sensitive-key", "tech"]
    assert main([*arguments, "--label-key", "cell_type", "--csv", str(out)]) == 0
    table = pd.read_csv(out, index_col=0)
    assert list(table.index) == ["leiden", "cell_type"]
    assert table.loc["cell_type", "nmi"] == pytest.approx(1)
    assert table.loc["leiden", "n_clusters"] == 4
    said = capsys.readouterr()
    assert "leiden" in said.out and "mnce" in said.out and str(out) in said.err
    assert main([*arguments, "--csv", str(out)]) == 1
    assert "use --overwrite" in error_of(capsys)


def test_evaluate_per_cluster(cells: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "clusters.csv"
    arguments = ["evaluate", str(cells), "--cluster-key", "leiden", "--sensitive-key", "tech", "--per-cluster"]
    assert main([*arguments, "--csv", str(out)]) == 0
    assert len(pd.read_csv(out)) == 4
    assert "entropy_ratio" in capsys.readouterr().out


def test_evaluate_unknown_column(cells: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(cells), "--cluster-key", "louvain", "--sensitive-key", "tech"]) == 1
    assert "'louvain' is not a column" in error_of(capsys)


# what follows a clustering ------------------------------------------------------------------------------------------


def test_predict(clustered: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done, model = clustered
    cells, out = tmp_path / "cells.h5ad", tmp_path / "out.h5ad"
    make_adata()[::2].copy().write_h5ad(cells)
    before = cells.read_bytes()
    arguments = ["predict", str(cells), "--model", str(model), "--sensitive-key", "tech", *CPU]
    assert main([*arguments, "-o", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["scores"]["n_cells"] == 150
    want = ad.read_h5ad(done).obs["fair_cluster"][::2]
    assert (ad.read_h5ad(out).obs["fair_cluster"].astype(str) == want.astype(str)).mean() > 0.98
    assert cells.read_bytes() == before
    assert main([*arguments, "-o", str(cells)]) == 1
    assert "use --overwrite" in error_of(capsys)
    assert main([*arguments, "-o", str(cells), "--overwrite"]) == 0
    pd.testing.assert_frame_equal(ad.read_h5ad(cells).obs, ad.read_h5ad(out).obs)
    assert not leftovers(tmp_path)
    capsys.readouterr()
    assert main(["predict", str(cells), "--model", str(cells), "-o", str(out), "--overwrite"]) == 1
    assert "not a usable model file" in error_of(capsys)


def test_predict_without_groups_has_no_scores(
    clustered: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cells = tmp_path / "cells.zarr"
    make_adata().write_zarr(cells)
    arguments = ["predict", str(cells), "--model", str(clustered[1]), "-o", str(tmp_path / "out.zarr"), *CPU]
    assert main(arguments) == 0
    assert capsys.readouterr().out == "300 cells in 3 clusters\n"
    assert main([*arguments[:5], str(tmp_path / "out.h5ad"), *CPU]) == 1
    assert "is .zarr, and so must be the output" in error_of(capsys)


def test_map(
    clustered: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    calls: list[dict[str, Any]] = []

    def map_query(adata: AnnData, model: Any, **kwargs: Any) -> None:
        calls.append(kwargs | {"n_clusters": model.n_clusters_})
        adata.obs[kwargs["key_added"]] = pd.Categorical(["0", "1", "2"] * 100)
        adata.uns[kwargs["key_added"]] = {"mapping": {"n_genes": 60}}

    monkeypatch.setitem(vars(scfcmi.tl), "map_query", map_query)
    cells, out = tmp_path / "cells.h5ad", tmp_path / "out.h5ad"
    make_adata().write_h5ad(cells)
    arguments = ["map", str(cells), "--model", str(clustered[1]), "--sensitive-key", "tech", "-o", str(out)]
    assert main([*arguments, "--new-groups", "fit", "--key-added", "mine", "--json"]) == 0
    expected = {"sensitive_key": ["tech"], "new_groups": "fit", "layer": None, "key_added": "mine", "n_clusters": 3}
    assert calls == [expected]
    assert json.loads(capsys.readouterr().out)["sizes"] == {"0": 100, "1": 100, "2": 100}
    found = ad.read_h5ad(out)
    assert "mine" in found.obs and found.uns["mine"]["mapping"]["n_genes"] == 60


def test_recut(clustered: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done, _ = clustered
    out = tmp_path / "out.h5ad"
    assert main(["recut", str(done), "--n-clusters", "2", "-o", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["n_clusters"] == 2
    before, after = ad.read_h5ad(done), ad.read_h5ad(out)
    want = before.copy()
    scfcmi.tl.recut(want, n_clusters=2)
    assert after.obs["fair_cluster"].tolist() == want.obs["fair_cluster"].tolist()
    assert after.obsm["fair_cluster_proba"].shape == (300, 2)
    np.testing.assert_array_equal(after.obsm["X_fair_cluster"], before.obsm["X_fair_cluster"])
    assert (after.X != before.X).nnz == 0 and "fair_cluster_leaves" in after.obsm
    arguments = ["recut", str(out), "--resolution", "8", "--key-added", "fine", "-o", str(out), "--overwrite"]
    assert main(arguments) == 0
    both = ad.read_h5ad(out)
    assert both.obs["fine"].nunique() >= 3 and both.obs["fair_cluster"].nunique() == 2
    assert not leftovers(tmp_path)
    capsys.readouterr()
    assert main(["recut", str(out), "--key", "none", "--n-clusters", "2", "-o", str(out), "--overwrite"]) == 1
    assert "no tree under the name 'none'" in error_of(capsys)


def test_diagnose(
    clustered: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def diagnose(adata: AnnData, key: str, sensitive_key: Any) -> Any:
        assert "tree" in adata.uns[key] and adata.obsm[f"{key}_leaves"].shape[0] == 300 and adata.X is not None
        adata.uns[f"{key}_diagnosis"] = {"overall": "fine"}
        table = pd.DataFrame({"verdict": ["mixed"] * 3, "forced": [0.0, 0.5, np.nan]}, index=["0", "1", "2"])
        return SimpleNamespace(clusters=table, overall="fine")

    monkeypatch.setitem(vars(scfcmi.tl), "diagnose", diagnose)
    done, _ = clustered
    assert main(["diagnose", str(done)]) == 0
    assert "mixed" in capsys.readouterr().out
    out = tmp_path / "out.h5ad"
    assert main(["diagnose", str(done), "-o", str(out), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["overall"] == "fine" and found["clusters"]["2"] == {"verdict": "mixed", "forced": None}
    before, after = ad.read_h5ad(done), ad.read_h5ad(out)
    assert set(after.uns) == {*before.uns, "fair_cluster_diagnosis"}
    pd.testing.assert_frame_equal(after.obs, before.obs)


@pytest.mark.parametrize(
    "arguments",
    [["n_clusters"], ["composition", "--sensitive-key", "tech"], ["confidence"], ["training"], ["tree"]],
    ids=lambda arguments: arguments[0],
)
def test_plot(arguments: list[str], clustered: tuple[Path, Path], tmp_path: Path, figure_is_drawn: Callable) -> None:
    out = tmp_path / "figure.png"
    assert main(["plot", str(clustered[0]), *arguments, "-o", str(out)]) == 0
    assert figure_is_drawn(out)


def test_plot_umap_by_columns(clustered: tuple[Path, Path], tmp_path: Path, figure_is_drawn: Callable) -> None:
    cells = ad.read_h5ad(clustered[0])
    cells.obsm["X_fair_cluster_umap"] = np.random.default_rng(0).normal(size=(300, 2))
    cells.write_h5ad(tmp_path / "cells.h5ad")
    out = tmp_path / "figure.png"
    assert main(["plot", str(tmp_path / "cells.h5ad"), "umap", "--color", "tech", "cell_type", "-o", str(out)]) == 0
    assert figure_is_drawn(out)


def test_plot_refuses_what_a_figure_does_not_take(
    clustered: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments, message in (
        (["training", "--sensitive-key", "tech"], "not for training"),
        (["tree", "--color", "tech"], "not for tree"),
        (["confidence", "--key", "other"], "other"),
    ):
        assert main(["plot", str(clustered[0]), *arguments, "-o", str(tmp_path / "figure.png")]) == 1
        assert message in error_of(capsys)
    assert not list(tmp_path.iterdir())


def test_report(clustered: tuple[Path, Path], tmp_path: Path) -> None:
    cells = ad.read_h5ad(clustered[0])
    cells.obsm["X_fair_cluster_umap"] = np.random.default_rng(0).normal(size=(300, 2))
    cells.write_h5ad(tmp_path / "cells.h5ad")
    out = tmp_path / "page.html"
    assert main(["report", str(tmp_path / "cells.h5ad"), "-o", str(out), "--title", "Three & two"]) == 0
    page = out.read_text(encoding="utf-8")
    assert "<h1>Three &amp; two</h1>" in page and "300 cells are in 3 clusters" in page


# demo and the installed script --------------------------------------------------------------------------------------


def test_demo(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, figure_is_drawn: Callable
) -> None:
    monkeypatch.setattr(scfcmi.cli, "DEMO_CELLS", 300)
    monkeypatch.setattr(scfcmi.cli, "DEMO_GENES", 1000)
    folder = tmp_path / "new" / "folder"
    assert main(["demo", "-o", str(folder), *CPU]) == 0
    assert sorted(path.name for path in folder.iterdir()) == ["scfcmi_demo.h5ad", "scfcmi_demo.png"]
    found = ad.read_h5ad(folder / "scfcmi_demo.h5ad")
    assert found.n_obs == 300 and "fair_cluster" in found.obs and "X_fair_cluster" in found.obsm
    assert figure_is_drawn(folder / "scfcmi_demo.png")
    assert "conditional_fairness" in capsys.readouterr().out
    assert main(["demo", "-o", str(folder)]) == 1
    assert "use --overwrite" in error_of(capsys)


@pytest.fixture
def figure_is_drawn() -> Callable[[Path], bool]:
    def is_drawn(path: Path) -> bool:
        import matplotlib.image

        image = matplotlib.image.imread(path)
        return min(image.shape[:2]) > 150 and float(image[..., :3].std()) > 0.01

    return is_drawn


def test_installed_script(cells: Path) -> None:
    script = shutil.which("scfcmi", path=str(Path(sys.executable).parent)) or shutil.which("scfcmi")
    if script is None:
        pytest.skip("the console script is not installed")
    command = [script, "evaluate", str(cells), "--cluster-key", "leiden", "--sensitive-key"]
    done = subprocess.run([*command, "tech"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "mnce" in done.stdout
    failed = subprocess.run([*command, "plate"], capture_output=True, text=True, check=False)
    assert failed.returncode == 1 and "Traceback" not in failed.stderr


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_whoever_reads_may_leave_early(clustered: tuple[Path, Path], tmp_path: Path, stream: str) -> None:
    """As `head` does: what is written meanwhile is complete, and nothing failed."""
    table = tmp_path / "scores.csv"
    arguments = ["evaluate", str(clustered[0]), "--cluster-key", "fair_cluster", "--sensitive-key", "tech"]
    reader, writer = os.pipe()
    os.close(reader)
    try:
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | {stream: writer}
        command = [sys.executable, "-m", "scfcmi", *arguments, "--csv", str(table)]
        done = subprocess.run(command, text=True, stdin=subprocess.DEVNULL, **streams)
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr or "") == (0, f"Wrote {table}\n" if stream == "stdout" else "")
    assert table.read_text().startswith("clustering,")


def test_streams_that_lack_letters_or_are_closed(
    cells: Path, tmp_path: Path, stub: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An old terminal, a name of bytes that are no text, and no terminal at all."""
    output = tmp_path / "細\udcff.h5ad"
    arguments = ["cluster", str(cells), "--sensitive-key", "tech", "-o", str(output), "--overwrite"]
    said = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stderr", said)
    assert main(arguments) == 0
    said.seek(0)
    assert said.read().endswith(r"\u7d30\udcff.h5ad" + "\n")
    monkeypatch.setattr(sys, "stderr", None)
    monkeypatch.setattr(sys, "stdout", None)
    assert main(arguments) == 0
    assert main(["cluster", str(tmp_path / "none.h5ad"), *arguments[2:]]) == 1


def test_folders_may_end_with_a_slash(cells: Path, tmp_path: Path, stub: list[dict[str, Any]]) -> None:
    store, output = tmp_path / "in.zarr", tmp_path / "out.zarr"
    ad.read_h5ad(cells).write_zarr(store)
    assert main(["cluster", f"{store}/", "--sensitive-key", "tech", "-o", f"{output}/"]) == 0
    assert "fair_cluster" in ad.read_zarr(output).obs
