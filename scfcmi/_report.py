"""One page on a run, for whoever was not there: figures, tables and verdicts in a single HTML file."""

from __future__ import annotations

import base64
import io
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from html import escape
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any
from uuid import uuid4

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes

from . import pl
from ._adata import obs_column
from ._keys import DEFAULT_KEY, Keys
from ._recorded import recorded_scores

PACKAGES = ("scfcmi", "anndata", "scanpy", "numpy", "scipy", "pandas", "scikit-learn", "torch", "matplotlib")
# Below this a cell's cluster is a close call.
SURE = 0.9
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; background: #fff; margin: 0 auto; padding: 1.5rem 1rem 4rem;
  max-width: 68rem; }
h1 { font-size: 1.7rem; margin: 0 0 .2rem; } h2 { font-size: 1.25rem; margin: 2.4rem 0 .6rem; }
.lead { color: #555; margin-top: 0; } nav { display: flex; flex-wrap: wrap; gap: .2rem 1rem; }
.verdicts li { margin: .3rem 0; } figure { margin: 1rem 0; overflow-x: auto; }
figure img { max-width: 100%; height: auto; } figcaption { color: #555; font-size: .9rem; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: .9rem; }
th, td { border-bottom: 1px solid #ddd; padding: .25rem .7rem; text-align: left; vertical-align: top; }
td.number { text-align: right; font-variant-numeric: tabular-nums; } th { background: #f6f6f6; }
"""
SCORES = {
    "mnce": "Mix of groups in the worst cluster: 1 if it is that of all cells, 0 if a cluster holds a single group.",
    "nce": "Mix of groups, mean over cells.",
    "balance": "Rarest group over the most frequent one, in the worst cluster.",
    "conditional_fairness": "What clusters do not say about the group beyond what the labels say; labels reach 1.",
    "nmi": "Agreement with the labels: normalised mutual information.",
    "ari": "Agreement with the labels over pairs of cells, corrected for chance: adjusted Rand index.",
    "acc": "Share of cells that are right under the best one-to-one matching of clusters and labels.",
    "f_beta": "NMI and MNCE in one number.",
}


def report(
    adata: AnnData,
    path: str | os.PathLike[str],
    *,
    key: str = DEFAULT_KEY,
    sensitive_key: str | Sequence[str] | None = None,
    label_key: str | None = None,
    title: str | None = None,
) -> None:
    """Write a page on a run: verdicts in words, figures, tables, parameters and versions in one HTML file.

    The file holds everything it shows and loads nothing. Parts that the run did not write are left out, with a word on
    how to get them. A file of that name is replaced once the page is complete.

    Parameters
    ----------
    adata
        Annotated data with the results of :func:`scfcmi.tl.fair_cluster`; with those of :func:`scfcmi.tl.diagnose` the
        page also says which mixing of groups the data support.
    path
        File to write, by custom with the ending `.html`.
    key
        Name of the run, its `key_added`.
    sensitive_key
        Column of `obs` with the technology, batch or donor, or several; that of the run when absent.
    label_key
        Column of `obs` with reference labels; that of the run when absent.
    title
        Heading of the page.

    Returns
    -------
    Nothing; the page is in the file.

    Raises
    ------
    KeyError
        If there is no run of that name, or a column does not exist.
    ValueError
        If the sensitive attribute is not known, or what the run left behind is damaged.
    OSError
        If the file cannot be written.

    Examples
    --------
    >>> import anndata as ad, numpy as np, pandas as pd
    >>> from scfcmi._report import report
    >>> rng = np.random.default_rng(0)
    >>> obs = pd.DataFrame({"fair_cluster": ["0", "1"] * 30, "tech": list("aabb") * 15}, index=map(str, range(60)))
    >>> adata = ad.AnnData(obs=obs, obsm={"X_fair_cluster_umap": rng.normal(size=(60, 2))})
    >>> adata.uns["fair_cluster"] = {
    ...     "params": {"sensitive_key": "tech"},
    ...     "n_clusters": {"method": "given", "chosen": 2},
    ...     "metrics": {"mnce": 1.0},
    ... }
    >>> report(adata, "report.html")
    """
    target = Path(path)
    if not target.parent.is_dir():
        msg = f"There is no folder {str(target.parent)!r} to write {target.name!r} to."
        raise FileNotFoundError(msg)
    if target.is_dir():
        msg = f"path={str(target)!r} is a folder. Name a file in it, for example report.html."
        raise IsADirectoryError(msg)
    run = adata.uns.get(Keys(key).uns)
    if not isinstance(run, Mapping):
        msg = f"adata.uns has no {key!r}. Run `scfcmi.tl.fair_cluster(adata, ..., key_added={key!r})` first."
        raise KeyError(msg)
    params = run.get("params", {}) if isinstance(run.get("params"), Mapping) else {}
    sensitive = params.get("sensitive_key") if sensitive_key is None else sensitive_key
    if sensitive is None:
        msg = f"adata.uns[{key!r}] does not name a sensitive attribute. Name a column with `sensitive_key`."
        raise ValueError(msg)
    groups = [str(name) for name in np.atleast_1d(np.asarray(sensitive, dtype=object))]
    absent = [name for name in groups if name not in adata.obs]
    if absent:
        msg = f"sensitive_key={absent[0]!r:.80} is no column of adata.obs; there are {[*map(str, adata.obs.columns)]}."
        raise KeyError(msg)
    labels = params.get("label_key") if label_key is None else label_key
    if label_key is not None and label_key not in adata.obs:
        msg = f"label_key={label_key!r} is not a column of adata.obs; there are {[str(c) for c in adata.obs.columns]}."
        raise KeyError(msg)
    labels = str(labels) if labels is not None and str(labels) in adata.obs else None
    page = _Page(adata, key, groups, labels, run)
    text = page.html(title or f"Clusters of {adata.n_obs:,} cells: {key}")
    temporary = target.with_name(f".{target.name}.{uuid4().hex[:8]}")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


class _Page:
    """The parts of the page, each from one part of the results."""

    def __init__(self, adata: AnnData, key: str, groups: list[str], labels: str | None, run: Mapping[str, Any]) -> None:
        self.adata, self.key, self.groups, self.labels, self.run = adata, key, groups, labels, run
        self.keys = Keys(key)
        self.obs = pd.DataFrame({name: obs_column(adata, name, "key") for name in (key, *groups)})
        self.diagnosis = adata.uns.get(self.keys.diagnosis)

    def html(self, title: str) -> str:
        sections = {
            "Verdict": self._verdicts(),
            "Maps": self._maps(),
            "Number of clusters": self._number(),
            "Groups in clusters": self._composition(),
            "Diagnosis": self._diagnosis(),
            "Confidence": self._confidence(),
            "Scores": self._scores(),
            "Fit": self._fit(),
            "Clusters": self._clusters(),
            "Parameters": _table(self._parameters(), ["parameter", "value"]),
            "Versions": _table(_versions(), ["package", "version"]),
        }
        links = "".join(f'<a href="#{_anchor(name)}">{escape(name)}</a>' for name in sections)
        body = "".join(f'<h2 id="{_anchor(name)}">{escape(name)}</h2>\n{text}\n' for name, text in sections.items())
        made = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")
        return (
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
            f'<h1>{escape(title)}</h1>\n<p class="lead">Made by scfcmi {escape(_version("scfcmi"))}, {made}</p>\n'
            f"<nav>{links}</nav>\n{body}</body>\n</html>\n"
        )

    # in words

    def _verdicts(self) -> str:
        said = [f"{self.adata.n_obs:,} cells are in {self.obs[self.key].nunique()} clusters{self._how()}."]
        worst = self._per_cluster()["entropy_ratio"]
        lowest = worst.min()
        said.append(
            f"Cluster {worst.idxmin()} is the least mixed: its groups of {' and '.join(self.groups)} have "
            f"{lowest:.0%} of the entropy that they have in all cells. Whether that is biology or technology, the "
            "diagnosis says."
        )
        if isinstance(self.diagnosis, Mapping) and "overall" in self.diagnosis:
            said.append(f"Diagnosis: {self.diagnosis['overall']}")
        if self.keys.confidence in self.adata.obs:
            sure = np.asarray(self.adata.obs[self.keys.confidence], float)
            said.append(
                f"{np.mean(sure[np.isfinite(sure)] >= SURE):.0%} of the cells belong to their cluster with a "
                f"probability of {SURE} or more."
            )
        if self.keys.unlike in self.adata.obs:
            n_unlike = int(np.asarray(self.adata.obs[self.keys.unlike]).astype(bool).sum())
            said.append(f"{n_unlike:,} cells are unlike everything that was fitted.")
        metrics = recorded_scores(self.run, self.key)
        if {"nmi", "ari"} <= metrics.keys() and self.labels:
            said.append(f"Agreement with {self.labels}: NMI {metrics['nmi']:.2f}, ARI {metrics['ari']:.2f}.")
        stopped = self.run.get("stopped")
        if isinstance(stopped, Mapping) and "reason" in stopped:
            said.append(f"The fit ended because {str(stopped['reason']).rstrip('.')}.")
        return '<ul class="verdicts">' + "".join(f"<li>{escape(one)}</li>" for one in said) + "</ul>"

    def _how(self) -> str:
        evidence = self.run.get("n_clusters")
        method = evidence.get("method") if isinstance(evidence, Mapping) else None
        words = {
            "given": ", a number that was given",
            "tree": ", a number found from the data",
            "resolution": ", as the resolution asks",
        }
        return words.get(str(method), "")

    # figures

    def _maps(self) -> str:
        names = [self.key, *self.groups, *([self.labels] if self.labels else [])]
        has_map = self.keys.umap in self.adata.obsm or self.keys.embedding in self.adata.obsm
        if not has_map:
            return _note(f"There is no embedding in obsm[{self.keys.embedding!r}] to draw a map of.")
        return _figure(
            lambda: pl.umap(self.adata, names, key=self.key, ncols=2, show=False),
            "UMAP of the registered cells. Distances between far clusters mean little.",
        )

    def _number(self) -> str:
        if "n_clusters" not in self.run:
            return _note("This run left no evidence on the number of clusters.")
        text = _figure(
            lambda: pl.n_clusters(self.adata, self.key, show=False),
            "Link of the two clusters that would be joined next. Open circles: other numbers that hold over a wide "
            "range of resolutions; scfcmi.tl.recut gives them.",
        )
        if "tree" in self.run and f"{self.key}_leaves" in self.adata.obsm:
            text += _figure(
                lambda: pl.tree(self.adata, self.key, self.groups, show=False),
                "Tree of clusters. Stripes are the shares of the groups; the dashed line is the present cut.",
            )
        return text

    def _composition(self) -> str:
        return _figure(
            lambda: pl.composition(self.adata, self.key, self.groups, show=False),
            "Groups of the cells of every cluster, beside those of all cells. Outlined: the cluster that sets MNCE.",
        )

    def _diagnosis(self) -> str:
        if not isinstance(self.diagnosis, Mapping):
            return _note(f"Not there yet: run scfcmi.tl.diagnose(adata, {self.key!r}) and write the page again.")
        return _figure(
            lambda: pl.diagnose(self.adata, self.key, show=False),
            "Whether mixing is supported by overlapping cells, forced, or absent. Numbers are cells.",
        )

    def _confidence(self) -> str:
        if self.keys.confidence not in self.adata.obs:
            return _note("This run left no confidence of its cells.")
        text = _figure(
            lambda: pl.confidence(self.adata, self.key, show=False),
            "Confidence by cluster: half of the cells in the box, nine tenths between the whiskers.",
        )
        if self.labels:
            label = self.labels
            text += _figure(
                lambda: pl.reliability(self.adata, label, self.key, show=False),
                f"How often cells of each confidence have their cluster's majority {label}.",
            )
            text += _figure(
                lambda: pl.compare(self.adata, self.key, label, show=False), f"Where the cells of {label} went."
            )
        return text

    def _fit(self) -> str:
        history = self.run.get("history")
        if not isinstance(history, Mapping) or not history:
            return _note("This run left no history of its fit.")
        return _figure(lambda: pl.training(self.adata, self.key, show=False), "Terms of the objective as the fit went.")

    # tables

    def _scores(self) -> str:
        metrics = recorded_scores(self.run, self.key)
        if not metrics:
            return _note("This run was not scored: see scfcmi.tl.evaluate.")
        return _table(
            [(name, f"{value:.3f}", SCORES.get(name, "")) for name, value in metrics.items()],
            ["score", "value", "what it says"],
        )

    def _per_cluster(self) -> pd.DataFrame:
        from .tl import evaluate

        return evaluate(AnnData(obs=self.obs.dropna()), self.key, self.groups)[1]

    def _clusters(self) -> str:
        table = self._per_cluster()
        shares = table.drop(columns=["size", "entropy_ratio"])
        verdict = {}
        if isinstance(self.diagnosis, Mapping) and {"clusters", "verdict"} <= set(self.diagnosis):
            verdict = dict(zip(map(str, self.diagnosis["clusters"]), self.diagnosis["verdict"], strict=False))
        rows = [
            (
                str(name),
                f"{int(size):,}",
                f"{ratio:.2f}",
                f"{shares.columns[most]} ({share[most]:.0%})",
                str(verdict.get(str(name), "")),
            )
            for name, size, ratio, share, most in zip(
                table.index,
                table["size"],
                table["entropy_ratio"],
                shares.to_numpy(float),
                shares.to_numpy(float).argmax(axis=1),
                strict=True,
            )
        ]
        return _table(rows, ["cluster", "cells", "mix", "most frequent group", "verdict"])

    def _parameters(self) -> list[tuple[str, str]]:
        params = self.run.get("params", {}) if isinstance(self.run.get("params"), Mapping) else {}
        return [(str(name), _value(params[name])) for name in sorted(map(str, params))]


def _figure(draw: Callable[[], Any], caption: str) -> str:
    """A plot as an SVG inside the page; points are pixels in it, so that it stays small."""
    drawn = draw()
    figure = (drawn if isinstance(drawn, Axes) else drawn[0]).get_figure(root=True)
    assert figure is not None
    try:
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", dpi=150, metadata={"Date": None})
    finally:
        plt.close(figure)
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    wide = round(figure.get_figwidth() * 96)
    text = escape(caption)
    return (
        f'<figure><img src="data:image/svg+xml;base64,{data}" width="{wide}" alt="{text}">'
        f"<figcaption>{text}</figcaption></figure>"
    )


def _table(rows: Sequence[Sequence[str]], head: Sequence[str]) -> str:
    heads = "".join(f"<th>{escape(name)}</th>" for name in head)

    def cell(text: str) -> str:
        is_number = text.replace(",", "").replace(".", "", 1).removeprefix("-").isdigit()
        return f'<td class="number">{escape(text)}</td>' if is_number else f"<td>{escape(text)}</td>"

    body = "\n".join("<tr>" + "".join(cell(text) for text in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table>\n<thead><tr>{heads}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>'


def _note(words: str) -> str:
    return f"<p>{escape(words)}</p>"


def _anchor(name: str) -> str:
    return name.lower().replace(" ", "-")


def _value(value: Any) -> str:
    if np.ndim(value):
        return ", ".join(map(str, np.ravel(value).tolist()))
    return f"{value:g}" if isinstance(value, float | np.floating) else str(value)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _versions() -> list[tuple[str, str]]:
    python = ".".join(map(str, sys.version_info[:3]))
    return [("Python", python), *((package, _version(package)) for package in PACKAGES)]
