"""The console script: what it writes, what it refuses, and how it says so."""

from __future__ import annotations

import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

import scfcmi
from scfcmi.cli import main
from scfcmi.source._store import Changes

COMMANDS = ("demo", "cluster", "evaluate")


@pytest.fixture
def cells(adata: AnnData, tmp_path: Path) -> Path:
    """A file with 300 cells and a clustering of them."""
    adata.obs["leiden"] = pd.Categorical((np.arange(adata.n_obs) % 4).astype(str))
    path = tmp_path / "cells.h5ad"
    adata.write_h5ad(path)
    return path


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Calls that would have gone to `fair_cluster`, which only writes labels here."""
    calls: list[dict[str, Any]] = []

    def fair_cluster(adata: AnnData, sensitive_key: str, n_clusters: int | None = None, **kwargs: Any) -> None:
        calls.append({"sensitive_key": sensitive_key, "n_clusters": n_clusters, **kwargs})
        adata.obs[kwargs["key_added"]] = pd.Categorical((np.arange(adata.n_obs) % 3).astype(str))

    monkeypatch.setattr(scfcmi.tl, "fair_cluster", fair_cluster)
    return calls


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
        ["evaluate", "in.h5ad", "--sensitive-key", "tech"],
    ],
)
def test_wrong_usage_exits_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage: scfcmi" in capsys.readouterr().err


# cluster ------------------------------------------------------------------------------------------------------------


def test_cluster_writes_a_copy(cells: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = cells.read_bytes()
    out = tmp_path / "out.h5ad"
    arguments = ["cluster", str(cells), "--sensitive-key", "tech", "-o", str(out), "--n-clusters", "3"]
    assert main([*arguments, "--label-key", "cell_type", "--max-epochs", "2", "--device", "cpu"]) == 0
    found = ad.read_h5ad(out)
    assert found.obs["fair_cluster"].nunique() <= 3
    assert found.obsm["X_fair_cluster"].shape[0] == found.obsm["fair_cluster_proba"].shape[0] == found.n_obs
    assert found.uns["fair_cluster"]["metrics"]["nmi"] >= 0
    assert cells.read_bytes() == before
    said = capsys.readouterr().out
    assert "conditional_fairness" in said and str(out) in said
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
    options = ["--n-clusters", "3", "--max-epochs", "2", "--device", "cpu", "--mask-var", "mine"]
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
    scfcmi.tl.fair_cluster(adata, "tech", 3, mask_var="mine", max_epochs=2, device="cpu", progress_bar=False)
    assert found.obs["fair_cluster"].tolist() == adata.obs["fair_cluster"].tolist()
    assert set(found.obsm) == set(adata.obsm) and set(found.uns) == {"fair_cluster", "note"}
    assert scfcmi.model.FCMI.load(model).n_features_ == 90
    assert not leftovers(tmp_path)
    if not in_memory:
        assert main(["cluster", str(out), "--sensitive-key", "tech", "-o", str(out), *options, "--overwrite"]) == 0
        assert main(["evaluate", str(out), "--cluster-key", "fair_cluster", "--sensitive-key", "tech"]) == 0
        assert not leftovers(tmp_path)


def test_every_option_reaches_the_function(cells: Path, tmp_path: Path, stub: list[dict[str, Any]]) -> None:
    out = str(tmp_path / "out.h5ad")
    assert main(["cluster", str(cells), "--sensitive-key", "tech", "-o", out]) == 0
    options = (
        "--n-clusters 7 --label-key cell_type --layer counts --preset paper --key-added mine --random-state 5 "
        "--device cpu --max-epochs 9 --batch-size 64 --fairness 0.25 --mask-var mine --overwrite "
        "--devices 2 --checkpoint run.safetensors --continuous-keys depth mito --precision 64-true --no-early-stopping"
    )
    assert main(["cluster", str(cells), "--sensitive-key", "tech", "-o", out, *options.split()]) == 0
    plain, full = stub
    assert plain["n_clusters"] is plain["fairness"] is plain["max_epochs"] is plain["use_rep"] is None
    assert (plain["preset"], plain["key_added"], plain["random_state"]) == ("default", "fair_cluster", 0)
    assert (plain["mask_var"], plain["precision"], plain["early_stopping"]) == ("highly_variable", "32-true", True)
    assert full == {
        "sensitive_key": ["tech"],
        "n_clusters": 7,
        "continuous_keys": ["depth", "mito"],
        "use_rep": None,
        "layer": "counts",
        "mask_var": "mine",
        "label_key": "cell_type",
        "preset": "paper",
        "fairness": 0.25,
        "key_added": "mine",
        "random_state": 5,
        "device": "cpu",
        "devices": 2,
        "checkpoint": Path("run.safetensors"),
        "max_epochs": 9,
        "batch_size": 64,
        "precision": "64-true",
        "early_stopping": False,
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


@pytest.mark.parametrize("error", [ValueError("no such\nthing"), KeyError("no such thing"), OSError("no such thing")])
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
    assert capsys.readouterr().err == "scfcmi: interrupted; no output was written\n"


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
    said = capsys.readouterr().out
    assert "leiden" in said and "mnce" in said and str(out) in said
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


# demo and the installed script --------------------------------------------------------------------------------------


def test_demo(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, figure_is_drawn: Callable
) -> None:
    monkeypatch.setattr(scfcmi.cli, "DEMO_CELLS", 300)
    monkeypatch.setattr(scfcmi.cli, "DEMO_GENES", 1000)
    folder = tmp_path / "new" / "folder"
    assert main(["demo", "-o", str(folder), "--max-epochs", "3"]) == 0
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
        return image.shape[0] > 300 and float(image[..., :3].std()) > 0.01

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
