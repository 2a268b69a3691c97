"""Data to try things on: simulators and one real set, without network, and public sets, downloaded and checked."""

from __future__ import annotations

from ._atlas import mouse_atlas_like, simulated_atlas
from ._fetch import REGISTRY, RemoteFile, fetch
from ._many_types import many_types, many_types_counts, rare_types
from ._public import cell_mixture, pbmc, rna_mixture

__all__ = [
    "REGISTRY",
    "RemoteFile",
    "cell_mixture",
    "fetch",
    "many_types",
    "many_types_counts",
    "mouse_atlas_like",
    "pbmc",
    "rare_types",
    "rna_mixture",
    "simulated_atlas",
]
