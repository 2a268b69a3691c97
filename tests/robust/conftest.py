"""How much is tried: a part of it by default, all of it where `SCFCMI_LONG` is set."""

from __future__ import annotations

import os

LONG = "SCFCMI_LONG" in os.environ


def times(factor: int) -> int:
    """How many times as much is tried where there is time."""
    return factor if LONG else 1


def next_moment(n: int) -> int:
    """The moment to strike at after the n-th: where there is time every one, and otherwise ever fewer."""
    return n + 1 if LONG else n + 1 + n // 8
