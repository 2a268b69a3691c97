"""Two processes that share the cells have the sums of one."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist

from scfcmi.registration import Design, Mixture, Positions, Prior, e_step, m_step
from scfcmi.source import read_continuous, read_groups

TERMS = ("mass", "first", "second", "smooth_mass", "smooth_first", "smooth_second", "totals")
TURNS = 5


def share(rank: int, world: int) -> tuple[Positions, Design, Mixture]:
    """Every `world`-th cell of the same simulation."""
    rng = np.random.default_rng(0)
    n, m, d = 240, 4, 3
    groups = read_groups(rng.choice(["x", "y"], n))
    values = read_continuous({"v": rng.normal(size=n)}, n)
    design = Design.of(groups, values)
    z = 3 * rng.normal(size=(4, d))[rng.integers(0, 4, n)] + rng.normal(size=(n, d))
    cells = Positions.of(torch.from_numpy(z), groups.codes, 2, design.smooth(values.values))
    zeros = torch.zeros((), dtype=torch.float64).new_zeros
    mixture = Mixture(
        torch.from_numpy(z[:m].copy()),
        zeros(m) + 2,
        zeros(2, m) + 1 / m,
        zeros(2, m, d),
        zeros(3, m, d),
        zeros(2) + 0.5,
    )
    return cells.take(np.arange(rank, n, world)), design, mixture


def run(rank: int, world: int, port: int, folder: str) -> None:
    """Some rounds of EM, with one process of several."""
    if world > 1:
        dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
    cells, design, mixture = share(rank, world)
    prior = Prior.wide(mixture.means)
    for _ in range(TURNS):
        sums = e_step(mixture, cells, 0.2).over_processes()
        mixture, _ = m_step(sums, mixture, design, prior)
    found: dict[str, Any] = {name: getattr(sums, name) for name in TERMS} | {"means": mixture.means}
    torch.save(found, Path(folder) / f"{world}-{rank}.pt")
    if world > 1:
        dist.destroy_process_group()


@pytest.mark.skipif(not dist.is_available() or not dist.is_gloo_available(), reason="torch has no gloo")
def test_two_processes_have_the_sums_of_one(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # This file is the program: what pytest has imported, a spawned process cannot.
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "GLOO_SOCKET_IFNAME": "lo" if sys.platform == "linux" else "lo0",
    }
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    command = [sys.executable, __file__]
    two = [subprocess.Popen([*command, str(rank), "2", str(port), str(tmp_path)], env=environment) for rank in range(2)]
    try:
        assert [process.wait(timeout=120) for process in two] == [0, 0]
    finally:
        for process in two:
            process.kill()
    run(0, 1, port, str(tmp_path))
    one, first, second = (torch.load(tmp_path / name) for name in ("1-0.pt", "2-0.pt", "2-1.pt"))
    for name, want in one.items():
        torch.testing.assert_close(first[name], want, rtol=1e-8, atol=1e-8)
        assert torch.equal(first[name], second[name])


if __name__ == "__main__":
    run(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
