"""Results for the cells of a file, written into it: any number of cells, a chunk at a time."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
from anndata import AnnData
from anndata.io import read_elem
from numpy.typing import NDArray
from tqdm import tqdm

from scfcmi._adata import (
    attribute_keys,
    check_adata,
    check_model,
    obs_column,
    obs_continuous,
    obs_groups,
    obs_labels,
    stale_results,
    storable_keys,
)
from scfcmi._keys import CORRECTED, DEFAULT_KEY, MAPPING, Keys, checked_name
from scfcmi._replace import replacing
from scfcmi.model import FCMI
from scfcmi.published import PublishedFit
from scfcmi.source import MatrixSource, copied, leave_on_disk, open_store, select_source

from ._fair_cluster import clusters_of, record_of

# Of a row of `obs` and of the record, generously.
BYTES_PER_CELL = 64


def predict_on_disk(
    path: str | os.PathLike[str],
    model: FCMI,
    *,
    sensitive_key: str | Sequence[str] | None = None,
    continuous_keys: str | Sequence[str] | None = None,
    label_key: str | None = None,
    use_rep: str | None = None,
    layer: str | None = None,
    key_added: str = DEFAULT_KEY,
    progress_bar: bool | None = None,
) -> None:
    """Assign the cells of a file to the clusters of a fitted model, and write the result into the file.

    The matrix is read once, a chunk at a time, and what is known of a chunk is written before the next is read: memory
    does not grow with the matrix. Genes are found by name, and all genes of the model have to be there. For cells of
    new groups, or with genes missing, see :func:`scfcmi.tl.map_query`.

    Parameters
    ----------
    path
        An `.h5ad` file or a `.zarr` folder with log-normalised expression, which nothing else writes to.
    model
        The fitted model, from `return_model=True` or :meth:`scfcmi.model.FCMI.load`.
    sensitive_key
        Column of `obs` with the groups of the fit, or several for a model of several attributes, in the order of the
        fit: cells are placed as cells of their group. When absent, each cell is placed by what every group would make
        of it, as likely as it is. Where there is more than one group, clusters are scored by them, and that is all that
        the published network uses them for.
    continuous_keys
        Columns of `obs` with the numbers of the fit, for a model that was fitted with such, under the same names;
        typical ones are assumed when absent.
    label_key
        Column of `obs` with curated labels, for the scores.
    use_rep
        Entry of `obsm` that the model was fitted with the like of, instead of expression.
    layer
        Layer with log-normalised expression instead of `X`.
    key_added
        Name under which results are written.
    progress_bar
        Show progress; when absent, only in a terminal.

    Returns
    -------
    `None`. Writes into the file what :func:`scfcmi.tl.fair_cluster` sets, so that the file reads as if the cells had
    been clustered in memory and saved: `obs[key_added]`, `obs[key_added + "_confidence"]`,
    `obs[key_added + "_unlike"]`, `obsm["X_" + key_added]`, `obsm[key_added + "_proba"]`,
    `obsm[key_added + "_leaves"]` and `uns[key_added]`, without its `design`; leaves and unlike cells not for the
    published network. They appear all at once when they are complete: they are written to a copy beside the file, which
    takes its place in the end, so that the file is as it was after an error, and also if the program is killed at any
    time. The copy is made in a hidden folder (`.<name>.scfcmi`); should one be left by a program that was killed, the
    next call clears it. The values in a `.zarr` folder are not copied where the file system can give files a second
    name.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    KeyError
        If a column, layer or representation does not exist.
    OSError
        If it cannot be read as what it is named, is being written elsewhere, or there is not enough space for a copy.
    TypeError
        If `model` or a name is of another type.
    ValueError
        If genes are missing, groups are not those of the fit, values are not valid, or the name is not one for a file,
        or that of something else.

    Examples
    --------
    >>> import scanpy as sc, scfcmi as sf
    >>> adata = sf.datasets.simulated_atlas(n_cells=300, n_genes=200, random_state=0)
    >>> sc.pp.normalize_total(adata, target_sum=1e4)
    >>> sc.pp.log1p(adata)
    >>> adata.write_h5ad("cells.h5ad")
    >>> model = sf.tl.fair_cluster(adata, "tech", 4, progress_bar=False, return_model=True)
    >>> sf.tl.predict_on_disk("cells.h5ad", model, sensitive_key="tech")
    >>> bool((sc.read_h5ad("cells.h5ad").obs["fair_cluster"] == adata.obs["fair_cluster"]).all())
    True
    """
    check_model(model)
    if label_key is not None and sensitive_key is None:
        msg = f"label_key={label_key!r} is for the scores, which need sensitive_key too."
        raise ValueError(msg)
    checked_name(key_added, "key_added")
    with replacing(path) as new, open_store(path) as root:
        adata = leave_on_disk(root)
        check_adata(adata, copy=False)
        attributes = [] if sensitive_key is None else attribute_keys(sensitive_key)
        columns = [_complete(adata, key) for key in attributes]
        of_cell = _by_attribute(columns, attributes, model) if attributes else None
        scored = bool(columns) and all(column.nunique() > 1 for column in columns)
        groups = obs_groups(adata, attributes) if scored else None
        numbers = obs_continuous(adata, continuous_keys, attributes)
        labels = None if label_key is None else obs_labels(adata, label_key)
        keys = Keys.checked(
            key_added,
            adata,
            obs=[*attributes, *numbers.names, label_key],
            obsm=[use_rep],
            layers=[layer],
            uns=root["uns"] if "uns" in root else (),
        )
        source = _source(adata, model, use_rep, layer)
        n = source.shape[0]
        found, confidence, unlike = np.empty(n, np.int64), np.empty(n, np.float32), np.zeros(n, bool)
        says_unlike = False
        room = (model.n_dims_ + 2 * model.n_clusters_ + BYTES_PER_CELL // 4) * n * 4
        with copied(root, path, new, without=_stale(root, keys), room=room) as changes:
            embedding = changes.array(f"obsm/{keys.embedding}", (n, model.n_dims_))
            proba = changes.array(f"obsm/{keys.proba}", (n, model.n_clusters_))
            given_numbers = numbers if numbers.names else None
            bar = tqdm(total=n, desc="FCMI", unit=" cells", disable=None if progress_bar is None else not progress_bar)
            for rows, part in model.assign_chunks(source, of_cell, continuous=given_numbers):
                bar.update(len(part.labels))
                embedding[rows], proba[rows] = part.embedding, part.proba
                found[rows], confidence[rows] = part.labels, part.confidence
                if part.leaves is not None:
                    changes.append(f"obsm/{keys.leaves}", part.leaves)
                if part.unlike is not None:
                    says_unlike, unlike[rows] = True, part.unlike
            bar.close()
            clusters = clusters_of(found)
            given = {
                "sensitive_key": storable_keys(attributes) if attributes else None,
                "continuous_keys": np.array(numbers.names) if numbers.names else None,
                "label_key": label_key,
                "use_rep": use_rep,
                "layer": layer,
                "use_raw": False,
                "n_vars": source.shape[1],
                "n_init": 1,
            }
            record = record_of(model, clusters, groups, labels, given, given_numbers)
            changes.put(f"obs/{keys.labels}", clusters)
            changes.put(f"obs/{keys.confidence}", confidence)
            if says_unlike:
                changes.put(f"obs/{keys.unlike}", unlike)
            changes.put(f"uns/{keys.uns}", record)


def _complete(adata: AnnData, key: str) -> pd.Series:
    """A sensitive attribute of every cell."""
    column = obs_column(adata, key, "sensitive_key")
    if n_missing := int(column.isna().sum()):
        msg = f"sensitive_key={key!r} has {n_missing} missing values. Drop these cells, or name their group."
        raise ValueError(msg)
    return column


def _by_attribute(columns: list[pd.Series], keys: list[str], model: FCMI) -> dict[str, pd.Series] | None:
    """Columns by the attributes of the model, in their order; nothing for a network that places cells without."""
    factors = model.groups_.factors
    if isinstance(model.state_, PublishedFit):
        return None
    if len(columns) != len(factors):
        fitted = [factor.name for factor in factors]
        msg = f"sensitive_key={keys} names {len(keys)} columns, but the model was fitted with {len(factors)}: {fitted}."
        raise ValueError(msg)
    return {factor.name: column for factor, column in zip(factors, columns, strict=True)}


def store_run(
    path: str | os.PathLike[str],
    adata: AnnData,
    key_added: str,
    output: str | os.PathLike[str] | None = None,
    *,
    part: Literal["run", "cut", "diagnosis"] = "run",
) -> None:
    """Write a file with what was set in `adata`, and all else of a file with the same cells.

    It replaces the file, or, if there is one, `output`, in one step: all of it or nothing. Of a run, a cut or a
    diagnosis, all that belongs to an earlier one goes, and what `adata` has of this one comes.
    """
    keys = Keys(key_added)
    output = path if output is None else output
    share = os.path.realpath(output) == os.path.realpath(path)
    nothing: dict[str, tuple[str, ...]] = {"obs": (), "obsm": ()}
    cut = keys.of_a_cut
    names = {
        "run": keys.of_a_run,
        "cut": cut | {"uns": (*cut["uns"], keys.uns)},
        "diagnosis": nothing | {"uns": (keys.diagnosis,)},
    }[part]
    with replacing(output) as new, open_store(path) as root:
        without = _stale(root, keys) if part == "run" else [f"{slot}/{name}" for slot in names for name in names[slot]]
        with copied(root, path, new, without=without, room=_room(adata, keys), share=share) as changes:
            for slot in ("obs", "obsm", "uns"):
                held = getattr(adata, slot)
                for name in names[slot]:
                    if name in held:
                        values = held[name]
                        changes.put(f"{slot}/{name}", values.values if isinstance(values, pd.Series) else values)


def _stale(root: Any, keys: Keys) -> list[str]:
    """What an earlier run under this name has left in an open store."""
    places = {name: f"uns/{keys.uns}/{name}" for name in (CORRECTED, MAPPING)}
    record = {name: read_elem(root[where]) for name, where in places.items() if where in root}
    return [f"{slot}/{name}" for slot, names in stale_results(keys, {keys.uns: record}).items() for name in names]


def _room(adata: AnnData, keys: Keys) -> int:
    """Bytes that the results in `adata` take, about."""
    held = [adata.obsm[name] for name in keys.of_a_run["obsm"] if name in adata.obsm]
    return sum(getattr(m, "nbytes", 0) or m.data.nbytes * 2 for m in held) + BYTES_PER_CELL * adata.n_obs


def _source(adata: AnnData, model: FCMI, use_rep: str | None, layer: str | None) -> MatrixSource:
    """The model's columns, in the model's order."""
    wanted = model.feature_names_
    if wanted is None or use_rep not in (None, "X"):
        return select_source(adata, use_rep=use_rep, layer=layer, mask_var=None, deferred=True)[0]
    if not adata.var_names.is_unique:
        msg = "var_names has duplicates, so that genes cannot be found by name. Make them unique first."
        raise ValueError(msg)
    columns: NDArray[np.int64] = adata.var_names.astype(str).get_indexer(pd.Index(wanted)).astype(np.int64)
    missing = [name for name, column in zip(wanted, columns, strict=True) if column < 0]
    if missing:
        msg = (
            f"{len(missing)} of {len(wanted)} genes of the model are not in the file (first {missing[0]!r}). "
            "`scfcmi.tl.map_query` places cells without them."
        )
        raise ValueError(msg)
    mask = np.isin(np.arange(adata.n_vars), columns)
    source, _ = select_source(adata, layer=layer, mask_var=mask, deferred=True)
    return source.restricted(columns)
