"""The table of clusters and groups is that of the batch of all processes, and so are its gradients."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from scfcmi.objective import fcmi_terms

WORKER = """
import sys, torch, torch.distributed as dist
from scfcmi.objective import fcmi_terms, world_size
rank, folder = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
assert world_size() == 2
logits, x, codes, weights = (part[rank] for part in torch.load(f"{folder}/in.pt"))
logits.requires_grad_()
terms = fcmi_terms(x, logits, torch.softmax(logits, 1), codes, weights, 3)
sum(terms.values()).backward()
torch.save({"grad": logits.grad} | {name: value.detach() for name, value in terms.items()}, f"{folder}/{rank}.pt")
dist.barrier()
dist.destroy_process_group()
"""


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_available(), reason="PyTorch was built without distributed training")
def test_two_processes_are_one(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    logits, x = torch.randn(2, 20, 4, generator=generator), torch.randn(2, 20, 4, generator=generator)
    # The processes see different groups, so that their own tables say nothing of I(G;C).
    codes = torch.stack([torch.zeros(20, dtype=torch.int64), 1 + torch.arange(20) % 2])
    weights = torch.rand(2, 20, generator=generator) + 0.5
    torch.save((logits, x, codes, weights), tmp_path / "in.pt")
    root = Path(__file__).resolve().parents[2]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
    workers = [
        subprocess.Popen([sys.executable, "-c", WORKER, str(rank), str(tmp_path)], env=environment) for rank in (0, 1)
    ]
    assert [worker.wait(timeout=120) for worker in workers] == [0, 0]
    found = [torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1)]

    together = logits.flatten(0, 1).requires_grad_()
    terms = fcmi_terms(x.flatten(0, 1), together, torch.softmax(together, 1), codes.flatten(), weights.flatten(), 3)
    for name, value in terms.items():
        for part in found:
            torch.testing.assert_close(part[name], value.detach(), msg=name)
    sum(terms.values()).backward()
    # Every process adds the same loss, so gradients come out twice; averaging over processes takes that back.
    grad = torch.cat([part["grad"] for part in found]) / 2
    torch.testing.assert_close(grad, together.grad, atol=1e-5, rtol=1e-4)
