"""Several fits of equal shapes as one: the many small steps of small ones cost little more for all than for one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


def stacked(parts: Sequence[T]) -> T:
    """Dataclasses of tensors as one, whose tensors have one more dimension, the first."""
    return _each(lambda *values: torch.stack(values), parts)


def picked(stack: T, index: int | slice | Tensor | tuple[Tensor, ...]) -> T:
    """One of a stack, or some of them."""
    return _each(lambda value: value[index], [stack])


def _each(work: Callable[..., Tensor], parts: Sequence[T]) -> T:
    kind: Any = type(parts[0])
    found = {}
    for field in fields(kind):
        values = [getattr(part, field.name) for part in parts]
        several = isinstance(values[0], tuple)
        found[field.name] = tuple(map(work, *values)) if several else work(*values)
    made: T = kind(**found)
    return made
