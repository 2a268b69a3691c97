"""The `scfcmi` command: cluster a file, place later cells, cut again, judge, draw."""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from scfcmi._keys import DEFAULT_KEY, DEFAULT_MASK, Keys
from scfcmi._options import OPTIONS
from scfcmi._replace import check_replaceable, replacing

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

OK, FAILED, INTERRUPTED = 0, 1, 130
DEMO_CELLS, DEMO_GENES = 1500, 2000
# Options of a fit that the command line has; what else there is, it decides by itself.
OF_A_FIT = ("n_clusters", "resolution", "preset", "fairness", "random_state", "device", "devices")
PLOTS = ("composition", "confidence", "diagnose", "n_clusters", "summary", "training", "tree", "umap")
FIGURES = (".png", ".pdf", ".svg", ".jpg")
# What users can mend is said in one line; all else is a fault of the program and keeps its traceback.
MENDABLE = (ValueError, TypeError, KeyError, OSError, RuntimeError, MemoryError, FloatingPointError)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand.

    Parameters
    ----------
    argv
        Arguments after the name of the command; those of the process when absent.

    Returns
    -------
    0, 1 if the work failed for a reason that a user can mend, or 130 if it was interrupted; wrong usage exits with 2.

    Examples
    --------
    >>> from scfcmi.cli import main
    >>> main(["demo", "--output-dir", "results"])  # doctest: +SKIP
    0
    """
    traceback = False
    try:
        # What takes seconds to import is imported by the subcommands, after the arguments were understood.
        arguments = _parser().parse_args(argv)
        traceback = arguments.traceback
        with _plain_warnings():
            arguments.run(arguments)
    except MENDABLE as error:
        if traceback:
            raise
        said = error.args[0] if isinstance(error, KeyError) and error.args else error
        _say(f"scfcmi: error: {' '.join(str(said).split()) or type(error).__name__}")
        return FAILED
    except KeyboardInterrupt:
        _say("scfcmi: interrupted; every output is complete or as it was")
        return INTERRUPTED
    return OK


# subcommands --------------------------------------------------------------------------------------------------------


def _demo(arguments: argparse.Namespace) -> None:
    folder: Path = arguments.output_dir
    folder.mkdir(parents=True, exist_ok=True)
    data_path, figure_path = folder / "scfcmi_demo.h5ad", folder / "scfcmi_demo.png"
    for path in (data_path, figure_path):
        _check_output(path, overwrite=arguments.overwrite)

    import scanpy as sc

    from scfcmi import datasets, tl
    from scfcmi.pl import overview

    _say(f"Simulating {DEMO_CELLS} cells of 11 types, measured with two technologies ...")
    adata = datasets.mouse_atlas_like(DEMO_CELLS, DEMO_GENES, random_state=arguments.random_state)
    adata.layers["counts"] = adata.X.copy()
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    sc.pp.highly_variable_genes(adata, n_top_genes=1000)
    sc.pp.pca(adata, n_comps=30, random_state=arguments.random_state)
    sc.pp.neighbors(adata, random_state=arguments.random_state)
    sc.tl.umap(adata, random_state=arguments.random_state)
    _say("Clustering ...")
    tl.fair_cluster(adata, "tech", label_key="cell_type", random_state=arguments.random_state, device=arguments.device)
    tl.umap(adata, random_state=arguments.random_state)
    with replacing(data_path) as new:
        adata.write_h5ad(new)
    with replacing(figure_path) as new:
        overview(adata).savefig(new, dpi=120)
    _conclude(arguments, adata.obs[DEFAULT_KEY], tl.evaluate(adata, DEFAULT_KEY, "tech", label_key="cell_type").summary)
    _say(f"Wrote {data_path} and {figure_path}")


def _cluster(arguments: argparse.Namespace) -> None:
    _check_output(arguments.output, overwrite=arguments.overwrite)
    if arguments.save_model is not None:
        _check_output(arguments.save_model, overwrite=arguments.overwrite)
    if not arguments.in_memory:
        _check_kind(arguments, "; with --in-memory it is converted")
    with _opened(arguments.input, in_memory=arguments.in_memory or arguments.raw_counts) as adata:
        from scfcmi import tl
        from scfcmi._device import is_first_process
        from scfcmi.tl import store_run

        network = None
        if arguments.network:
            from scfcmi.published import NetworkOptions

            network = NetworkOptions(**dict(arguments.network))
        counts = _normalise(adata, arguments.layer) if arguments.raw_counts else None
        model: Any = tl.fair_cluster(
            adata,
            arguments.sensitive_key,
            continuous_keys=arguments.continuous_keys,
            use_rep=arguments.use_rep,
            layer=arguments.layer,
            mask_var=None if arguments.all_genes else arguments.mask_var,
            label_key=arguments.label_key,
            network=network,
            key_added=arguments.key_added,
            n_init=arguments.n_init,
            return_model=True,
            **{name: getattr(arguments, name) for name in OF_A_FIT},
        )
        if not is_first_process():
            return
        if counts is not None:
            _put_back(adata, arguments.layer, counts)
        found = tl.evaluate(adata, arguments.key_added, arguments.sensitive_key, label_key=arguments.label_key)
    if arguments.in_memory:
        with replacing(arguments.output) as new:
            adata.write_zarr(new) if new.suffix == ".zarr" else adata.write_h5ad(new)
    else:
        store_run(arguments.input, adata, arguments.key_added, arguments.output)
    if arguments.save_model is not None:
        model.save(arguments.save_model, overwrite=arguments.overwrite)
    _conclude(arguments, adata.obs[arguments.key_added], found.summary)


def _predict(arguments: argparse.Namespace) -> None:
    _check_output(arguments.output, overwrite=arguments.overwrite)
    _check_kind(arguments)
    from scfcmi import tl
    from scfcmi.model import FCMI

    model = FCMI.load(arguments.model, device=arguments.device)

    def predict(path: Path) -> None:
        tl.predict_on_disk(
            path,
            model,
            sensitive_key=arguments.sensitive_key,
            continuous_keys=arguments.continuous_keys,
            label_key=arguments.label_key,
            use_rep=arguments.use_rep,
            layer=arguments.layer,
            key_added=arguments.key_added,
        )

    if _same(arguments.input, arguments.output):
        predict(arguments.output)
    else:
        with replacing(arguments.output) as new:
            (shutil.copytree if arguments.input.is_dir() else shutil.copyfile)(arguments.input, new)
            predict(new)
    with _opened(arguments.output) as adata:
        _conclude(arguments, adata.obs[arguments.key_added], _scored(arguments, adata))


def _map(arguments: argparse.Namespace) -> None:
    _check_output(arguments.output, overwrite=arguments.overwrite)
    _check_kind(arguments)
    with _opened(arguments.input) as adata:
        from scfcmi import tl
        from scfcmi.model import FCMI
        from scfcmi.tl import store_run

        tl.map_query(
            adata,
            FCMI.load(arguments.model, device=arguments.device),
            sensitive_key=arguments.sensitive_key,
            new_groups=arguments.new_groups,
            layer=arguments.layer,
            key_added=arguments.key_added,
        )
        table = _scored(arguments, adata)
    store_run(arguments.input, adata, arguments.key_added, arguments.output)
    _conclude(arguments, adata.obs[arguments.key_added], table)


def _recut(arguments: argparse.Namespace) -> None:
    _check_output(arguments.output, overwrite=arguments.overwrite)
    _check_kind(arguments)
    adata = _results(arguments.input, arguments.key)
    from scfcmi import tl
    from scfcmi.tl import store_run

    key_added = arguments.key if arguments.key_added is None else arguments.key_added
    tl.recut(
        adata,
        arguments.key,
        n_clusters=arguments.n_clusters,
        resolution=arguments.resolution,
        key_added=arguments.key_added,
    )
    store_run(arguments.input, adata, key_added, arguments.output, part="cut" if key_added == arguments.key else "run")
    _conclude(arguments, adata.obs[key_added])


def _diagnose(arguments: argparse.Namespace) -> None:
    if arguments.output is not None:
        _check_output(arguments.output, overwrite=arguments.overwrite)
        _check_kind(arguments)
    results = _results(arguments.input, arguments.key)
    with _opened(arguments.input) as adata:
        from scfcmi import tl
        from scfcmi.tl import store_run

        adata.uns.update(results.uns)
        adata.obsm.update(results.obsm)
        found = tl.diagnose(adata, arguments.key, arguments.sensitive_key)
    if arguments.output is not None:
        store_run(arguments.input, adata, arguments.key, arguments.output, part="diagnosis")
    if arguments.json:
        _answer(json.dumps({"overall": found.overall, "clusters": _plain(found.clusters)}))
    else:
        _answer(found.clusters.to_string(float_format="{:.3f}".format))
        _answer(found.overall)
    if arguments.output is not None:
        _say(f"Wrote uns[{Keys(arguments.key).diagnosis!r}] to {arguments.output}")


def _evaluate(arguments: argparse.Namespace) -> None:
    if arguments.csv is not None:
        _check_output(arguments.csv, overwrite=arguments.overwrite)
    import pandas as pd

    from scfcmi import tl

    with _opened(arguments.input) as adata:
        results = {
            key: tl.evaluate(adata, key, arguments.sensitive_key, label_key=arguments.label_key, beta=arguments.beta)
            for key in arguments.cluster_key
        }
    table = pd.concat([result.summary for result in results.values()]).rename_axis("clustering")
    if arguments.json:
        per_cluster = {key: _plain(result.per_cluster) for key, result in results.items()}
        _answer(json.dumps({"scores": _plain(table)} | ({"clusters": per_cluster} if arguments.per_cluster else {})))
    else:
        _answer(_scores(table))
    if arguments.per_cluster:
        for key, result in results.items() if not arguments.json else ():
            _answer(f"\n{key}\n{result.per_cluster.to_string(float_format='{:.3f}'.format)}")
        table = pd.concat({key: result.per_cluster for key, result in results.items()}, names=["clustering"])
    if arguments.csv is not None:
        with replacing(arguments.csv) as new:
            table.to_csv(new)
        _say(f"Wrote {arguments.csv}")


def _plot(arguments: argparse.Namespace) -> None:
    _check_output(arguments.output, overwrite=arguments.overwrite)
    adata = _results(arguments.input, arguments.key)
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    from scfcmi import pl

    given: dict[str, Any] = {}
    if arguments.sensitive_key is not None:
        if arguments.kind not in ("composition", "summary", "tree"):
            msg = f"--sensitive-key is not for {arguments.kind}"
            raise ValueError(msg)
        given["sensitive_key"] = arguments.sensitive_key
    if arguments.kind == "umap":
        drawn = pl.umap(adata, arguments.color, key=arguments.key, show=False)
    elif arguments.color is not None:
        msg = f"--color is not for {arguments.kind}"
        raise ValueError(msg)
    else:
        drawn = getattr(pl, arguments.kind)(adata, arguments.key, show=False, **given)
    axes: list[Any] = [*drawn] if isinstance(drawn, Iterable) else [drawn]
    figure = axes[0].get_figure(root=True)
    with replacing(arguments.output) as new:
        figure.savefig(new, dpi=arguments.dpi, bbox_inches="tight")
    plt.close(figure)
    _say(f"Wrote {arguments.output}")


def _page(arguments: argparse.Namespace) -> None:
    _check_output(arguments.output, overwrite=arguments.overwrite)
    adata = _results(arguments.input, arguments.key)
    import matplotlib as mpl

    mpl.use("Agg")
    from scfcmi._report import report

    report(
        adata,
        arguments.output,
        key=arguments.key,
        sensitive_key=arguments.sensitive_key,
        label_key=arguments.label_key,
        title=arguments.title,
    )
    _say(f"Wrote {arguments.output}")


@contextmanager
def _plain_warnings() -> Iterator[None]:
    """What users are warned of as one line, without the place in the code."""
    with warnings.catch_warnings():
        show = warnings.showwarning

        def show_plainly(message: Warning | str, category: type[Warning], *place: Any, **kwargs: Any) -> None:
            if category is UserWarning:
                _say(f"scfcmi: warning: {message}")
            else:
                show(message, category, *place, **kwargs)

        warnings.showwarning = show_plainly
        yield


# files --------------------------------------------------------------------------------------------------------------


@contextmanager
def _opened(path: Path, *, in_memory: bool = False) -> Iterator[AnnData]:
    """What a file holds; its matrices are left on disk unless they are wanted in memory."""
    from scfcmi.source import leave_on_disk, open_store

    with open_store(path) as root:
        if not in_memory:
            yield leave_on_disk(root)
            return
    import anndata as ad

    yield ad.read_zarr(path) if path.is_dir() else ad.read_h5ad(path)


def _results(path: Path, key: str) -> AnnData:
    """What runs have written into a file, in memory, without any matrix of genes."""
    import anndata as ad
    from anndata.io import read_elem

    from scfcmi.source import open_store

    with open_store(path) as root:
        obsm = root["obsm"] if "obsm" in root else {}
        wanted = {*Keys(key).of_a_run["obsm"], *(name for name in obsm if name.startswith("X_umap"))}
        return ad.AnnData(
            obs=read_elem(root["obs"]),
            obsm={name: read_elem(obsm[name]) for name in obsm if name in wanted},
            uns=read_elem(root["uns"]) if "uns" in root else {},
        )


def _normalise(adata: AnnData, layer: str | None) -> Any:
    """Normalise and take logarithms if there are counts; the counts, to be put back."""
    import numpy as np
    import scanpy as sc
    from scipy import sparse

    matrix = adata.X if layer is None else adata.layers[layer] if layer in adata.layers else None
    if matrix is None:
        return None  # `fair_cluster` says what is missing
    values = matrix.data if sparse.issparse(matrix) else np.asarray(matrix)
    if not (values.size and values.min() >= 0 and values.max() > 1 and (values == np.rint(values)).all()):
        _say("No raw counts were found: the matrix is taken as it is.")
        return None
    _say("Normalising raw counts ...")
    counts = matrix.copy()
    sc.pp.normalize_total(adata, target_sum=1e4, layer=layer)
    sc.pp.log1p(adata, layer=layer)
    return counts


def _put_back(adata: AnnData, layer: str | None, counts: Any) -> None:
    if layer is None:
        adata.X = counts
    else:
        adata.layers[layer] = counts
    adata.uns.pop("log1p", None)


def _same(one: Path, other: Path) -> bool:
    return other.exists() and one.exists() and one.samefile(other)


def _check_kind(arguments: argparse.Namespace, advice: str = "") -> None:
    """What is copied object by object stays what it is."""
    kind = ".zarr" if arguments.input.is_dir() else ".h5ad"
    if arguments.input.exists() and kind != arguments.output.suffix:
        msg = f"{arguments.input} is {kind}, and so must be the output{advice}"
        raise ValueError(msg)


def _check_output(path: Path, *, overwrite: bool) -> None:
    """Refuse now what could not be written after the work."""
    if path.is_dir() and path.suffix != ".zarr":
        msg = f"{path} is a folder; name a file"
        raise IsADirectoryError(msg)
    if path.exists() and not overwrite:
        msg = f"{path} exists; use --overwrite to replace it"
        raise FileExistsError(msg)
    check_replaceable(path)


# what is said -------------------------------------------------------------------------------------------------------


def _say(words: str) -> None:
    """News go where errors go, so that what is printed can be read by programs."""
    _write(words, sys.stderr)


def _answer(words: str) -> None:
    """What was asked for."""
    _write(words, sys.stdout)


def _write(words: str, stream: TextIO | None) -> None:
    if stream is None:  # closed by whoever started the command
        return
    encoding = stream.encoding or "utf-8"
    try:
        print(words.encode(encoding, "backslashreplace").decode(encoding), file=stream, flush=True)
    except BrokenPipeError:  # whoever read it has read enough, as `head` has: the work goes on
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def _scored(arguments: argparse.Namespace, adata: AnnData) -> pd.DataFrame | None:
    """Scores, where there is more than one group of each attribute."""
    from scfcmi import tl

    keys = arguments.sensitive_key
    if not keys or any(adata.obs[key].nunique() < 2 for key in keys):
        return None
    return tl.evaluate(adata, arguments.key_added, keys, label_key=arguments.label_key).summary


def _conclude(arguments: argparse.Namespace, labels: Any, table: pd.DataFrame | None = None) -> None:
    """Sizes of clusters, and scores, as text or JSON."""
    sizes = {str(name): int(n) for name, n in labels.value_counts(sort=False).items()}
    if arguments.json:
        found = {"key": str(labels.name), "n_cells": len(labels), "n_clusters": len(sizes), "sizes": sizes}
        _answer(json.dumps(found if table is None else found | {"scores": next(iter(_plain(table).values()))}))
    else:
        _answer(f"{len(labels)} cells in {len(sizes)} clusters" if table is None else _scores(table))
    if getattr(arguments, "output", None) is not None:
        _say(f"Wrote obs[{labels.name!r}] to {arguments.output}")


def _plain(table: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Rows by name, of values that JSON knows."""

    def value(entry: Any) -> Any:
        entry = entry.item() if hasattr(entry, "item") else entry
        return None if isinstance(entry, float) and not math.isfinite(entry) else entry

    rows = table.astype(object).iterrows()
    return {str(i): {str(name): value(row[name]) for name in table.columns} for i, row in rows}


def _scores(table: pd.DataFrame) -> str:
    """Scores as rows, clusterings as columns."""
    counts = [name for name in table.columns if name.startswith("n_")]
    shown = table.astype(object)
    for name in table.columns:
        if table[name].dtype.kind in "iuf":
            shown[name] = [f"{value:.0f}" if name in counts else f"{value:.3f}" for value in table[name]]
    return shown.T.rename_axis(None, axis="columns").to_string()


# arguments ----------------------------------------------------------------------------------------------------------


def _file(*suffixes: str) -> Any:
    """A path with one of these endings."""

    def path(text: str) -> Path:
        if not Path(text).name.endswith(suffixes):  # shells end the names of folders with a slash
            msg = f"{text!r} does not end in {' or '.join(suffixes)}"
            raise argparse.ArgumentTypeError(msg)
        return Path(text)

    return path


def _setting(text: str) -> tuple[str, Any]:
    """NAME=VALUE, the value as JSON, or as it stands where it is none."""
    name, equals, value = text.partition("=")
    if not (name and equals):
        msg = f"{text!r} is not of the form NAME=VALUE"
        raise argparse.ArgumentTypeError(msg)
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scfcmi",
        description="Cluster single cells by what they are, and not by the technology, batch or donor they came from.",
        epilog="`scfcmi COMMAND --help` explains the options of a command. Start with `scfcmi demo`.",
    )
    parser.add_argument("--version", action="version", version=f"scfcmi {version('scfcmi')}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def add(name: str, run: Any, words: str, more: str, example: str | None = None) -> argparse.ArgumentParser:
        command = commands.add_parser(
            name,
            help=words,
            description=more,
            epilog=None if example is None else f"example: scfcmi {name} {example}",
        )
        command.add_argument("--overwrite", action="store_true", help="replace output files that exist")
        command.add_argument("--traceback", action="store_true", help="on failure, show where in the code it happened")
        command.set_defaults(run=run)
        return command

    _demo_arguments(
        add(
            "demo",
            _demo,
            "try it on simulated cells",
            "Simulate cells of 11 types measured with two technologies, cluster them, and write the result "
            "(scfcmi_demo.h5ad) and a figure of it (scfcmi_demo.png). Needs no data and no network.",
        )
    )
    _cluster_arguments(
        add(
            "cluster",
            _cluster,
            "cluster the cells of an .h5ad or .zarr file",
            "Cluster the cells of a file and write a copy with the clusters, the registered positions and the scores. "
            "The matrix is read from disk a part at a time, so that it need not fit into memory. X has to be "
            "log-normalised, or counts with --raw-counts; where genes are marked as highly variable, those are used.",
            "cells.h5ad --sensitive-key tech -o clustered.h5ad",
        )
    )
    predict = add(
        "predict",
        _predict,
        "place the cells of a file on the clusters of a saved model",
        "Assign cells of known groups to the clusters of a model that `scfcmi cluster --save-model` wrote, a part of "
        "the file at a time. All genes of the model have to be there; see `scfcmi map` for what is new.",
        "more.h5ad --model atlas.safetensors --sensitive-key tech -o placed.h5ad",
    )
    _placing_arguments(predict)
    predict.add_argument("--continuous-keys", nargs="+", metavar="COLUMN", help="columns of obs with its numbers")
    predict.add_argument("--use-rep", metavar="NAME", help="entry of obsm that the model was fitted with the like of")
    mapping = add(
        "map",
        _map,
        "place cells of new groups, or with genes missing",
        "Assign cells to the clusters of a saved model; genes may be missing, and groups be new to it.",
        "query.h5ad --model atlas.safetensors --sensitive-key tech --new-groups fit -o mapped.h5ad",
    )
    _placing_arguments(mapping, required=True)
    mapping.add_argument(
        "--new-groups",
        choices=("error", "fit"),
        default="error",
        help="what to do with groups that the model does not know: fit finds how they are displaced (default: error)",
    )
    _recut_arguments(
        add(
            "recut",
            _recut,
            "cut the tree of a clustering again",
            "Cut the tree that `scfcmi cluster` left into another number of clusters, in a moment: coarser ones are "
            "unions of the old ones, finer ones parts of them.",
            "clustered.h5ad --n-clusters 12 -o again.h5ad",
        )
    )
    diagnose = add(
        "diagnose",
        _diagnose,
        "tell supported mixing of groups from forced mixing",
        "Say of every cluster whether its groups mix because their cells overlap, because they were made to, or not.",
        "clustered.h5ad",
    )
    _input(diagnose)
    _key(diagnose)
    _sensitive(diagnose)
    diagnose.add_argument("-o", "--output", metavar="OUT", type=_file(".h5ad", ".zarr"), help="file to write it to")
    _json_flag(diagnose)
    _evaluate_arguments(
        add(
            "evaluate",
            _evaluate,
            "score clusterings that a file holds",
            "Score any clusterings in obs: how independent they are of the groups (mnce, balance, nce) and, with known "
            "cell types, how well they find these (nmi, ari, acc), both together (f_beta), and how independent of the "
            "groups they are within cell types (conditional_fairness). Higher is better.",
            "cells.h5ad --cluster-key leiden fair_cluster --sensitive-key tech",
        )
    )
    plot = add(
        "plot",
        _plot,
        "draw the results in a file",
        "Draw one figure of a clustering.",
        "clustered.h5ad umap --color tech fair_cluster -o umap.png",
    )
    _input(plot)
    plot.add_argument("kind", choices=PLOTS, help="which figure")
    plot.add_argument("-o", "--output", metavar="FIGURE", type=_file(*FIGURES), required=True, help="file to write")
    _key(plot)
    _sensitive(plot)
    plot.add_argument("--color", nargs="+", metavar="COLUMN", help="columns of obs that colour a umap")
    plot.add_argument("--dpi", type=int, default=150, metavar="N", help="dots per inch (default: %(default)s)")
    page = add(
        "report",
        _page,
        "write a page on a clustering",
        "Write one HTML file with verdicts, figures and tables on a clustering; it loads nothing.",
        "clustered.h5ad -o report.html",
    )
    _input(page)
    page.add_argument("-o", "--output", metavar="PAGE", type=_file(".html"), required=True, help="file to write")
    _key(page)
    _sensitive(page)
    page.add_argument("--label-key", metavar="COLUMN", help="column of obs with known cell types")
    page.add_argument("--title", help="heading of the page")
    return parser


def _option(parser: argparse.ArgumentParser, name: str) -> None:
    """An option of a fit, as the table of options describes it."""
    option = OPTIONS[name]
    if option.default is not None:
        words = f"{option.help} (default: %(default)s)"
    else:
        words = option.help
    parser.add_argument(
        f"--{name.replace('_', '-')}",
        type=option.kind,
        default=option.default,
        choices=option.choices,
        metavar=None if option.choices else {int: "N", float: "X"}.get(option.kind, name.upper()),
        help=words,
    )


def _input(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("input", metavar="IN", type=Path, help="file with the cells, .h5ad or .zarr")


def _output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-o",
        "--output",
        metavar="OUT",
        type=_file(".h5ad", ".zarr"),
        required=True,
        help="file to write, of the same kind; with --overwrite also IN itself",
    )


def _key(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--key", default=DEFAULT_KEY, metavar="NAME", help="name of the clustering (default: %(default)s)"
    )


def _key_added(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--key-added", default=DEFAULT_KEY, metavar="NAME", help="name of the results (default: %(default)s)"
    )


def _sensitive(parser: argparse.ArgumentParser, *, required: bool = False) -> None:
    parser.add_argument(
        "--sensitive-key",
        nargs="+",
        required=required,
        metavar="COLUMN",
        help="column of obs with the technology, batch or donor, or several",
    )


def _json_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")


def _demo_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-o", "--output-dir", type=Path, default=Path(), help="folder to write to (default: this one)")
    _option(parser, "random_state")
    _option(parser, "device")
    _json_flag(parser)


def _cluster_arguments(parser: argparse.ArgumentParser) -> None:
    _input(parser)
    _output(parser)
    _sensitive(parser, required=True)
    parser.add_argument(
        "--continuous-keys",
        nargs="+",
        metavar="COLUMN",
        help="columns of obs with numbers not to depend on, e.g. depth",
    )
    for name in OF_A_FIT:
        _option(parser, name)
    parser.add_argument(
        "--n-init", type=int, default=1, metavar="N", help="runs, of which the most typical is kept (default: 1)"
    )
    parser.add_argument(
        "--network",
        nargs="+",
        type=_setting,
        metavar="NAME=VALUE",
        help="options of the published network, e.g. max_epochs=50",
    )
    parser.add_argument(
        "--label-key", metavar="COLUMN", help="column of obs with known cell types, used for the scores alone"
    )
    parser.add_argument("--use-rep", metavar="NAME", help="cluster this entry of obsm, e.g. X_pca, instead of X")
    parser.add_argument("--layer", metavar="NAME", help="use this layer instead of X")
    parser.add_argument(
        "--raw-counts",
        action="store_true",
        help="where raw counts are found, normalise them and take logarithms first, in memory; the output keeps counts",
    )
    genes = parser.add_mutually_exclusive_group()
    genes.add_argument(
        "--mask-var",
        metavar="COLUMN",
        default=DEFAULT_MASK,
        help="column of var with the genes to use (default: %(default)s, if there is one)",
    )
    genes.add_argument("--all-genes", action="store_true", help="use all genes")
    _key_added(parser)
    parser.add_argument(
        "--save-model",
        metavar="FILE.safetensors",
        type=_file(".safetensors"),
        help="write the fitted model too, to place later cells",
    )
    parser.add_argument(
        "--in-memory", action="store_true", help="read the whole file first; the output may be of the other kind"
    )
    _json_flag(parser)


def _placing_arguments(parser: argparse.ArgumentParser, *, required: bool = False) -> None:
    _input(parser)
    _output(parser)
    parser.add_argument(
        "--model", type=Path, required=True, metavar="FILE.safetensors", help="file that --save-model wrote"
    )
    _sensitive(parser, required=required)
    parser.add_argument("--label-key", metavar="COLUMN", help="column of obs with known cell types, for scores alone")
    parser.add_argument("--layer", metavar="NAME", help="use this layer instead of X")
    parser.add_argument("--device", help="auto, cpu, cuda, cuda:<index> or mps (default: that of the fit)")
    _key_added(parser)
    _json_flag(parser)


def _recut_arguments(parser: argparse.ArgumentParser) -> None:
    _input(parser)
    _output(parser)
    _key(parser)
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--n-clusters", type=int, metavar="N", help="number of clusters")
    where.add_argument("--resolution", type=float, metavar="X", help="larger gives more clusters; 1 is that of a fit")
    parser.add_argument("--key-added", metavar="NAME", help="name of the cut (default: it replaces the clustering)")
    _json_flag(parser)


def _evaluate_arguments(parser: argparse.ArgumentParser) -> None:
    _input(parser)
    parser.add_argument(
        "--cluster-key", nargs="+", required=True, metavar="COLUMN", help="columns of obs with clusters, one or more"
    )
    _sensitive(parser, required=True)
    parser.add_argument("--label-key", metavar="COLUMN", help="column of obs with known cell types")
    parser.add_argument("--beta", type=float, default=1.0, help="weight of fairness in f_beta (default: %(default)s)")
    parser.add_argument("--per-cluster", action="store_true", help="show size and group shares of every cluster")
    parser.add_argument(
        "--csv", type=Path, metavar="OUT", help="write the scores, or with --per-cluster the clusters, to this file"
    )
    _json_flag(parser)


if __name__ == "__main__":
    sys.exit(main())
