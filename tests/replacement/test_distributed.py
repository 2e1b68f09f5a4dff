"""Two processes, once: they stay equal bit for bit, and do what one process does on the union of their batches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support.processes import on_two_processes
from support.training_runs import method, same
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from lightning_plasticity.replacement import Memory, UnitReplacer
from lightning_plasticity.replacement.distributed import agree, average
from lightning_plasticity.units import discover_units

STEPS = 200


class Net(nn.Module):
    """A convolution, a norm, and a branch that only some batches use."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(24, 12), nn.ReLU())
        self.side, self.head = nn.Linear(12, 12), nn.Linear(12, 2)

    def forward(self, x: torch.Tensor, *, side: bool = True) -> torch.Tensor:
        x = self.body(x)
        return self.head(self.side(x).relu() if side else x)


def run(rank: int, processes: int) -> dict[str, Any]:
    """Train on this process's share of every batch, and count what is exchanged."""
    model = Net().double()
    units = discover_units(model, torch.randn(2, 1, 4, 4, dtype=torch.float64))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.003)
    engine = UnitReplacer(method(replacement_rate=0.02, maturity_threshold=10), units, optimizer, seed=5 + 9 * rank)
    engine.generator.manual_seed(5)  # one process has no first one to agree with
    exchanged, reduce = [0], distributed.all_reduce
    wrapped: nn.Module = model
    if processes > 1:
        wrapped = DistributedDataParallel(model, find_unused_parameters=True)

        def counted(*args: Any, **kwargs: Any) -> Any:
            exchanged[0] += 1
            return reduce(*args, **kwargs)

        distributed.all_reduce = counted
    generator, events = torch.Generator().manual_seed(1), []
    engine.listeners.append(events.append)
    with engine:
        for step in range(STEPS):
            inputs = torch.randn(8, 1, 4, 4, generator=generator, dtype=torch.float64)
            targets = inputs.mean((2, 3)).expand(-1, 2)
            share = slice(rank * 8 // processes, (rank + 1) * 8 // processes)
            optimizer.zero_grad()
            (wrapped(inputs[share], side=step % 5 != 0) - targets[share]).square().mean().backward()
            optimizer.step()
    distributed.all_reduce = reduce
    decisions = len({(e.step, e.group) for e in events})
    return {
        "model": model.state_dict(),
        "engine": engine.state_dict(),
        "events": [(e.step, e.group, e.units) for e in events],
        "decisions": decisions,
        "exchanged": exchanged[0],
    }


def work(rank: int, folder: Path) -> None:
    result = run(rank, 2)
    result["agreed"] = agree(2**64 - 1 - rank, torch.device("cpu"))
    counts = Memory((), {})
    counts.flat = {"mean": torch.tensor([1.0, 3.0]) * (1 + rank), "count": torch.tensor([1, 4]) + rank}
    average(counts)
    result["averaged"] = counts.flat
    torch.save(result, folder / f"{rank}.pt")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("ranks")
    on_two_processes(work, folder, folder)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.ddp
def test_processes_stay_equal_bit_for_bit(results):
    first, second = results
    assert len(first["events"]) > 20
    assert same(first["model"], second["model"])
    assert same(first["engine"], second["engine"])
    assert first["events"] == second["events"]


@pytest.mark.ddp
def test_two_processes_replace_the_units_that_one_replaces_on_the_union_of_their_batches(results):
    alone = run(0, 1)
    assert results[0]["events"] == alone["events"]
    for name, value in alone["model"].items():
        assert torch.allclose(value, results[0]["model"][name], rtol=1e-6, atol=1e-9), name


@pytest.mark.ddp
def test_a_decision_exchanges_one_flat_buffer_and_other_steps_exchange_nothing(results):
    assert 0 < results[0]["exchanged"] <= results[0]["decisions"]


@pytest.mark.ddp
def test_processes_agree_on_the_seed_of_the_first(results):
    assert results[0]["agreed"] == results[1]["agreed"] == (2**64 - 1) % 2**63


@pytest.mark.ddp
def test_averages_are_means_and_whole_numbers_stay_whole(results):
    for result in results:
        assert result["averaged"]["mean"].tolist() == [1.5, 4.5]
        assert result["averaged"]["count"].tolist() == [2, 4]
