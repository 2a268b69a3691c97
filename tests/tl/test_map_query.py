"""Later cells on a fitted model: genes by name, known and new groups, and cells unlike any."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from scipy import sparse
from sklearn.metrics import adjusted_rand_score

from scfcmi.model import FCMI
from scfcmi.published import NetworkOptions
from scfcmi.registration import Design, Mixture, expected_moves, with_group
from scfcmi.tl import fair_cluster, map_query

N_CELLS, N_GENES = 540, 60


def cells(kinds: int = 3, seed: int = 0) -> AnnData:
    rng = np.random.default_rng(seed)
    kind, tech = np.arange(N_CELLS) % kinds, (np.arange(N_CELLS) // kinds) % 3
    mean = 1.5 + np.zeros((N_CELLS, N_GENES))
    for k in range(kinds):
        mean[kind == k, 10 * k : 10 * (k + 1)] += 2.5
    mean += (0.5 * np.random.default_rng(9).normal(size=(3, N_GENES)))[tech]
    x = np.maximum(mean + 0.5 * rng.normal(size=mean.shape), 0).astype(np.float32)
    obs = pd.DataFrame({"tech": np.array(list("abc"))[tech], "kind": np.array(list("uvwxyz"))[kind]})
    return AnnData(
        sparse.csr_matrix(x),
        obs=obs.set_index("cell" + obs.index.astype(str)),
        var=pd.DataFrame(index=[f"gene{i}" for i in range(N_GENES)]),
    )


@pytest.fixture(scope="module")
def reference() -> tuple[AnnData, FCMI]:
    adata = cells()
    adata = adata[adata.obs["tech"] != "c"].copy()
    return adata, fair_cluster(adata, "tech", 3, progress_bar=False, device="cpu", return_model=True)


def query(tech: str, seed: int = 1, kinds: int = 3) -> AnnData:
    adata = cells(kinds, seed)
    return adata[adata.obs["tech"] == tech].copy()


def test_the_reference_maps_onto_itself(reference: tuple[AnnData, FCMI]) -> None:
    adata, model = reference
    found = map_query(adata, model, sensitive_key="tech", copy=True)
    assert found.obs["fair_cluster"].astype(str).equals(adata.obs["fair_cluster"].astype(str))
    np.testing.assert_allclose(found.obsm["X_fair_cluster"], adata.obsm["X_fair_cluster"], atol=1e-5)
    np.testing.assert_allclose(found.obsm["fair_cluster_proba"], adata.obsm["fair_cluster_proba"], atol=1e-4)
    assert found.obs["fair_cluster_unlike"].mean() < 0.1


@pytest.mark.parametrize("tech", ["a", "c"], ids=["known", "new"])
def test_types_are_found(reference: tuple[AnnData, FCMI], tech: str) -> None:
    adata, found = query(tech), reference[0].obs
    before = adata.X.copy()
    map_query(adata, reference[1], sensitive_key="tech", new_groups="fit")
    assert adjusted_rand_score(adata.obs["kind"], adata.obs["fair_cluster"]) > 0.95
    names = found.groupby("fair_cluster", observed=True)["kind"].agg(lambda kinds: kinds.mode()[0])
    assert (adata.obs["fair_cluster"].map(names).astype(str) == adata.obs["kind"]).mean() > 0.95
    assert (before != adata.X).nnz == 0
    np.testing.assert_allclose(adata.obsm["fair_cluster_proba"].sum(1), 1, atol=1e-5)
    mapping = adata.uns["fair_cluster"]["mapping"]
    assert mapping["new_groups"].tolist() == (["c"] if tech == "c" else [])
    assert mapping["n_new"].tolist() == ([180] if tech == "c" else [])
    assert mapping["n_genes"] == N_GENES and mapping["n_genes_imputed"] == 0
    assert adata.obsm["fair_cluster_leaves"].shape == (180, reference[0].obsm["fair_cluster_leaves"].shape[1])
    assert list(adata.obs["fair_cluster"].cat.categories) == list(found["fair_cluster"].cat.categories)


def test_genes_by_name(reference: tuple[AnnData, FCMI]) -> None:
    model, adata = reference[1], query("a")
    whole = map_query(adata, model, sensitive_key="tech", copy=True)
    shuffled = adata[:, np.random.default_rng(0).permutation(N_GENES)].copy()
    map_query(shuffled, model, sensitive_key="tech")
    np.testing.assert_allclose(shuffled.obsm["X_fair_cluster"], whole.obsm["X_fair_cluster"], atol=1e-4)
    fewer = adata[:, ::2].copy()
    with pytest.warns(UserWarning, match="30 of 60 genes"):
        map_query(fewer, model, sensitive_key="tech")
    assert fewer.uns["fair_cluster"]["mapping"]["n_genes_imputed"] == 30
    assert adjusted_rand_score(fewer.obs["kind"], fewer.obs["fair_cluster"]) > 0.9
    few = adata[:, :29].copy()
    with pytest.raises(ValueError, match="Only 29 of 60 genes"):
        map_query(few, model, sensitive_key="tech")
    assert "fair_cluster" not in few.obs


def test_a_type_that_the_reference_lacks_is_noticed(reference: tuple[AnnData, FCMI]) -> None:
    adata = query("a")
    strange = adata[:20].copy()
    strange.X = strange.X.toarray()[:, ::-1]
    strange.obs_names = "s" + strange.obs_names
    both = ad.concat([adata, strange])
    map_query(both, reference[1], sensitive_key="tech")
    unlike = both.obs["fair_cluster_unlike"].to_numpy()
    assert unlike[-20:].mean() > 0.8
    assert unlike[:-20].mean() < 0.05


def test_labels_are_transferred(reference: tuple[AnnData, FCMI], tmp_path: Path) -> None:
    known, model = reference[0].copy(), reference[1]
    known.obs["half"] = known.obs["kind"].where(np.arange(known.n_obs) % 2 == 0)
    adata = query("c")
    given = {"sensitive_key": "tech", "new_groups": "fit", "reference": known}
    map_query(adata, model, transfer=["kind", "half"], **given)
    for column in ("kind", "half"):
        assert (adata.obs[f"fair_cluster_{column}"].astype(str) == adata.obs["kind"]).mean() > 0.95
        confidence = adata.obs[f"fair_cluster_{column}_confidence"]
        assert confidence.between(0, 1 + 1e-6).all() and confidence.mean() > 0.9
    adata.write_h5ad(tmp_path / "q.h5ad")
    assert ad.read_h5ad(tmp_path / "q.h5ad").uns["fair_cluster"]["mapping"]["transferred"].tolist() == ["kind", "half"]
    map_query(adata, model, transfer="kind", **given)
    assert "fair_cluster_half" not in adata.obs and "fair_cluster_half_confidence" not in adata.obs


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"reference": None}, ValueError, "pass reference"),
        ({"reference": "r"}, TypeError, "reference must be an AnnData"),
        ({"transfer": "absent"}, KeyError, "transfer='absent'"),
        ({"reference_key": "other"}, ValueError, "other_leaves"),
    ],
)
def test_transfer_refused(
    reference: tuple[AnnData, FCMI], arguments: dict[str, Any], error: type[Exception], match: str
) -> None:
    adata = query("a")
    given = {"sensitive_key": "tech", "reference": reference[0], "transfer": "kind"} | arguments
    with pytest.raises(error, match=match):
        map_query(adata, reference[1], **given)
    assert list(adata.obs) == ["tech", "kind"] and not adata.uns and not adata.obsm


def test_saved_models_and_files(reference: tuple[AnnData, FCMI], tmp_path: Path) -> None:
    reference[1].save(tmp_path / "m.safetensors")
    again = FCMI.load(tmp_path / "m.safetensors")
    one, two = query("c"), query("c")
    map_query(one, reference[1], sensitive_key="tech", new_groups="fit")
    map_query(two, again, sensitive_key="tech", new_groups="fit")
    np.testing.assert_array_equal(one.obsm["X_fair_cluster"], two.obsm["X_fair_cluster"])
    one.write_h5ad(tmp_path / "q.h5ad")
    read = ad.read_h5ad(tmp_path / "q.h5ad")
    assert read.uns["fair_cluster"]["mapping"]["new_groups"].tolist() == ["c"]


def mixture(n_groups: int = 2) -> Mixture:
    """Three components along the axes; groups are displaced along the last axis, to either side."""
    means = 5 * torch.eye(3, 6)
    moves = torch.zeros(n_groups, 3, 6)
    moves[..., 5] = torch.linspace(-1, 1, n_groups)[:, None] if n_groups > 1 else 0
    shares = torch.full((n_groups, 3), 1 / 3)
    sizes = torch.full((n_groups,), 1 / n_groups)
    return Mixture(means, torch.full((3,), 0.1), shares, moves, torch.zeros(0, 3, 6), sizes)


def moved_cells(n: int, shift: float) -> torch.Tensor:
    rng = np.random.default_rng(0)
    z = 5 * np.eye(3, 6)[np.arange(n) % 3] + 0.3 * rng.normal(size=(n, 6))
    return torch.from_numpy(z + shift * np.eye(6)[5]).float()


def test_a_displacement_is_found_and_all_else_stays() -> None:
    before, z = mixture(), moved_cells(300, 2.0)
    after = with_group(before, z, torch.zeros(300, 0), torch.zeros(3, 6), 0.0)
    np.testing.assert_allclose(after.moves[2, :, 5], 2, atol=0.2)
    np.testing.assert_allclose(after.moves[2, :, :5], 0, atol=0.2)
    for name in ("means", "variances", "slopes"):
        assert torch.equal(getattr(after, name), getattr(before, name))
    assert torch.equal(after.moves[:2], before.moves) and torch.equal(after.shares[:2], before.shares)
    assert torch.equal(after.sizes @ after.shares, before.sizes @ before.shares)


def test_groups_of_few_cells_stay_closer_to_what_was_expected() -> None:
    def distance(n: int) -> float:
        found = with_group(mixture(), moved_cells(n, 3.0), torch.zeros(n, 0), torch.zeros(3, 6), 0.0)
        return float(found.moves[2, :, 5].mean())

    assert 0 <= distance(0) <= distance(3) < distance(300)
    none = with_group(mixture(), moved_cells(0, 1), torch.zeros(0, 0), torch.ones(3, 6), 0.0)
    assert torch.equal(none.moves[2], torch.ones(3, 6))


def test_fairness_keeps_proportions_together() -> None:
    z = moved_cells(300, 0)[::3]  # the first component alone
    free, fair = (
        with_group(mixture(), z, torch.zeros(100, 0), torch.zeros(3, 6), fairness).log_shares(fairness)[2].exp()
        for fairness in (0.0, 1.0)
    )
    assert free[0] > 0.99
    np.testing.assert_allclose(fair, 1 / 3, atol=1e-5)


def test_levels_that_are_known_say_what_to_expect() -> None:
    # Two attributes, one along the fourth and one along the last axis; the combination (1, 1) is new.
    levels = np.array([[0, 0], [0, 1], [1, 0]])
    moves = torch.zeros(3, 3, 6)
    moves[..., 3] = torch.tensor([-1.0, -1, 1])[:, None]
    moves[..., 5] = torch.tensor([-2.0, 2, -2])[:, None]
    base = mixture(3)
    fitted = Mixture(base.means, base.variances, base.shares, moves, base.slopes, base.sizes)
    expected = expected_moves(fitted, Design(levels, np.empty((0, 65))), np.array([1, 1]))
    np.testing.assert_allclose(expected[:, 3], 1, atol=1e-5)
    np.testing.assert_allclose(expected[:, 5], 2, atol=1e-5)
    assert not expected_moves(fitted, Design(levels, np.empty((0, 65))), np.array([-1, -1])).any()


def test_what_is_known_does_not_depend_on_the_rest_of_the_query(reference: tuple[AnnData, FCMI]) -> None:
    adata = query("a")
    whole = map_query(adata, reference[1], sensitive_key="tech", copy=True)
    part = map_query(adata[:30].copy(), reference[1], sensitive_key="tech", copy=True)
    np.testing.assert_allclose(part.obsm["X_fair_cluster"], whole.obsm["X_fair_cluster"][:30], atol=1e-5)
    assert part.obs["fair_cluster"].tolist() == whole.obs["fair_cluster"].tolist()[:30]


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"sensitive_key": "donor"}, KeyError, "donor"),
        ({"model": "m"}, TypeError, "must be a fitted scfcmi.model.FCMI, not str"),
        ({"model": FCMI(3)}, ValueError, "not fitted"),
        ({"new_groups": "ignore"}, ValueError, "new_groups='ignore' is unknown"),
        ({"new_groups": "error"}, ValueError, r"not fitted with: \['c'\]; known are \['a', 'b'\]"),
        ({"key_added": "tech"}, ValueError, "would overwrite"),
        ({"layer": "log"}, KeyError, "log"),
    ],
)
def test_refused(
    reference: tuple[AnnData, FCMI], arguments: dict[str, Any], error: type[Exception], match: str
) -> None:
    adata = query("c")
    given = {"model": reference[1], "sensitive_key": "tech", "new_groups": "fit"} | arguments
    with pytest.raises(error, match=match):
        map_query(adata, **given)
    assert list(adata.obs) == ["tech", "kind"] and not adata.uns and not adata.obsm


def test_what_a_model_must_have() -> None:
    adata = query("a")
    x, groups = adata.X.toarray(), np.array(["a", "b"])[np.arange(adata.n_obs) % 2]
    nameless = FCMI(3, progress_bar=False).fit(x, groups)
    with pytest.raises(ValueError, match="no gene names"):
        map_query(adata, nameless, sensitive_key="tech")
    paper = FCMI(3, preset="paper", network=NetworkOptions(max_epochs=1), progress_bar=False, device="cpu")
    paper.fit(x, groups, feature_names=list(adata.var_names))
    with pytest.raises(ValueError, match="keeps nothing that tells"):
        map_query(query("c"), paper, sensitive_key="tech", new_groups="fit")
    with pytest.warns(UserWarning, match="30 of 60 genes of the model are not in adata; zeros are used"):
        map_query(adata[:, ::2].copy(), paper, sensitive_key="tech")
    map_query(adata, paper, sensitive_key="tech")
    assert (adata.obs["fair_cluster"].astype(int) == paper.predict(adata.X)).all()
    assert "fair_cluster_leaves" not in adata.obsm


@pytest.mark.parametrize("n_cells", [180, 9])
def test_a_new_group_is_learned_in_closer_looks_too(reference: tuple[AnnData, FCMI], n_cells: int) -> None:
    """A closer look that sees what the first one sees places a new group as the first one does."""
    _, model = reference
    look = model.state_.look
    part = look.branch == 0
    rows = torch.from_numpy(part)
    leaf = look.leaf[part]
    own = np.unique(leaf, return_inverse=True)[1].astype(np.int64)
    closer = replace(look, position=look.position[rows], component=look.component[rows], leaf=leaf, branch=own)
    deeper = copy.copy(model)
    deeper.state_ = replace(model.state_, look=replace(look, closer={0: closer}))
    adata = query("c")[:n_cells].copy()
    found, plain = (
        map_query(adata, m, sensitive_key="tech", new_groups="fit", copy=True).obs["fair_cluster"].tolist()
        for m in (deeper, model)
    )
    assert np.mean([a == b for a, b in zip(found, plain, strict=True)]) > 0.95


def test_groups_that_are_missing_and_genes_without_names(reference: tuple[AnnData, FCMI]) -> None:
    adata = query("a")
    adata.obs["tech"] = adata.obs["tech"].where(np.arange(adata.n_obs) > 1)
    with pytest.raises(ValueError, match="sensitive_key='tech' has 2 missing values. Drop these cells"):
        map_query(adata, reference[1], sensitive_key="tech")
    x, groups = reference[0].X, reference[0].obs["tech"].to_numpy()
    nameless = FCMI(3, progress_bar=False, device="cpu").fit(x, groups)
    with pytest.raises(ValueError, match="The model has no gene names"):
        map_query(query("a"), nameless, sensitive_key="tech")
    known = reference[0].copy()
    known.obs["word"] = np.nan
    with pytest.raises(ValueError, match="transfer='word' has no values in the reference"):
        map_query(query("a"), reference[1], sensitive_key="tech", reference=known, transfer="word")
