"""Which clusters mix groups because cells overlap, which because they were made to, and which belong to some groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from numpy.typing import NDArray
from scipy.stats import norm, poisson

from scfcmi._adata import check_adata, groups_of_run, obs_column, obs_groups, storable_keys, writable
from scfcmi._encode import Coded, encode, table
from scfcmi._keys import DEFAULT_KEY, Keys
from scfcmi.source import Groups, MatrixSource, dense, select_source

# A group is missing from a cluster if it has less than this share of the cells that its size lets one expect, and less
# than chance explains: the probability of so few, times the number of pairs of a cluster and a group, is below ALPHA.
ABSENT, ALPHA = 0.15, 0.05
# Fewer cells of a group than this are not judged.
MIN_CELLS = 5
# A group overlaps the others in a cluster if at least this share of two normal distributions would be in common.
OVERLAP = 0.2
# Two clusters are close if they overlap by at least this share: what a group lacks in one may be in the other.
CLOSE = 0.02
# A group was forced into a cluster if it had to be moved there, on top of its common shift, by so many standard
# deviations of what groups are moved by in this data set.
FORCED = 2.0
# Two clusters are halves of one if each lacks a group of the other, and together they hold at least this share of the
# cells expected.
COMPLETE = 0.5
# Rounds in which the common shifts of groups are found.
ROUNDS = 10
MAX_LISTED = 4


class Diagnosis(NamedTuple):
    """What :func:`scfcmi.tl.diagnose` returns.

    Parameters
    ----------
    overall
        The clustering in one sentence or two.
    clusters
        One row per cluster: `n_cells`, `n_mixed` (cells of all groups but the cluster's largest), how many of these
        are `supported` and `forced` by the overlap, the groups that are `absent`, and `status` and `verdict` in words.
    groups
        One row per cluster and group: `n_cells`, `expected`, `supported` (how far these cells and those of the other
        groups in the cluster overlap, from 0 to 1; 0 if the group was forced), `deviation` (how far the group was moved
        there on top of its common shift, in standard deviations; not a number where no fit says so), `status`, and the
        `counterpart`, a cluster, if the status is `"split"`.
    pairs
        One row per cluster and ordered pair of groups that both have cells in it: `n_cells` of the first, and the share
        `supported`, the overlap with the second.
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
) -> Diagnosis:
    """Tell mixing that cells support from mixing that was forced, without labels.

    Clusters of :func:`scfcmi.tl.fair_cluster` are judged by what the fit knows: counts, registered positions, and how
    far every group had to be moved in every cluster. Those of any other method are judged by counts, and by where cells
    are in `use_rep`, in which every group may have a shift of its own, or in the registered positions of a run, if
    there are any. In each cluster, a group is

    * `"shared"`: its cells overlap those of other groups in the cluster (without positions: there are as many as
      expected);
    * `"forced"`: it has cells in the cluster, but apart from those of the others, or only because it was moved much
      farther than groups are moved elsewhere: over-correction;
    * `"absent"`: less than 15 % of the cells are there that its size lets one expect, fewer than chance explains, and
      they are not in another cluster instead, so that the cluster is specific to the other groups;
    * `"split"`: as few, but the cells that are missing are in the nearest cluster, where the groups of this one are
      missing in turn: under-correction;
    * `"own"`: the largest of the cluster, and no other group is shared;
    * `"unclear"`: too few cells are there or expected to tell.

    A type that makes up a minor part of a cluster does not show: a cluster is judged as a whole. Whether cells are
    missing because of biology or because of how they were sampled cannot be told from the data.

    Parameters
    ----------
    adata
        Annotated data.
    key
        Column of `obs` with the clusters; of :func:`scfcmi.tl.fair_cluster` or of any other method.
    sensitive_key
        Column of `obs` with the technology, batch or donor; that of the run when absent. Of several, the combinations
        of levels are judged; name one to judge its levels.
    use_rep
        Entry of `obsm` with positions of cells. When absent, the registered positions of the run called `key`, or of
        the one of the default name; without any, counts alone are judged.

    Returns
    -------
    A named tuple `(overall, clusters, groups, pairs)`, see :class:`scfcmi.tl.Diagnosis`. Sets the following field:

    `adata.uns[key + "_diagnosis"]` : :class:`dict`
        `overall`; `sensitive_key`; `clusters` and `groups`, their names; per cluster `verdict` and `cluster_status`;
        per cluster and group, arrays of shape (n_clusters, n_groups): `n_cells`, `expected`, `supported` (NaN where
        there are no cells, or no positions), `deviation`, `status` and `counterpart` (empty where there is none).

    Raises
    ------
    KeyError
        If a column or representation does not exist.
    ValueError
        If clusters or groups have missing values, there is only one group, no sensitive attribute is known, or the
        positions are not valid.

    Examples
    --------
    >>> import scanpy as sc, scfcmi as sf
    >>> adata = sf.datasets.simulated_atlas(n_cells=300, n_genes=200, random_state=0)
    >>> sc.pp.normalize_total(adata, target_sum=1e4)
    >>> sc.pp.log1p(adata)
    >>> sf.tl.fair_cluster(adata, "tech", 4, progress_bar=False)
    >>> found = sf.tl.diagnose(adata)
    >>> list(found.clusters.columns)
    ['n_cells', 'n_mixed', 'supported', 'forced', 'absent', 'status', 'verdict']
    """
    check_adata(adata, copy=False)
    clusters = encode(clusters=_complete(adata, key, "key"))[0]
    if sensitive_key is None:
        sensitive_key = groups_of_run(adata, key)
    groups = obs_groups(adata, sensitive_key, _complete)
    names = [str(level) for level in clusters.levels]
    rep = use_rep
    if rep is None:
        rep = next((name for name in (Keys(key).embedding, Keys().embedding) if name in adata.obsm), None)
    source = None if rep is None else select_source(adata, use_rep=rep)[0]
    deviation = _deviation(adata.uns.get(Keys(key).uns), names, groups) if use_rep is None else None
    found = _Evidence.collect(clusters, groups, source, deviation, registered=use_rep is None)
    result, summary = _report(found, names, list(groups.levels))
    writable(adata, copy=False).uns[Keys(key).diagnosis] = {"sensitive_key": storable_keys(sensitive_key)} | summary
    return result


def _deviation(record: Any, names: list[str], groups: Groups) -> NDArray[np.float64] | None:
    """How far each group was moved in each cluster by the fit, clusters first, if the fit was of these."""
    registration = record.get("registration") if isinstance(record, Mapping) else None
    if not isinstance(registration, Mapping) or "deviation" not in registration:
        return None
    levels = [str(level) for level in registration["groups"]]
    table = np.asarray(registration["deviation"], float)
    places = [int(name) if name.isdecimal() else -1 for name in names]
    if levels != list(groups.levels) or table.shape[0] != groups.n or not all(0 <= k < table.shape[1] for k in places):
        return None
    return table[:, places].T


class _Evidence(NamedTuple):
    """What is known of clusters and groups; arrays are cluster × group unless said."""

    n_cells: NDArray[np.int64]
    expected: NDArray[np.float64]
    supported: NDArray[np.float64]  # overlap with all other groups in the cluster
    by_pair: NDArray[np.float64]  # overlap with each other group: cluster × group × group
    deviation: NDArray[np.float64]
    nearest: NDArray[np.int64]  # cluster that a cluster is nearest to; −1 without positions
    close: NDArray[np.bool_]  # whether two clusters overlap: cluster × cluster

    @classmethod
    def collect(
        cls,
        clusters: Coded,
        groups: Groups,
        source: MatrixSource | None,
        deviation: NDArray[np.float64] | None,
        *,
        registered: bool,
    ) -> _Evidence:
        n_cells = table(clusters, Coded(groups.codes, list(groups.levels)))
        odds = groups.counts / np.maximum(len(groups.codes) - groups.counts, 1)
        expected = (n_cells.sum(axis=1, keepdims=True) - n_cells) * odds
        shape = n_cells.shape
        deviation = np.full(shape, np.nan) if deviation is None else deviation
        supported, by_pair = np.full(shape, np.nan), np.full((*shape, shape[1]), np.nan)
        nearest, close = np.full(shape[0], -1), np.zeros((shape[0], shape[0]), bool)
        if source is not None:
            positions = _Positions.collect(clusters, groups, source)
            supported, by_pair = positions.overlaps(registered=registered)
            supported[deviation > FORCED] = 0
            nearest, close = positions.between_clusters(registered=registered)
        return cls(n_cells, expected, supported, by_pair, deviation, nearest, close)

    def missing(self) -> NDArray[np.bool_]:
        """Groups that have much fewer cells in a cluster than expected."""
        by_chance = poisson.cdf(self.n_cells, self.expected) * self.n_cells.size
        return (by_chance < ALPHA) & (self.n_cells < ABSENT * self.expected)

    def counterpart(self, cluster: int, group: int) -> int | None:
        """Cluster that holds what this one lacks of a group, if it lacks in turn what this one has."""
        other = int(self.nearest[cluster])
        if other < 0 or not self.close[cluster, other]:
            return None
        both, largest = [cluster, other], int(self.n_cells[cluster].argmax())
        complete = self.n_cells[both, group].sum() / self.expected[both, group].sum()
        return other if self.missing()[other, largest] and complete >= COMPLETE else None

    def elsewhere(self, cluster: int, group: int) -> bool:
        """Whether the group has its share of a cluster and of those that are not apart from it, taken together."""
        close = [cluster, *np.flatnonzero(self.close[cluster])]
        return self.n_cells[close, group].sum() >= ABSENT * self.expected[close, group].sum()


@dataclass(frozen=True)
class _Positions:
    """Where the cells of each group are in each cluster: all that is kept of the positions.

    Means have the shape (n_clusters, n_groups, n_dims), counts (n_clusters, n_groups), covariances within groups
    (n_clusters, n_dims, n_dims).
    """

    count: NDArray[np.float64]
    mean: NDArray[np.float64]
    covariance: NDArray[np.float64]

    @classmethod
    def collect(cls, clusters: Coded, groups: Groups, source: MatrixSource) -> _Positions:
        n_clusters, d = len(clusters.levels), source.shape[1]
        count, total = np.zeros((n_clusters, groups.n)), np.zeros((n_clusters, groups.n, d))
        square = np.zeros((n_clusters, d, d))
        for rows, block in source.chunks():
            z, k = dense(block).astype(np.float64), clusters.codes[rows]
            pair, n = k * groups.n + groups.codes[rows], len(k)
            member = sp.csr_matrix((np.ones(n), pair, np.arange(n + 1)), shape=(n, count.size))
            count += np.bincount(pair, minlength=count.size).reshape(count.shape)
            total += (member.T @ z).reshape(total.shape)
            for cluster in np.unique(k):
                own = z[k == cluster]
                square[cluster] += own.T @ own
        mean = total / np.maximum(count, 1)[..., None]
        square -= np.einsum("kg,kgi,kgj->kij", count, mean, mean)
        free = np.maximum(count.sum(axis=1) - (count > 0).sum(axis=1), 1)
        return cls(count, mean, square / free[:, None, None])

    def aligned(self, *, registered: bool) -> NDArray[np.float64]:
        """Means without the shift that a group has in all clusters alike; registered positions have none.

        The shift is the median over clusters: those in which a group was mixed with something else do not count.
        """
        shift = np.zeros(self.mean.shape[1:])
        if registered:
            return self.mean
        weight = self.count[..., None]
        for _ in range(ROUNDS):
            moved = self.mean - shift
            total = (weight * moved).sum(axis=1, keepdims=True) - weight * moved
            rest = self.count.sum(axis=1, keepdims=True) - self.count
            others = total / np.maximum(rest, 1)[..., None]
            both = (self.count >= MIN_CELLS) & (rest >= MIN_CELLS)
            for group in np.flatnonzero(both.any(axis=0)):
                shift[group] += np.median((moved - others)[both[:, group], group], axis=0) / 2
        return self.mean - shift

    def overlaps(self, *, registered: bool) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Overlap of each group with all others in a cluster, and with each other one."""
        mean, count = self.aligned(registered=registered), self.count
        total = (count[..., None] * mean).sum(axis=1, keepdims=True) - count[..., None] * mean
        rest = count.sum(axis=1, keepdims=True) - count
        with_all = self._overlap(mean - total / np.maximum(rest, 1)[..., None], count, rest)
        with_each = np.stack(
            [self._overlap(mean - mean[:, [b]], count, count[:, [b]]) for b in range(mean.shape[1])], axis=2
        )
        return with_all, with_each

    def _overlap(
        self, difference: NDArray[np.float64], here: NDArray[np.float64], there: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Share that two normal distributions with the cluster's covariance, so far apart, have in common."""
        squared = np.square(difference).sum(axis=2)
        along = ((difference @ self.covariance) * difference).sum(axis=2) / np.maximum(squared, 1e-12)
        noise = np.trace(self.covariance, axis1=1, axis2=2)[:, None]
        noise = noise * (1 / np.maximum(here, 1) + 1 / np.maximum(there, 1))
        distance = np.sqrt(np.maximum(squared - noise, 0))
        found = 2 * norm.sf(distance / (2 * np.sqrt(np.maximum(along, 1e-12))))
        return np.where((here > 0) & (there > 0), found, np.nan)

    def between_clusters(self, *, registered: bool) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Cluster that each is nearest to, −1 if there is no other, and which clusters overlap."""
        n = len(self.mean)
        size = self.count.sum(axis=1)
        mean = self.aligned(registered=registered)
        centre = (self.count[..., None] * mean).sum(axis=1) / np.maximum(size, 1)[:, None]
        difference = centre[:, None] - centre[None]
        squared = np.square(difference).sum(axis=2)
        along = ((difference @ self.covariance) * difference).sum(axis=2) / np.maximum(squared, 1e-12)
        # Two normal distributions are told apart where they are equally likely, at a distance in widths of both.
        widths = np.sqrt(np.maximum(along, 1e-12))
        close = 2 * norm.sf(np.sqrt(squared) / (widths + widths.T)) >= CLOSE
        np.fill_diagonal(close, False)
        np.fill_diagonal(squared, np.inf)
        return (squared.argmin(axis=1) if n > 1 else np.full(n, -1)), close


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
                if other is not None:
                    status[k, b], counterpart[k, b] = "split", names[other]
                elif not found.elsewhere(k, b):
                    status[k, b] = "absent"
            elif found.n_cells[k, b] >= MIN_CELLS:
                status[k, b] = "forced" if found.supported[k, b] < OVERLAP else "shared"
        status[k, largest[k]] = "shared" if "shared" in status[k] else "own"
    verdicts = [_verdict(found, k, status[k], counterpart[k], levels) for k in range(n_clusters)]
    cluster_status = [kind for kind, _ in verdicts]
    share = np.nan_to_num(found.supported, nan=1.0)
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
            "deviation": found.deviation.ravel(),
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
        "deviation": found.deviation,
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
        parts.append(f"forced: {_listed([_apart(found, k, int(b), levels) for b in forced])}")
    if parts:
        kind = "specific" if len(absent) else "split" if len(split) else "forced"
        return kind, "; ".join(parts)
    if "shared" in status:
        return "shared", "shared: groups overlap"
    return "unclear", "unclear: too few cells of other groups are there or expected"


def _apart(found: _Evidence, k: int, b: int, levels: list[str]) -> str:
    """Why a group is not believed to belong to a cluster."""
    if found.deviation[k, b] > FORCED:
        return f"{levels[b]} was moved by {found.deviation[k, b]:.1f} standard deviations"
    return f"{levels[b]} overlaps the others by {found.supported[k, b]:.0%}"


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
