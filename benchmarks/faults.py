"""The kinds of fault that were found in 0.1, each in a situation: what that release did, and what this one does.

    git worktree add --detach OLD 82cf29c~1
    python benchmarks/faults.py --old OLD [--only NAME ...] [--report]

Every situation is one function that knows both releases, and is run for each in a fresh process which finds that
release first. It says whether it held, and in words what was seen. OLD needs lightning-fabric beside what this release
needs. What the present tests say about OLD where they can be run on it at all is beside it: `--tests`.
"""

from __future__ import annotations

import inspect
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import tracemalloc
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
PATIENCE = 900
KEYS = ["situation", "release"]
RELEASES = {"0.1": "0.1", "now": "this release"}
Told = tuple[bool, str]
SITUATIONS: dict[str, tuple[str, str, str, Callable[[], Told]]] = {}


def situation(kind: str, title: str, test: str) -> Callable[[Callable[[], Told]], Callable[[], Told]]:
    """Put a function into the table: its kind, what happens in it, and the test of it that the suite has."""

    def put(function: Callable[[], Told]) -> Callable[[], Told]:
        SITUATIONS[function.__name__] = (kind, title, test, function)
        return function

    return put


# what both releases know ----------------------------------------------------------------------------------------------


def cells(n: int = 300, m: int = 60, seed: int = 0) -> Any:
    """Three types, seen by two technologies that differ a little."""
    import numpy as np
    import pandas as pd
    from anndata import AnnData
    from scipy import sparse

    rng = np.random.default_rng(seed)
    types, tech = np.arange(n) % 3, np.arange(n) // 3 % 2
    rate = np.exp(rng.normal(size=(3, m))[types] + 0.5 * rng.normal(size=(2, m))[tech])
    obs = pd.DataFrame(
        {
            "tech": pd.Categorical.from_codes(tech, ["a", "b"]),
            "cell_type": pd.Categorical.from_codes(types, list("TBK")),
        },
        index=[f"cell{i}" for i in range(n)],
    )
    x = sparse.csr_matrix(np.log1p(rng.poisson(rate)).astype(np.float32))
    return AnnData(x, obs=obs, var=pd.DataFrame(index=[f"gene{i}" for i in range(m)]))


def quick(function: Callable[..., Any], **more: Any) -> dict[str, Any]:
    """Options that make a fit short, as far as the release has them."""
    wanted = {"max_epochs": 3, "progress_bar": False, "device": "cpu"} | more
    known = inspect.signature(function).parameters
    return {name: value for name, value in wanted.items() if name in known or name in more}


def cluster(adata: Any, key: Any = "tech", n_clusters: int | None = 3, **given: Any) -> Any:
    import scfcmi as sf

    return sf.tl.fair_cluster(adata, key, n_clusters, **quick(sf.tl.fair_cluster, **given))


def correct(adata: Any, model: Any) -> None:
    import scfcmi as sf

    known = inspect.signature(sf.tl.correct).parameters
    sf.tl.correct(adata, **({"model": model} if "model" in known else {}))


def fitted(x: Any, groups: Any, n_clusters: int | None = 3, **given: Any) -> Any:
    from scfcmi.model import FCMI

    return FCMI(n_clusters, **quick(FCMI, **given)).fit(x, groups)


def published(x: Any, groups: Any, devices: int = 1, epochs: int = 2, **given: Any) -> Any:
    """The published network, with one process or several."""
    from scfcmi.model import FCMI

    if "max_epochs" in inspect.signature(FCMI).parameters:
        given |= {"max_epochs": epochs, "batch_size": 128}
    else:
        from scfcmi.published import NetworkOptions

        given["network"] = NetworkOptions(max_epochs=epochs, warmup_epochs=1, batch_size=128)
    return FCMI(3, preset="paper", devices=devices, device="cpu", progress_bar=False, **given).fit(x, groups)


def numbers(n: int = 240, m: int = 12, seed: int = 0) -> tuple[Any, Any]:
    import numpy as np

    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, m)) + 4 * np.eye(m)[rng.integers(0, 3, n)] + (np.arange(n) % 2)[:, None]
    return x.astype(np.float32), np.array(["a", "b"] * (n // 2))


def refusal(call: Callable[[], Any]) -> BaseException | None:
    """What it raises."""
    try:
        call()
    except Exception as error:  # noqa: BLE001 - whatever a release raises is what is looked at
        return error
    return None


def said(error: BaseException | None) -> str:
    if error is None:
        return "accepted"
    text = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {text[:110]}{'…' if len(text) > 110 else ''}"


def raised_by(error: BaseException | None) -> str:
    """The package in whose code it was raised."""
    if error is None:
        return ""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    name = "" if trace is None else trace.tb_frame.f_globals.get("__name__", "")
    return str(name).partition(".")[0]


def ours(error: BaseException | None) -> bool:
    """Whether it is an error of this package, in words."""
    import traceback

    if error is None or raised_by(error) != "scfcmi":
        return False
    return str(traceback.extract_tb(error.__traceback__)[-1].line).startswith("raise ")


def command(*arguments: Any) -> Told:
    """The command in a process of its own: whether it ended without a traceback, and its last line."""
    done = subprocess.run(
        [sys.executable, "-c", "from scfcmi.cli import main; raise SystemExit(main())", *map(str, arguments)],
        text=True,
        capture_output=True,
        stdin=subprocess.DEVNULL,
    )
    lines = done.stderr.strip().splitlines() or done.stdout.strip().splitlines() or [""]
    # Without folders, which are others each time.
    last = re.sub(r"[^\s'=]*/", "", lines[-1])[:110]
    return "Traceback" not in done.stderr, f"exit {done.returncode}: {last}"


def quick_command() -> list[str]:
    """Options of `scfcmi cluster` that make it short."""
    import scfcmi as sf

    has = "max_epochs" in inspect.signature(sf.tl.fair_cluster).parameters
    return ["--device", "cpu", "--n-clusters", "3", *(["--max-epochs", "2"] if has else [])]


def peak() -> float:
    """Megabytes that this process has held at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def fork(job: Callable[[], Any]) -> int:
    child = os.fork()
    if child == 0:
        code = 1
        try:
            job()
            code = 0
        finally:
            os._exit(code)
    return child


def folder() -> Path:
    return Path(tempfile.mkdtemp(dir=os.environ["SCFCMI_SCRATCH"]))


def agreement(one: Any, other: Any) -> float:
    from sklearn.metrics import adjusted_rand_score

    return float(adjusted_rand_score(one, other))


PROGRAM = """
import sys; sys.path.insert(0, {here!r})
from faults import published, numbers
print(len(published(*numbers(), devices=2).assignment_.labels))
"""


def program(text: str, **given: Any) -> subprocess.Popen[str]:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | given
    return subprocess.Popen([sys.executable, "-c", text.format(here=str(HERE))], text=True, **pipes)


def end_of(process: subprocess.Popen[str], patience: float = 180) -> str:
    try:
        out, err = process.communicate(timeout=patience)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return f"no end within {patience:.0f} s"
    if process.returncode == 0:
        return out.strip() or "nothing said"
    found = [line for line in err.splitlines() if "ended by signal" in line or "Error" in line]
    return (found or err.strip().splitlines() or [f"status {process.returncode}"])[-1][:140]


# 1 how a process was started ------------------------------------------------------------------------------------------
START = "depends on how a process was started"


@situation(
    START, "`devices=2`, standard input a pipe that stays open", "robust/test_processes.py::test_any_standard_input"
)
def standard_input_is_a_pipe() -> Told:
    reader, writer = os.pipe()
    found = end_of(program(PROGRAM, stdin=reader))
    os.close(reader), os.close(writer)
    return found == "240", "as ever" if found == "240" else found


@situation(START, "the same, a terminal", "robust/test_processes.py::test_any_standard_input")
def standard_input_is_a_terminal() -> Told:
    writer, reader = os.openpty()
    found = end_of(program(PROGRAM, stdin=reader))
    os.close(reader), os.close(writer)
    return found == "240", "as ever" if found == "240" else found


@situation(
    START,
    "another program takes the port before it is used",
    "published/test_processes.py::test_processes_meet_on_the_loopback_interface_alone",
)
def port_is_taken() -> Told:
    import socket

    popen, taken = subprocess.Popen, []

    def first(*args: Any, **given: Any) -> Any:
        port = int((given.get("env") or {}).get("MASTER_PORT", 0))
        if port and not taken:
            taken.append(socket.create_server(("127.0.0.1", port)))
        return popen(*args, **given)

    subprocess.Popen = first  # type: ignore[assignment, misc]
    try:
        error = refusal(lambda: published(*numbers(), devices=2))
    finally:
        subprocess.Popen = popen  # type: ignore[misc]
    return error is None, "no port is named" if error is None and not taken else said(error)


# 2 writing over what must stay ----------------------------------------------------------------------------------------
OVER = "writes over what must stay"


@situation(
    OVER, "`predict_on_disk` with the name of the cells as key", "robust/test_names.py::test_names_of_cells_stay"
)
def key_of_the_names_of_cells() -> Told:
    import anndata as ad

    import scfcmi as sf

    adata = cells()
    model = cluster(adata.copy(), return_model=True)
    adata.obs_names.name = "barcode"
    said_of = []
    for suffix in ("h5ad", "zarr"):
        path = folder() / f"a.{suffix}"
        adata.write_h5ad(path) if suffix == "h5ad" else adata.write_zarr(path)
        error = refusal(lambda path=path: sf.tl.predict_on_disk(path, model, sensitive_key="tech", key_added="barcode"))
        names = list((ad.read_h5ad if suffix == "h5ad" else ad.read_zarr)(path).obs_names)
        if names != list(adata.obs_names):
            said_of.append(f"{suffix}: names of cells are now {names[:3]}")
        elif not ours(error):
            said_of.append(f"{suffix}: {said(error)}")
    return not said_of, "; ".join(said_of) or said(error)


@situation(OVER, "`scfcmi cluster --key-added _index`", "robust/test_core.py::test_refused_before_any_work")
def key_of_the_index_on_the_command_line() -> Told:
    import anndata as ad

    where = folder()
    adata = cells()
    adata.write_h5ad(where / "a.h5ad")
    arguments = [
        "cluster",
        where / "a.h5ad",
        "-o",
        where / "b.h5ad",
        "--sensitive-key",
        "tech",
        "--key-added",
        "_index",
    ]
    _, line = command(*arguments, *quick_command())
    if not (where / "b.h5ad").exists():
        return line.startswith("exit 1"), line
    names = list(ad.read_h5ad(where / "b.h5ad").obs_names)
    return names == list(adata.obs_names), f"{line[:6]}, names of cells are now {names[:3]}"


@situation(OVER, '`use_rep="X_pca"` with `key_added="pca"`', "robust/test_core.py::test_refused_before_any_work")
def representation_is_replaced() -> Told:
    import numpy as np

    adata = cells()
    adata.obsm["X_pca"] = np.random.default_rng(0).normal(size=(300, 5))
    before = adata.obsm["X_pca"].copy()
    error = refusal(lambda: cluster(adata, use_rep="X_pca", key_added="pca"))
    same = np.shape(adata.obsm["X_pca"]) == before.shape and np.array_equal(adata.obsm["X_pca"], before)
    return same and ours(error), said(
        error
    ) if same else f"the representation is now of shape {adata.obsm['X_pca'].shape}"


@situation(
    OVER, "a continuous column `pct/mito`, written and read", "robust/test_core.py::test_columns_called_like_paths"
)
def column_called_like_a_path() -> Told:
    import anndata as ad
    import numpy as np

    adata = cells()
    adata.obs["pct/mito"] = np.linspace(0, 1, 300)
    error = refusal(lambda: cluster(adata, continuous_keys="pct/mito"))
    if error is not None:
        return ours(error), said(error)
    del adata.obs["pct/mito"]
    path, record = folder() / "a.h5ad", adata.uns["fair_cluster"]
    error = refusal(lambda: adata.write_h5ad(path))
    if error is not None:
        return False, f"cannot be written: {said(error)}"
    found = ad.read_h5ad(path).uns["fair_cluster"]
    one, other = sorted(record["metrics_by_attribute"]), sorted(found["metrics_by_attribute"])
    return one == other, f"entries {one} are read as {other}"


@situation(OVER, 'keys `""`, `"."`, `"a/b"` and 3', "robust/test_core.py::test_refused_before_any_work")
def keys_that_are_no_names() -> Told:
    import anndata as ad

    lost = []
    for key in ("", ".", "a/b", 3):
        adata = cells()
        error = refusal(lambda key=key, adata=adata: cluster(adata, key_added=key))
        if error is None:
            path = folder() / "a.h5ad"
            error = refusal(lambda adata=adata, path=path: (adata.write_h5ad(path), ad.read_h5ad(path)))
            ends = "cannot be written or read" if error is not None else "accepted"
            if error is None and key in ad.read_h5ad(path).obs:
                continue
            lost.append(f"{key!r} {ends}")
        elif not ours(error):
            lost.append(f"{key!r}: {said(error)}")
    return not lost, "; ".join(lost) or "all refused in words"


# 3 stale results ------------------------------------------------------------------------------------------------------
STALE = "stale results beside new labels"


@situation(
    STALE,
    "a mapping under the name of a run that had stability, a diagnosis and corrected expression",
    "robust/test_core.py::test_what_an_earlier_run_left_goes",
)
def mapping_over_a_run() -> Told:
    import scfcmi as sf

    adata = cells()
    model = cluster(adata, n_init=2, return_model=True)
    sf.tl.diagnose(adata)
    correct(adata, model)
    sf.tl.map_query(adata, model, sensitive_key="tech")
    left = [f"obs/{name}" for name in adata.obs if name.endswith("_stability")]
    left += [f"uns/{name}" for name in adata.uns if name.endswith("_diagnosis")]
    left += [f"layers/{name}" for name in adata.layers]
    return not left, f"still there: {', '.join(left)}" if left else "all of the run is gone"


@situation(STALE, "a second run after a correction", "robust/test_core.py::test_what_an_earlier_run_left_goes")
def run_over_a_correction() -> Told:
    adata = cells()
    correct(adata, cluster(adata, return_model=True))
    cluster(adata, random_state=1)
    left = list(adata.layers)
    return not left, f"expression corrected by the first run is still in {left}" if left else "it is gone"


# 4 forms of matrices --------------------------------------------------------------------------------------------------
FORMS = "forms of matrices"


@situation(
    FORMS,
    "entries of a CSR row stand twice",
    "robust/test_situations.py::test_the_same_data_in_another_form[duplicated]",
)
def entries_stand_twice() -> Told:
    import numpy as np
    from scipy import sparse

    adata = cells(600, 40)
    # Types that are hardly apart, so that what is done to the matrix shows.
    adata.X = sparse.csr_matrix(np.log1p(np.random.default_rng(0).poisson(np.expm1(adata.X.toarray()) / 3 + 0.5)))
    again = adata.copy()
    x = adata.X.tocsr()
    # Of every third gene, in two unequal parts.
    parts = np.where(x.indices % 3 == 0, 0.1, 1.0)[:, None] * [1, 0] + np.where(x.indices % 3 == 0, 0.9, 0.0)[
        :, None
    ] * [0, 1]
    data, indices = (x.data[:, None] * parts).ravel().astype(np.float32), np.repeat(x.indices, 2)
    again.X = sparse.csr_matrix((data, indices, x.indptr * 2), shape=x.shape)
    for one in (adata, again):
        cluster(one, n_clusters=8, **quick_epochs(20))
    same = agreement(adata.obs["fair_cluster"], again.obs["fair_cluster"])
    return same == 1, f"ARI {same:.2f} to the same matrix with entries summed"


def quick_epochs(n: int) -> dict[str, int]:
    import scfcmi as sf

    return {"max_epochs": n} if "max_epochs" in inspect.signature(sf.tl.fair_cluster).parameters else {}


@situation(FORMS, "entries 3 and −2 of one gene", "robust/test_matrices.py::test_entries_that_cancel_are_not_negative")
def entries_that_cancel() -> Told:
    import numpy as np
    from scipy import sparse

    adata = cells()
    x = adata.X.tocsr()
    data, indices = np.stack([x.data + 2, np.full_like(x.data, -2)], 1).ravel(), np.repeat(x.indices, 2)
    adata.X = sparse.csr_matrix((data, indices, x.indptr * 2), shape=x.shape)
    error = refusal(lambda: cluster(adata))
    return error is None, said(error)


@situation(
    FORMS, "a matrix without `encoding-type`, as older writers left it", "robust/test_faults.py::test_older_writers"
)
def files_of_older_writers() -> Told:
    import anndata as ad
    import h5py

    import scfcmi as sf

    adata = cells()
    model = cluster(adata.copy(), return_model=True)
    adata.X = adata.X.toarray()
    path = folder() / "a.h5ad"
    adata.write_h5ad(path)
    with h5py.File(path, "r+") as file:
        for attribute in ("encoding-type", "encoding-version"):
            del file["X"].attrs[attribute]
    assert ad.read_h5ad(path).X.shape == (300, 60), "anndata reads it"
    error = refusal(lambda: sf.tl.predict_on_disk(path, model, sensitive_key="tech"))
    return error is None, said(error)


@situation(FORMS, "one empty cell among 300", "tl/test_fair_cluster.py::test_empty_cells_are_marked")
def an_empty_cell() -> Told:
    adata = cells()
    x = adata.X.tolil()
    x[5] = 0
    adata.X = x.tocsr()
    error = refusal(lambda: cluster(adata))
    return error is None, said(error) if error is not None else "299 cells clustered, one marked, a warning"


@situation(
    FORMS,
    "a table with text in `obsm`",
    "robust/test_matrices.py::test_representations_that_cannot_be_clustered",
)
def text_in_a_representation() -> Told:
    import pandas as pd

    adata = cells()
    adata.obsm["X_r"] = pd.DataFrame({"n": range(300), "word": "a"}, index=adata.obs_names)
    error = refusal(lambda: cluster(adata, use_rep="X_r"))
    return ours(error) and "word" in str(error), said(error)


# 5 types of values ----------------------------------------------------------------------------------------------------
TYPES = "types of values"


@situation(
    TYPES,
    "groups 0 and 1 in the fit, 0.0 and 1.0 in the query",
    "robust/test_core.py::test_groups_of_later_data_meet_those_of_the_fit",
)
def groups_in_other_words() -> Told:
    import scfcmi as sf

    adata = cells()
    adata.obs["tech"] = adata.obs["tech"].cat.codes.astype(int)
    model = cluster(adata, return_model=True)
    query = adata.copy()
    query.obs["tech"] = query.obs["tech"].astype(float)
    error = refusal(lambda: sf.tl.map_query(query, model, sensitive_key="tech"))
    if error is not None:
        return False, said(error)
    new = list(query.uns["fair_cluster"].get("mapping", {}).get("new_groups", []))
    return not new, f"taken for new groups: {new}" if new else "the same groups"


@situation(TYPES, "a diagnosis read from a zarr store, drawn", "tl/test_diagnose.py::test_the_summary_survives_files")
def diagnosis_from_zarr() -> Told:
    import anndata as ad

    import scfcmi as sf

    adata = cells()
    cluster(adata)
    sf.tl.diagnose(adata)
    path = folder() / "a.zarr"
    with ad.settings.override(zarr_write_format=3):
        adata.write_zarr(path)
    error = refusal(lambda: sf.pl.diagnose(ad.read_zarr(path), show=False))
    return error is None, said(error) if error is not None else "drawn"


@situation(TYPES, "groups called `CD8²`, `10₂` and `①`", "robust/test_names.py::test_levels_are_in_natural_order")
def digits_that_are_no_numbers() -> Told:
    import numpy as np

    adata = cells()
    adata.obs["tech"] = np.array(["CD8²", "10₂", "①"])[np.arange(300) // 3 % 3]
    error = refusal(lambda: cluster(adata))
    return error is None, said(error) if error is not None else "three groups"


@situation(
    TYPES,
    "columns of obs that stand twice, or have a number for a name",
    "robust/test_names.py::test_columns_that_stand_twice_or_have_numbers_for_names",
)
def columns_twice() -> Told:
    import pandas as pd

    adata = cells()
    adata.obs = pd.concat([adata.obs, adata.obs], axis=1)
    twice = refusal(lambda: cluster(adata))
    other = cells()
    other.obs[0] = other.obs["tech"]
    number = refusal(lambda: cluster(other, 0))
    return ours(twice) and ours(number), f"twice: {said(twice)}; number: {said(number)}"


@situation(TYPES, "`random_state=2**64` and −1", "robust/test_core.py::test_refused_before_any_work")
def seeds_out_of_range() -> Told:
    errors = [refusal(lambda seed=seed: cluster(cells(), random_state=seed)) for seed in (2**64, -1)]
    return all(ours(error) for error in errors), "; ".join(f"{said(e)} (from {raised_by(e)})" for e in errors)


@situation(
    TYPES,
    "`scfcmi cluster` with a column of text as a number",
    "robust/test_core.py::test_a_column_of_text_is_one_line_on_the_command_line",
)
def text_for_a_number_on_the_command_line() -> Told:
    where, adata = folder(), cells()
    adata.obs["word"] = "a"
    adata.write_h5ad(where / "a.h5ad")
    arguments = ["cluster", where / "a.h5ad", "-o", where / "b.h5ad", "--sensitive-key", "tech"]
    held, line = command(*arguments, "--continuous-keys", "word", *quick_command())
    return held, line if held else f"a traceback; {line}"


# 6 time ---------------------------------------------------------------------------------------------------------------


@situation(
    "time that explodes with clusters",
    "200 clusters of 1,500 cells",
    "robust/test_core.py::test_many_clusters_of_few_cells",
)
def many_clusters() -> Told:
    import numpy as np

    x, groups = np.random.default_rng(0).normal(size=(1500, 10)), np.array(["a", "b"] * 750)
    seconds = []
    for k in (10, 10, 200):  # the first one pays for imports
        start = time.process_time()
        fitted(x, groups, k, standardize=False)
        seconds.append(time.process_time() - start)
    return seconds[2] < 10 * seconds[1], f"{seconds[2]:.1f} s of CPU; {seconds[1]:.1f} s for 10 clusters"


# 7 the contract of scikit-learn ---------------------------------------------------------------------------------------


@situation(
    "scikit-learn's contract", "`clone`, `set_params`, `repr`", "model/test_sklearn.py::test_clone_and_parameters"
)
def clone_and_parameters() -> Told:
    from sklearn.base import clone

    from scfcmi.model import FCMI

    errors = {
        "clone": refusal(lambda: clone(FCMI(3))),
        "set_params": refusal(lambda: FCMI(3).set_params(n_clusters=4)),
        "repr": None if "n_clusters=3" in repr(FCMI(3)) else AssertionError(repr(FCMI(3))[:40]),
    }
    failed = {name: said(error) for name, error in errors.items() if error is not None}
    return not failed, "; ".join(f"{name}: {text}" for name, text in failed.items()) or "all three work"


# 8 files that their own reader refuses --------------------------------------------------------------------------------


@situation(
    "a file that its own reader refuses",
    "models of constant cells, one gene, as many clusters as cells",
    "model/test_files.py::test_what_could_not_be_loaded_is_not_saved",
)
def saved_and_refused() -> Told:
    import numpy as np

    from scfcmi.model import FCMI

    saved, refused, first = 0, 0, ""
    where = folder()
    for seed in range(8):
        rng = np.random.default_rng(seed)
        for x, k in (
            (np.ones((40, 5)), 4),
            (np.repeat(rng.normal(size=(2, 5)), 20, axis=0), 5),
            (rng.normal(size=(40, 1)), 6),
            (rng.normal(size=(12, 4)), 12),
            (rng.normal(size=(40, 5)), 3),
        ):
            path = where / f"{saved}.safetensors"
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                if (
                    refusal(
                        lambda x=x, k=k, path=path, seed=seed: fitted(
                            x, ["a", "b"] * (len(x) // 2), k, standardize=False, random_state=seed
                        ).save(path)
                    )
                    is not None
                ):
                    continue
            saved += 1
            error = refusal(lambda path=path: FCMI.load(path))
            refused += error is not None
            first = first or (said(error).partition("file: ")[2] if error is not None else "")
    return saved > 30 and not refused, f"{refused} of {saved} saved models refused{': ' if first else ''}{first}"


# 9 numbers at the edge ------------------------------------------------------------------------------------------------
EDGE = "numbers and words at the edge reach a library"


@situation(
    EDGE,
    "`tl.umap` of an entry without columns, or with NaN",
    "robust/test_situations.py::test_a_map_of_what_is_no_embedding",
)
def map_of_what_is_no_embedding() -> Told:
    import numpy as np

    import scfcmi as sf

    adata = cells()
    cluster(adata)
    errors = []
    for entry in (np.empty((300, 0)), np.full((300, 2), np.nan)):
        adata.obsm["X_fair_cluster"] = entry
        errors.append(refusal(lambda: sf.tl.umap(adata)))
    return all(map(ours, errors)), "; ".join(f"{said(e)} (from {raised_by(e)})" for e in errors)


@situation(EDGE, "text handed to `transform`", "robust/test_matrices.py::test_what_is_not_made_of_numbers")
def text_to_transform() -> Told:
    import numpy as np

    x, groups = numbers()
    error = refusal(lambda: fitted(x, groups).transform(np.full((3, 12), "a")))
    return ours(error), f"{said(error)} (from {raised_by(error)})"


@situation(EDGE, "a broken record in `uns`", "robust/test_uns.py")
def broken_record() -> Told:
    import scfcmi as sf

    adata = cells()
    model = cluster(adata, return_model=True)
    sf.tl.umap(adata)
    adata.uns["fair_cluster"] = "broken"
    calls = {
        "tl.correct": lambda: correct(adata, model),
        "pl.training": lambda: sf.pl.training(adata, show=False),
        "pl.n_clusters": lambda: sf.pl.n_clusters(adata, show=False),
        "tl.diagnose": lambda: sf.tl.diagnose(adata),
    }
    failed = {name: error for name, call in calls.items() if (error := refusal(call)) is not None and not ours(error)}
    return not failed, "; ".join(f"{name}: {said(error)}" for name, error in failed.items()) or "refused in words"


@situation(EDGE, "levels with broken mathtext, drawn", "pl/test_layout.py")
def names_with_mathtext() -> Told:
    import matplotlib as mpl

    mpl.use("agg")
    import scfcmi as sf

    adata = cells()
    adata.obs["tech"] = adata.obs["tech"].cat.rename_categories([r"$\frac{1$", r"$x_$"])
    cluster(adata)
    sf.tl.umap(adata)
    path = folder() / "a.png"

    def draw(call: Callable[[], Any]) -> None:
        import matplotlib.pyplot as plt

        call()
        plt.gcf().savefig(path)
        plt.close("all")

    errors = [
        refusal(lambda: draw(lambda: sf.pl.umap(adata, ["tech"], show=False))),
        refusal(lambda: draw(lambda: sf.pl.composition(adata, "fair_cluster", "tech", show=False))),
    ]
    failed = [error for error in errors if error is not None]
    return not failed, "; ".join(map(said, failed)) or "drawn as they are"


# 10 a file destroyed in writing ---------------------------------------------------------------------------------------
WRITING = "a file destroyed in writing"
CALLS = (
    "write,pwrite64,writev,pwritev,rename,renameat,renameat2,link,linkat,unlink,unlinkat,mkdir,mkdirat,rmdir,fsync,"
    "ftruncate,copy_file_range,sendfile,fchmodat,chmod,chown"
)
WRITES = "write,pwrite64,writev,pwritev,ftruncate,copy_file_range,sendfile,mkdir,mkdirat,link,linkat"


def struck(suffix: str, fault: str) -> Told:
    """`predict_on_disk` over an earlier run, struck at one call of the kernel after the other."""
    import anndata as ad
    import torch

    import scfcmi as sf

    if shutil.which("strace") is None:
        return False, "strace is not here"
    torch.set_num_threads(1)
    where, adata = folder(), cells(120, 20)
    model = cluster(adata, return_model=True)
    adata.uns["note"] = "stays"
    fresh, path = where / f"fresh.{suffix}", where / "in" / f"a.{suffix}"
    adata.write_h5ad(fresh) if suffix == "h5ad" else adata.write_zarr(fresh)
    read = ad.read_h5ad if suffix == "h5ad" else ad.read_zarr
    inject = f"{CALLS}:signal=SIGKILL:when=" if fault == "kill" else f"{WRITES}:error=ENOSPC:when="

    def work() -> None:
        sf.tl.predict_on_disk(path, model, sensitive_key="tech")

    def job() -> None:
        os.kill(os.getpid(), signal.SIGSTOP)
        work()

    def usable() -> bool:
        def look() -> None:
            found = read(path)
            assert found.shape == adata.shape and found.uns["note"] == "stays"
            assert len(found.obs["fair_cluster"].unique()) > 1 and "params" in found.uns["fair_cluster"]
            assert not [name for name in found.uns if name.startswith("scfcmi_")]

        return refusal(look) is None

    n, points, unreadable, after = 1, 0, 0, 0
    while points < 400:
        shutil.rmtree(path.parent, ignore_errors=True)
        path.parent.mkdir()
        shutil.copytree(fresh, path) if fresh.is_dir() else shutil.copyfile(fresh, path)
        child = fork(job)
        os.waitpid(child, os.WUNTRACED)
        when = f"{inject}{n}" + ("" if fault == "kill" else "+")
        tracer = subprocess.Popen(
            ["strace", "-f", "-qq", "-o", str(where / "log"), "-e", f"inject={when}", "-e", f"trace={CALLS}"]
            + ["-p", str(child)],
            stderr=subprocess.DEVNULL,
        )
        while f"TracerPid:\t{tracer.pid}" not in Path(f"/proc/{child}/status").read_text():
            time.sleep(0.005)
        os.kill(child, signal.SIGCONT)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        tracer.wait()
        if code == 0:
            break
        points += 1
        unreadable += not usable()
        after += refusal(work) is not None or not usable()
        n += 1 + n // 12
    return (
        not unreadable and not after,
        f"of {points} points, the file was lost or unclean at {unreadable}, after the rerun at {after}",
    )


@situation(WRITING, "`predict_on_disk` on .h5ad, killed at calls of the kernel", "robust/test_faults.py")
def killed_h5ad() -> Told:
    return struck("h5ad", "kill")


@situation(WRITING, "the same on .zarr", "robust/test_faults.py")
def killed_zarr() -> Told:
    return struck("zarr", "kill")


@situation(WRITING, "`predict_on_disk` on .h5ad, the disk full from some call on", "robust/test_faults.py")
def full_h5ad() -> Told:
    return struck("h5ad", "full")


@situation(WRITING, "the same on .zarr", "robust/test_faults.py")
def full_zarr() -> Told:
    return struck("zarr", "full")


@situation(WRITING, "20 runs over the same .h5ad", "robust/test_faults.py::test_runs_do_not_make_the_file_grow")
def file_grows() -> Told:
    import scfcmi as sf

    adata = cells(3000, 60)
    model = cluster(adata.copy(), return_model=True)
    path = folder() / "a.h5ad"
    adata.write_h5ad(path)
    sizes = []
    for _ in range(20):
        sf.tl.predict_on_disk(path, model, sensitive_key="tech")
        sizes.append(path.stat().st_size / 2**20)
    return sizes[-1] <= 1.05 * sizes[0], f"{sizes[0]:.2f} MB after the first, {sizes[-1]:.2f} MB after the last"


@situation(
    WRITING,
    "`scfcmi cluster --save-model` with a wrong suffix",
    "test_cli.py::test_impossible_output_is_refused_before_any_work",
)
def wrong_suffix_of_a_model() -> Told:
    where, adata = folder(), cells()
    adata.write_h5ad(where / "a.h5ad")
    arguments = ["cluster", where / "a.h5ad", "-o", where / "b.h5ad", "--sensitive-key", "tech"]
    _, line = command(*arguments, "--save-model", where / "m.pkl", *quick_command())
    left = sorted(path.name for path in where.iterdir() if path.name != "a.h5ad")
    return not left, f"{line}; output {left} was written" if left else line


# 11 models of others --------------------------------------------------------------------------------------------------
UNTRUSTED = "models from others"


def header_of(path: Path) -> tuple[dict[str, Any], bytes]:
    raw = path.read_bytes()
    n = int.from_bytes(raw[:8], "little")
    return json.loads(raw[8 : 8 + n]), raw[8 + n :]


def with_document(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change the description in a file, and give it a digest that is right where it has one."""
    import hashlib

    header, data = header_of(path)
    document = json.loads(header["__metadata__"]["scfcmi"])
    change(document)
    has = isinstance(document.get("digest"), str)
    if has:
        document["digest"] = "0" * 64
    header["__metadata__"]["scfcmi"] = json.dumps(document)
    text = json.dumps(header).encode()
    raw = len(text).to_bytes(8, "little") + text + data
    if has:
        raw = raw.replace(b"0" * 64, hashlib.sha256(raw).hexdigest().encode())
    path.write_bytes(raw)


@situation(
    UNTRUSTED,
    "a small file that asks for 400 branches of 50 layers, and has as many tensors without a number",
    "model/test_files.py::test_many_branches_are_not_built",
)
def many_branches_claimed() -> Told:
    from scfcmi.model import FCMI

    path, n = folder() / "m.safetensors", 400
    published(*numbers(), epochs=1).save(path)
    FCMI.load(path)
    names = [f"g{i}" for i in range(n)]

    def many(document: dict[str, Any]) -> None:
        document["levels"] = names
        document["factors"] = [{**document["factors"][0], "levels": names, "of_group": list(range(n))}]
        for options in (document.get("settings"), document.get("network"), document.get("state", {}).get("options")):
            if options is not None:
                options["hidden"] = [1] * 50
        if "state" in document:
            document["state"]["n_groups"] = n

    with_document(path, many)
    header, _ = header_of(path)
    empty = {name: {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for name in names}
    text = json.dumps({"__metadata__": header["__metadata__"], **empty}).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text)
    size, before, start = path.stat().st_size / 2**20, peak(), time.process_time()
    error = refusal(lambda: FCMI.load(path))
    used, seconds = peak() - before, time.process_time() - start
    words = said(error).partition("usable model file: ")[2]
    return used < 1.2 * size + 20, f"{size:.2f} MB take {used:.0f} MB and {seconds:.1f} s, then: {words[:60]}"


@situation(UNTRUSTED, "200 flipped bits of the numbers", "model/test_files.py::test_any_flipped_bit_is_noticed")
def flipped_bits() -> Told:
    import numpy as np

    from scfcmi.model import FCMI

    path = folder() / "m.safetensors"
    x, groups = numbers()
    model = fitted(x, groups)
    model.save(path)
    raw, data = path.read_bytes(), header_of(path)[1]
    rng, accepted, other = np.random.default_rng(0), 0, 0
    for place in rng.integers(len(raw) - len(data), len(raw), 200):
        damaged = bytearray(raw)
        damaged[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        found: list[Any] = []
        if refusal(lambda found=found: found.append(FCMI.load(path))) is None:
            accepted += 1
            other += (
                refusal(
                    lambda found=found: np.testing.assert_array_equal(found[0].predict(x), model.assignment_.labels)
                )
                is not None
            )
    return not accepted, f"{accepted} accepted, {other} of them with other labels"


@situation(UNTRUSTED, "a temperature of 1e-300", "model/test_files.py::test_descriptions_that_do_not_hold")
def tiny_temperature() -> Told:
    import numpy as np

    from scfcmi.model import FCMI

    path, (x, groups) = folder() / "m.safetensors", numbers()
    published(x, groups, epochs=1).save(path)
    place = "settings" if "settings" in json.loads(header_of(path)[0]["__metadata__"]["scfcmi"]) else "network"
    with_document(path, lambda document: document[place].update(temperature=1e-300))
    found: list[Any] = []
    error = refusal(lambda: found.append(FCMI.load(path)))
    if error is not None:
        return ours(error), said(error)
    proba = found[0].assign(x).proba
    return bool(np.isfinite(proba).all()), f"loaded; {np.isnan(proba).mean():.0%} of the probabilities are NaN"


# 12 where code comes from ---------------------------------------------------------------------------------------------
SAFE = "where code comes from"


@situation(
    SAFE,
    "`random.py` in the current folder, `devices=2`",
    "published/test_processes.py::test_a_script_needs_no_guard_and_its_folder_is_not_searched",
)
def modules_of_the_current_folder() -> Told:
    where = folder()
    (where / "random.py").write_text(f"open({str(where / 'was-run')!r}, 'w')\nraise ImportError('of this folder')")
    safe = [sys.executable, "-P", "-c", PROGRAM.format(here=str(HERE))]
    done = subprocess.run(safe, cwd=where, text=True, capture_output=True, stdin=subprocess.DEVNULL)
    ran = (where / "was-run").exists()
    well = done.returncode == 0 and done.stdout.strip() == "240"
    return well and not ran, "it was run by the processes of the fit" if ran else "as ever" if well else "failed"


@situation(
    SAFE,
    "sockets that listen while `devices=2` trains",
    "published/test_processes.py::test_processes_meet_on_the_loopback_interface_alone",
)
def sockets_that_listen() -> Told:
    found: set[str] = set()
    over = threading.Event()

    def watch() -> None:
        while not over.is_set():
            found.update(listening(os.getpid()))
            time.sleep(0.02)

    thread = threading.Thread(target=watch)
    thread.start()
    error = refusal(lambda: published(*numbers(), devices=2, epochs=200))
    over.set()
    thread.join()
    far = sorted(found - {"127.0.0.1"})
    return error is None and not far, f"on {', '.join(sorted(found)) or 'none'}" + (f"; {said(error)}" if error else "")


def listening(parent: int) -> set[str]:
    """Addresses on which the children of a process wait for others (Linux)."""
    import socket

    children = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            if int(status.read_text().rpartition(")")[2].split()[1]) == parent:
                children.append(status.parent)
        except OSError:
            continue
    inodes = set()
    for child in children:
        try:
            for link in (child / "fd").iterdir():
                inodes.add(os.readlink(link).removeprefix("socket:[").removesuffix("]"))
        except OSError:
            continue
    found = set()
    for table, family in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6)):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            parts = line.split()
            if parts[3] == "0A" and parts[9] in inodes:
                raw = bytes.fromhex(parts[1].partition(":")[0])
                words = [raw[i : i + 4][::-1] for i in range(0, len(raw), 4)]
                address = socket.inet_ntop(family, b"".join(words))
                found.add(address.removeprefix("::ffff:"))
    return found


# 13 dense after all ---------------------------------------------------------------------------------------------------


@situation(
    "dense after all",
    "`tl.diagnose` of 3,000 × 20,000, sparse",
    "robust/test_core.py::test_a_diagnosis_needs_no_matrix",
)
def diagnosis_of_a_sparse_matrix() -> Told:
    import anndata as ad
    from scipy import sparse

    import scfcmi as sf

    adata = cells(3000, 60)
    x = sparse.random(3000, 19_940, 0.002, format="csr", dtype="float32", random_state=0)
    wide = ad.AnnData(sparse.hstack([adata.X, x]).tocsr(), obs=adata.obs)
    cluster(wide)
    tracemalloc.start()
    sf.tl.diagnose(wide)
    used = tracemalloc.get_traced_memory()[1] / 2**20
    held = (wide.X.data.nbytes + wide.X.indices.nbytes) / 2**20
    return used < 200, f"{held:.0f} MB of entries take {used:.0f} MB more"


# 14 threads -----------------------------------------------------------------------------------------------------------
THREADS = "threads"


@situation(
    THREADS,
    "fits at once in threads, and one after another",
    "robust/test_processes.py::test_fits_at_once_are_those_one_after_another",
)
def fits_at_once() -> Told:
    import numpy as np
    from threadpoolctl import threadpool_info

    def fit(seed: int) -> Any:
        return fitted(*numbers(seed=seed), random_state=seed).assignment_.proba

    alone = [fit(seed) for seed in range(8)]
    before = sorted((pool["filepath"], pool["num_threads"]) for pool in threadpool_info())
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    differ = 0
    for _ in range(5):
        with ThreadPoolExecutor(4) as pool:
            differ += sum(not np.array_equal(a, b) for a, b in zip(alone, pool.map(fit, range(8)), strict=True))
    sys.setswitchinterval(interval)
    after = sorted((pool["filepath"], pool["num_threads"]) for pool in threadpool_info())
    changed = [(a[1], b[1]) for a, b in zip(before, after, strict=False) if a != b]
    more = f"; a library has {changed[0][1]} threads where it had {changed[0][0]}" if changed else ""
    return not differ and not changed, f"{differ} of 40 differ{more}"


@situation(
    THREADS,
    "a fork after a fit with two threads",
    "robust/test_processes.py::test_processes_that_a_program_starts_after_a_fit",
)
def fork_after_a_fit() -> Told:
    text = """
import sys; sys.path.insert(0, {here!r})
import multiprocessing
from faults import fitted, numbers
def labels(seed):
    model = fitted(*numbers(20_000, 60, seed), random_state=seed)
    return model.predict(numbers(20_000, 60, seed)[0]).tolist()
here = labels(0), labels(1)
with multiprocessing.get_context("fork").Pool(2) as pool:
    print(tuple(pool.map(labels, [0, 1])) == here)
"""
    two = os.environ | {"OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2"}
    found = end_of(program(text, env=two, stdin=subprocess.DEVNULL), 180)
    return found == "True", "the same labels" if found == "True" else found


@situation(
    THREADS,
    "a process of several is stopped (and stays so)",
    "robust/test_processes.py::test_a_launched_process_that_is_lost_ends_the_others",
)
def stopped_worker() -> Told:
    import logging

    logging.disable()
    popen, workers, patience = subprocess.Popen, [], 2700

    def remember(*args: Any, **given: Any) -> Any:
        workers.append(popen(*args, **given))
        return workers[-1]

    subprocess.Popen = remember  # type: ignore[assignment, misc]
    ended: list[Any] = []

    def fit() -> None:
        ended.append(refusal(lambda: published(*numbers(), devices=2, epochs=10**6)))

    thread = threading.Thread(target=fit, daemon=True)
    start = time.monotonic()
    thread.start()
    while len(workers) < 2:
        time.sleep(0.1)
    time.sleep(30)  # it trains
    workers[1].send_signal(signal.SIGSTOP)
    thread.join(patience)
    minutes = (time.monotonic() - start) / 60
    for worker in workers:
        worker.kill()
    return bool(
        ended
    ), f"{said(ended[0])} after {minutes:.0f} minutes" if ended else f"no end within {minutes:.0f} minutes"


# 15 promises ----------------------------------------------------------------------------------------------------------


@situation(
    "a promise that did not hold",
    "two processes and one, float32 and float64",
    "published/test_processes.py::test_two_processes_are_one",
)
def two_processes_and_one() -> Told:
    import numpy as np

    x, groups = numbers(600)
    said_of, held = [], False
    from scfcmi.model import FCMI

    for precision in ("32-true", "64-true"):
        if "precision" in inspect.signature(FCMI).parameters:
            one, two = (published(x, groups, n, epochs=30, precision=precision).assignment_ for n in (1, 2))
        else:
            from scfcmi.published import NetworkOptions

            options = NetworkOptions(max_epochs=30, warmup_epochs=1, batch_size=128, precision=precision)
            one, two = (
                FCMI(3, preset="paper", devices=n, device="cpu", progress_bar=False, network=options)
                .fit(x, groups)
                .assignment_
                for n in (1, 2)
            )
        apart = np.abs(one.embedding - two.embedding).max()
        said_of.append(f"{precision}: embeddings differ by {apart:.0e}")
        held = bool(apart < 1e-5)  # promised in double precision alone, which comes last
    return held, "; ".join(said_of)


# all of them ----------------------------------------------------------------------------------------------------------


def run(name: str, place: Path) -> Told:
    """One situation with one release, in a process of its own."""
    with tempfile.TemporaryDirectory() as scratch:
        set_up = {"PYTHONPATH": str(place), "SCFCMI_SCRATCH": scratch, "MPLBACKEND": "agg", "PYTHONWARNINGS": "ignore"}
        threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        try:
            done = subprocess.run(
                [sys.executable, __file__, "--one", name],
                env=os.environ | threads | set_up,
                cwd=scratch,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=3000 if name == "stopped_worker" else PATIENCE,
            )
        except subprocess.TimeoutExpired:
            return False, f"no end within {PATIENCE} s"
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        return False, f"status {done.returncode}: {(done.stderr.strip().splitlines() or [''])[-1][:140]}"
    held, what = json.loads(lines[-1])
    return held, what


def report(rows: Any, out: Path) -> None:
    import pandas as pd
    from _results import markdown, provenance

    table = rows.read().set_index(KEYS)
    listed = []
    for name, (kind, title, test, _) in SITUATIONS.items():
        row = {"kind": kind, "situation": title, "test": f"`{test}`"}
        for release, words in RELEASES.items():
            if (name, release) in table.index:
                found = table.loc[(name, release)]
                row[words] = ("" if found["held"] in (True, "True") else "✗ ") + str(found["said"])
        listed.append(row)
    frame = pd.DataFrame(listed).set_index("kind").fillna("")
    held = table["held"].astype(str).eq("True").groupby("release").agg(["sum", "size"])
    counts = ", ".join(
        f"{held.loc[name, 'sum']} of {held.loc[name, 'size']} with {words}" for name, words in RELEASES.items()
    )
    text = [
        "# Faults of 0.1, seen again",
        f"Held: {counts}. ✗ marks what did not.",
        markdown(frame),
        provenance("faults.py"),
    ]
    (out / "faults.md").write_text("\n\n".join(text) + "\n")


def main() -> None:
    if sys.argv[1:2] == ["--one"]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            held, what = SITUATIONS[sys.argv[2]][3]()
        print(f"\n{json.dumps([bool(held), ' '.join(what.split())])}")
        return
    from _results import Rows, parser

    made = parser(__doc__ or "")
    made.add_argument("--old", type=Path, help="a checkout of 0.1")
    made.add_argument("--only", nargs="+", choices=list(SITUATIONS), default=list(SITUATIONS))
    given = made.parse_args()
    rows = Rows(given.out / "faults.csv", KEYS, resume=given.resume)
    releases = {"now": HERE.parent} | ({} if given.old is None else {"0.1": given.old.resolve()})
    if not given.report:
        for name in given.only:
            for release, place in releases.items():
                if not rows.done(situation=name, release=release):
                    held, what = run(name, place)
                    rows.add({"situation": name, "release": release, "held": held, "said": what})
    report(rows, given.out)


if __name__ == "__main__":
    main()
