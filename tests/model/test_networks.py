"""Encoder, centres, and decoders that give each cell its own group's output."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from scfcmi.model._networks import AffineDecoder, BranchedDecoder, FCMINet, GlobalBatchNorm1d
from scfcmi.source import read_groups
from scfcmi.train import PRESETS


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randomise(module: nn.Module) -> None:
    with torch.no_grad():
        for i, p in enumerate(module.parameters()):
            p.copy_(torch.randn(p.shape, generator=seeded(i)))


def make(kind: str) -> nn.Module:
    decoder = AffineDecoder([4, 8, 5], 3) if kind == "affine" else BranchedDecoder([4, 6], [6, 8, 5], 3)
    randomise(decoder)
    return decoder


def linear_layers(module: nn.Module) -> list[tuple[int, int]]:
    return [(m.in_features, m.out_features) for m in module.modules() if isinstance(m, nn.Linear)]


H = torch.randn(20, 4, generator=seeded(9))
CODES = torch.tensor([2, 0, 1, 2, 0, 0, 1, 1, 2, 0] * 2)


@pytest.mark.parametrize("kind", ["affine", "branched"])
def test_each_row_gets_the_output_of_its_own_group(kind: str) -> None:
    decoder = make(kind)
    out = decoder(H, CODES)
    for g in range(3):
        torch.testing.assert_close(decoder(H, torch.full((20,), g))[CODES == g], out[CODES == g])
    per_group = [decoder(H[:1], torch.tensor([g])) for g in range(3)]
    assert not torch.allclose(per_group[0], per_group[1])
    assert not torch.allclose(per_group[1], per_group[2])


@pytest.mark.parametrize("kind", ["affine", "branched"])
def test_order_of_cells_is_kept(kind: str) -> None:
    decoder = make(kind)
    order = torch.randperm(20, generator=seeded(1))
    torch.testing.assert_close(decoder(H[order], CODES[order]), decoder(H, CODES)[order])


@pytest.mark.parametrize("kind", ["affine", "branched"])
def test_gradients_reach_only_the_groups_in_the_batch(kind: str) -> None:
    decoder = make(kind)
    decoder(H, torch.ones(20, dtype=torch.int64)).square().sum().backward()
    if kind == "affine":
        assert all(
            p.grad[[0, 2]].abs().max() == 0 and p.grad[1].abs().max() > 0 for p in (*decoder.scale, *decoder.shift)
        )
    else:
        for g, branch in enumerate(decoder.branches):
            grads = [float(p.grad.abs().max()) if p.grad is not None else 0.0 for p in branch.parameters()]
            assert (max(grads) > 0) == (g == 1)


def test_branched_decoder_by_hand() -> None:
    decoder = make("branched")
    row: Tensor = H[3]
    shared = torch.relu(decoder.shared[0](row))
    branch = decoder.branches[2]
    torch.testing.assert_close(decoder(H, CODES)[3], branch[2](torch.relu(branch[0](shared))))


def test_affine_decoder_starts_the_same_for_all_groups() -> None:
    decoder = AffineDecoder([4, 8, 5], 3)
    torch.testing.assert_close(decoder(H, CODES), decoder(H, torch.zeros(20, dtype=torch.int64)))
    small, large = (sum(p.numel() for p in AffineDecoder([4, 8, 5], n).parameters()) for n in (2, 102))
    assert large - small == 100 * 2 * (8 + 5)


def test_widths_as_published() -> None:
    paper = PRESETS["paper"]
    net = FCMINet(50, 3, 7, n_latent=7, hidden=paper.hidden, n_shared=paper.n_shared, temperature=paper.temperature)
    assert linear_layers(net.trunk) == [(50, 1024), (1024, 1024), (1024, 512), (512, 256)]
    assert linear_layers(net.head) == [(256, 7)]
    assert linear_layers(net.decoder.shared) == [(7, 256), (256, 512)]
    assert len(net.decoder.branches) == 3
    for branch in net.decoder.branches:
        assert linear_layers(branch) == [(512, 1024), (1024, 1024), (1024, 50)]
        assert isinstance(branch[-1], nn.Linear)
    assert [type(m).__name__ for m in net.trunk] == ["Linear", "GlobalBatchNorm1d", "ReLU"] * 4
    assert not any(isinstance(m, nn.BatchNorm1d) for m in net.decoder.modules())


def test_embedding_and_assignment() -> None:
    net = FCMINet(6, 2, 4, n_latent=3, hidden=(8,), n_shared=None, temperature=0.1).eval()
    x = torch.randn(15, 6, generator=seeded())
    h, proba, decoded = net(x, CODES[:15] % 2)
    torch.testing.assert_close(h.norm(dim=1), torch.ones(15))
    assert (proba.shape, decoded.shape) == ((15, 4), (15, 6))
    torch.testing.assert_close(net.centres.norm(dim=1), torch.ones(4))
    cosine = h @ net.centres.T
    want = torch.exp(cosine / 0.1)
    torch.testing.assert_close(proba, want / want.sum(dim=1, keepdim=True))
    with torch.no_grad():
        net.centres.mul_(7)
    torch.testing.assert_close(net.assign(h), proba)
    torch.testing.assert_close(net.embed(x), h)


def test_batch_norm_of_one_process_is_torchs() -> None:
    ours, theirs = GlobalBatchNorm1d(4), nn.BatchNorm1d(4)
    torch.testing.assert_close(ours(H), theirs(H))
    torch.testing.assert_close(ours.running_var, theirs.running_var)
    torch.testing.assert_close(ours.eval()(H), theirs.eval()(H))


def test_batch_norm_over_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes with the same rows are like one with these rows twice; sums are stood in for by doubling."""
    monkeypatch.setattr("scfcmi.model._networks.world_size", lambda: 2)
    monkeypatch.setattr("scfcmi.model._networks.global_sum", lambda x: 2 * x)
    ours, theirs = GlobalBatchNorm1d(4), nn.BatchNorm1d(4)
    randomise(ours)
    theirs.load_state_dict(ours.state_dict())
    torch.testing.assert_close(ours(H), theirs(torch.cat([H, H]))[:20])
    torch.testing.assert_close(ours.running_mean, theirs.running_mean)
    torch.testing.assert_close(ours.running_var, theirs.running_var)


def test_scales_and_shifts_of_attributes_add_up() -> None:
    groups = read_groups({"tech": list("abab"), "donor": list("uuvv")})
    decoder = AffineDecoder([4, 6], groups.level_index)
    h, codes = torch.randn(8, 4), torch.arange(8) % 4
    torch.testing.assert_close(decoder(h, codes), decoder.layers[0](h))
    with torch.no_grad():
        decoder.shift[0][1] += 2  # technology b
        decoder.shift[0][3] += 3  # donor v
    added = torch.tensor([0.0, 3.0, 2.0, 5.0])[codes]
    torch.testing.assert_close(decoder(h, codes), decoder.layers[0](h) + added[:, None])
    assert "levels" not in decoder.state_dict()
