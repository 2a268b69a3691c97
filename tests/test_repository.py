"""Files around the package that nothing else would notice when they fall behind."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
# what conda-forge calls them
CONDA = {"igraph": "python-igraph", "matplotlib": "matplotlib-base", "torch": "pytorch"}


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_actions_are_pinned_and_may_do_little(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    used = re.findall(r"uses: *(.*)", text)
    assert used
    assert [action for action in used if not re.fullmatch(r"[\w./-]+@[0-9a-f]{40} # v\d+(\.\d+)*", action)] == []
    assert re.search(r"^permissions:( \{\}|\n  contents: read)$", text, flags=re.MULTILINE)
    writes = re.findall(r"^ +([\w-]+): write", text, flags=re.MULTILINE)
    assert set(writes) <= ({"id-token"} if path.stem == "release" else set())


def test_one_action_has_one_pin() -> None:
    used = {action for path in WORKFLOWS for action in re.findall(r"uses: *(.*)", path.read_text(encoding="utf-8"))}
    assert len(used) == len({action.split("@")[0] for action in used})


def test_conda_recipe_needs_what_the_package_needs() -> None:
    recipe = (ROOT / "conda" / "recipe.yaml").read_text(encoding="utf-8")
    run = recipe.split("  run:\n", 1)[1].split("\n\n", 1)[0]
    listed = set(re.findall(r"^ +- (\S+ [<>]=?[\d.]+)$", run, flags=re.MULTILINE))
    needed = {f"python {PROJECT['project']['requires-python']}"}
    for requirement in PROJECT["project"]["dependencies"]:
        name, bound = re.fullmatch(r"([\w-]+)([<>]=?[\d.]+)", requirement).groups()
        needed.add(f"{CONDA.get(name, name)} {bound}")
    assert listed == needed
    assert PROJECT["project"]["scripts"]["scfcmi"] in recipe


@pytest.mark.parametrize("path", ["CITATION.cff", "conda/recipe.yaml"])
def test_files_name_the_version(path: str) -> None:
    text = (ROOT / path).read_text(encoding="utf-8")
    named = re.search(r"^ *version: \"?([^\s\"]+)\"?$", text, flags=re.MULTILINE)
    assert named is not None and named.group(1) == PROJECT["project"]["version"]


def test_fragments_of_the_changelog_have_a_kind() -> None:
    kinds = {kind["directory"] for kind in PROJECT["tool"]["towncrier"]["type"]}
    for path in (ROOT / "changelog.d").iterdir():
        if path.name != "README.md":
            assert re.fullmatch(rf"(\+[\w-]+|\d+)\.({'|'.join(sorted(kinds))})\.md", path.name), path.name
            assert not path.read_text(encoding="utf-8").startswith("-"), f"{path.name}: towncrier writes the dash"


def test_every_tick_of_the_comparison_is_a_link() -> None:
    page = (ROOT / "docs" / "compared.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("|")]
    ticks = [cell.strip() for row in rows[2:] for cell in row.strip("|").split("|") if "✓" in cell]
    assert len(ticks) > 40
    assert [cell for cell in ticks if not re.match(r"\{(func|class)\}`✓ <scfcmi\.\S+>`|\[✓\]\[[\w-]+\]", cell)] == []
    used = set(re.findall(r"\]\[([\w-]+)\]", page))
    assert used == set(re.findall(r"^\[([\w-]+)\]: https://\S+$", page, flags=re.MULTILINE))
