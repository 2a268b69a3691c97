"""What is fitted in a stack is what it would be alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from scfcmi.registration import Positions, Prior, m_step, register_again, registered
from scfcmi.registration import _fit as fit_module
from scfcmi.registration._mixture import Blocks, Displacements, Sums, e_steps, free_energy, leverage
from scfcmi.registration._stack import picked, stacked

from .test_mixture import TERMS, problem


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("numbers", [0, 1])
def test_em_of_a_stack_is_that_of_each(numbers: int, large: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """With crossed attributes, numbers, another fairness for each, and scales that are estimated."""
    if large:
        monkeypatch.setattr("scfcmi.registration._mixture.LARGE", 0)
    problems = [problem(n, numbers=numbers, seed=seed) for seed, n in enumerate((500, 90, 300))]
    design = problems[0][1]
    fairness = torch.tensor([0.0, 1.0, 0.3], dtype=torch.double)

    def em(which: list[int]) -> tuple[Any, ...]:
        cells = [problems[i][0] for i in which]
        mixture, prior = (stacked([problems[i][part] for i in which]) for part in (2, 3))
        displacements: Displacements | None = None
        for temperature in (2.0, 1.4, 1.0):
            sums = e_steps(mixture, Blocks.maybe(cells, mixture.n_components), fairness[which], temperature)
            prior = fit_module._refined(prior, sums, mixture, design)
            table = mixture.log_shares(fairness[which])
            mixture, displacements = m_step(sums, mixture, design, prior, before=displacements)
        terms = free_energy(sums, displacements.penalty, table)
        gained = (displacements.penalty, displacements.log_det, displacements.gain)
        return mixture, prior, sums, terms, *gained, leverage(sums.mass, mixture, design, prior)

    together = em([0, 1, 2])
    for i in range(3):
        for whole, alone in zip(together, em([i]), strict=True):
            mine = [whole[i]] if isinstance(whole, torch.Tensor) else vars(picked(whole, i)).values()
            own = [alone[0]] if isinstance(alone, torch.Tensor) else vars(picked(alone, 0)).values()
            for one, other in zip(mine, own, strict=True):
                torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-8)


def test_blocks_hold_groups_of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """One large group, tiny ones, one without cells, and a mixture with a single cell."""
    rng = np.random.default_rng(0)
    codes = [np.repeat([0, 1, 3], [200, 1, 7]), np.array([2]), rng.integers(0, 4, 50)]
    cells = [Positions.of(torch.from_numpy(rng.normal(size=(len(own), 4))), own, 4) for own in codes]
    mixture = stacked([problem(numbers=0, seed=seed)[2] for seed in range(3)])
    mixture = type(mixture)(
        mixture.means,
        mixture.variances,
        torch.rand(3, 4, 7, dtype=torch.double),
        torch.randn(3, 4, 7, 4, dtype=torch.double),
        mixture.slopes,
        torch.full((3, 4), 0.25, dtype=torch.double),
    )
    blocks = Blocks.of(cells, 7)
    assert int(blocks.present.sum()) == 259
    assert blocks.present.numel() < 2 * 259 + len(blocks.group)
    fairness = torch.tensor([0.0, 0.5, 1.0], dtype=torch.double)
    at_once = e_steps(mixture, blocks, fairness, 1.5)
    monkeypatch.setattr("scfcmi.registration._mixture.TOGETHER", 0)
    one_by_one = e_steps(mixture, cells, fairness, 1.5)
    for name in TERMS:
        torch.testing.assert_close(getattr(at_once, name), getattr(one_by_one, name), rtol=1e-9, atol=1e-9)


def test_parts_are_registered_as_each_would_be_alone(simulate: Any) -> None:
    made = [simulate(n=n, shift=1.0, seed=seed) for seed, n in enumerate((500, 520, 200, 90))]
    design = made[0].design
    cells, before = [one.cells for one in made], [torch.from_numpy(one.truth).float() for one in made]
    options: dict[str, Any] = {"fairness": 0.0, "rounds": 8, "random_state": 0}
    assert max(map(len, fit_module._alike(cells, design.n_groups))) > 1
    together = register_again(cells, before, design, **options)
    for i, (mixture, own) in enumerate(together):
        (alone, own_alone) = register_again(cells[i : i + 1], before[i : i + 1], design, **options)[0]
        here, there = (registered(one, cells[i], 0.0, share)[0] for one, share in ((mixture, own), (alone, own_alone)))
        torch.testing.assert_close(here, there, rtol=1e-3, atol=1e-3)


def test_sums_of_another_kind_are_not_mixed_up() -> None:
    """Stacking goes by name, also through fields that hold several tensors."""
    prior = Prior.of(torch.tensor(1.0), torch.tensor(2.0))
    assert picked(stacked([prior, prior]), 1) == prior
    zeros = torch.zeros(1)
    found = [Displacements((zeros, zeros + i), zeros, zeros, zeros, zeros) for i in range(2)]
    assert float(picked(stacked(found), 1).parts[1]) == 1.0
    sums = Sums(*(torch.full((1,), float(i)) for i in range(7)))
    assert [float(value) for value in vars(picked(stacked([sums, sums]), 0)).values()] == list(range(7))
