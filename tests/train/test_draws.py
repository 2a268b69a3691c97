"""Choosing among several k-means runs."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score

from scfcmi.objective import merge_affinity, mutual_matches
from scfcmi.train import _draws as module
from scfcmi.train import representative_draw


def blobs(spread: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    kind = rng.integers(0, 4, 300)
    z = rng.normal(size=(4, 8))[kind] + spread * rng.normal(size=(300, 8))
    return (z / np.linalg.norm(z, axis=1, keepdims=True)).astype(np.float32), np.arange(300) % 2, kind


@pytest.mark.parametrize("n_clusters", [4, None])
def test_clear_types_are_found(n_clusters: int | None) -> None:
    z, codes, kind = blobs(0.1)
    affinity = merge_affinity(z, codes, mutual_matches(z, codes, 5), 10, 15)
    draw = representative_draw(z, affinity, 20, n_clusters, random_state=0)
    assert adjusted_rand_score(kind, draw.labels) == 1
    assert draw.n_clusters == 4
    assert draw.evidence["method"] == ("given" if n_clusters else "linkage")
    np.testing.assert_allclose(np.linalg.norm(draw.centres, axis=1), 1, rtol=1e-5)


def test_the_run_that_agrees_most_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of five runs, three say the same: one of them is kept, whatever the order."""
    one, odd, other = np.repeat([0, 1], 10), np.tile([0, 1], 10), np.arange(20) % 5
    said = iter([odd, one, other, one, one])
    monkeypatch.setattr(module, "N_DRAWS", 5)
    monkeypatch.setattr(module, "_draw", lambda *args: module.Draw(np.zeros((2, 2)), next(said), 2, {}))
    draw = representative_draw(np.zeros((20, 2), np.float32), None, 5, 2, random_state=0)
    np.testing.assert_array_equal(draw.labels, one)


def test_seed_decides() -> None:
    z, codes, _ = blobs(0.6)
    affinity = merge_affinity(z, codes, mutual_matches(z, codes, 5), 10, 15)
    a, b = (representative_draw(z, affinity, 20, 5, random_state=1) for _ in range(2))
    np.testing.assert_array_equal(a.centres, b.centres)
