"""Where the rows come from, and which group each belongs to."""

from ._continuous import Continuous, read_continuous
from ._front import Front
from ._groups import BETWEEN, Factor, Groups, combine_groups, read_groups
from ._matrix import MatrixSource, as_source, dense
from ._select import select_source
from ._sketch import stratified_sketch
from ._store import copied, leave_on_disk, open_store

__all__ = [
    "BETWEEN",
    "Continuous",
    "Factor",
    "Front",
    "Groups",
    "MatrixSource",
    "as_source",
    "combine_groups",
    "copied",
    "dense",
    "leave_on_disk",
    "open_store",
    "read_continuous",
    "read_groups",
    "select_source",
    "stratified_sketch",
]
