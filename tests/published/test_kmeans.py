"""k-means of the published network: the centres that are there, from a sample of many rows, whatever starts are bad."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from scfcmi.published import _kmeans
from scfcmi.published._kmeans import kmeans

TRUE = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])


def rows(n: int, noise: float = 0.1) -> torch.Tensor:
    rng = np.random.default_rng(0)
    return TRUE[np.arange(n) % 3] + noise * torch.from_numpy(rng.normal(size=(n, 2)).astype(np.float32))


@pytest.mark.parametrize("look", [1, 10])
@pytest.mark.parametrize("rows_per_centre", [10, 1000])
def test_centres_are_found(look: int, rows_per_centre: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also from few of the rows, and where it is looked only now and then whether they still move, as on a GPU."""
    monkeypatch.setitem(_kmeans.LOOK, "cpu", look)
    found = kmeans(rows(300), 3, np.random.default_rng(0), rows_per_centre=rows_per_centre)
    nearest = torch.cdist(TRUE, found).min(1)
    assert sorted(nearest.indices.tolist()) == [0, 1, 2]
    assert float(nearest.values.max()) < 0.2


def test_rounds_may_be_used_up() -> None:
    points = rows(30, noise=3.0)
    found = kmeans(points, 3, np.random.default_rng(0), n_starts=1, n_iterations=1)
    start = points[np.random.default_rng(0).choice(30, 3, replace=False)]
    torch.testing.assert_close(found, start)


def test_a_centre_without_rows_goes_to_the_farthest_row() -> None:
    points = torch.tensor([[0.0]] * 20 + [[1.0], [50.0]])
    found = kmeans(points, 3, np.random.default_rng(0), n_starts=20)
    assert sorted(found.ravel().tolist()) == [0.0, 1.0, 50.0]


def test_fewer_rows_than_centres() -> None:
    with pytest.raises(ValueError, match="4 centres cannot be found among 3 cells"):
        kmeans(TRUE, 4, np.random.default_rng(0))
