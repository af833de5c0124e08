import copy
import math
import pickle

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.testing import assert_close
from torchmetrics import Metric, MetricCollection

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


@pytest.mark.parametrize("kind", [Inertia, lambda: ClusterUsage(7)], ids=["inertia", "usage"])
def test_forward_collections_and_merged_states_agree_with_updates(kind):
    values = LABELS if isinstance(kind(), ClusterUsage) else DISTANCES
    whole = kind()
    whole.update(values)
    by_forward, halves = kind(), [kind(), kind()]
    for half, part in zip(halves, values.split(60), strict=False):
        alone = kind()
        alone.update(part)
        assert_close(by_forward(part), alone.compute())
        half.update(part)
    if hasattr(Metric, "merge_state"):  # not in torchmetrics 1.4
        halves[0].merge_state(halves[1])
    else:
        halves[0].update(values.split(60)[1])
    collection = MetricCollection({"a": kind(), "b": kind()})
    collection.update(values)
    saved = kind()
    saved.persistent(True)
    saved.load_state_dict({k: getattr(whole, k) for k in whole._defaults})
    saved._update_count = 1
    for found in (by_forward, halves[0], collection["a"], collection["b"], saved):
        assert_close(found.compute(), whole.compute(), rtol=1e-12, atol=0)
    assert not kind().state_dict()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_states_keep_their_precision(dtype):
    usage, inertia = ClusterUsage(2), Inertia()
    for metric in (usage, inertia):
        metric.set_dtype(dtype).to(dtype)
    usage.update(torch.tensor([0] * 4097 + [1]))
    inertia.update(torch.full((100,), 60_000.0, dtype=torch.float16))
    assert usage.counts.tolist() == [4097, 1]
    assert inertia.compute().item() == 6e6


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64])
def test_labels_are_integers_of_any_width(dtype):
    metric = ClusterUsage(128)
    metric.update(torch.tensor([0, 127, 127], dtype=dtype))
    metric.update(torch.tensor([], dtype=dtype))
    metric.update(torch.tensor(5, dtype=dtype))
    assert metric.counts.nonzero().flatten().tolist() == [0, 5, 127]


@pytest.mark.parametrize(
    ("labels", "kind", "message"),
    [
        (torch.tensor([0, 3]), ValueError, "labels should be from 0 to 2, or -1 .* got 0 to 3"),
        (torch.tensor([0, -2]), ValueError, "labels should be from 0 to 2, or -1 .* got -2 to 0"),
        (torch.tensor([2**62]), ValueError, "labels should be from 0 to 2"),
        (torch.tensor([0.0, 1.0]), TypeError, "labels should be integers; got torch.float32"),
        (torch.tensor([]), TypeError, "labels should be integers; got torch.float32"),
        (torch.tensor([True]), TypeError, "labels should be integers; got torch.bool"),
        (torch.tensor([1j]), TypeError, "labels should hold real numbers"),
        ([0, 1], TypeError, "labels should be a torch.Tensor; got list"),
        (np.array([0, 1]), TypeError, "labels should be a torch.Tensor; got ndarray"),
        (torch.zeros(3, dtype=torch.int64, device="meta"), ValueError, "labels is on meta, the me"),
    ],
)
def test_usage_refuses_what_are_no_labels(labels, kind, message):
    metric = ClusterUsage(3)
    with pytest.raises(kind, match=message):
        metric.update(labels)
    assert metric.counts.tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ((torch.ones(5), torch.ones(4)), ValueError, r"should have shape \(5,\), .*got \(4,\)"),
        ((torch.ones(5), torch.ones(1)), ValueError, r"should have shape \(5,\), .*got \(1,\)"),
        ((torch.ones(5, 1), torch.ones(5)), ValueError, r"should have shape \(5, 1\), .*\(5,\)"),
        ((torch.ones(5), -torch.ones(5)), ValueError, "sample_weight should be >= 0"),
        ((torch.ones(5), 2.0), TypeError, "sample_weight should be a torch.Tensor; got float"),
        ((torch.ones(()),), ValueError, r"distances should have shape \(n,\)"),
        (([1.0],), TypeError, "distances should be a torch.Tensor; got list"),
        ((torch.ones(2, dtype=torch.complex64),), TypeError, "distances should hold real numbers"),
        ((torch.ones(2, device="meta"),), ValueError, "distances is on meta, the metric is on cpu"),
    ],
)
def test_inertia_refuses_what_are_no_distances(arguments, kind, message):
    metric = Inertia()
    with pytest.raises(kind, match=message):
        metric.update(*arguments)
    assert metric.total == 0


def test_inertia_of_several_problems_and_of_no_rows():
    metric = Inertia()
    metric.update(torch.ones(2, 3), torch.tensor([1.0, 0.0, 2.0]))
    metric.update(torch.ones(2, 3, dtype=torch.int64), torch.full((2, 3), 0.5))
    metric.update(torch.empty(0))
    assert metric.compute() == 6 + 3


@pytest.mark.parametrize("n_clusters", [0, -1, 2.5, "a", True, None])
def test_usage_is_of_a_number_of_clusters(n_clusters):
    with pytest.raises((ValueError, TypeError), match="n_clusters should be"):
        ClusterUsage(n_clusters)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("metric", [Inertia(), ClusterUsage(7)], ids=lambda m: type(m).__name__)
def test_metrics_are_scripted_and_plotted_as_those_of_torchmetrics(metric):
    values = LABELS if isinstance(metric, ClusterUsage) else DISTANCES
    torch.jit.script(metric)
    found = [metric(values), metric(values)]
    for shown in (None, found[0], found):
        figure, _ = metric.plot(shown)
        plt.close(figure)


def fake(x):
    with FakeTensorMode() as mode:
        return mode.from_tensor(x)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("call", "why"),
    [
        (lambda: torch.jit.trace(ClusterUsage(7), LABELS), "torch.jit traces"),
        (lambda: torch.vmap(ClusterUsage(7).update)(LABELS.view(1, -1)), "functorch"),
        (lambda: ClusterUsage(7).update(fake(LABELS)), "FakeTensor"),
        (lambda: ClusterUsage(7).to("meta").update(LABELS.to("meta")), "meta"),
    ],
)
def test_usage_refuses_labels_without_values(call, why):
    message = "ClusterUsage.update reads the values of tensors, which it cannot where .*"
    with pytest.raises(RuntimeError, match=message + why):
        call()
