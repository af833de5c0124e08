import copy
import math
import pickle

import pytest
import torch
from torch.testing import assert_close

from kmeans_module import ClusterUsage, Inertia
from tests.conftest import seeded

DISTANCES = torch.rand(97, generator=seeded(0))
WEIGHT = torch.rand(97, generator=seeded(1))
LABELS = torch.randint(0, 7, (97,), generator=seeded(2))


def usage(labels, k):
    """By the definitions, cluster by cluster."""
    share = [(labels == j).double().mean().item() for j in range(k)]
    entropy = -sum(p * math.log(p) for p in share if p)
    return {"used": sum(p > 0 for p in share) / k, "perplexity": math.exp(entropy)}


@pytest.mark.parametrize("size", [1, 10, 97])
def test_inertia_is_the_weighted_sum_over_all_updates(size):
    metric, plain = Inertia(), Inertia()
    for part in torch.arange(97).split(size):
        metric.update(DISTANCES[part], WEIGHT[part])
        plain.update(DISTANCES[part])
    assert_close(metric.compute(), (DISTANCES.double() * WEIGHT).sum())
    assert_close(plain.compute(), DISTANCES.double().sum())


def test_inertia_sums_up_in_float64():
    metric = Inertia()
    metric.update(torch.tensor([2.0**30], dtype=torch.float32))
    for _ in range(100):
        metric.update(torch.tensor([0.25], dtype=torch.float32))
    assert metric.compute().item() == 2**30 + 25


@pytest.mark.parametrize("size", [1, 10, 97])
def test_usage_counts_all_updates_of_any_shape(size):
    metric = ClusterUsage(n_clusters=10)
    for part in LABELS.split(size):
        metric.update(part.view(1, -1))
    found = {name: value.item() for name, value in metric.compute().items()}
    assert found == pytest.approx(usage(LABELS, 10), rel=1e-6)


def test_perplexity_goes_from_one_to_k():
    one, even = ClusterUsage(n_clusters=5), ClusterUsage(n_clusters=5)
    one.update(torch.full((40,), 3))
    even.update(torch.arange(40) % 5)
    assert one.compute()["perplexity"].item() == 1
    assert even.compute()["perplexity"].item() == pytest.approx(5)


def test_a_label_of_minus_one_is_not_counted():
    metric, known = ClusterUsage(n_clusters=7), ClusterUsage(n_clusters=7)
    metric.update(torch.stack([LABELS, torch.full_like(LABELS, -1)]))
    known.update(LABELS)
    assert_close(metric.compute(), known.compute())
    metric.reset()
    metric.update(torch.tensor([-1, -1, 6]))
    assert metric.counts.tolist() == [0, 0, 0, 0, 0, 0, 1]


def test_usage_of_nothing_is_unknown():
    metric = ClusterUsage(n_clusters=3)
    with pytest.warns(UserWarning, match="before the ``update``"):
        assert metric.compute()["perplexity"].isnan()


@pytest.mark.parametrize("metric", [Inertia(), ClusterUsage(7)], ids=lambda m: type(m).__name__)
def test_reset_copy_and_pickle(metric):
    values = LABELS if isinstance(metric, ClusterUsage) else DISTANCES
    metric.update(values)
    for twin in (copy.deepcopy(metric), pickle.loads(pickle.dumps(metric))):
        twin.update(values[:5])
        metric_after = copy.deepcopy(metric)
        metric_after.update(values[:5])
        assert_close(twin.compute(), metric_after.compute())
    metric.reset()
    metric.update(values[:50])
    fresh = metric.clone()
    fresh.reset()
    fresh.update(values[:50])
    assert_close(metric.compute(), fresh.compute())
