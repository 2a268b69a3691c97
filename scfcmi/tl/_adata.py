"""What every function on AnnData checks first, and what it writes to in the end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray

from scfcmi._keys import Keys
from scfcmi.model import FCMI
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


def obs_column(adata: AnnData, key: str, argument: str) -> pd.Series:
    """A column of `obs`, by the name that an argument gives."""
    if key not in adata.obs:
        msg = f"{argument}={key!r} is not a column of adata.obs; there are {[str(c) for c in adata.obs.columns]}."
        raise KeyError(msg)
    values = adata.obs[key]
    return values if isinstance(values, pd.Series) else values.to_series()  # that of a lazy AnnData


def attribute_keys(sensitive_key: str | Sequence[str]) -> list[str]:
    """Names of the sensitive attributes, one or several."""
    keys = [sensitive_key] if isinstance(sensitive_key, str) else list(sensitive_key)
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
    keys = [continuous_keys] if isinstance(continuous_keys, str) else list(continuous_keys or ())
    if len(set(keys)) < len(keys) or set(keys) & set(sensitive_keys):
        msg = f"continuous_keys={continuous_keys!r} names a column twice, or one that sensitive_key names."
        raise ValueError(msg)
    return read_continuous({key: obs_column(adata, key, "continuous_keys") for key in keys}, adata.n_obs)


def check_model(model: Any) -> None:
    """Refuse what is no fitted model."""
    if not isinstance(model, FCMI):
        msg = f"model must be a fitted scfcmi.model.FCMI, not {type(model).__name__}; `FCMI.load` reads a saved one."
        raise TypeError(msg)
    model._check_fitted()


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
    n_latent = int(model.net_.centres.shape[1])
    if embedding.ndim != 2 or embedding.shape[1] != n_latent or not np.isfinite(embedding).all():
        msg = (
            f"adata.obsm[{keys.embedding!r}] with shape {embedding.shape} is not an embedding by this model, "
            f"which has {n_latent} dimensions and no missing values."
        )
        raise ValueError(msg)
    return embedding


def obs_labels(adata: AnnData, label_key: str) -> pd.Series:
    """Curated labels, complete."""
    values = obs_column(adata, label_key, "label_key")
    n_missing = int(values.isna().sum())
    if n_missing:
        msg = (
            f"label_key={label_key!r} has {n_missing} missing values. Score without them: cluster without label_key, "
            "then run `scfcmi.tl.evaluate` on the labelled cells."
        )
        raise ValueError(msg)
    return values


def writable(adata: AnnData, *, copy: bool) -> AnnData:
    """The object to write to: a copy, or `adata` itself, which stops being a view, as scanpy's functions do."""
    target = adata.copy() if copy else adata
    if target.is_view:
        target._init_as_actual(target.copy())
    return target


def drop_column(adata: AnnData, key: str) -> None:
    """Take a column out of `obs`, if it is there."""
    if key not in adata.obs:
        return
    if isinstance(adata.obs, pd.DataFrame):
        del adata.obs[key]
    else:  # of a lazy AnnData
        adata.obs = adata.obs[[name for name in adata.obs.columns if name != key]]
