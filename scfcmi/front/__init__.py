"""From genes to a few directions along which cells of the same group differ."""

from ._front import Front

__all__ = ["Front"]
