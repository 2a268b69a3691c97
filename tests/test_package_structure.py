"""One look at every public name: signatures, docstrings, exports and what an import changes."""

from __future__ import annotations

import ast
import doctest
import importlib
import importlib.util
import inspect
import pkgutil
import random
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

import scfcmi

ROOT = Path(__file__).resolve().parents[1]
API_PAGE = ROOT / "docs" / "api.md"
SUBPACKAGES = ("datasets", "metrics", "model", "pl", "published", "tl")
# Beside the subpackages.
TOP_LEVEL = ("__version__", "report")
MODULES = sorted(
    info.name for info in pkgutil.walk_packages(scfcmi.__path__, "scfcmi.") if not info.name.endswith("__main__")
)
TEST_FILES = sorted((ROOT / "tests").rglob("*.py"))
MAX_POSITIONAL = 3
# Exported for other folders of the package, not for users; the API page leaves them out.
INSIDE = {
    "model.Registered",
    "model.best_leaf",
    "model.check_fitted",
    "model.evidence_of",
    "model.fit_several",
    "model.largest_first",
    "model.proba_of_clusters",
    "model.restricted",
    "model.with_new_group",
    "pl.overview",
    "published.GroupBranches",
    "published.Scaling",
    "published.Term",
    "published.fit_published",
    "published.remove_checkpoint",
    "tl.store_run",
}
# `evaluate` takes the three columns that a scoring is about after `adata`.
MORE_POSITIONAL = {"tl.evaluate": 4}
# Draws the table that its counterpart in `tl` returned; works on a file.
TAKES_NO_ADATA = {"pl.tradeoff", "tl.predict_on_disk"}
GLOBAL_SEED = re.compile(r"(np|numpy)\.random\.seed|torch\.manual_seed|(L\.)?seed_everything|random\.seed")
SECTION = re.compile(r"(?m)^(?P<title>[A-Z][A-Za-z ]+)\n-{3,}$")


@dataclass(frozen=True)
class Public:
    """A public function or method, and what is asked of it."""

    name: str
    call: Callable[..., Any]
    is_method: bool = False

    @property
    def subpackage(self) -> str:
        return self.name.split(".")[0]

    @property
    def parameters(self) -> list[inspect.Parameter]:
        parameters = list(inspect.signature(self.call).parameters.values())
        return [p for p in parameters if p.name not in {"self", "cls"}] if self.is_method else parameters

    @property
    def doc(self) -> str:
        return inspect.getdoc(self.call) or ""


def exported(subpackage: str) -> dict[str, Any]:
    module = getattr(scfcmi, subpackage)
    return {name: getattr(module, name) for name in getattr(module, "__all__", [])}


def public_classes() -> dict[str, type]:
    return {
        f"{subpackage}.{name}": value
        for subpackage in SUBPACKAGES
        for name, value in exported(subpackage).items()
        if inspect.isclass(value) and f"{subpackage}.{name}" not in INSIDE
    }


def public_functions() -> list[Public]:
    return [
        Public(f"{subpackage}.{name}", value)
        for subpackage in SUBPACKAGES
        for name, value in exported(subpackage).items()
        if inspect.isfunction(value) and f"{subpackage}.{name}" not in INSIDE
    ]


def public_methods() -> list[Public]:
    """Public methods that classes of the package define themselves; inherited ones are documented where they stand."""
    return [
        Public(f"{class_name}.{name}", getattr(cls, name), is_method=not isinstance(value, staticmethod))
        for class_name, cls in public_classes().items()
        for name, value in vars(cls).items()
        if not name.startswith("_") and (inspect.isfunction(value) or isinstance(value, classmethod | staticmethod))
    ]


FUNCTIONS = public_functions()
METHODS = public_methods()
CALLABLES = FUNCTIONS + METHODS
CLASSES = public_classes()


def each(publics: list[Public]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("public", [pytest.param(p, id=p.name) for p in publics])


def sections(doc: str) -> dict[str, str]:
    """Numpydoc sections by title; the text before the first one stands under the empty title."""
    pieces = SECTION.split(doc)
    return {"": pieces[0], **dict(zip(pieces[1::2], pieces[2::2], strict=True))}


def documented_parameters(doc: str) -> list[str]:
    """Names at the margin of the `Parameters` section, as they are written."""
    lines = sections(doc).get("Parameters", "").splitlines()
    return [line.rstrip() for line in lines if line and not line[0].isspace()]


# exports ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("subpackage", SUBPACKAGES)
def test_all_is_sorted_and_true(subpackage: str) -> None:
    module: ModuleType = getattr(scfcmi, subpackage)
    names = list(module.__all__)
    assert names, f"scfcmi.{subpackage} exports nothing"
    assert names == sorted(set(names), key=lambda name: (not name.isupper(), name)), "constants first, as ruff sorts"
    missing = [name for name in names if not hasattr(module, name)]
    assert not missing
    visible = {
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and (inspect.isfunction(value) or inspect.isclass(value))
        and value.__module__.startswith("scfcmi.")
    }
    inside = {name.removeprefix(f"{subpackage}.") for name in INSIDE}
    assert visible <= set(names) | inside, "public by name, but not in __all__"


def test_top_level_all() -> None:
    assert tuple(scfcmi.__all__) == tuple(sorted((*SUBPACKAGES, *TOP_LEVEL)))
    assert callable(scfcmi.report) and inspect.getdoc(scfcmi.report)
    assert re.fullmatch(r"\d+\.\d+\.\d+.*", scfcmi.__version__)


def test_api_page_lists_every_public_function_and_class() -> None:
    listed = set(re.findall(rf"(?m)^ {{4}}((?:{'|'.join(SUBPACKAGES)})\.\w+)$", API_PAGE.read_text(encoding="utf-8")))
    assert listed - INSIDE == {public.name for public in FUNCTIONS} | set(CLASSES)


# signatures ---------------------------------------------------------------------------------------------------------


@each([p for p in FUNCTIONS if p.subpackage in {"tl", "pl"} and p.name not in TAKES_NO_ADATA])
def test_first_argument_is_adata(public: Public) -> None:
    assert public.parameters, f"{public.name} takes no argument"
    assert public.parameters[0].name == "adata"


@each(CALLABLES)
def test_at_most_three_positional_parameters(public: Public) -> None:
    positional = [
        p.name
        for p in public.parameters
        if p.kind not in {p.KEYWORD_ONLY, p.VAR_KEYWORD} and p.kind != p.VAR_POSITIONAL
    ]
    most = MORE_POSITIONAL.get(public.name, MAX_POSITIONAL)
    assert len(positional) <= most, f"make keyword-only: {positional[most:]}"
    assert not [p.name for p in public.parameters if p.kind == p.VAR_POSITIONAL]


@each(CALLABLES)
def test_copy_is_keyword_only_and_off(public: Public) -> None:
    for parameter in public.parameters:
        if parameter.name == "copy":
            assert parameter.kind == parameter.KEYWORD_ONLY
            assert parameter.default is False


@each(CALLABLES)
def test_everything_is_annotated(public: Public) -> None:
    bare = [p.name for p in public.parameters if p.annotation is p.empty]
    assert not bare
    assert inspect.signature(public.call).return_annotation is not inspect.Signature.empty


# docstrings ---------------------------------------------------------------------------------------------------------


@each(CALLABLES)
def test_docstring_has_a_summary_line(public: Public) -> None:
    first, *rest = public.doc.splitlines() or [""]
    assert first.endswith((".", "!", "?")), f"{public.name}: the first line should be one sentence, it is {first!r}"
    assert not rest or rest[0] == "", "an empty line belongs after the summary"


@each(CALLABLES)
def test_docstring_names_every_parameter_in_order(public: Public) -> None:
    documented = [name.strip(" *") for line in documented_parameters(public.doc) for name in line.split(",")]
    assert documented == [p.name for p in public.parameters]


@each(CALLABLES)
def test_docstring_does_not_repeat_the_signature(public: Public) -> None:
    repeated = [line for line in documented_parameters(public.doc) if ":" in line or "default" in line]
    assert not repeated, "types and defaults stand in the signature"


@each(CALLABLES)
def test_docstring_says_what_comes_back(public: Public) -> None:
    returns_nothing = inspect.signature(public.call).return_annotation in {None, "None"}
    if public.is_method and returns_nothing:
        pytest.skip("a method that returns nothing")
    assert {"Returns", "Yields"} & set(sections(public.doc))


@each(FUNCTIONS)
def test_docstring_has_an_example(public: Public) -> None:
    assert ">>> " in sections(public.doc).get("Examples", "")


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_classes_are_documented(name: str) -> None:
    cls = CLASSES[name]
    doc = inspect.getdoc(cls) or ""
    assert doc.splitlines()[0].endswith(".")
    if name.startswith("model.") and not is_dataclass(cls):
        assert ">>> " in sections(doc).get("Examples", "")
    undocumented = [
        attribute
        for attribute, value in vars(cls).items()
        if isinstance(value, property) and not attribute.startswith("_") and not inspect.getdoc(value)
    ]
    assert not undocumented


def examples() -> list[doctest.DocTest]:
    finder = doctest.DocTestFinder(exclude_empty=True)
    found = [
        test
        for name, value in [(p.name, p.call) for p in FUNCTIONS] + sorted(CLASSES.items())
        for test in finder.find(value, name, globs={})
    ]
    return [test for test in found if test.examples]


def random_state() -> tuple[str, ...]:
    _, keys, *rest = np.random.get_state()
    return repr(random.getstate()), str(np.asarray(keys).tolist()), repr(rest), str(torch.get_rng_state().tolist())


@pytest.mark.parametrize("example", [pytest.param(test, id=test.name) for test in examples()])
def test_docstring_example_runs(
    example: doctest.DocTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plt, "show", lambda *_args, **_kwargs: None)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE, verbose=False)
    before = random_state()
    result = runner.run(example, clear_globs=False)
    assert result.failed == 0, capsys.readouterr().out
    assert random_state() == before, "a global random state was used or set"


# imports ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", MODULES)
def test_module_is_importable(module: str) -> None:
    assert importlib.import_module(module).__doc__, "a module starts with a line that says what it holds"


def test_every_folder_with_code_is_a_package() -> None:
    package = Path(scfcmi.__file__).parent
    folders = {path.parent for path in package.rglob("*.py")}
    assert not [str(folder) for folder in folders if not (folder / "__init__.py").is_file()]


@pytest.mark.parametrize("path", [pytest.param(path, id=path.name) for path in TEST_FILES])
def test_test_file_is_importable(path: Path) -> None:
    if path == Path(__file__).resolve():
        return
    # Some files import what stands beside them.
    folder = ModuleType(f"importable_{path.parent.name}")
    folder.__path__ = [str(path.parent)]
    spec = importlib.util.spec_from_file_location(f"{folder.__name__}.{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules |= {folder.__name__: folder, spec.name: module}
    try:
        spec.loader.exec_module(module)
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] == folder.__name__]:
            del sys.modules[name]


def sources() -> Iterator[tuple[str, str, ast.Module]]:
    """Path of every module, its package, and its code."""
    root = Path(scfcmi.__file__).parent
    for path in sorted(root.rglob("*.py")):
        place = path.relative_to(root.parent)
        yield place.as_posix(), ".".join(place.parent.parts), ast.parse(path.read_text(encoding="utf-8"))


def imported(code: ast.AST, package: str) -> Iterator[str]:
    """Full names of all that is imported, also inside of functions."""
    for node in ast.walk(code):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            yield from (f"{module}.{alias.name}" for alias in node.names)


def test_nothing_private_is_imported_from_another_package() -> None:
    guilty = [
        f"{path}: {name}"
        for path, package, code in sources()
        for name in imported(code, package)
        if (found := re.match(r"(scfcmi\.\w+)\._", name)) and found[1] != package
    ]
    assert not guilty


def test_no_cycle_of_imports_is_hidden() -> None:
    guilty = [
        f"{path}: {name}"
        for path, package, code in sources()
        for node in ast.walk(code)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for name in imported(node, package)
        # Those of the lazy `tl` stand there for type checkers alone.
        if name.startswith("scfcmi.") and path != "scfcmi/tl/__init__.py"
    ]
    assert not guilty


SNAPSHOT = """
import json, random
import matplotlib, numpy, torch

def state():
    kind, keys, *rest = numpy.random.get_state()
    params = {key: repr(value) for key, value in dict.items(matplotlib.rcParams) if key != "backend"}
    return [repr(random.getstate()), [kind, keys.tolist(), rest], torch.get_rng_state().tolist(),
            str(torch.get_default_dtype()), torch.get_num_threads(), params, repr(matplotlib.rcParams._get("backend"))]

before = json.dumps(state(), default=str)
import scfcmi
assert json.dumps(state(), default=str) == before
"""


def test_import_leaves_random_state_and_figure_settings_alone() -> None:
    done = subprocess.run([sys.executable, "-c", SNAPSHOT], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def seeds_globally(node: ast.AST) -> Iterator[int]:
    """Lines that set a global seed, other than where the state is put back afterwards."""
    if isinstance(node, ast.With) and any("fork_rng" in ast.unparse(item.context_expr) for item in node.items):
        return
    if isinstance(node, ast.Call) and GLOBAL_SEED.fullmatch(ast.unparse(node.func)):
        yield node.lineno
    for child in ast.iter_child_nodes(node):
        yield from seeds_globally(child)


IMPORTED = """
import sys
import scfcmi
heavy = {"torch", "scanpy", "anndata", "sklearn", "matplotlib", "pandas", "numpy"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
scfcmi.metrics
assert not {"torch", "scanpy", "matplotlib"} & set(sys.modules), "metrics need none of these"
"""


def test_import_brings_what_is_used_and_no_more() -> None:
    done = subprocess.run([sys.executable, "-c", IMPORTED], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_no_module_sets_a_global_seed() -> None:
    guilty = [
        f"{path.name}:{line}"
        for path in sorted(Path(scfcmi.__file__).parent.rglob("*.py"))
        for line in seeds_globally(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert not guilty


@pytest.mark.parametrize("module", [scfcmi, scfcmi.tl])
def test_names_that_are_imported_when_used(module: ModuleType) -> None:
    assert dir(module) == module.__all__
    assert all(getattr(module, name) is not None for name in module.__all__)
    with pytest.raises(AttributeError, match=f"module '{module.__name__}' has no attribute 'nothing'"):
        _ = module.nothing
