"""What every function on AnnData checks first, and what it writes to in the end."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from numpy.typing import NDArray

from scfcmi._keys import CORRECTED, MAPPING, Keys
from scfcmi.model import FCMI, check_fitted
from scfcmi.source import Continuous, Groups, combine_groups, read_continuous, read_groups


def check_adata(adata: AnnData, *, copy: bool) -> None:
    """Refuse what no function can work on."""
    if not isinstance(adata, AnnData):
        msg = f"adata must be an AnnData, not {type(adata).__name__}. For arrays use `scfcmi.model.FCMI`."
        raise TypeError(msg)
    if adata.n_obs == 0:
        msg = "adata has no cells."
        raise ValueError(msg)
    if not adata.obs_names.is_unique:
        first = adata.obs_names[adata.obs_names.duplicated()][0]
        msg = f"adata.obs_names has duplicates (first {first!r}). Run `adata.obs_names_make_unique()` first."
        raise ValueError(msg)
    if adata.isbacked and adata.is_view:
        msg = "adata is a view of backed data, which cannot be written to. Use `adata.to_memory()` first."
        raise ValueError(msg)
    if copy and adata.isbacked:
        msg = "copy=True is not possible for backed data. Use copy=False, or `adata.to_memory()` first."
        raise ValueError(msg)


def obs_column(adata: AnnData, key: Any, argument: str) -> pd.Series:
    """A column of `obs`, by the name that an argument gives."""
    if not isinstance(key, str):
        msg = f"{argument}={key!r} must be the name of a column, a string, not {type(key).__name__}."
        raise TypeError(msg)
    if key not in adata.obs:
        msg = f"{argument}={key!r} is not a column of adata.obs; there are {[str(c) for c in adata.obs.columns]}."
        raise KeyError(msg)
    values = adata.obs[key]
    if isinstance(values, pd.DataFrame):
        msg = f"{argument}={key!r}: adata.obs has {values.shape[1]} columns of that name. Rename them."
        raise ValueError(msg)
    return values if isinstance(values, pd.Series) else values.to_series()  # that of a lazy AnnData


def attribute_keys(sensitive_key: str | Sequence[str]) -> list[str]:
    """Names of the sensitive attributes, one or several."""
    keys = [sensitive_key] if isinstance(sensitive_key, str) or np.ndim(sensitive_key) == 0 else list(sensitive_key)
    if not keys or len(set(keys)) < len(keys) or not all(isinstance(key, str) for key in keys):
        msg = f"sensitive_key={sensitive_key!r} must be the name of a column of obs, or a list of different names."
        raise ValueError(msg)
    return [str(key) for key in keys]


def storable_keys(sensitive_key: str | Sequence[str]) -> str | NDArray[np.str_]:
    """The same names as they go into `uns`: one string, or an array of several."""
    keys = attribute_keys(sensitive_key)
    return keys[0] if len(keys) == 1 else np.array(keys)


def obs_groups(
    adata: AnnData,
    sensitive_key: str | Sequence[str],
    column: Callable[[AnnData, str, str], pd.Series[Any]] = obs_column,
) -> Groups:
    """Groups by one column of `obs`, or by the combinations of several."""
    return combine_groups(
        {
            key: read_groups(column(adata, key, "sensitive_key"), f"adata.obs[{key!r}]")
            for key in attribute_keys(sensitive_key)
        }
    )


def obs_continuous(
    adata: AnnData, continuous_keys: str | Sequence[str] | None, sensitive_keys: Sequence[str]
) -> Continuous:
    """Columns of `obs` with numbers, none of which is a sensitive attribute as well."""
    given = () if continuous_keys is None else continuous_keys
    keys: list[Any] = [given] if isinstance(given, str) or np.ndim(given) == 0 else list(given)
    if len(set(keys)) < len(keys) or set(keys) & set(sensitive_keys):
        msg = f"continuous_keys={continuous_keys!r} names a column twice, or one that sensitive_key names."
        raise ValueError(msg)
    return read_continuous({key: obs_column(adata, key, "continuous_keys") for key in keys}, adata.n_obs)


def check_model(model: Any) -> None:
    """Refuse what is no fitted model."""
    if not isinstance(model, FCMI):
        msg = f"model must be a fitted scfcmi.model.FCMI, not {type(model).__name__}; `FCMI.load` reads a saved one."
        raise TypeError(msg)
    check_fitted(model)


def model_embedding(adata: AnnData, keys: Keys, model: Any) -> NDArray[np.float32]:
    """The embedding that this model gave these cells."""
    check_model(model)
    if keys.embedding not in adata.obsm:
        msg = (
            f"adata.obsm has no {keys.embedding!r}. Run `scfcmi.tl.fair_cluster` or `scfcmi.tl.map_query` "
            f"with key_added={keys.key_added!r} first."
        )
        raise KeyError(msg)
    embedding = np.asarray(adata.obsm[keys.embedding], np.float32)
    if embedding.ndim != 2 or embedding.shape[1] != model.n_dims_ or not np.isfinite(embedding).all():
        msg = (
            f"adata.obsm[{keys.embedding!r}] with shape {embedding.shape} is not an embedding by this model, "
            f"which has {model.n_dims_} dimensions and no missing values."
        )
        raise ValueError(msg)
    return embedding


def obs_labels(adata: AnnData, label_key: str) -> pd.Series:
    """Curated labels; some of them may be missing, and those cells are not scored by them."""
    values = obs_column(adata, label_key, "label_key")
    if values.isna().all():
        msg = f"label_key={label_key!r} has no values."
        raise ValueError(msg)
    return values


def writable(adata: AnnData, *, copy: bool) -> AnnData:
    """The object to write to: a copy, or `adata` itself, which stops being a view, as scanpy's functions do."""
    target = adata.copy() if copy else adata
    if target.is_view:
        target._init_as_actual(target.copy())
    return target


def params_of(adata: AnnData, key: str) -> Mapping[str, Any]:
    """Parameters of the run of this name; none if there is no run, or its record is not one of ours."""
    record = adata.uns.get(Keys(key).uns)
    params = record.get("params") if isinstance(record, Mapping) else None
    return params if isinstance(params, Mapping) else {}


def groups_of_run(adata: AnnData, key: str) -> list[str]:
    """Names of the sensitive attributes of the run of this name."""
    given = params_of(adata, key).get("sensitive_key")
    if given is None:
        msg = f"adata.uns[{key!r}] does not name a sensitive attribute. Name a column of obs with `sensitive_key`."
        raise ValueError(msg)
    return attribute_keys([str(name) for name in np.atleast_1d(given)])


def probabilities(adata: AnnData, name: str) -> sp.csr_matrix:
    """An entry of `obsm` with probabilities, sparse, every cell with some."""
    entry = adata.obsm[name]
    kind = np.dtype(getattr(entry, "dtype", object)).kind
    proba = sp.csr_matrix(entry, dtype=np.float32) if kind in "fiub" else None
    if (
        proba is None
        or not (np.isfinite(proba.data).all() and (proba.data >= 0).all())
        or (np.asarray(proba.sum(axis=1)).ravel() <= 0).any()
    ):
        msg = f"adata.obsm[{name!r}] has cells without probabilities: it is not what the run wrote. Cluster again."
        raise ValueError(msg)
    return proba


def drop_results(adata: AnnData, names: Mapping[str, Iterable[str]]) -> None:
    """Take entries out by slot, those that are there.

    With :attr:`scfcmi._keys.Keys.of_a_run`, that is all that an earlier run, mapping, cut or correction of this name
    has left, but for a layer whose name the user chose: :func:`stale_results` knows that as well.
    """
    for slot, entries in names.items():
        if slot == "obs":
            _drop_columns(adata, entries)
        else:
            held = getattr(adata, slot)
            for name in entries:
                held.pop(name, None)


def stale_results(keys: Keys, uns: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """All that belongs to the run of this name, also layers and columns whose names the user chose."""
    record = uns.get(keys.uns)
    names = keys.of_a_run
    if not isinstance(record, Mapping):
        return names
    corrected, mapping = record.get(CORRECTED), record.get(MAPPING)
    layer = corrected.get("layer_added") if isinstance(corrected, Mapping) else None
    if isinstance(layer, str):
        names = names | {"layers": (*names["layers"], layer)}
    transferred = mapping.get("transferred", ()) if isinstance(mapping, Mapping) else ()
    columns = [name for column in transferred for name in keys.transferred(str(column))]
    return names | {"obs": (*names["obs"], *columns)}


def _drop_columns(adata: AnnData, names: Iterable[str]) -> None:
    gone = {name for name in names if name in adata.obs}
    if not gone:
        return
    if isinstance(adata.obs, pd.DataFrame):
        for name in gone:
            del adata.obs[name]
    else:  # of a lazy AnnData
        adata.obs = adata.obs[[name for name in adata.obs.columns if name not in gone]]


def drop_column(adata: AnnData, key: str) -> None:
    """Take a column out of `obs`, if it is there."""
    _drop_columns(adata, [key])
