"""Promises over process groups: ranks hold one codebook, that of one process on all samples."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from kmeans_module.quantization import join
from tests.backends.conftest import needs_native
from tests.processes import run_ranks
from tests.quantization import ranks
from tests.quantization.helpers import assert_same


@pytest.fixture(scope="module", params=[2, 3])
def found(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What each of two or three ranks made of all cases."""
    world: int = request.param
    folder = tmp_path_factory.mktemp("quantizers")
    run_ranks(ranks.work, (world, str(folder)), world)
    return [torch.load(Path(folder, f"{rank}.pt"), weights_only=False) for rank in range(world)]


@pytest.mark.parametrize("name", ranks.CASES)
def test_ranks_hold_the_codebook_of_one_process_after_every_step(name: str, found: Any) -> None:
    results = [result[name] for result in found]
    for result in results[1:]:
        assert torch.equal(result["steps"], results[0]["steps"])
        assert torch.equal(result["counts"], results[0]["counts"])
    assert (int(results[0]["n_iter"].min()) > 0) == ("frozen" not in name)
    # Rows of several batches are in another order: the start is another draw.
    if name not in ranks.STARTED_BY_BATCHES:
        one = ranks.train(name, len(found), None)
        torch.testing.assert_close(results[0]["steps"], one["steps"], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(results[0]["counts"], one["counts"])
        assert torch.equal(results[0]["n_iter"], one["n_iter"])
        for step, codes in enumerate(one["codes"]):
            assert torch.equal(torch.cat([result["codes"][step] for result in results]), codes)


def test_codes_were_revived_where_that_is_promised(found: Any) -> None:
    for name in ranks.CASES:
        if "revival" in name:
            steps = found[0][name]["steps"]
            assert (steps[0] > 50).sum() < 12
            assert (steps[-1] < 50).all()


@needs_native  # plain torch waits for the rows in doubt
def test_ranks_with_accelerators_learn_the_same_without_a_wait(found: Any) -> None:
    for result in found:
        own, expected = result["on a device"], result["uneven, revival"]
        assert not own["waits"]
        for key in ("steps", "counts", "n_iter"):
            assert torch.equal(own[key], expected[key])


def test_gradients_of_a_codebook_are_averaged(found: Any) -> None:
    one = ranks.gradient_step(len(found), None)
    for result in found:
        torch.testing.assert_close(result["gradient step"]["centroids"], one["centroids"])
        torch.testing.assert_close(result["gradient step"]["counts"], one["counts"])


@pytest.mark.parametrize("name", ["NaN", "NaN at first"])
def test_nan_on_one_rank_is_raised_on_all(name: str, found: Any) -> None:
    *others, last = (result[name] for result in found)
    assert re.search("x should be finite; 1 row holds NaN .* row 7", last["error"])
    for result in others:
        assert "another rank's contains NaN or infinity" in result["error"]
    assert all(result[name]["unchanged"] for result in found)


def test_a_batch_that_is_not_finite_on_one_rank_is_skipped_by_all(found: Any) -> None:
    for result in found:
        assert result["skip"] == {"skipped": 1, "unchanged": True}


@pytest.mark.parametrize("name", ["join", "join, gradient", "join, half"])
def test_ranks_with_fewer_batches_join_in(name: str, found: Any) -> None:
    results = [result[name] for result in found]
    for result in results:
        assert torch.equal(result["centroids"], results[0]["centroids"])
        assert result["n_iter"] == results[0]["n_iter"] == 2 * 2 * len(found)


@pytest.mark.parametrize("name", ["join, network", "join, network, gradient"])
def test_a_network_of_quantizers_is_the_same_on_ranks_that_joined_in(name: str, found: Any) -> None:
    results = [result[name] for result in found]
    steps = 2 * 2 * len(found)
    for result in results:
        assert_same(result, results[0])
        counters = [key for key in result if key.endswith("n_iter")]
        assert len(counters) == 4
        assert all(int(result[key]) == steps for key in counters)


def test_codebooks_are_whole_where_parameters_are_sharded(found: Any) -> None:
    results = [result["sharded"] for result in found]
    for result in results:
        assert torch.equal(result["centroids"], results[0]["centroids"])
        assert result["n_iter"] == 3


def test_a_model_without_anything_to_join_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one joinable"):
        join(torch.nn.Linear(2, 2))


def test_a_quantizer_without_a_process_group_learns_alone(found: Any) -> None:
    assert [result["alone"]["initialized"] for result in found] == [
        rank == 0 for rank in range(len(found))
    ]
