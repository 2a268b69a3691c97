"""The `scfcmi` command: try it, cluster a file, score a file."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from scfcmi._keys import DEFAULT_KEY, DEFAULT_MASK

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

OK, FAILED, INTERRUPTED = 0, 1, 130
DEMO_CELLS, DEMO_GENES = 1500, 2000


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand.

    Parameters
    ----------
    argv
        Arguments after the name of the command; those of the process when absent.

    Returns
    -------
    0, or 1 if the work failed for a reason that a user can mend; wrong usage exits with 2.

    Examples
    --------
    >>> from scfcmi.cli import main
    >>> main(["demo", "--output-dir", "results"])  # doctest: +SKIP
    0
    """
    arguments = _parser().parse_args(argv)
    try:
        with _plain_warnings():
            arguments.run(arguments)
    except (ValueError, KeyError, OSError) as error:
        if arguments.traceback:
            raise
        said = error.args[0] if isinstance(error, KeyError) and error.args else error
        print(f"scfcmi: error: {' '.join(str(said).split())}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print("scfcmi: interrupted; no output was written", file=sys.stderr)
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

    print(f"Simulating {DEMO_CELLS} cells of 11 types, measured with two technologies ...")
    adata = datasets.mouse_atlas_like(DEMO_CELLS, DEMO_GENES, random_state=arguments.random_state)
    adata.layers["counts"] = adata.X.copy()
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    sc.pp.highly_variable_genes(adata, n_top_genes=1000)
    sc.pp.pca(adata, n_comps=30, random_state=arguments.random_state)
    sc.pp.neighbors(adata, random_state=arguments.random_state)
    sc.tl.umap(adata, random_state=arguments.random_state)
    print("Clustering ...")
    tl.fair_cluster(
        adata,
        "tech",
        adata.obs["cell_type"].nunique(),
        label_key="cell_type",
        random_state=arguments.random_state,
        device=arguments.device,
        max_epochs=arguments.max_epochs,
    )
    with _replacing(data_path) as temporary:
        adata.write_h5ad(temporary)
    with _replacing(figure_path) as temporary:
        _demo_figure(adata, temporary)
    print(_scores(tl.evaluate(adata, DEFAULT_KEY, "tech", label_key="cell_type").summary))
    print(f"Wrote {data_path} and {figure_path}")


def _cluster(arguments: argparse.Namespace) -> None:
    _check_output(arguments.output, overwrite=arguments.overwrite)
    if arguments.save_model is not None:
        _check_output(arguments.save_model, overwrite=arguments.overwrite)
    kind = ".zarr" if arguments.input.is_dir() else ".h5ad"
    if arguments.input.exists() and kind != arguments.output.suffix and not arguments.in_memory:
        msg = f"{arguments.input} is {kind}, and so must be the output; with --in-memory it is converted"
        raise ValueError(msg)
    with _opened(arguments.input, in_memory=arguments.in_memory) as adata:
        from scfcmi import tl
        from scfcmi.tl._predict_on_disk import store_run
        from scfcmi.train import is_first_process

        model: Any = tl.fair_cluster(
            adata,
            arguments.sensitive_key,
            arguments.n_clusters,
            continuous_keys=arguments.continuous_keys,
            use_rep=arguments.use_rep,
            layer=arguments.layer,
            mask_var=None if arguments.all_genes else arguments.mask_var,
            label_key=arguments.label_key,
            preset=arguments.preset,
            fairness=arguments.fairness,
            key_added=arguments.key_added,
            random_state=arguments.random_state,
            device=arguments.device,
            devices=arguments.devices,
            precision=arguments.precision,
            max_epochs=arguments.max_epochs,
            batch_size=arguments.batch_size,
            early_stopping=arguments.early_stopping,
            checkpoint=arguments.checkpoint,
            return_model=True,
        )
        if not is_first_process():
            return
        found = tl.evaluate(adata, arguments.key_added, arguments.sensitive_key, label_key=arguments.label_key)
    with _replacing(arguments.output) as temporary:
        if arguments.in_memory:
            adata.write_zarr(temporary) if temporary.suffix == ".zarr" else adata.write_h5ad(temporary)
        else:
            (shutil.copytree if kind == ".zarr" else shutil.copyfile)(arguments.input, temporary)
            store_run(temporary, adata, arguments.key_added)
    if arguments.save_model is not None:
        model.save(arguments.save_model, overwrite=arguments.overwrite)
    print(_scores(found.summary))
    print(f"Wrote obs[{arguments.key_added!r}] to {arguments.output}")


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
    print(_scores(table))
    if arguments.per_cluster:
        for key, result in results.items():
            print(f"\n{key}\n{result.per_cluster.to_string(float_format='{:.3f}'.format)}")
        table = pd.concat({key: result.per_cluster for key, result in results.items()}, names=["clustering"])
    if arguments.csv is not None:
        with _replacing(arguments.csv) as temporary:
            table.to_csv(temporary)
        print(f"Wrote {arguments.csv}")


@contextmanager
def _plain_warnings() -> Iterator[None]:
    """What users are warned of as one line, without the place in the code."""
    with warnings.catch_warnings():
        show = warnings.showwarning

        def show_plainly(message: Warning | str, category: type[Warning], *place: Any, **kwargs: Any) -> None:
            if category is UserWarning:
                print(f"scfcmi: warning: {message}", file=sys.stderr)
            else:
                show(message, category, *place, **kwargs)

        warnings.showwarning = show_plainly
        yield


# files and figures --------------------------------------------------------------------------------------------------


@contextmanager
def _opened(path: Path, *, in_memory: bool = False) -> Iterator[AnnData]:
    """What a file holds; its matrices are left on disk unless they are wanted in memory."""
    from scfcmi.source._store import leave_on_disk, open_store

    with open_store(path) as root:
        if not in_memory:
            yield leave_on_disk(root)
            return
    import anndata as ad

    yield ad.read_zarr(path) if path.is_dir() else ad.read_h5ad(path)


def _check_output(path: Path, *, overwrite: bool) -> None:
    """Refuse now what could not be written after the work."""
    if path.is_dir() and path.suffix != ".zarr":
        msg = f"{path} is a folder; name a file"
        raise IsADirectoryError(msg)
    if path.exists() and not overwrite:
        msg = f"{path} exists; use --overwrite to replace it"
        raise FileExistsError(msg)
    if not path.parent.is_dir():
        msg = f"there is no folder {path.parent}"
        raise FileNotFoundError(msg)
    with _replacing(path, keep=False) as probe:
        probe.touch()


@contextmanager
def _replacing(path: Path, *, keep: bool = True) -> Iterator[Path]:
    """A temporary name beside `path`, which takes its place when all went well."""
    temporary, old = (path.with_name(f".{path.stem}.{uuid4().hex[:8]}{path.suffix}") for _ in range(2))
    try:
        yield temporary
        if keep:
            if path.is_dir():  # a folder cannot be replaced in one step
                os.replace(path, old)
            try:
                os.replace(temporary, path)
            except OSError:
                if old.exists():
                    os.replace(old, path)
                raise
    finally:
        for left in (temporary, old):
            shutil.rmtree(left) if left.is_dir() else left.unlink(missing_ok=True)


def _demo_figure(adata: AnnData, path: Path) -> None:
    """Before and after, by technology and by cell type."""
    import scanpy as sc
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from scfcmi import pl

    figure = Figure(figsize=(14, 9), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, 3)
    for ax, key in zip(axes[0], ("tech", "cell_type"), strict=False):
        sc.pl.umap(adata, color=key, title=f"PCA: {key}", ax=ax, show=False)
    pl.composition(adata, DEFAULT_KEY, "tech", ax=axes[0, 2], show=False)
    pl.umap(adata, ["tech", "cell_type", DEFAULT_KEY], ax=list(axes[1]), show=False)
    for ax in axes[1]:
        ax.set_title(f"fair embedding: {ax.get_title()}")
    figure.savefig(path, dpi=120)


def _scores(table: pd.DataFrame) -> str:
    """Scores as rows, clusterings as columns."""
    counts = [name for name in table.columns if name.startswith("n_")]
    shown = table.astype(object)
    for name in table.columns:
        if table[name].dtype.kind in "iuf":
            shown[name] = [f"{value:.0f}" if name in counts else f"{value:.3f}" for value in table[name]]
    return shown.T.rename_axis(None, axis="columns").to_string()


# arguments ----------------------------------------------------------------------------------------------------------


def _store(text: str) -> Path:
    path = Path(text)
    if path.suffix not in (".h5ad", ".zarr"):
        msg = f"{text!r} does not end in .h5ad or .zarr"
        raise argparse.ArgumentTypeError(msg)
    return path


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scfcmi",
        description="Cluster single cells by what they are, and not by the technology, batch or donor they came from.",
        epilog="`scfcmi COMMAND --help` explains the options of a command. Start with `scfcmi demo`.",
    )
    parser.add_argument("--version", action="version", version=f"scfcmi {version('scfcmi')}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--overwrite", action="store_true", help="replace output files that exist")
    common.add_argument("--traceback", action="store_true", help="on failure, show where in the code it happened")
    _add_demo(commands, common)
    _add_cluster(commands, common)
    _add_evaluate(commands, common)
    return parser


def _add_demo(commands: argparse._SubParsersAction, common: argparse.ArgumentParser) -> None:
    demo = commands.add_parser(
        "demo",
        parents=[common],
        help="try it on simulated cells",
        description="Simulate cells of 11 types measured with two technologies, cluster them, and write the result "
        "(scfcmi_demo.h5ad) and a figure of it (scfcmi_demo.png). Needs no data and no network.",
    )
    demo.add_argument("-o", "--output-dir", type=Path, default=Path(), help="folder to write to (default: this one)")
    _add_run_options(demo)
    demo.set_defaults(run=_demo)


def _add_cluster(commands: argparse._SubParsersAction, common: argparse.ArgumentParser) -> None:
    cluster = commands.add_parser(
        "cluster",
        parents=[common],
        help="cluster the cells of an .h5ad or .zarr file",
        description="Cluster the cells of a file and write a copy with the clusters, the embedding and the scores. "
        "The matrix is read from disk a part at a time, so that it need not fit into memory. X has to be "
        "log-normalised (scanpy's normalize_total and log1p); where genes are marked as highly variable, those are "
        "used.",
        epilog="example: scfcmi cluster cells.h5ad --sensitive-key tech -o clustered.h5ad",
    )
    cluster.add_argument("input", metavar="IN", type=Path, help="file with the cells, .h5ad or .zarr")
    cluster.add_argument("-o", "--output", metavar="OUT", type=_store, required=True, help="file to write, alike")
    cluster.add_argument(
        "--sensitive-key",
        nargs="+",
        required=True,
        metavar="COLUMN",
        help="column of obs with the technology, batch or donor, or several",
    )
    cluster.add_argument(
        "--continuous-keys",
        nargs="+",
        metavar="COLUMN",
        help="columns of obs with numbers not to depend on, e.g. depth",
    )
    cluster.add_argument(
        "--n-clusters", type=int, metavar="K", help="number of clusters (default: found from the data)"
    )
    cluster.add_argument(
        "--label-key", metavar="COLUMN", help="column of obs with known cell types, used for the scores alone"
    )
    cluster.add_argument("--use-rep", metavar="NAME", help="cluster this entry of obsm, e.g. X_pca, instead of X")
    cluster.add_argument("--layer", metavar="NAME", help="use this layer instead of X")
    genes = cluster.add_mutually_exclusive_group()
    genes.add_argument(
        "--mask-var",
        metavar="COLUMN",
        default=DEFAULT_MASK,
        help="column of var with the genes to use (default: %(default)s, if there is one)",
    )
    genes.add_argument("--all-genes", action="store_true", help="use all genes")
    cluster.add_argument(
        "--fairness",
        type=float,
        metavar="F",
        help="from 0, ignore the groups, to 1, clusters independent of them (default: the preset's)",
    )
    cluster.add_argument(
        "--preset",
        choices=("default", "paper"),
        default="default",
        help="`paper` is the published network and training (default: %(default)s)",
    )
    cluster.add_argument(
        "--key-added", default=DEFAULT_KEY, metavar="NAME", help="name of the results (default: %(default)s)"
    )
    cluster.add_argument(
        "--save-model", metavar="FILE.safetensors", type=Path, help="write the fitted model too, to place later cells"
    )
    cluster.add_argument(
        "--in-memory", action="store_true", help="read the whole file first; the output may be of the other kind"
    )
    cluster.add_argument("--batch-size", type=int, metavar="N", help="cells per training step (default: the preset's)")
    _add_run_options(cluster)
    cluster.add_argument(
        "--no-early-stopping",
        dest="early_stopping",
        action="store_false",
        help="run all epochs even when the loss has settled",
    )
    cluster.add_argument(
        "--precision",
        default="32-true",
        help="32-true, bf16-mixed, 16-mixed, or 64-true, in which the number of devices does not show "
        "(default: %(default)s)",
    )
    cluster.add_argument(
        "--devices",
        type=int,
        default=1,
        metavar="N",
        help="GPUs, or processes on the CPU, that share the training (default: %(default)s)",
    )
    cluster.add_argument(
        "--checkpoint",
        type=Path,
        metavar="RUN.safetensors",
        help="file for the state of the training; the same command resumes from it after it was cut off",
    )
    cluster.set_defaults(run=_cluster)


def _add_evaluate(commands: argparse._SubParsersAction, common: argparse.ArgumentParser) -> None:
    evaluate = commands.add_parser(
        "evaluate",
        parents=[common],
        help="score clusterings that a file holds",
        description="Score any clusterings in obs: how independent they are of the groups (mnce, balance, nce) and, "
        "with known cell types, how well they find these (nmi, ari, acc), both together (f_beta), and how independent "
        "of the groups they are within cell types (conditional_fairness). Higher is better.",
        epilog="example: scfcmi evaluate cells.h5ad --cluster-key leiden fair_cluster --sensitive-key tech",
    )
    evaluate.add_argument("input", metavar="IN", type=Path, help="file with the cells, .h5ad or .zarr")
    evaluate.add_argument(
        "--cluster-key", nargs="+", required=True, metavar="COLUMN", help="columns of obs with clusters, one or more"
    )
    evaluate.add_argument(
        "--sensitive-key",
        nargs="+",
        required=True,
        metavar="COLUMN",
        help="column of obs with the technology, batch or donor, or several",
    )
    evaluate.add_argument("--label-key", metavar="COLUMN", help="column of obs with known cell types")
    evaluate.add_argument("--beta", type=float, default=1.0, help="weight of fairness in f_beta (default: %(default)s)")
    evaluate.add_argument("--per-cluster", action="store_true", help="show size and group shares of every cluster")
    evaluate.add_argument(
        "--csv", type=Path, metavar="OUT", help="write the scores, or with --per-cluster the clusters, to this file"
    )
    evaluate.set_defaults(run=_evaluate)


def _add_run_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--random-state", type=int, default=0, metavar="SEED", help="seed (default: %(default)s)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:<index> or mps (default: %(default)s)")
    parser.add_argument("--max-epochs", type=int, metavar="N", help="passes over the cells (default: the preset's)")


if __name__ == "__main__":
    sys.exit(main())
