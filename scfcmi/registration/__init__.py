"""Where a cell would be, had it been measured like the others."""

from ._design import Design
from ._fit import Registration, n_components, register, register_again, registered, registered_without_group
from ._mixture import Displacements, Mixture, Prior, e_step, free_energy, m_step, responsibilities
from ._positions import Positions
from ._query import expected_moves, with_group

__all__ = [
    "Design",
    "Displacements",
    "Mixture",
    "Positions",
    "Prior",
    "Registration",
    "e_step",
    "expected_moves",
    "free_energy",
    "m_step",
    "n_components",
    "register",
    "register_again",
    "registered",
    "registered_without_group",
    "responsibilities",
    "with_group",
]
