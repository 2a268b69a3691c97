"""Reading back what a run left in `uns`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from anndata import AnnData

from scfcmi._keys import Keys


def result(adata: AnnData, key: str, entry: str) -> Mapping[str, Any]:
    """`uns[key][entry]`, or an error that says how to get it."""
    run = adata.uns.get(Keys(key).uns)
    if not isinstance(run, Mapping) or entry not in run:
        msg = (
            f"adata.uns[{key!r}] has no {entry!r}. Run `scfcmi.tl.fair_cluster(adata, ..., key_added={key!r})` first, "
            "or name another run with `key`."
        )
        raise KeyError(msg)
    return run[entry]


def parameter(adata: AnnData, key: str, name: str) -> list[str]:
    """What a parameter of the run names, one or several; nothing where there is no run or it was not set."""
    run = adata.uns.get(Keys(key).uns)
    value = run.get("params", {}).get(name) if isinstance(run, Mapping) else None
    return [] if value is None else [str(one) for one in np.atleast_1d(value)]
