"""Every tutorial runs from top to bottom, without network."""

from __future__ import annotations

from pathlib import Path

import pytest

TUTORIALS = sorted((Path(__file__).resolve().parents[1] / "tutorials").glob("*.ipynb"))


def test_there_are_tutorials() -> None:
    assert {"quickstart", "how_many_clusters", "attributes", "reference_and_query"} <= {path.stem for path in TUTORIALS}


def test_every_tutorial_is_in_the_documentation() -> None:
    page = (Path(__file__).resolve().parents[1] / "docs" / "tutorials.md").read_text(encoding="utf-8")
    assert [path.stem for path in TUTORIALS if f"_tutorials/{path.stem}\n" not in page] == []


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_tutorial_runs(path: Path, tmp_path: Path) -> None:
    nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed")
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed")
    pytest.importorskip("ipykernel", reason="ipykernel is not installed")
    notebook = nbformat.read(path, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "tutorials are stored without outputs"
    nbclient.NotebookClient(
        notebook, timeout=240, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
