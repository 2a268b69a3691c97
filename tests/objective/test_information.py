"""Information terms against tables worked out by hand, identities, and gradients."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import mutual_info_score
from torch import Tensor

from scfcmi.objective import (
    assignment_entropy,
    consensus_terms,
    entropy,
    fcmi_terms,
    global_mean,
    joint_table,
    leakage_term,
    mutual_information,
    world_size,
)


def soft(n: int = 60, k: int = 4, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.softmax(2 * torch.randn(n, k, generator=torch.Generator().manual_seed(seed), dtype=dtype), dim=1)


def onehot(codes: Tensor, n: int) -> Tensor:
    return torch.nn.functional.one_hot(codes, n).float()


def test_entropy_by_hand() -> None:
    assert float(entropy(torch.full((8,), 1 / 8))) == pytest.approx(math.log(8))
    assert float(entropy(torch.tensor([1.0, 0.0, 0.0]))) == pytest.approx(0, abs=1e-6)
    assert float(entropy(torch.tensor([0.25, 0.75]))) == pytest.approx(0.5623351)


def test_mutual_information_by_hand() -> None:
    independent = torch.outer(torch.tensor([0.2, 0.3, 0.5]), torch.tensor([0.4, 0.6]))
    assert float(mutual_information(independent)) == pytest.approx(0, abs=1e-6)
    assert float(mutual_information(torch.eye(2) / 2)) == pytest.approx(math.log(2))
    table = torch.tensor([[0.4, 0.1], [0.1, 0.4]])
    assert float(mutual_information(table)) == pytest.approx(0.8 * math.log(1.6) + 0.2 * math.log(0.4), abs=1e-6)


def test_joint_table_by_hand() -> None:
    proba = torch.tensor([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0], [0.25, 0.75]])
    table = joint_table(proba, onehot(torch.tensor([0, 0, 1, 1]), 2))
    torch.testing.assert_close(table, torch.tensor([[1.5, 0.25], [0.5, 1.75]]) / 4)


def test_hard_assignments_agree_with_counting() -> None:
    rng = np.random.default_rng(0)
    clusters, groups = rng.integers(0, 4, 200), rng.integers(0, 3, 200)
    table = joint_table(onehot(torch.tensor(clusters), 4), onehot(torch.tensor(groups), 3))
    assert float(mutual_information(table)) == pytest.approx(mutual_info_score(clusters, groups), abs=1e-5)


def test_weights_count_as_copies() -> None:
    proba, codes = soft(6), torch.tensor([0, 1, 2, 0, 1, 2])
    copies = torch.tensor([3, 1, 2, 1, 1, 4])
    x, decoded = torch.randn(6, 5), torch.randn(6, 5)

    def repeat(t: Tensor) -> Tensor:
        return t.repeat_interleave(copies, dim=0)

    weighted = fcmi_terms(x, decoded, proba, codes, copies.float(), 3)
    repeated = fcmi_terms(repeat(x), repeat(decoded), repeat(proba), repeat(codes), torch.ones(12), 3)
    for name, value in weighted.items():
        assert float(value) == pytest.approx(float(repeated[name]), abs=1e-5), name


def test_conditional_information_identities() -> None:
    proba, codes = soft(), torch.arange(60) % 3
    terms = fcmi_terms(torch.zeros(60, 2), torch.ones(60, 2), proba, codes, torch.ones(60), 3)
    i_xc = terms["h_c"] - terms["h_c_given_x"]
    assert float(terms["i_xc_given_g"]) == pytest.approx(float(i_xc - terms["i_gc"]), abs=1e-6)
    # I(X;C|G) is also the mean, over groups, of I(X;C) within the group.
    within = [entropy(proba[codes == g].mean(0)) - assignment_entropy(proba[codes == g]) for g in range(3)]
    assert float(terms["i_xc_given_g"]) == pytest.approx(float(sum(within) / 3), abs=1e-5)
    assert float(terms["i_xc_given_g"]) >= 0
    assert 0 <= float(terms["i_gc"]) <= math.log(3)
    assert float(terms["reconstruction"]) == 1
    assert set(terms) == {"reconstruction", "h_c", "h_c_given_x", "i_gc", "i_xc_given_g"}


def test_copied_groups_carry_no_information() -> None:
    proba = soft(30)
    table = joint_table(torch.cat([proba, proba]), onehot(torch.arange(60) // 30, 2))
    assert float(mutual_information(table)) == pytest.approx(0, abs=1e-6)


def test_names_of_clusters_and_groups_do_not_matter() -> None:
    proba, codes = soft(), torch.arange(60) % 3
    a = mutual_information(joint_table(proba, onehot(codes, 3)))
    b = mutual_information(joint_table(proba[:, [2, 0, 3, 1]], onehot(2 - codes, 3)))
    assert float(a) == pytest.approx(float(b), abs=1e-6)


@pytest.mark.parametrize("name", ["h_c", "h_c_given_x", "i_gc", "i_xc_given_g", "reconstruction"])
def test_gradients_match_finite_differences(name: str) -> None:
    logits = torch.randn(12, 3, generator=torch.Generator().manual_seed(1))
    codes, weights = torch.arange(12) % 2, torch.linspace(0.5, 1.5, 12)
    x = torch.randn(12, 3, generator=torch.Generator().manual_seed(2))

    def term(values: Tensor) -> Tensor:
        return fcmi_terms(x, values, torch.softmax(values, dim=1), codes, weights, 2)[name]

    leaf = logits.clone().requires_grad_()
    term(leaf).backward()
    direction = torch.randn(12, 3, generator=torch.Generator().manual_seed(3))
    eps = 1e-2
    numeric = (term(logits + eps * direction) - term(logits - eps * direction)) / (2 * eps)
    assert float((leaf.grad * direction).sum()) == pytest.approx(float(numeric), rel=0.02, abs=2e-4)
    assert float(leaf.grad.abs().max()) > 1e-4


def test_one_sided_assignments_have_finite_gradients() -> None:
    leaf = torch.eye(4).requires_grad_()
    terms = fcmi_terms(torch.zeros(4, 2), torch.zeros(4, 2), leaf, torch.arange(4) % 2, torch.ones(4), 2)
    sum(terms.values()).backward()
    assert torch.isfinite(leaf.grad).all()


def test_information_is_computed_in_single_precision_whatever_comes_in() -> None:
    proba = soft().to(torch.bfloat16)
    terms = fcmi_terms(
        torch.zeros(60, 2).bfloat16(), torch.ones(60, 2).bfloat16(), proba, torch.arange(60) % 2, torch.ones(60), 2
    )
    assert {value.dtype for value in terms.values()} == {torch.float32}


def test_means() -> None:
    values = torch.tensor([1.0, 2.0, 6.0])
    assert world_size() == 1
    assert float(global_mean(values)) == 3
    assert float(global_mean(values, torch.tensor([1.0, 1.0, 0.0]))) == 1.5
    assert float(global_mean(values, torch.zeros(3))) == 0


def test_consensus_terms() -> None:
    h = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    target = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    goal = torch.tensor([[1.0, 0.0], [0.5, 0.5]])
    proba = torch.tensor([[0.5, 0.5], [0.5, 0.5]])
    terms = consensus_terms(h, proba, target, goal, torch.ones(2))
    assert float(terms["alignment"]) == pytest.approx(0.5)
    assert float(terms["consensus"]) == pytest.approx(math.log(2))
    matched = consensus_terms(target, goal, target, goal, torch.tensor([1.0, 0.0]))
    assert float(matched["alignment"]) == pytest.approx(0)
    assert float(matched["consensus"]) == pytest.approx(0, abs=1e-6)


def test_information_about_several_attributes() -> None:
    proba = torch.softmax(3 * torch.randn(40, 4, generator=torch.Generator().manual_seed(0)), dim=1)
    codes = torch.arange(40) % 4
    attributes = {"tech": (torch.eye(2)[[0, 0, 1, 1]], 1.0), "donor": (torch.eye(2)[[0, 1, 0, 1]], 0.5)}
    x = torch.zeros(40, 2)
    terms = fcmi_terms(x, x, proba, codes, torch.ones(40), 4, factors=attributes)
    for name, (levels, _) in attributes.items():
        alone = fcmi_terms(x, x, proba, levels.argmax(1)[codes], torch.ones(40), 2)["i_gc"]
        torch.testing.assert_close(terms[f"i_gc_{name}"], alone)
    torch.testing.assert_close(terms["i_gc"], terms["i_gc_tech"] + 0.5 * terms["i_gc_donor"])
    joint = fcmi_terms(x, x, proba, codes, torch.ones(40), 4)
    torch.testing.assert_close(terms["i_xc_given_g"], joint["i_xc_given_g"])


def test_leakage_is_the_distance_of_groups_within_clusters() -> None:
    proba, groups = torch.eye(2)[torch.arange(80) % 2], torch.eye(2)[torch.arange(80) // 2 % 2]
    h = torch.cat([proba, 3 * groups[:, :1] * proba[:, :1], torch.zeros(80, 1)], dim=1)
    # in the first cluster groups are 3 apart, so each is 1.5 from their mean; in the second they coincide
    torch.testing.assert_close(leakage_term(h, proba, groups, torch.ones(80)), torch.tensor(1.5**2 / 2))
    torch.testing.assert_close(leakage_term(proba, proba, groups, torch.ones(80)), torch.tensor(0.0))


def test_leakage_of_many_groups_is_that_of_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums over few and over many groups are made in different ways; groups may be empty, cells may weigh nothing."""
    generator = torch.Generator().manual_seed(0)
    proba = soft(n=200, k=5).requires_grad_()
    h = torch.randn(200, 3, generator=generator).requires_grad_()
    groups = onehot(torch.randint(0, 38, (200,), generator=generator), 40)
    weights = torch.rand(200, generator=generator).round(decimals=1)
    found = []
    for limit in (0, 1000):
        monkeypatch.setattr("scfcmi.objective._terms.FEW_GROUPS", limit)
        term = leakage_term(h, proba, groups, weights)
        found.append((term.detach(), *torch.autograd.grad(term, (h, proba))))
    for many, few in zip(*found, strict=True):
        torch.testing.assert_close(many, few)
