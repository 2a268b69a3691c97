"""Which clusters mix groups because cells overlap, which because they were made to, and which belong to some groups."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from numpy.typing import NDArray
from scipy.stats import poisson

from scfcmi._keys import DEFAULT_KEY, DEFAULT_MASK, Keys
from scfcmi.metrics._encode import Coded, encode, table
from scfcmi.objective import Alignment, align, neighbourhood_distance, neighbours_within
from scfcmi.source import Front, Groups, MatrixSource, select_source, stratified_sketch
from scfcmi.source._matrix import dense, unit_rows
from scfcmi.train import PRESETS

from ._adata import obs_column, obs_groups, storable_keys, writable

# A group is missing from a cluster if it has less than this share of the cells that its size lets one expect, and less
# than chance explains: the probability of so few, times the number of pairs of a cluster and a group, is below ALPHA.
ABSENT, ALPHA = 0.3, 0.05
# Fewer cells of a group than this are not judged, and matches with a cluster count from so many on.
MIN_CELLS, MIN_MATCHES = 5, 3
# A cell is supported if it has a match itself or a fifth of its neighbours have one, and a group if half of its cells.
SUPPORT, HALF = 0.1, 0.5
# Matches count only if their neighbourhoods are closer than so many radii once each group has made its common move:
# alignment moves parts of a group on their own as well, and may so bring together what has no counterpart.
FAR = 1.4
# Two clusters are halves of one if the largest group of the first is hardly in the second, and together they hold about
# as many cells of the missing group as expected.
MOSTLY, COMPLETE = 0.7, 0.5
MAX_LISTED = 4


class Diagnosis(NamedTuple):
    """What :func:`scfcmi.tl.diagnose` returns.

    Parameters
    ----------
    overall
        The clustering in one sentence or two.
    clusters
        One row per cluster: `n_cells`, `n_mixed` (cells of all groups but the cluster's largest), how many of these are
        `supported` and `forced`, the groups that are `absent`, and `status` and `verdict` in words.
    groups
        One row per cluster and group: `n_cells`, `expected`, `supported` (share of these cells that have a match with
        another group inside the cluster), `status`, and the `counterpart`, a cluster, if the status is `"split"`.
    pairs
        One row per cluster and ordered pair of groups that both have cells in it: `n_cells` of the first, and the share
        `supported` by matches with the second inside the cluster.
    """

    overall: str
    clusters: pd.DataFrame
    groups: pd.DataFrame
    pairs: pd.DataFrame


def diagnose(
    adata: AnnData,
    key: str = DEFAULT_KEY,
    sensitive_key: str | Sequence[str] | None = None,
    *,
    use_rep: str | None = None,
    layer: str | None = None,
    mask_var: str | NDArray[np.bool_] | None = DEFAULT_MASK,
    random_state: int = 0,
) -> Diagnosis:
    """Tell mixing that cells support from mixing that was forced, without labels.

    For clusters of any method. The groups are aligned anew from expression, and cells of different groups that then are
    mutual neighbours count as matched if their neighbourhoods are close, also when each group is only moved as a whole.
    In each cluster, a group is

    * `"shared"`: its cells have matches with other groups in the cluster;
    * `"forced"`: it has cells in the cluster, but most have no such match and none around them: over-correction;
    * `"absent"`: less than 30 % of the cells are there that its size lets one expect, fewer than chance explains, and
      they are not in another cluster instead, so that the cluster is specific to the other groups;
    * `"split"`: as few, but the cells that are missing are in another cluster, where the groups of this one are
      missing in turn: under-correction;
    * `"own"`: the largest of the cluster, and no other group is shared;
    * `"unclear"`: too few cells are there or expected to tell.

    A type that makes up a minor part of a cluster does not show: a cluster is judged as a whole. Whether cells are
    missing because of biology or because of how they were sampled cannot be told from the data.

    Parameters
    ----------
    adata
        Annotated data with log-normalised expression.
    key
        Column of `obs` with the clusters; of :func:`scfcmi.tl.fair_cluster` or of any other method.
    sensitive_key
        Column of `obs` with the technology, batch or donor; that of the run when absent. Of several, the combinations
        of levels are judged; name one to judge its levels.
    use_rep
        Entry of `obsm` to compare cells by, instead of expression; that of the run when absent.
    layer
        Layer with log-normalised expression, used instead of `X`; that of the run when absent.
    mask_var
        Column of `var` or boolean array with the genes to use. The default column is used if it exists; `None` takes
        all genes.
    random_state
        Seed of the sample of cells that is aligned where there are very many.

    Returns
    -------
    A named tuple `(overall, clusters, groups, pairs)`, see :class:`scfcmi.tl.Diagnosis`. Sets the following field:

    `adata.uns[key + "_diagnosis"]` : :class:`dict`
        `overall`; `sensitive_key`; `clusters` and `groups`, their names; per cluster `verdict` and `cluster_status`;
        per cluster and group, arrays of shape (n_clusters, n_groups): `n_cells`, `expected`, `supported` (NaN where
        there are no cells), `status` and `counterpart` (empty where there is none).

    Raises
    ------
    KeyError
        If a column, layer or representation does not exist.
    ValueError
        If clusters or groups have missing values, there is only one group, no sensitive attribute is known, or the
        matrix is not valid.

    Examples
    --------
    >>> import scanpy as sc, scfcmi as sf
    >>> adata = sf.datasets.simulated_atlas(n_cells=300, n_genes=200, random_state=0)
    >>> sc.pp.normalize_total(adata, target_sum=1e4)
    >>> sc.pp.log1p(adata)
    >>> found = sf.tl.diagnose(adata, "cell_type", "tech")
    >>> list(found.clusters.columns)
    ['n_cells', 'n_mixed', 'supported', 'forced', 'absent', 'status', 'verdict']
    """
    clusters = encode(clusters=_complete(adata, key, "key"))[0]
    params = _run_params(adata, key)
    sensitive_key = params.get("sensitive_key") if sensitive_key is None else sensitive_key
    if sensitive_key is None:
        msg = f"adata.uns[{key!r}] does not name a sensitive attribute. Name a column of obs with `sensitive_key`."
        raise ValueError(msg)
    groups = obs_groups(adata, sensitive_key, _complete)
    if use_rep is None and layer is None:
        use_rep, layer = params.get("use_rep"), params.get("layer")
    source, _ = select_source(adata, use_rep=use_rep, layer=layer, mask_var=mask_var, deferred=True)
    rows, near, matches = _align(source, groups, standardize=use_rep in (None, "X"), random_state=random_state)
    found = _Evidence.collect(clusters, groups, rows, near, matches)
    result, summary = _report(found, [str(level) for level in clusters.levels], list(groups.levels))
    writable(adata, copy=False).uns[Keys(key).diagnosis] = {"sensitive_key": storable_keys(sensitive_key)} | summary
    return result


class _Evidence(NamedTuple):
    """Counts on all cells, and matches on the sketch; arrays are cluster × group unless said."""

    n_cells: NDArray[np.int64]
    expected: NDArray[np.float64]
    supported: NDArray[np.float64]  # share of the cells with a match with any other group in the cluster
    by_pair: NDArray[np.float64]  # share of cells supported by each other group: cluster × group × group
    links: NDArray[np.int64]  # matches of a cluster's cells with a group's cells in another: cluster × cluster × group

    @classmethod
    def collect(
        cls,
        clusters: Coded,
        groups: Groups,
        rows: NDArray[np.int64],
        near: sp.csr_matrix,
        matches: sp.csr_matrix,
    ) -> _Evidence:
        n_cells = table(clusters, Coded(groups.codes, list(groups.levels)))
        odds = groups.counts / np.maximum(len(groups.codes) - groups.counts, 1)
        expected = (n_cells.sum(axis=1, keepdims=True) - n_cells) * odds
        n_clusters, n_groups = n_cells.shape
        c, g = clusters.codes[rows], groups.codes[rows]
        member = _onehot(c, n_clusters)
        in_group = _onehot(g, n_groups)
        inside = _within(matches, c)
        around = _within(near, c)
        matched = np.asarray(((inside @ in_group) > 0).todense()).astype(np.float32)
        any_matched = matched.max(axis=1, keepdims=True)
        is_supported = (np.hstack([matched, any_matched]) + around @ np.hstack([matched, any_matched])) / 2 > SUPPORT
        seen = np.asarray((member.T @ in_group).todense())
        of = [_onehot(np.where(g == b, c, n_clusters), n_clusters + 1)[:, :n_clusters] for b in range(n_groups)]
        count = np.stack([np.asarray(block.T @ is_supported.astype(np.float32)) for block in of], axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            share = count / seen[:, :, None]
        links = np.stack([np.asarray((member.T @ matches @ block).todense()) for block in of], axis=2)
        return cls(n_cells, expected, share[:, :, -1], share[:, :, :-1], links.astype(np.int64))

    def missing(self) -> NDArray[np.bool_]:
        """Groups that have much fewer cells in a cluster than expected."""
        by_chance = poisson.cdf(self.n_cells, self.expected) * self.n_cells.size
        return (by_chance < ALPHA) & (self.n_cells < ABSENT * self.expected)

    def counterpart(self, cluster: int, group: int) -> int | None:
        """Cluster that holds what this one lacks of a group, if it lacks in turn what this one has."""
        links = self.links[cluster, :, group].copy()
        links[cluster] = 0
        largest = int(self.n_cells[cluster].argmax())
        for other in np.argsort(-links, kind="stable"):
            if links[other] < MIN_MATCHES:
                break
            both = [cluster, other]
            share = self.n_cells[cluster, largest] / self.n_cells[both, largest].sum()
            complete = self.n_cells[both, group].sum() / self.expected[both, group].sum()
            if share >= MOSTLY and complete >= COMPLETE:
                return int(other)
        return None


def _align(
    source: MatrixSource, groups: Groups, *, standardize: bool, random_state: int
) -> tuple[NDArray[np.int64], sp.csr_matrix, sp.csr_matrix]:
    """Rows looked at, their neighbours within the group, and believable matches between groups."""
    settings = PRESETS["default"]
    rows = stratified_sketch(groups.codes, settings.sketch_size, np.random.default_rng(random_state))
    codes = groups.codes[rows]
    block = source.gather(rows)
    front = Front.fit(block, codes, settings.n_comps, standardize=standardize, height=settings.height)
    z = front.transform(dense(block))
    aligned = align(
        z,
        codes,
        n_neighbors=settings.n_align_neighbors,
        n_candidates=settings.n_align_matches,
        n_matches=settings.n_matches,
    )
    near = neighbours_within(aligned.position, codes, settings.n_align_neighbors)
    return rows, near, _supporting(z, aligned, codes, settings.n_align_neighbors)


def _supporting(
    z: NDArray[np.float32], aligned: Alignment, codes: NDArray[np.int64], n_neighbors: int
) -> sp.csr_matrix:
    """Matches that hold when groups move as a whole."""
    start = unit_rows(z)
    moved = start.copy()
    for group in np.unique(codes):
        members = codes == group
        moved[members] += np.median(aligned.position[members] - start[members], axis=0)
    pairs = aligned.matches.tocoo()
    distance = neighbourhood_distance(moved, neighbours_within(start, codes, n_neighbors), pairs.row, pairs.col)
    keep = distance <= FAR
    return sp.csr_matrix((pairs.data[keep], (pairs.row[keep], pairs.col[keep])), shape=pairs.shape)


def _report(found: _Evidence, names: list[str], levels: list[str]) -> tuple[Diagnosis, dict[str, Any]]:
    n_clusters, n_groups = found.n_cells.shape
    status = np.full((n_clusters, n_groups), "unclear", dtype=object)
    counterpart = np.full((n_clusters, n_groups), "", dtype=object)
    missing = found.missing()
    largest = found.n_cells.argmax(axis=1)
    for k in range(n_clusters):
        for b in range(n_groups):
            if b == largest[k]:
                continue
            if missing[k, b]:
                other = found.counterpart(k, b)
                status[k, b] = "absent" if other is None else "split"
                counterpart[k, b] = "" if other is None else names[other]
            elif found.n_cells[k, b] >= MIN_CELLS and np.isfinite(found.supported[k, b]):
                status[k, b] = "shared" if found.supported[k, b] >= HALF else "forced"
        status[k, largest[k]] = "shared" if "shared" in status[k] else "own"
    verdicts = [_verdict(found, k, status[k], counterpart[k], levels) for k in range(n_clusters)]
    cluster_status = [kind for kind, _ in verdicts]
    share = np.nan_to_num(found.supported)
    mixed = found.n_cells.copy()
    mixed[np.arange(n_clusters), largest] = 0
    n_supported = np.rint((mixed * share).sum(axis=1)).astype(int)
    clusters = pd.DataFrame(
        {
            "n_cells": found.n_cells.sum(axis=1),
            "n_mixed": mixed.sum(axis=1),
            "supported": n_supported,
            "forced": mixed.sum(axis=1) - n_supported,
            "absent": [", ".join(levels[b] for b in np.flatnonzero(status[k] == "absent")) for k in range(n_clusters)],
            "status": cluster_status,
            "verdict": [words for _, words in verdicts],
        },
        index=pd.Index(names, name="cluster"),
    )
    index = pd.MultiIndex.from_product([names, levels], names=["cluster", "group"])
    groups = pd.DataFrame(
        {
            "n_cells": found.n_cells.ravel(),
            "expected": found.expected.ravel(),
            "supported": found.supported.ravel(),
            "status": status.ravel(),
            "counterpart": counterpart.ravel(),
        },
        index=index,
    )
    overall = _overall(cluster_status, names)
    summary = {
        "overall": overall,
        "clusters": np.array(names, dtype=object),
        "groups": np.array(levels, dtype=object),
        "cluster_status": np.array(cluster_status, dtype=object),
        "verdict": np.array([words for _, words in verdicts], dtype=object),
        "n_cells": found.n_cells,
        "expected": found.expected,
        "supported": found.supported,
        "status": status,
        "counterpart": counterpart,
    }
    return Diagnosis(overall, clusters, groups, _pairs(found, names, levels)), summary


def _verdict(
    found: _Evidence, k: int, status: NDArray[Any], counterpart: NDArray[Any], levels: list[str]
) -> tuple[str, str]:
    """Status of a cluster, the most telling one of its groups, and what it means in words."""
    absent, split, forced = (np.flatnonzero(status == kind) for kind in ("absent", "split", "forced"))
    parts = []
    if len(absent):
        counts = [f"{levels[b]} ({found.n_cells[k, b]} cells, {found.expected[k, b]:.0f} expected)" for b in absent]
        parts.append(f"specific to the other groups, without a counterpart in {_listed(counts)}")
    if len(split):
        where = [f"{levels[b]} is in cluster {counterpart[b]}" for b in split]
        parts.append(f"split by group: {_listed(where)}")
    if len(forced):
        shares = [f"{1 - found.supported[k, b]:.0%} of {levels[b]}" for b in forced]
        parts.append(f"forced: no match in this cluster for {_listed(shares)}")
    if parts:
        kind = "specific" if len(absent) else "split" if len(split) else "forced"
        return kind, "; ".join(parts)
    if "shared" in status:
        return "shared", "shared: groups overlap"
    return "unclear", "unclear: too few cells of other groups are there or expected"


def _overall(status: list[str], names: list[str]) -> str:
    meaning = {
        "specific": "specific to some groups",
        "split": "split by group",
        "forced": "mixed without support",
        "unclear": "too small to tell",
    }
    n_shared = status.count("shared")
    parts = [f"{n_shared} of {len(status)} clusters are shared and supported by overlapping cells"]
    for kind, words in meaning.items():
        those = [name for name, own in zip(names, status, strict=True) if own == kind]
        if those:
            parts.append(f"{len(those)} {words} ({_listed(those)})")
    return "; ".join(parts) + "."


def _pairs(found: _Evidence, names: list[str], levels: list[str]) -> pd.DataFrame:
    present = found.n_cells > 0
    k, a, b = np.nonzero(present[:, :, None] & present[:, None, :] & ~np.eye(len(levels), dtype=bool))
    frame = pd.DataFrame(
        {
            "cluster": np.array(names, dtype=object)[k],
            "group": np.array(levels, dtype=object)[a],
            "other": np.array(levels, dtype=object)[b],
            "n_cells": found.n_cells[k, a],
            "supported": found.by_pair[k, a, b],
        }
    )
    return frame.set_index(["cluster", "group", "other"])


def _listed(items: list[str]) -> str:
    rest = len(items) - MAX_LISTED
    return ", ".join(items[:MAX_LISTED]) + (f" and {rest} more" if rest > 0 else "")


def _within(weights: sp.csr_matrix, codes: NDArray[np.int64]) -> sp.csr_matrix:
    """Entries between cells of the same cluster."""
    pairs = weights.tocoo()
    same = codes[pairs.row] == codes[pairs.col]
    return sp.csr_matrix((pairs.data[same], (pairs.row[same], pairs.col[same])), shape=weights.shape)


def _onehot(codes: NDArray[np.int64], n: int) -> sp.csr_matrix:
    return sp.csr_matrix((np.ones(len(codes), np.float32), codes, np.arange(len(codes) + 1)), shape=(len(codes), n))


def _run_params(adata: AnnData, key: str) -> dict[str, Any]:
    run = adata.uns.get(Keys(key).uns)
    params = run.get("params", {}) if hasattr(run, "get") else {}
    found = {
        name: params[name]
        for name in ("sensitive_key", "use_rep", "layer")
        if hasattr(params, "get") and params.get(name) is not None
    }
    return {name: [str(v) for v in value] if np.ndim(value) else str(value) for name, value in found.items()}


def _complete(adata: AnnData, key: str, argument: str) -> pd.Series:
    if key not in adata.obs:
        hint = " Run `scfcmi.tl.fair_cluster` first." if key == DEFAULT_KEY else ""
        msg = f"{argument}={key!r} is not a column of adata.obs; there are {[str(c) for c in adata.obs.columns]}.{hint}"
        raise KeyError(msg)
    column = obs_column(adata, key, argument)
    missing = column.isna().to_numpy()
    if missing.any():
        msg = (
            f"{argument}={key!r} has {int(missing.sum())} missing values, the first in cell "
            f"{column.index[int(missing.argmax())]!r}. "
            f"Diagnose the other cells: adata[adata.obs[{key!r}].notna()].copy()."
        )
        raise ValueError(msg)
    return column
