"""Figures from what `scfcmi.tl` wrote."""

__all__: list[str] = []
