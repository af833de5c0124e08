"""Promises of the scores against true labels: those of scikit-learn, for any number of rows."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
import torch
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from torch import Tensor
from torchmetrics import Metric

from kmeans_module.training.agreement import Agreement
from tests.conftest import seeded

CORNERS = [
    ([0, 0, 0], [1, 1, 1]),
    ([0, 1, 2], [0, 1, 2]),
    ([0, 1, 2], [7, 7, 7]),
    ([0, 0, 1, 1], [0, 1, 0, 1]),
    ([5, 10**15, 5], [-7, 2, -7]),
    ([0], [0]),
    ([], []),
]


def expected(labels: Tensor, target: Tensor) -> dict[str, float]:
    return {
        "adjusted_rand": adjusted_rand_score(target, labels),
        "normalized_mutual_info": normalized_mutual_info_score(target, labels),
    }


def scores(metric: Agreement) -> dict[str, float]:
    values: dict[str, Tensor] = metric.compute()
    assert all(value.dtype == torch.float64 for value in values.values())
    return {name: value.item() for name, value in values.items()}


def noisy(n: int, k: int) -> tuple[Tensor, Tensor]:
    target = torch.randint(k, (n,), generator=seeded(0))
    noise = torch.randint(k, (n,), generator=seeded(1))
    return torch.where(torch.rand(n, generator=seeded(2)) < 0.7, target, noise), target


@pytest.mark.parametrize(("n", "k"), [(1_000, 6), (70_000, 3), (200_000, 40), (2_000_000, 100)])
def test_scores_are_those_of_scikit_learn_for_any_number_of_rows(n: int, k: int) -> None:
    labels, target = noisy(n, k)
    metric = Agreement()
    for part in torch.arange(n).split(1 << 19):
        metric.update(labels[part], target[part])
    assert scores(metric) == pytest.approx(expected(labels, target), rel=1e-10)
    assert sum(part.numel() for part in metric.table) <= 3 * k * k


@pytest.mark.parametrize(("labels", "target"), CORNERS)
def test_corner_cases_are_those_of_scikit_learn(labels: list[int], target: list[int]) -> None:
    pair = torch.tensor([labels, target], dtype=torch.int64)
    metric = Agreement()
    metric.update(*pair)
    assert scores(metric) == pytest.approx(expected(*pair), abs=1e-12)


def test_updates_forward_merge_reset_and_pickle_agree() -> None:
    labels, target = noisy(501, 5)
    parts: Any = list(zip(labels.split(100), target.split(100), strict=True))
    one, other, by_forward = Agreement(), Agreement(), Agreement()
    for i, part in enumerate(parts):
        (one if i % 2 else other).update(*part)
        assert by_forward(*part)["adjusted_rand"] == pytest.approx(
            adjusted_rand_score(*reversed(part))
        )
    if hasattr(Metric, "merge_state"):  # not in torchmetrics 1.4
        one.merge_state(other)
    else:
        for part in parts[::2]:
            one.update(*part)
    for metric in (one, by_forward, pickle.loads(pickle.dumps(one)), one.clone()):
        assert scores(metric) == pytest.approx(expected(labels, target), rel=1e-10)
    one.reset()
    one.update(*parts[0])
    assert scores(one) == pytest.approx(expected(*parts[0]), rel=1e-10)
