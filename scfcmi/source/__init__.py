"""Where the rows come from, and which group each belongs to."""

from ._continuous import Continuous, read_continuous
from ._groups import Factor, Groups, combine_groups, read_groups
from ._matrix import MatrixSource, as_source, dense, normalise_rows
from ._select import select_source
from ._sketch import stratified_sketch
from ._storage import Block
from ._tensors import dense_tensor, product

__all__ = [
    "Block",
    "Continuous",
    "Factor",
    "Groups",
    "MatrixSource",
    "as_source",
    "combine_groups",
    "dense",
    "dense_tensor",
    "normalise_rows",
    "product",
    "read_continuous",
    "read_groups",
    "select_source",
    "stratified_sketch",
]
