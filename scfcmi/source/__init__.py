"""Where the rows come from, and which group each belongs to."""

from ._continuous import Continuous, read_continuous
from ._groups import BETWEEN, Factor, Groups, combine_groups, one_group, read_groups
from ._matrix import MatrixSource, as_source, dense, normalise_rows
from ._select import select_source
from ._sketch import stratified_sketch
from ._storage import Block
from ._store import copied, leave_on_disk, open_store
from ._tensors import dense_tensor, product

__all__ = [
    "BETWEEN",
    "Block",
    "Continuous",
    "Factor",
    "Groups",
    "MatrixSource",
    "as_source",
    "combine_groups",
    "copied",
    "dense",
    "dense_tensor",
    "leave_on_disk",
    "normalise_rows",
    "one_group",
    "open_store",
    "product",
    "read_continuous",
    "read_groups",
    "select_source",
    "stratified_sketch",
]
