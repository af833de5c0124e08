"""Promises of how a codebook learns: averages as in the paper, starts, revivals, refusals."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from kmeans_module import NotInitializedError, VectorQuantizer
from kmeans_module.core.statistics import gather_rows
from kmeans_module.quantization import learning, revival, samples
from tests.conftest import blobs, brute_force, seeded
from tests.quantization.helpers import assert_same, normal, quantizer_at, state_of, trained

DECAY, SMOOTHING = 0.9, 1e-3


def van_den_oord(
    codebook: Tensor, counts: Tensor, batches: list[Tensor], metric: str = "euclidean"
) -> tuple[Tensor, Tensor]:
    """Codebook and counts after the batches, by appendix A.1 of the paper in its own terms."""
    k = len(codebook)
    masses = codebook * smooth(counts, k).unsqueeze(-1)
    for x in batches:
        if metric == "cosine":
            x = torch.nn.functional.normalize(x, dim=-1)
        own = torch.nn.functional.one_hot(brute_force(x, codebook).argmin(-1), k).double()
        counts = DECAY * counts + (1 - DECAY) * own.sum(0)
        masses = DECAY * masses + (1 - DECAY) * own.T @ x
        codebook = masses / smooth(counts, k).unsqueeze(-1)
        if metric == "cosine":
            codebook = torch.nn.functional.normalize(codebook, dim=-1)
            masses = codebook * smooth(counts, k).unsqueeze(-1)
    return codebook, counts


def smooth(counts: Tensor, k: int) -> Tensor:
    return (counts + SMOOTHING) / (counts.sum() + k * SMOOTHING) * counts.sum()


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_the_codebook_is_the_moving_average_of_van_den_oord(metric: str) -> None:
    codebook = torch.nn.functional.normalize(normal(7, 3, seed=1, dtype=torch.float64), dim=-1)
    batches = [normal(n, 3, seed=n, dtype=torch.float64) for n in (40, 60, 33, 50, 41)]
    counts = torch.rand(7, generator=seeded()).double() * 5
    quantizer = quantizer_at(
        codebook, counts / (1 - DECAY), metric=metric, decay=DECAY, smoothing=SMOOTHING,
        revive_below=0,
    )  # fmt: skip
    for x in batches:
        quantizer(x)
    quantizer.apply_update()
    expected, expected_counts = van_den_oord(codebook, counts, batches, metric)
    torch.testing.assert_close(quantizer.codebook.centroids, expected)
    torch.testing.assert_close(quantizer.codebook.counts * (1 - DECAY), expected_counts)
    assert int(quantizer.codebook.n_iter) == 5


def test_five_steps_are_those_of_vector_quantize_pytorch() -> None:
    library = pytest.importorskip("vector_quantize_pytorch")
    codebook, counts = normal(16, 4, seed=1), torch.rand(16, generator=seeded()) * 5 + 1
    theirs = library.VectorQuantize(
        4, 16, decay=DECAY, eps=SMOOTHING, kmeans_init=False, threshold_ema_dead_code=0,
        commitment_weight=0.3, rotation_trick=False,
    )  # fmt: skip
    state = theirs._codebook
    ours = quantizer_at(
        codebook, counts.double() / (1 - DECAY), decay=DECAY, smoothing=SMOOTHING,
        commitment=0.3, revive_below=0,
    )  # fmt: skip
    smoothed = learning.smoothed(counts[None], SMOOTHING).unsqueeze(-1)
    state.embed.copy_(codebook[None])
    state.cluster_size.copy_(counts[None])
    state.embed_avg.copy_(codebook * smoothed)
    for seed in range(5):
        x, weight = normal(2, 50, 4, seed=seed), normal(2, 50, 4, seed=seed + 50)
        x, other = x.clone().requires_grad_(), x.clone().requires_grad_()
        quantized, codes, loss = ours(x)
        expected, expected_codes, expected_loss = theirs(other)
        assert torch.equal(codes, expected_codes)
        torch.testing.assert_close(quantized, expected)
        torch.testing.assert_close(loss, expected_loss.squeeze())
        ((quantized * weight).sum() + loss).backward()
        ((expected * weight).sum() + expected_loss.sum()).backward()
        torch.testing.assert_close(x.grad, other.grad)
    ours.eval()
    torch.testing.assert_close(ours.codebook.centroids, state.embed[0])
    torch.testing.assert_close((ours.codebook.counts * (1 - DECAY)).float(), state.cluster_size[0])


def test_separate_codebooks_learn_each_on_its_own() -> None:
    codebooks, x = normal(3, 6, 2, seed=1), normal(80, 6)
    together = quantizer_at(codebooks, decay=0.5)
    found = together(x)
    together.apply_update()
    for head, codebook in enumerate(codebooks):
        alone = quantizer_at(codebook, decay=0.5)
        expected = alone(x[:, 2 * head : 2 * head + 2])
        alone.apply_update()
        assert torch.equal(found.codes[:, head], expected.codes)
        torch.testing.assert_close(together.codebook.centroids[head], alone.codebook.centroids)
        torch.testing.assert_close(together.codebook.counts[head], alone.codebook.counts)


def test_a_shared_codebook_learns_from_all_heads() -> None:
    codebook, x = normal(6, 2, seed=1), normal(80, 6)
    together, alone = quantizer_at(codebook, heads=3), quantizer_at(codebook)
    assert torch.equal(together(x).codes, alone(x.view(80, 3, 2)).codes)
    assert_same(together.state_dict(), alone.state_dict())


@pytest.mark.parametrize("update", ["ema", "gradient"])
def test_forward_records_and_the_next_step_applies(update: str) -> None:
    x = normal(60, 4)
    quantizers = [
        quantizer_at(normal(8, 4, seed=1), torch.zeros(8), update=update) for _ in range(5)
    ]
    for quantizer in quantizers:
        before = quantizer.codebook.centroids.clone()
        quantizer(x)
        assert torch.equal(quantizer.codebook.centroids, before)
        assert (quantizer.codebook.counts == 0).all()
        assert int(quantizer.codebook.n_iter) == 0
    by_forward, by_eval, by_update, by_state, untouched = quantizers
    by_forward(x)
    by_eval.eval()
    by_update.apply_update()
    by_state.state_dict()
    for quantizer in quantizers[:4]:
        assert_same(state_of(quantizer.codebook), state_of(by_eval.codebook))
    assert int(by_eval.codebook.n_iter) == 1
    assert by_eval.codebook.counts.sum() > 0
    moved = not torch.equal(by_eval.codebook.centroids, untouched.codebook.centroids)
    assert moved or update == "gradient"
    by_update.apply_update()
    assert_same(state_of(by_update.codebook), state_of(by_eval.codebook))


def test_a_frozen_codebook_never_changes() -> None:
    quantizer = quantizer_at(normal(8, 4, seed=1), torch.zeros(8), update="frozen")
    before = state_of(quantizer)
    for seed in range(3):
        quantizer(normal(60, 4, seed=seed).requires_grad_()).loss.backward()
    quantizer.apply_update()
    assert_same(state_of(quantizer), before)
    assert not list(quantizer.parameters())


def test_evaluation_learns_nothing() -> None:
    quantizer = trained(normal(60, 4)).eval()
    before = state_of(quantizer)
    quantizer(normal(60, 4, seed=1) + 9)
    quantizer.train().apply_update()
    assert_same(state_of(quantizer), before)


@pytest.mark.parametrize("update", ["ema", "gradient"])
def test_the_first_batch_in_training_starts_the_codebook(update: str) -> None:
    x = blobs(300, 3)
    torch.manual_seed(0)
    quantizer = VectorQuantizer(6, 3, update=update)
    found = quantizer(x)
    expected, counts = learning.start(
        x[None], torch.ones(1, 300), 6, metric="euclidean", generator=seeded()
    )
    assert torch.equal(quantizer.codebook.centroids, expected[0])
    torch.testing.assert_close(quantizer.codebook.counts, counts[0])
    assert counts.sum() == 300
    torch.manual_seed(0)
    by_decay = VectorQuantizer(6, 3, update=update, decay=0.9)
    by_decay(x)
    torch.testing.assert_close(by_decay.codebook.counts * (1 - 0.9), counts[0])
    assert (found.quantized - x).square().mean() < 0.05 * x.var(dim=0).mean()


def test_later_batches_of_the_start_count_as_the_first_does() -> None:
    middles = torch.tensor([[0.0, 0.0], [50.0, 0.0], [0.0, 50.0]])
    batches = [middle + normal(40, 2, seed=i) for i, middle in enumerate(middles)]
    torch.manual_seed(0)
    once = VectorQuantizer(3, 2, revive_below=0, decay=0.99)
    thrice = VectorQuantizer(3, 2, revive_below=0, decay=0.99, init_batches=3)
    for x in batches:
        once(x)
        thrice(x)
    away = brute_force(middles, thrice.codebook.centroids).min(dim=-1).values
    assert (away < 1).all()
    torch.testing.assert_close(
        thrice.codebook.counts.sum(), torch.tensor(40 / 0.01, dtype=torch.float64)
    )
    assert (brute_force(middles, once.codebook.centroids).min(dim=-1).values > 1).any()
    before = thrice.codebook.centroids.clone()
    thrice(batches[0])
    thrice.apply_update()
    assert brute_force(before, thrice.codebook.centroids).diagonal().max() < 1, "started once"


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_batches_smaller_than_the_codebook_start_it_together(metric: str) -> None:
    quantizer = VectorQuantizer(8, 4, metric=metric)
    x = normal(10, 4)
    found = quantizer(x[:3])
    rows = torch.nn.functional.normalize(x, dim=-1) if metric == "cosine" else x
    torch.testing.assert_close(found.quantized, rows[:3])
    quantizer(x[3:6])
    assert len(quantizer.codebook.centroids.unique(dim=0)) >= 6
    quantizer(x[6:])
    assert len(quantizer.codebook.centroids.unique(dim=0)) == 8
    assert (quantizer.codebook.counts > 0).all()


def test_codes_that_start_as_duplicates_are_revived() -> None:
    few = normal(4, 3).repeat(10, 1)
    quantizer = VectorQuantizer(8, 3, decay=0.5)
    quantizer(few)
    assert len(quantizer.codebook.centroids.unique(dim=0)) == 4
    x = blobs(200, 3)
    for _ in range(20):
        quantizer(x)
    assert len(quantizer.eval()(x).codes.unique()) == 8


@pytest.mark.parametrize("update", ["ema", "gradient"])
@pytest.mark.parametrize("revive_below", [None, 1.0, 0])
def test_a_collapsed_codebook_recovers_unless_told_not_to(
    update: str, revive_below: float | None
) -> None:
    codebook = normal(16, 3, seed=1) + (300 if update == "ema" else 20)
    quantizer = quantizer_at(
        codebook, torch.zeros(16), update=update, decay=0.8, revive_below=revive_below
    )
    x = blobs(500, 3)
    assert len(quantizer(x).codes.unique()) <= 4
    if update == "ema":
        for _ in range(12):
            quantizer(x)
    else:
        optimizer = torch.optim.Adam(quantizer.parameters(), 0.1)
        for _ in range(200):
            optimizer.zero_grad()
            quantizer(x).loss.backward()
            optimizer.step()
    used = len(quantizer.eval()(x).codes.unique())
    assert (used >= 11) == (revive_below != 0)
    assert quantizer.codebook.counts.isfinite().all()
    assert quantizer.codebook.centroids.isfinite().all()


def test_codes_that_an_encoder_has_left_behind_come_back() -> None:
    torch.manual_seed(0)
    quantizer = VectorQuantizer(16, 3, decay=0.8)
    lost = VectorQuantizer(16, 3, decay=0.8, revive_below=0)
    for step in range(60):
        x = blobs(300, 3, seed=5) + 20 * min(step, 20)
        used, used_without = (len(q(x).codes.unique()) for q in (quantizer, lost))
    assert used >= 12
    assert used_without < 6


def drawn_from(x: Tensor, valid: Tensor | None = None, step: int = 0) -> samples.Samples:
    """Samples for 6 codes of rows (P, n, d), each of which has its own number for a code."""
    return samples.draw(
        x,
        valid,
        torch.arange(x.shape[1]).expand(x.shape[:2]),
        most=6,
        step=torch.full((len(x),), step),
        numbering=samples.Numbering(0, 0),
        metric="euclidean",
        dtype=x.dtype,
    )


def test_revived_codes_are_samples_that_live_for_some_batches() -> None:
    x, centroids = normal(1, 20, 3), normal(1, 6, 3, seed=1)
    valid = torch.arange(20).unsqueeze(0) < 2
    counts = torch.tensor([[4.0, 8.0, 0.0, 0.0, 0.0, 3.0]], dtype=torch.float64)
    dead = counts == 0
    least = torch.full((1, 1), 0.1, dtype=torch.float64)
    found, shares, leaders = revival.revive(drawn_from(x), centroids, counts, least, decay=0.9)
    assert torch.equal(leaders > 0, dead)
    assert torch.equal(found[~dead], centroids[~dead])
    assert torch.equal(found[dead], x[0, leaders[dead] - 1])
    assert len(found[dead].unique(dim=0)) == 3
    torch.testing.assert_close(shares.sum(), counts.sum())
    scale = shares[0, 0] / counts[0, 0]
    torch.testing.assert_close(shares[~dead], counts[~dead] * scale)
    assert (shares[dead] * 0.9**8 >= least * scale * (1 - 1e-12)).all()
    assert (shares[dead] * 0.9**9 < least * scale).all()
    _, shares, _ = revival.revive(drawn_from(x), centroids, counts, least, decay=0.1)
    assert (shares * 2).tolist() == [[4, 8, 5, 5, 5, 3]], "at most an even share"
    found, _, leaders = revival.revive(drawn_from(x, valid), centroids, counts, least, decay=0.1)
    assert int((leaders > 0).sum()) == 2, "as many as samples that count"
    assert sorted(leaders[leaders > 0].tolist()) == [1, 2]


def test_revived_codes_live_until_four_samples_would_have_come() -> None:
    few, many = torch.tensor([[1024.0]]), torch.tensor([[4096.0], [2.0]])
    assert revival.batches_to_live(few, 1024).tolist() == [[8]], "4 would have come in 4 batches"
    assert revival.batches_to_live(many, 65_536).tolist() == [[64], [131_072]]


def test_a_step_with_few_samples_for_its_codes_gives_revived_ones_a_longer_life() -> None:
    torch.manual_seed(0)
    quantizer = VectorQuantizer(64, 2, decay=0.99)
    places = torch.rand(64, 2) * 100
    quantizer.codebook.set_centroids(places, torch.cat([torch.ones(63) * 100, torch.zeros(1)]))
    quantizer(places[:2])  # 4 samples for each code would come in 128 such batches
    assert (quantizer.leaders > 0).flatten().nonzero().tolist() == [[63]]
    counts = quantizer.next_counts.flatten()
    least = counts.mean() / 10
    assert counts[63] * 0.99**127 > least > counts[63] * 0.99**129


def test_samples_are_unlike_and_other_ones_in_every_step() -> None:
    x = normal(2, 30, 3)
    steps = [drawn_from(x, step=step) for step in range(50)]
    assert all(found.known.all() for found in steps)
    assert all(torch.equal(found.rows, gather_rows(x, found.codes)) for found in steps)
    codes = torch.stack([found.codes for found in steps])
    assert (codes.sort(dim=-1).values.diff(dim=-1) > 0).all()
    assert len(codes.view(100, 6).unique(dim=0)) == 100, "of every step and problem"
    often = torch.bincount(codes.flatten(), minlength=30)
    assert often.min() > 5, "every row is drawn now and then"
    assert often.max() < 45
    twice = drawn_from(normal(2, 3, 3).repeat(1, 2, 1))
    assert twice.known.sum(dim=-1).tolist() == [3, 3], "of equal rows one is a sample"
    known = twice.codes.where(twice.known, -1)
    assert all(len({code % 3 for code in row if code >= 0}) == 3 for row in known.tolist())
    hidden = drawn_from(x, torch.arange(30).expand(2, -1) < 4)
    assert (hidden.codes[hidden.known] < 4).all()
    assert hidden.known.sum() == 8
    assert drawn_from(x[:, :0]).rows.shape == (2, 0, 3)


def leaders_of(x: Tensor, revived: Tensor, centroids: Tensor) -> Tensor:
    """1 + the nearest code of each sample of a code that is revived."""
    return (brute_force(x, centroids).argmin(dim=-1) + 1) * revived


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_a_code_moves_by_half_the_spread_of_the_codebook_at_most(metric: str) -> None:
    x, centroids = normal(2, 6, 3) + 10, normal(2, 6, 3, seed=1)
    if metric == "cosine":
        x = torch.nn.functional.normalize(x, dim=-1)
        away = torch.tensor([1.0, -1.0, 0.0])
        centroids = torch.nn.functional.normalize(centroids * 0.1 + away, dim=-1)
    revived = torch.tensor([[True, False, True, False, False, False], [False] * 5 + [True]])
    leaders = leaders_of(x, revived, centroids)
    found = revival.follow(x, leaders, centroids, metric=metric)
    assert torch.equal(found[~revived], centroids[~revived])
    for p in range(2):
        spread = (centroids[p] - centroids[p].mean(dim=0)).square().sum(dim=-1).mean().sqrt()
        codes = centroids[p][brute_force(x[p], centroids[p]).argmin(dim=-1)]
        moved = (found[p] - codes)[revived[p]].norm(dim=-1)
        assert (moved <= spread / 2 * 1.0001).all()
        assert (moved > spread / 4).all()
        nearer = (found[p] - x[p])[revived[p]].norm(dim=-1)
        assert (nearer < (codes - x[p])[revived[p]].norm(dim=-1)).all()
    if metric == "cosine":
        torch.testing.assert_close(found.norm(dim=-1), torch.ones(2, 6))


def test_a_code_reaches_what_is_near_and_never_stands_still() -> None:
    x, centroids = normal(1, 6, 3), normal(1, 6, 3, seed=1)
    revived = torch.tensor([[True, False, False, True, False, False]])

    def follow(x: Tensor, centroids: Tensor) -> Tensor:
        return revival.follow(x, leaders_of(x, revived, centroids), centroids, metric="euclidean")

    found = follow(x, 20 * centroids)
    assert not torch.equal(found[revived], x[revived])
    near = 20 * centroids + x / 10
    found = follow(near, 20 * centroids)
    assert torch.equal(found[revived], near[revived])
    found = follow(x, centroids / 1e6)
    assert (found[revived].norm(dim=-1) > x[revived].norm(dim=-1) / 33).all()
    found = follow(x, 0 * centroids + 7)
    assert torch.equal(found[revived], x[revived]), "codes that all lie at one place"
    assert torch.equal(found[~revived], 0 * centroids[~revived] + 7)
    none = torch.zeros(1, 6, dtype=torch.int64)
    assert torch.equal(revival.follow(x, none, centroids, metric="euclidean"), centroids)


def test_a_memory_grows_by_a_twentieth_of_the_samples() -> None:
    counts = torch.full((2, 4), 10.0, dtype=torch.float64)
    batch = torch.tensor([[40.0, 0, 0, 0], [1, 2, 3, 4]], dtype=torch.float64)
    decay = learning.growing_decay(counts, batch)
    total = (decay * counts + batch).sum(dim=-1)
    torch.testing.assert_close(decay.flatten(), torch.tensor([0.05, 0.7625]).double())
    torch.testing.assert_close(total, torch.tensor([42.0, 40.5]).double())
    # The second remembers 4 samples for each code at least: 1 - 10 / 16.
    assert (learning.growing_decay(0 * counts, batch) == torch.tensor([[0.0], [0.375]])).all()
    assert (learning.growing_decay(1e6 * counts, 10 * batch) == 0.99).all()
    few = learning.growing_decay(counts, batch / 100)
    torch.testing.assert_close(few.flatten(), torch.tensor([0.99, 1 - 0.1 / 16]).double())


@pytest.mark.parametrize("update", ["ema", "gradient"])
def test_codes_that_die_early_are_seen_early(update: str) -> None:
    torch.manual_seed(0)
    quantizer = VectorQuantizer(16, 3, update=update)
    quantizer(blobs(300, 3, seed=5) * 3)
    for _ in range(20):
        found = quantizer(blobs(300, 3, seed=5) / 3)
    assert len(found.codes.unique()) == 16


def test_dead_codes_are_told_by_their_samples_of_a_batch() -> None:
    counts = torch.tensor([[0.0, 9.9, 10.1, 1000.0]])
    for threshold, expected in ((1.0, 2), (0.0, 0), (0.5, 1), (1000.0, 4), (None, 3)):
        dead = counts < revival.least_counts(counts, decay=0.9, threshold=threshold)
        assert dead.tolist() == [[True] * expected + [False] * (4 - expected)]
    nothing = torch.zeros(1, 4)
    assert not (nothing < revival.least_counts(nothing, decay=0.9, threshold=None)).any()


@pytest.mark.parametrize("update", ["ema", "gradient"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("started", [True, False])
def test_a_batch_that_is_not_finite_is_named_and_teaches_nothing(
    update: str, bad: float, started: bool
) -> None:
    quantizer = VectorQuantizer(8, 4, update=update)
    x = normal(50, 4)
    if started:
        quantizer(x)
        quantizer.apply_update()
    before = state_of(quantizer)
    x[17, 2] = bad
    with pytest.raises(ValueError, match=r"x should be finite; 1 row holds NaN or inf.* row 17"):
        quantizer(x)
    quantizer.apply_update()
    assert_same(state_of(quantizer), before)


@pytest.mark.parametrize("estimator", ["straight-through", "rotation", "gumbel"])
@pytest.mark.parametrize("options", [{}, {"metric": "cosine"}, {"update": "gradient"}])
@pytest.mark.parametrize("started", [True, False])
def test_a_batch_that_is_not_finite_can_be_skipped(
    estimator: str, options: dict[str, Any], started: bool
) -> None:
    quantizer = VectorQuantizer(8, 4, nonfinite="skip", estimator=estimator, **options)
    x = normal(50, 4)
    if started:
        quantizer(x)
        quantizer.apply_update()
    before = state_of(quantizer)
    x[17, 2], x[3, 0] = float("nan"), float("-inf")
    x.requires_grad_()
    found = quantizer(x)
    (found.loss + found.quantized.sum()).backward()
    quantizer.apply_update()
    assert_same(state_of(quantizer), {**before, "skipped": torch.tensor(1)})
    assert found.loss.isfinite()
    assert found.quantized.isfinite().all()
    assert ((found.codes == -1).nonzero().flatten() == torch.tensor([3, 17])).all()
    for tensor in (x, *quantizer.parameters()):
        assert tensor.grad is not None
        assert tensor.grad.isfinite().all()
    quantizer(normal(50, 4, seed=1))
    assert quantizer.codebook.initialized
    assert int(quantizer.skipped) == 1


def test_a_first_batch_that_is_hidden_starts_no_codebook() -> None:
    quantizer = VectorQuantizer(4, 3)
    x = normal(20, 3)
    assert quantizer(x, torch.zeros(20, dtype=torch.bool)).loss == 0
    with pytest.raises(NotInitializedError):
        quantizer.encode(x)
    quantizer(x)
    assert (quantizer.eval()(x).codes >= 0).all()
