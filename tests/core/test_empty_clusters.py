"""Promises about empty clusters: each policy does what it says, and none gives NaN."""

from __future__ import annotations

import pytest
import torch

from kmeans_module import ClusterStats, EmptyClusterError
from kmeans_module import functional as F
from kmeans_module.core.empty_clusters import POLICIES
from kmeans_module.core.metrics import METRICS
from kmeans_module.core.statistics import MAX_FARTHEST
from tests.conftest import blobs, seeded


def m_step(
    x: torch.Tensor, centroids: torch.Tensor, policy: str, weight: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor, ClusterStats]:
    stats = F.e_step(x, centroids, weight).stats
    counts = torch.zeros(centroids.shape[:-1], dtype=torch.float64)
    new, counts, _ = F.update_centroids(centroids, counts, stats, empty_cluster=policy)
    return new, counts, stats


# cluster 0 holds 0, 1, 2 and cluster 2 holds 20, 26; clusters 1 and 3 are empty
X = torch.tensor([[0.0], [1.0], [2.0], [20.0], [26.0]])
CENTROIDS = torch.tensor([[0.0], [-500.0], [20.0], [-600.0]])


def test_relocate_takes_the_farthest_samples_from_their_donors() -> None:
    # distances 0, 1, 4, 0, 36: cluster 1 becomes 26, cluster 3 becomes 2
    new, counts, _ = m_step(X, CENTROIDS, "relocate")
    assert new.tolist() == [[0.5], [26], [20], [2]]
    assert counts.tolist() == [2, 1, 1, 1]


def test_relocate_moves_the_weight_of_a_sample() -> None:
    weight = torch.tensor([1.0, 2.0, 4.0, 1.0, 0.5], dtype=torch.float64)
    new, counts, _ = m_step(X, CENTROIDS, "relocate", weight)
    torch.testing.assert_close(new, torch.tensor([[2 / 3], [26.0], [20.0], [2.0]]))
    assert counts.tolist() == [3, 0.5, 1, 4]


def test_split_halves_the_heaviest() -> None:
    new, counts, stats = m_step(X, CENTROIDS, "split")
    apart = 0.01 * (stats.inertia.item() / 5) ** 0.5
    expected = [[1 + apart], [1 - apart], [23 + apart], [23 - apart]]
    torch.testing.assert_close(new, torch.tensor(expected))
    assert counts.tolist() == [1.5, 1.5, 1, 1]


def test_split_moves_features_in_turn_up_and_down() -> None:
    x = torch.tensor([[0.0, 0.0], [2.0, 2.0]])
    new, _, stats = m_step(x, torch.tensor([[1.0, 1.0], [500.0, 500.0]]), "split")
    apart = 0.01 * (stats.inertia.item() / 4) ** 0.5
    torch.testing.assert_close(new[0] - 1, torch.tensor([apart, -apart]))
    torch.testing.assert_close(new[1] - 1, torch.tensor([-apart, apart]))


def test_keep_leaves_the_centroid_where_it_is() -> None:
    new, counts, _ = m_step(X, CENTROIDS, "keep")
    assert new.tolist() == [[1], [-500], [23], [-600]]
    assert counts.tolist() == [3, 0, 2, 0]


def test_error_names_the_empty_clusters() -> None:
    message = r'2 of 4 clusters have no samples \(clusters 1, 3\) and empty_cluster="error"'
    with pytest.raises(EmptyClusterError, match=message):
        m_step(X, CENTROIDS, "error")


def test_error_shortens_a_long_list() -> None:
    centroids = torch.cat([torch.zeros(1, 1), torch.full((20, 1), 99.0)])
    with pytest.raises(EmptyClusterError, match=r"clusters 1, 2, .*, 10, \.\.\.\)"):
        m_step(torch.zeros(3, 1), centroids, "error")


@pytest.mark.parametrize("policy", POLICIES)
def test_policies_do_nothing_where_no_cluster_is_empty(policy: str) -> None:
    new, counts, _ = m_step(X, CENTROIDS[[0, 2]], policy)
    assert new.tolist() == [[1], [23]]
    assert counts.tolist() == [3, 2]


def test_a_donor_that_gave_all_it_had_is_empty_and_keeps_its_centroid() -> None:
    x = torch.tensor([[0.1], [0.3], [60.0]])
    centroids = torch.tensor([[0.0], [50.0], [900.0], [901.0]])
    new, counts, _ = m_step(x, centroids, "relocate")
    # 60 leaves cluster 1 alone, 0.3 leaves cluster 0
    torch.testing.assert_close(new, torch.tensor([[0.1], [50.0], [60.0], [0.3]]))
    assert counts.tolist() == [1, 0, 1, 1]


def test_what_rounding_leaves_of_a_donor_is_no_cluster() -> None:
    # 0.1 + 0.2 - 0.2 - 0.1 is 3e-17 in float64
    x = torch.tensor([[0.0], [49.0], [52.0]])
    weight = torch.tensor([1.0, 0.1, 0.2], dtype=torch.float64)
    centroids = torch.tensor([[0.0], [50.0], [900.0], [901.0]])
    new, counts, _ = m_step(x, centroids, "relocate", weight)
    assert new.tolist() == [[0], [50], [52], [49]]
    assert counts.tolist() == [1, 0, 0.2, 0.1]


@pytest.mark.parametrize("value", [0.0, 0.1, 1e6 + 0.3])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_a_sample_that_is_its_centroid_is_not_moved(value: float, dtype: torch.dtype) -> None:
    value = min(value, 1e3) if dtype == torch.float16 else value
    x = torch.full((7, 2), value).to(dtype)
    centroids = torch.cat([x[:1], x[:2] + 40])
    once, counts, _ = m_step(x, centroids, "relocate")
    again, _, _ = m_step(x, once, "relocate")
    assert counts.tolist() == [7, 0, 0]
    assert torch.equal(again[1:], centroids[1:])


@pytest.mark.parametrize("policy", ["relocate", "split", "keep"])
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("n_empty", [1, 63, 64, 65, 150])
def test_any_number_of_empty_clusters_gives_finite_centroids(
    policy: str, metric: str, n_empty: int
) -> None:
    x = torch.randn(400, 3, generator=seeded()) + torch.tensor([9.0, 0, 0])
    far = torch.tensor([[-900.0, 0.0, 0.0]]).expand(n_empty, 3)
    centroids = torch.cat([x[:4], far])
    if metric == "cosine":
        centroids = centroids / centroids.norm(dim=-1, keepdim=True)
    step = F.e_step(x, centroids, metric=metric)
    assert int((step.stats.counts == 0).sum()) == n_empty
    new, counts, shift = F.update_centroids(
        centroids, torch.zeros_like(step.stats.counts), step.stats,
        empty_cluster=policy, metric=metric,
    )  # fmt: skip
    assert new.isfinite().all()
    assert shift.isfinite()
    assert counts.sum().item() == pytest.approx(400)
    filled = n_empty - int((counts == 0).sum())
    expected = {"keep": 0, "split": min(n_empty, 4), "relocate": min(n_empty, MAX_FARTHEST)}
    assert filled == expected[policy]


def test_more_empty_clusters_than_travel_are_filled_by_and_by() -> None:
    x = torch.randn(400, 2, generator=seeded())
    centroids = torch.cat([x[:4], torch.full((150, 2), -900.0)])
    empty = [150]
    for _ in range(4):
        centroids = m_step(x, centroids, "relocate")[0]
        empty.append(int((F.e_step(x, centroids).stats.counts == 0).sum()))
    assert empty[1] <= 150 - MAX_FARTHEST // 2
    assert empty[-1] == 0


@pytest.mark.parametrize("policy", POLICIES)
def test_no_data_at_all_gives_no_nan(policy: str) -> None:
    centroids = torch.tensor([[1.0], [2.0]])
    if policy == "error":
        with pytest.raises(EmptyClusterError):
            m_step(torch.zeros(0, 1), centroids, policy)
        return
    new, counts, _ = m_step(torch.zeros(0, 1), centroids, policy)
    assert torch.equal(new, centroids)
    assert not counts.any()


@pytest.mark.parametrize("policy", ["relocate", "split", "keep"])
def test_zero_weights_give_no_nan(policy: str) -> None:
    new, counts, _ = m_step(X, CENTROIDS, policy, torch.zeros(5, dtype=torch.float64))
    assert torch.equal(new, CENTROIDS)
    assert not counts.any()


def test_problems_are_refilled_each_for_itself() -> None:
    x = torch.stack([blobs(60, 2, seed=s) for s in range(3)])
    centroids = x[:, :6].clone()
    centroids[0, 2] = 500
    centroids[2, :3] = 700
    new, counts, _ = m_step(x, centroids, "relocate")
    for p in range(3):
        alone, own_counts, _ = m_step(x[p], centroids[p], "relocate")
        torch.testing.assert_close(new[p], alone)
        torch.testing.assert_close(counts[p], own_counts)


def test_clusters_that_still_weigh_something_are_not_refilled() -> None:
    stats = F.e_step(X, CENTROIDS).stats
    before = torch.tensor([1.0, 5.0, 1.0, 0.0], dtype=torch.float64)
    new, counts, _ = F.update_centroids(CENTROIDS, before, stats, decay=1.0)
    assert new[1].item() == -500
    assert counts[1].item() == 5
    assert new[3].item() == 26
