"""The page about the paper: its cells run, and what it says about their results is so."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

PAGE = Path(__file__).resolve().parents[2] / "docs" / "published.md"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Only .* clusters hold cells")
def test_the_page_is_right() -> None:
    if not PAGE.is_file():
        pytest.skip("not a source checkout")
    names: dict[str, Any] = {}
    cells = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
    assert len(cells) == 16
    for cell in cells:
        exec(compile(cell, str(PAGE), "exec"), names)
    assert names["compact"][0] > 2 * names["compact"][0.04]
    true, found = names["sizes"]
    assert true.max() > 10 * true.min() and found.max() < 2 * found.min()
    assert names["fairness"][0.20] > names["fairness"][0] + 0.1
    assert names["same"] > 0.9
    assert names["leakage"][0] < names["leakage"][1] - 0.2
    assert names["agreement"][0] < names["agreement"][1] - 0.2
    fair, unfair = names["within_types"]
    assert names["everywhere"][0] < names["everywhere"][1] - 0.2 and fair > unfair - 0.1
    assert names["mirrored"][0] < 0.12 and names["mirrored"][1] > 0.99
    assert names["misled"][0] == 0 and names["misled"][1] > 0.8
    assert round(names["perfect"], 3) == 0.595
    spread, apart, forced = (names[name].loc[3] for name in ("where", "apart", "forced"))
    assert spread.max() < 0.6 * spread.sum()
    assert apart.max() > 0.9 * apart.sum() and names["apart"][apart.idxmax()].sum() < 1.2 * apart.max()
    assert names["forced"][forced.idxmax()].sum() > 2 * forced.max()
    assert names["approved"][0] > 0.8 and names["approved"][1] == 0
    assert names["weights"]["multi"] > 20 * names["weights"]["single"]
    assert names["dependence"][0.2] < names["dependence"][0]
    assert all(sizes.max() < 2 * sizes.min() for sizes in names["level"].values())
    assert {len(values) for values in names["history"].values()} == {20}
    assert np.isfinite(names["history"]["nmi"]).all()
