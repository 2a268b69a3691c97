"""Atlases of many cell types, most of them rare, in groups that differ in composition: as components and as counts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray

from ._atlas import check_at_least, check_whole, simulated_atlas
from ._composition import absent, apportioned, ranked_composition

SIZE_EXPONENT = 1.2
UNEVENNESS = 0.5
# standard deviations along each component, in those of a type's own cells; that of the k-th component is smaller by
# the square root of k
LINEAGE_SPREAD, FAMILY_SPREAD, TYPE_SPREAD = 7.0, 5.0, 4.0
GROUP_SHIFT, FAMILY_SHIFT, DISTORTION = 2.5, 0.5, 0.05
ROWS_PER_CHUNK = 65_536
# cells of each of forty types: 20,000 in all, 19 types below 1 % of them, 5 below 0.2 %
RARE_TYPES = (
    *(15, 18, 22, 27, 33, 40, 45, 50, 56, 63, 70, 79, 89, 99, 111, 125, 140, 157, 176),
    *(200, 300, 385, 465, 535, 605, 670, 735, 795, 850, 905, 960, 1015, 1070, 1125, 1180, 1235, 1290, 1345, 1420, 1500),
)


def many_types(
    n_cells: int = 100_000,
    n_types: int = 80,
    n_groups: int = 8,
    *,
    n_comps: int = 30,
    missing: float = 0.15,
    separation: float = 1.0,
    group_effect: float = 1.0,
    random_state: int | np.random.Generator = 0,
) -> AnnData:
    """Components of many cell types, most of them rare, in groups that lack some of them.

    What a principal component analysis of an atlas could give, drawn directly, so that millions of cells take seconds.
    Types are leaves of a tree of lineages and families, and the r-th has about r^−1.2 times the cells of the first.
    Each group has a shift of its own, a smaller one for every family of types, a slight linear distortion, and a
    composition of its own; a share of the types is missing from it.

    Parameters
    ----------
    n_cells
        Number of cells.
    n_types
        Number of cell types. With 1, a homogeneous sample in several groups.
    n_groups
        Number of groups, of equal size.
    n_comps
        Number of components.
    missing
        Share of the types that is missing from each group. Every type stays in at least one group, so that with a
        single group none is missing.
    separation
        Factor on all differences between types.
    group_effect
        Factor on all shifts and distortions of groups; 0 for groups that differ in composition alone.
    random_state
        Seed, or a generator.

    Returns
    -------
    Annotated data without genes, with these fields:

    `adata.obsm["X_pca"]` : :class:`numpy.ndarray` (dtype `float32`)
        Components, shape (n_cells, n_comps).
    `adata.obs["cell_type"]` : :class:`pandas.Series` (dtype `category`)
        Cell type, `"type0"` the most frequent.
    `adata.obs["tech"]` : :class:`pandas.Series` (dtype `category`)
        Group.

    Raises
    ------
    ValueError
        If a parameter is out of range, or there are fewer cells than combinations of type and group.

    See Also
    --------
    many_types_counts : counts of genes, from the same tree and composition.

    Examples
    --------
    >>> import scfcmi
    >>> adata = scfcmi.datasets.many_types(2000, n_types=20, n_groups=3, random_state=0)
    >>> adata.obsm["X_pca"].shape, adata.obs["cell_type"].nunique()
    ((2000, 30), 20)
    """
    _check(n_cells, n_types, n_groups, missing)
    check_whole("n_comps", n_comps, 1)
    check_at_least("separation", separation, 0)
    check_at_least("group_effect", group_effect, 0)
    rng = np.random.default_rng(random_state)
    table = ranked_composition(
        n_cells, n_types, n_groups, exponent=SIZE_EXPONENT, unevenness=UNEVENNESS, missing=missing, rng=rng
    )
    lineage, family = _tree(n_types)
    decay = 1 / np.sqrt(np.arange(1, n_comps + 1))

    def spread(n: int, size: float) -> NDArray[np.float64]:
        return size * decay * rng.normal(size=(n, n_comps))

    means = separation * (
        spread(lineage.max() + 1, LINEAGE_SPREAD)[lineage]
        + spread(family.max() + 1, FAMILY_SPREAD)[family]
        + spread(n_types, TYPE_SPREAD)
    )
    distortion = np.eye(n_comps) + group_effect * DISTORTION * rng.normal(size=(n_groups, n_comps, n_comps))
    centres = (
        means @ distortion
        + group_effect * spread(n_groups, GROUP_SHIFT)[:, None]
        + group_effect * np.stack([spread(family.max() + 1, FAMILY_SHIFT)[family] for _ in range(n_groups)])
    ).astype(np.float32)

    group, cell_type = np.divmod(_shuffled(table.to_numpy().T, rng), n_types)
    components = rng.standard_normal((n_cells, n_comps), dtype=np.float32)
    distortion = distortion.astype(np.float32)
    for start in range(0, n_cells, ROWS_PER_CHUNK):
        rows = slice(start, start + ROWS_PER_CHUNK)
        part, groups, types = components[rows], group[rows], cell_type[rows]
        for g in range(n_groups):
            own = np.flatnonzero(groups == g)
            part[own] = part[own] @ distortion[g] + centres[g, types[own]]
    obs = pd.DataFrame(
        {
            "cell_type": pd.Categorical.from_codes(cell_type, categories=table.index),
            "tech": pd.Categorical.from_codes(group, categories=table.columns),
        },
        index=[f"cell{i}" for i in range(n_cells)],
    )
    return AnnData(obs=obs, obsm={"X_pca": components})


def many_types_counts(
    n_cells: int = 100_000,
    n_genes: int = 2000,
    n_types: int = 80,
    *,
    n_groups: int = 8,
    missing: float = 0.15,
    separation: float = 1.5,
    tech_effect: float = 0.3,
    depth: float | Sequence[float] | None = None,
    random_state: int | np.random.Generator = 0,
) -> AnnData:
    """Counts of many cell types, most of them rare, measured with technologies that lack some of them.

    Tree and composition are as in :func:`many_types`, counts as in :func:`simulated_atlas`.

    Parameters
    ----------
    n_cells
        Number of cells.
    n_genes
        Number of genes.
    n_types
        Number of cell types.
    n_groups
        Number of technologies, with equally many cells.
    missing
        Share of the types that is missing from each technology.
    separation
        Factor on all differences between types.
    tech_effect
        Standard deviation of the logarithm of each technology's effect on a gene.
    depth
        Median number of molecules per cell, for all or for each technology; from 1 to 3 per gene when absent.
    random_state
        Seed, or a generator.

    Returns
    -------
    Annotated data with counts in `X`, and the columns `cell_type` and `tech` in `obs`.

    Raises
    ------
    ValueError
        If a parameter is out of range, or there are fewer cells than combinations of type and technology.

    Examples
    --------
    >>> import scfcmi
    >>> adata = scfcmi.datasets.many_types_counts(1000, 300, n_types=20, n_groups=3, random_state=0)
    >>> adata.shape, adata.obs["cell_type"].nunique()
    ((1000, 300), 20)
    """
    _check(n_cells, n_types, n_groups, missing)
    rng = np.random.default_rng(random_state)
    table = ranked_composition(
        n_cells, n_types, n_groups, exponent=SIZE_EXPONENT, unevenness=UNEVENNESS, missing=missing, rng=rng
    )
    levels = [
        {name: f"{level}{code}" for name, code in zip(table.index, codes, strict=True)}
        for level, codes in zip(("lineage", "family"), _tree(n_types), strict=True)
    ]
    return simulated_atlas(
        n_genes=n_genes,
        composition=table,
        families=levels,
        separation=separation,
        tech_effect=tech_effect,
        depth=depth,
        random_state=rng,
    )


def rare_types(
    n_cells: int | None = None,
    n_genes: int = 1500,
    *,
    separation: float = 1.0,
    tech_effect: float = 0.35,
    random_state: int | np.random.Generator = 0,
) -> AnnData:
    """Counts of forty cell types of 15 to 1,500 cells, measured with four technologies that lack three types each.

    Of the forty, 19 have less than 1 % of the cells and 5 less than 0.2 %, so that principal components of all cells
    hardly span them.

    Parameters
    ----------
    n_cells
        Number of cells, in the same proportions; 20,000 when absent.
    n_genes
        Number of genes.
    separation
        Factor on all differences between types.
    tech_effect
        Standard deviation of the logarithm of each technology's effect on a gene.
    random_state
        Seed, or a generator.

    Returns
    -------
    Annotated data with counts in `X`, and the columns `cell_type` and `tech` in `obs`.

    Raises
    ------
    ValueError
        If there are fewer cells than combinations of type and technology.

    See Also
    --------
    simulated_atlas : everything else can be set there.

    Examples
    --------
    >>> import scfcmi
    >>> adata = scfcmi.datasets.rare_types(n_genes=100)
    >>> adata.shape, int(adata.obs["cell_type"].value_counts().min())
    ((20000, 100), 15)
    """
    rng = np.random.default_rng(random_state)
    n_types, n_groups = len(RARE_TYPES), 4
    share = np.exp(0.3 * rng.normal(size=(n_types, n_groups)))
    share[absent(n_types, n_groups, 3, rng)] = 0.0
    table = pd.DataFrame(
        [apportioned(row, size) for row, size in zip(share, RARE_TYPES, strict=True)],
        index=[f"type{k}" for k in range(n_types)],
        columns=[f"tech{g}" for g in range(n_groups)],
    )
    return simulated_atlas(
        n_cells,
        n_genes,
        composition=table,
        separation=separation,
        tech_effect=tech_effect,
        random_state=rng,
    )


def _tree(n_types: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Lineage and family of each type; the number of branches grows alike at every level."""
    n_lineages, n_families = (max(1, round(n_types ** (level / 3))) for level in (1, 2))
    # types take turns, so that frequent and rare ones are in every family
    family = np.arange(n_types) % n_families
    return family % n_lineages, family


def _shuffled(counts: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Every index of the flattened table as often as it says, in random order."""
    return rng.permutation(np.repeat(np.arange(counts.size), counts.ravel()))


def _check(n_cells: int, n_types: int, n_groups: int, missing: float) -> None:
    check_whole("n_cells", n_cells, 1)
    check_whole("n_types", n_types, 1)
    check_whole("n_groups", n_groups, 1)
    if not 0 <= missing < 1:
        msg = f"missing must be a share of the types, at least 0 and less than 1, not {missing!r}."
        raise ValueError(msg)
