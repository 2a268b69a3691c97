"""Reading back what a run left behind, and saying what is missing or damaged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray

from scfcmi._keys import DEFAULT_KEY, Keys

from ._style import as_categories

# Stands between the levels of several attributes in the name of a combination.
BETWEEN = " | "


def result(adata: AnnData, key: str, entry: str) -> Mapping[str, Any]:
    """`uns[key][entry]`, or an error that says how to get it."""
    run = adata.uns.get(Keys(key).uns)
    if not isinstance(run, Mapping) or entry not in run:
        msg = (
            f"adata.uns[{key!r}] has no {entry!r}. Run `scfcmi.tl.fair_cluster(adata, ..., key_added={key!r})` first, "
            "or name another run with `key`."
        )
        raise KeyError(msg)
    if not isinstance(run[entry], Mapping):
        msg = damaged(key, entry, f"it is no table of results, but {type(run[entry]).__name__}")
        raise ValueError(msg)
    return run[entry]


def damaged(key: str, entry: str, what: str) -> str:
    """What to say where results are not as they were written."""
    return f"adata.uns[{key!r}][{entry!r}] is damaged: {what}. Run `scfcmi.tl.fair_cluster` again."


def numbers(found: Mapping[str, Any], name: str, key: str, entry: str) -> NDArray[np.float64]:
    """An array of finite numbers from the results."""
    if name not in found:
        raise ValueError(damaged(key, entry, f"it has no {name!r}"))
    try:
        values = np.asarray(found[name], float)
    except (TypeError, ValueError) as error:
        raise ValueError(damaged(key, entry, f"{name!r} holds no numbers")) from error
    if not np.isfinite(values).all():
        raise ValueError(damaged(key, entry, f"{name!r} has values that are not finite"))
    return values


def parameter(adata: AnnData, key: str, name: str) -> list[str]:
    """What a parameter of the run names, one or several; nothing where there is no run or it was not set."""
    run = adata.uns.get(Keys(key).uns)
    params = run.get("params") if isinstance(run, Mapping) else None
    value = params.get(name) if isinstance(params, Mapping) else None
    return [] if value is None else [str(one) for one in np.atleast_1d(value)]


def column(adata: AnnData, name: str, argument: str) -> pd.Series:
    """A column of `obs` as categories; missing values stay missing."""
    if name not in adata.obs:
        hint = " Run `scfcmi.tl.fair_cluster` first." if name == DEFAULT_KEY else ""
        listed = [str(one) for one in adata.obs.columns]
        msg = f"{argument}={name!r} is not a column of adata.obs; there are {listed}.{hint}"
        raise KeyError(msg)
    values = adata.obs[name]
    values = as_categories(values if isinstance(values, pd.Series) else values.to_series())
    values = values.cat.remove_unused_categories()
    if not len(values.cat.categories):
        msg = f"{argument}={name!r} has no value in any cell."
        raise ValueError(msg)
    return values


def sensitive(adata: AnnData, key: str, sensitive_key: str | Sequence[str] | None) -> tuple[str, pd.Series]:
    """Name and groups of the sensitive attribute, that of the run when absent; of several, combinations of levels."""
    names = (
        parameter(adata, key, "sensitive_key")
        if sensitive_key is None
        else [sensitive_key]
        if isinstance(sensitive_key, str)
        else [str(name) for name in sensitive_key]
    )
    if not names:
        msg = f"adata.uns[{key!r}] does not name a sensitive attribute. Name a column with `sensitive_key`."
        raise ValueError(msg)
    columns = [column(adata, name, "sensitive_key") for name in names]
    if len(columns) == 1:
        return names[0], columns[0]
    codes = np.stack([one.cat.codes.to_numpy() for one in columns], axis=1)
    found, joint = np.unique(codes, axis=0, return_inverse=True)
    missing = np.any(found < 0, axis=1).tolist()
    levels = [
        np.nan if lost else BETWEEN.join(str(one.cat.categories[i]) for one, i in zip(columns, row, strict=True))
        for row, lost in zip(found, missing, strict=True)
    ]
    values = pd.Series(np.array(levels, dtype=object)[joint.ravel()], index=columns[0].index)
    return BETWEEN.join(names), as_categories(values)
