"""Genes that tell a cluster from the others in every group, not in one of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
import scanpy as sc
from anndata import AnnData
from numpy.typing import NDArray
from scipy.stats import false_discovery_control, norm

from scfcmi._adata import attribute_keys, check_adata, groups_of_run, obs_column, obs_groups
from scfcmi._device import threads_kept
from scfcmi._keys import DEFAULT_KEY
from scfcmi._numbers import check_count
from scfcmi.source import select_source

Method = Literal["wilcoxon", "t-test", "t-test_overestim_var"]


def markers(
    adata: AnnData,
    key: str = DEFAULT_KEY,
    sensitive_key: str | Sequence[str] | None = None,
    *,
    method: Method = "wilcoxon",
    layer: str | None = None,
    use_raw: bool = False,
    min_cells: int = 5,
    n_genes: int | None = None,
) -> pd.DataFrame:
    """Marker genes of each cluster, tested within groups and combined over them.

    :func:`scanpy.tl.rank_genes_groups` compares a cluster with all other cells inside every group, so that no
    difference between groups counts as one between clusters. Scores are combined by Stouffer's method, Σ √n z / √Σ n
    over the groups with n cells of the cluster. A gene that only one group shows has a large score there and a small
    one in the others: `min_score` is the smallest score over groups, in the direction of the combined one.

    Tests on clusters that were found in the same expression values are too optimistic; the order of genes is of use,
    not the size of small p-values.

    Parameters
    ----------
    adata
        Annotated data with log-normalised expression.
    key
        Column of `obs` with the clusters.
    sensitive_key
        Column of `obs` with the groups, or several whose combinations are; that of the run when absent.
    method
        Test of scanpy whose score is standard normal when there is no difference, or nearly.
    layer
        Layer with log-normalised expression, used instead of `X`.
    use_raw
        Whether to use `adata.raw`.
    min_cells
        Cells that a cluster and the rest need in a group for it to be tested there.
    n_genes
        Genes listed per cluster; all when absent.

    Returns
    -------
    One row per cluster and gene, best first: `cluster`, `gene`, `score` (combined), `min_score`, `log2_fold_change`
    (mean over groups, weighted as scores are), `pvalue` and `pvalue_adj` (Benjamini-Hochberg within the cluster),
    `n_groups` tested. Clusters that no group has enough cells of have no rows. Nothing is written to `adata`.

    Raises
    ------
    KeyError
        If a column or layer does not exist.
    ValueError
        If values are missing, no group can be tested, or an argument is out of range.

    Examples
    --------
    >>> import scanpy as sc, scfcmi as sf
    >>> adata = sf.datasets.simulated_atlas(n_cells=300, n_genes=200, random_state=0)
    >>> sc.pp.normalize_total(adata, target_sum=1e4)
    >>> sc.pp.log1p(adata)
    >>> sf.tl.markers(adata, "cell_type", "tech", n_genes=2).columns.tolist()
    ['cluster', 'gene', 'score', 'min_score', 'log2_fold_change', 'pvalue', 'pvalue_adj', 'n_groups']
    """
    check_adata(adata, copy=False)
    if method not in get_args(Method):
        msg = f"method={method!r} is unknown: use one of {list(get_args(Method))}."
        raise ValueError(msg)
    check_count(min_cells, "min_cells", least=2)
    if n_genes is not None:
        check_count(n_genes, "n_genes")
    clusters = obs_column(adata, key, "key")
    if clusters.isna().any():
        msg = f"key={key!r} has {int(clusters.isna().sum())} missing values. Look at the other cells alone."
        raise ValueError(msg)
    if sensitive_key is None:
        sensitive_key = groups_of_run(adata, key)
    groups = obs_groups(adata, attribute_keys(sensitive_key))
    source, names = select_source(adata, layer=layer, use_raw=use_raw, mask_var=None)
    clusters = clusters.astype("category").cat.remove_unused_categories()
    levels = [*clusters.cat.categories]
    codes = clusters.cat.codes.to_numpy()
    shape = len(levels), len(names)
    total, weight, squares = np.zeros(shape), np.zeros(len(levels)), np.zeros(len(levels))
    change, least, most = np.zeros(shape), np.full(shape, np.inf), np.full(shape, -np.inf)
    n_groups = np.zeros(len(levels), int)
    for group in range(groups.n):
        rows = np.flatnonzero(groups.codes == group)
        counts = np.bincount(codes[rows], minlength=len(levels))
        tested = np.flatnonzero((counts >= min_cells) & (len(rows) - counts >= min_cells))
        if not len(tested):
            continue
        obs = pd.DataFrame({"k": pd.Categorical(codes[rows].astype(str))}, index=rows.astype(str))
        side = AnnData(source.rows(rows), obs, pd.DataFrame(index=np.arange(len(names)).astype(str)))
        for k, score, fold in _tested(side, tested, method):
            n = counts[k]
            total[k] += np.sqrt(n) * score
            change[k] += np.sqrt(n) * fold
            weight[k] += np.sqrt(n)
            squares[k] += n
            least[k], most[k] = np.minimum(least[k], score), np.maximum(most[k], score)
            n_groups[k] += 1
    if not n_groups.any():
        msg = f"No group has {min_cells} cells of a cluster of adata.obs[{key!r}] and of the others. Lower min_cells."
        raise ValueError(msg)
    frames = []
    for k in np.flatnonzero(n_groups).tolist():
        score = total[k] / np.sqrt(squares[k])
        pvalue = 2 * norm.sf(np.abs(score))
        frame = pd.DataFrame(
            {
                "cluster": str(levels[k]),
                "gene": names,
                "score": score,
                "min_score": np.where(score >= 0, least[k], most[k]),
                "log2_fold_change": change[k] / weight[k],
                "pvalue": pvalue,
                "pvalue_adj": false_discovery_control(pvalue),
                "n_groups": n_groups[k],
            }
        )
        frame = frame.sort_values("score", ascending=False, kind="stable")
        frames.append(frame if n_genes is None else frame.head(n_genes))
    return pd.concat(frames, ignore_index=True)


def _tested(
    side: AnnData, tested: NDArray[np.int64], method: Method
) -> list[tuple[int, NDArray[np.float64], NDArray[np.float64]]]:
    """Scores and changes of all genes of one group, by cluster, in the order of the genes."""
    wanted = [str(k) for k in tested]
    tied = {"tie_correct": True} if method == "wilcoxon" else {}
    with threads_kept():
        sc.tl.rank_genes_groups(side, "k", groups=wanted, reference="rest", method=method, use_raw=False, **tied)
    found: Any = side.uns["rank_genes_groups"]
    parts = []
    for name in wanted:
        order = np.argsort(np.asarray(found["names"][name]).astype(int))
        score = np.nan_to_num(np.asarray(found["scores"][name], float)[order])
        fold = np.nan_to_num(np.asarray(found["logfoldchanges"][name], float)[order])
        parts.append((int(name), score, fold))
    return parts
