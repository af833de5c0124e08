"""Promises of large codebooks: their codes are used, and nothing is as large as vectors × codes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from benchmarks import many_codes
from benchmarks.memory import STATUS
from kmeans_module.core.statistics import gather_rows
from kmeans_module.quantization import learning, samples
from tests.quantization.helpers import normal

ROOT = Path(__file__).parents[2]


def test_almost_all_of_4096_codes_are_used() -> None:
    trial = many_codes.trials()["photographs"]._replace(n_clusters=4096)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        _, course = many_codes.train(trial, 600, every=600)
    finally:
        torch.set_num_threads(threads)
    ((_, used, error),) = course.used
    assert used >= 0.99
    assert error < 0.03


@pytest.mark.skipif(not STATUS.exists(), reason="memory is measured through /proc")
def test_nothing_is_as_large_as_vectors_times_codes() -> None:
    code = (
        "import torch\n"
        "from benchmarks import many_codes\n"
        "from benchmarks.memory import peak_bytes\n"
        "from kmeans_module.quantization import learning\n"
        "torch.set_num_threads(1)\n"
        "print(many_codes._measure_peak('kmeans_module', 32_768))\n"
        "x, weight = torch.randn(1, 8192, 8), torch.ones(1, 8192)\n"
        "print(peak_bytes(lambda: learning.start(x, weight, 4096, metric='euclidean')))\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, check=True, cwd=ROOT
    )
    training, start = (int(line) for line in done.stdout.split())
    assert training < 4 * 2048 * 32_768 / 2, "training steps, and the start before them"
    assert start < 4 * 8192 * 4096 / 4, "k-means++"


def test_many_codes_start_from_a_uniform_draw_where_there_is_little_choice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    x = normal(1, 30, 3)
    drawn: list[str] = []

    def initialize(data: object, problem: object, init: str, **options: object) -> Tensor:
        drawn.append(init)
        return whole(data, problem, init, **options)  # type: ignore[arg-type]

    whole = learning.initialize
    monkeypatch.setattr(learning, "initialize", initialize)
    for costly in (30 * 20, 30 * 20 - 1):
        monkeypatch.setattr(learning, "COSTLY", costly)
        for k in (15, 20, 40):
            centroids, counts = learning.start(x, torch.ones(1, 30), k, metric="euclidean")
            assert len(centroids[0].unique(dim=0)) == min(k, 30)
            assert counts.sum() == 30
    assert drawn == ["k-means++", "k-means++", "random", "k-means++", "random", "random"]


@pytest.mark.parametrize(("k", "rivals"), [(5, 4), (samples.MOST + 1, 8)])
def test_of_a_few_samples_the_farthest_from_its_code_comes_first(k: int, rivals: int) -> None:
    n = 19
    rows, centroids = normal(2, n, 3), normal(2, k, 3, seed=1)
    codes = torch.arange(2 * n).view(2, n) % k
    known = torch.arange(n).expand(2, -1) % 7 != 1
    found = samples.far_first(samples.Samples(rows, codes, known), centroids)
    away = (rows - gather_rows(centroids, codes)).square().sum(dim=-1)
    for p in range(2):
        order: list[tuple[int, int, int]] = []
        for group, part in enumerate(torch.arange(n).split(rivals)):
            members = [i for i in part.tolist() if known[p, i]]
            members.sort(key=lambda i: -float(away[p, i]))
            order += [(place, group, i) for place, i in enumerate(members)]
        expected = [i for *_, i in sorted(order)]
        assert torch.equal(found.rows[p, found.known[p]], rows[p, expected])
        assert torch.equal(found.codes[p, found.known[p]], codes[p, expected])


def test_of_samples_as_far_the_first_drawn_comes_first() -> None:
    rows, codes, known = normal(1, 4, 3), torch.arange(4).view(1, -1), torch.ones(1, 4) > 0
    found = samples.far_first(samples.Samples(rows, codes, known), rows)
    assert torch.equal(found.codes, codes)
    nothing = samples.Samples(rows[:, :0], codes[:, :0], known[:, :0])
    assert samples.far_first(nothing, rows).rows.shape == (1, 0, 3)


def test_outliers_do_not_take_all_codes() -> None:
    rows = normal(1, 64, 3)
    rows[0, :8] *= 1e6
    codes, known = torch.zeros(1, 64, dtype=torch.int64), torch.ones(1, 64) > 0
    order = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    found = samples.far_first(samples.Samples(rows[:, order], codes, known), rows[:, 8:9])
    first = found.rows[0, : 64 // 4]
    assert (first.abs().amax(dim=-1) < 100).any()
