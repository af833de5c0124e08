"""Rounds of k-means++ by the kernels: the draws and the centroids of the native kernel."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

from kmeans_module import KMeansLayer
from kmeans_module.backends import Workspace, native, unit_rows, workspace
from kmeans_module.backends.triton import launch
from kmeans_module.backends.triton.kernels import halves, seeding
from kmeans_module.backends.triton.seeding import DeviceRounds
from kmeans_module.core.problem import Problem
from kmeans_module.core.seeding import CANDIDATES, greedy
from kmeans_module.rows import Batch, HeldRows
from tests.conftest import brute_force, seeded
from tests.waits import Waits, counted

pytestmark = [
    pytest.mark.skipif(not launch.interpreted(), reason="no interpreter of Triton is asked for"),
    pytest.mark.skipif(native.BACKEND.missing() is not None, reason="no native kernel"),
]


def spread(n: int, d: int, problems: int = 1, seed: int = 0) -> Tensor:
    """Clusters with duplicates and a few zero rows: (n, d), or (P, n, d)."""
    generator = seeded(seed)
    x = torch.randn(problems, n, d, generator=generator)
    x = x + 4 * torch.randint(3, (problems, n, 1), generator=generator)
    x[:, ::13] = 0
    x[:, 1::17] = x[:, :1]
    return x if problems > 1 else x[0]


def by(name: str, monkeypatch: pytest.MonkeyPatch, *args: Any, **options: Any) -> Workspace:
    monkeypatch.setenv("KMEANS_KERNEL", name)
    return workspace(*args, **options)


def started(name: str, monkeypatch: pytest.MonkeyPatch, x: Tensor, k: int, init: str,
            metric: str, weight: Tensor | None) -> Tensor:  # fmt: skip
    monkeypatch.setenv("KMEANS_KERNEL", name)
    layer = KMeansLayer(k, x.shape[-1], metric=metric, batch_shape=tuple(x.shape[:-2]))
    layer.initialize(x, init, sample_weight=weight, generator=seeded(5))
    return layer.centroids


@pytest.mark.parametrize(
    ("d", "metric", "weighted", "problems", "init"),
    [
        (2, "euclidean", False, 1, "k-means++"),
        (5, "cosine", True, 1, "k-means++"),
        (5, "euclidean", True, 2, "k-means++"),
        (20, "euclidean", True, 1, "k-means++"),
        (40, "cosine", False, 1, "k-means++"),
        (150, "euclidean", False, 1, "k-means++"),
        (20, "cosine", False, 1, "random"),
        (5, "euclidean", True, 2, "random"),
        (5, "cosine", True, 1, "k-means||"),
    ],
)
def test_a_seed_starts_as_on_the_cpu(
    d: int, metric: str, weighted: bool, problems: int, init: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = spread(120, d, problems)
    weight = None
    if weighted:
        generator = seeded(3)
        weight = torch.rand(x.shape[:-1], generator=generator)
        weight *= torch.rand(x.shape[:-1], generator=generator) > 0.2
    found, expected = (
        started(name, monkeypatch, x, 4, init, metric, weight) for name in ("triton", "native")
    )
    assert torch.equal(found, expected)


def test_who_hears_of_seeding_waits_for_no_round() -> None:
    x, told = spread(120, 2), []
    with counted() as silent:
        KMeansLayer(6, 2).initialize(x, seed=0)
    with counted() as heard:
        KMeansLayer(6, 2).initialize(x, seed=0, told=lambda *count: told.append(count))
    assert len(heard) == len(silent)
    assert told == [(done, 6) for done in range(7)]


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("d", [1, 8, 9, 40, 150])
def test_distances_to_the_nearest_center_have_the_bits_of_the_cpu(
    d: int, metric: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = spread(150, d)
    weight = torch.rand(150, generator=seeded(1)).double()
    centers = unit_rows(x[[3, 60]]) if metric == "cosine" else x[[3, 60]]
    candidates = x[None, 20:36] if metric == "euclidean" else unit_rows(x[None, 20:36])
    nearest, potentials = {}, {}
    for name in ("triton", "native"):
        space = by(name, monkeypatch, x, weight, metric=metric)
        nearest[name] = torch.full((1, 150), torch.inf)
        for center in centers:
            space.lower(nearest[name], center[None, None])
        potentials[name] = space.potentials(nearest[name], candidates)
    assert torch.equal(nearest["triton"], nearest["native"])
    torch.testing.assert_close(potentials["triton"], potentials["native"], rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("d", [3, 9, 150])
def test_potentials_are_those_of_the_written_distances(
    d: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Far from the origin, where half precision would lose all there is to see.
    x = (spread(150, d) + 500).to(dtype)
    weight = torch.rand(150, generator=seeded(1)).double()
    space = by("triton", monkeypatch, x, weight)
    nearest = torch.full((1, 150), torch.inf)
    space.lower(nearest, x[None, 5:6].float())
    candidates = x[None, 20:30].float()
    found = space.potentials(nearest, candidates)
    for i in range(10):
        lowered = nearest.clone()
        space.lower(lowered, candidates[:, i : i + 1])
        expected = (lowered.double() * weight).sum(dim=-1)
        torch.testing.assert_close(found[:, i], expected, rtol=1e-12, atol=0)
        alone = brute_force(x.float(), torch.stack([x[5], candidates[0, i]]).float())
        torch.testing.assert_close(lowered[0].double(), alone.amin(-1), rtol=1e-5, atol=0)


class Launched:
    """A kernel whose launches do not count: the interpreter looks at tensors in its own ways."""

    def __init__(self, kernel: Any, waits: list[Waits]) -> None:
        self.kernel, self.waits = kernel, waits

    def __getitem__(self, grid: Any) -> Any:
        def launch(*args: Any, **options: Any) -> None:
            before = len(self.waits[0])
            self.kernel[grid](*args, **options)
            del self.waits[0][before:]

        return launch

    def __call__(self, *args: Any) -> Any:
        return self.kernel(*args)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_no_round_waits_for_the_device(
    weighted: bool, metric: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KMEANS_KERNEL", "triton")
    x = spread(60, 3)
    weight = torch.rand(60, generator=seeded(1)).double() if weighted else None
    problem = Problem(4, 3, metric=metric)
    draws = HeldRows([Batch(x, weight, start=0)]).draws(problem, seeded())
    current = [Waits()]
    for module in (seeding, halves):
        for name, function in list(vars(module).items()):
            if hasattr(function, "rewriter"):
                monkeypatch.setattr(module, name, Launched(function, current))
    with counted() as waits:
        current[0] = waits
        rounds = draws.rounds(4, CANDIDATES)
        # The first center is drawn by torch, which looks only where tensors are on the CPU.
        assert [wait for wait in waits if "reference.py" not in wait] == []
        waits.clear()
        for _ in range(3):
            rounds.lower()
            rounds.draw()
            rounds.choose()
        assert not waits
        draws.distinct(4, first=rounds.centers)
        assert len(waits) <= 1
    assert isinstance(rounds, DeviceRounds)


def test_where_all_rows_are_centers_the_weights_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KMEANS_KERNEL", "triton")
    x = torch.tensor([[0.0, 1.0], [0.0, 1.0], [5.0, 1.0]]).repeat(10, 1)
    weight = torch.ones(30, dtype=torch.float64)
    weight[2::3] = 0
    draws = HeldRows([Batch(x, weight, start=0)]).draws(Problem(4, 2), seeded())
    assert torch.equal(greedy(draws, 4), torch.tensor([[[0.0, 1.0]] * 4]))
