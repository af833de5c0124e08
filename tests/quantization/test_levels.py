"""Promises of levels of one's own: sizes, projections, the cosine metric, dropout of samples."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from kmeans_module import NotInitializedError, ResidualQuantizer, VectorQuantizer
from kmeans_module.quantization.offline import fit_levels
from tests.conftest import blobs, seeded
from tests.quantization.helpers import normal, state_of

D = 8
SIZES = [32, 16, 5]
KINDS: dict[str, dict[str, Any]] = {
    "sizes": {"n_clusters": SIZES},
    "cosine": {"n_clusters": 16, "n_levels": 3, "metric": "cosine"},
    "projection": {"n_clusters": 16, "n_levels": 3, "projection": 4},
    "all": {"n_clusters": SIZES, "projection": 4, "metric": "cosine", "update": "gradient"},
}


def trained(channel_first: bool = False, **options: Any) -> ResidualQuantizer:
    torch.manual_seed(0)
    quantizer = ResidualQuantizer(n_features=D, channel_first=channel_first, **options)
    for step in range(3):
        x = normal(40, 5, D, seed=step)
        quantizer(x.movedim(-1, 1) if channel_first else x)
    return quantizer


@pytest.mark.parametrize("channel_first", [False, True])
@pytest.mark.parametrize("name", KINDS)
def test_every_door_agrees_on_the_codes_and_on_what_they_stand_for(
    name: str, channel_first: bool
) -> None:
    quantizer = trained(channel_first, **KINDS[name]).eval()
    x = normal(20, 5, D, seed=7)
    x = x.movedim(-1, 1) if channel_first else x
    found = quantizer(x)
    assert torch.equal(quantizer.encode(x), found.codes)
    torch.testing.assert_close(quantizer.decode(found.codes), found.quantized)
    for n in (1, 2):
        few = quantizer(x, n_levels=n)
        assert torch.equal(few.codes, found.codes[..., :n])
        assert torch.equal(quantizer.encode(x, n_levels=n), few.codes)
        torch.testing.assert_close(quantizer.decode(few.codes), few.quantized)
        torch.testing.assert_close(quantizer.decode(found.codes, n_levels=n), few.quantized)
    codes = found.codes.flatten(0, -2)
    for n in (3, 2):
        packed = quantizer.pack(codes[:, :n])
        assert torch.equal(quantizer.unpack(packed, n_levels=n), codes[:, :n])
    queries = normal(6, D, seed=8)
    decoded = quantizer.decode(codes)
    decoded = decoded.flatten(1).view(-1, D)
    expected = (queries.unsqueeze(1) - decoded).square().sum(dim=-1)
    torch.testing.assert_close(quantizer.distances(queries, codes), expected, rtol=1e-4, atol=1e-4)
    tables = quantizer.tables(queries)
    products = sum(tables[:, level, codes[:, level]] for level in range(3))
    torch.testing.assert_close(products, queries @ decoded.T, rtol=1e-4, atol=1e-4)
    assert tables.shape == (6, 3, max(quantizer.sizes))
    few, k = quantizer.tables(queries, n_levels=2), max(quantizer.sizes[:2])
    torch.testing.assert_close(few, tables[:, :2, :k], equal_nan=True)


def test_levels_that_were_never_used_are_not_asked_for() -> None:
    torch.manual_seed(0)
    quantizer = ResidualQuantizer(8, D, 3)
    for step in range(2):
        quantizer(normal(60, D, seed=step), n_levels=2)
    quantizer.eval()
    x = normal(20, D)
    codes = quantizer.encode(x, n_levels=2)
    assert quantizer.distances(x, codes).shape == (20, 20)
    assert quantizer.tables(x, n_levels=2).shape == (20, 2, 8)
    for door in (quantizer.tables, quantizer.encode, lambda _: quantizer.to_faiss()):
        with pytest.raises(NotInitializedError):
            door(x)
    pytest.importorskip("faiss")
    index = quantizer.to_faiss(n_levels=2)
    theirs = torch.from_numpy(index.rq.compute_codes(x.numpy()))
    expected = quantizer.encode(x, n_levels=2, beam_size=5)
    assert torch.equal(quantizer.unpack(theirs, n_levels=2), expected)


def test_levels_have_the_sizes_that_they_are_given() -> None:
    quantizer = ResidualQuantizer(SIZES, D)
    assert quantizer.n_clusters == quantizer.sizes == tuple(SIZES)
    assert [level.n_clusters for level in quantizer.levels] == SIZES
    assert ResidualQuantizer(16, D, 3).n_clusters == 16
    assert ResidualQuantizer((16, 16), D, 2).n_clusters == 16
    books = quantizer.codebooks
    assert books.shape == (3, 32, D)
    assert books[2, :5].isfinite().all()
    assert books[2, 5:].isnan().all()
    packed = quantizer.pack(torch.tensor([[31, 15, 4]]))
    assert packed.tolist() == [[0b11111111, 0b1001]]  # 5, 4 and 3 bits, the lowest first
    quantizer(normal(40, D))
    for codes in ([[31, 16, 0]], [[0, 0, 5]]):
        for door in (quantizer.pack, quantizer.eval().decode):
            with pytest.raises(ValueError, match="codes should be from 0 to"):
                door(torch.tensor(codes))
    with pytest.raises(ValueError, match="codes should be from 0 to 4"):
        quantizer.unpack(torch.tensor([[0xFF, 0xFF]], dtype=torch.uint8))


@pytest.mark.parametrize("sizes", [(16, 8), torch.tensor([16, 8]), torch.tensor([16, 8]).numpy()])
def test_sizes_may_be_an_array(sizes: Any) -> None:
    assert ResidualQuantizer(sizes, 4).sizes == (16, 8)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"n_clusters": [4, 2], "n_levels": 3}, ValueError, "n_clusters should be 3 sizes.*got 2"),
        ({"n_clusters": []}, ValueError, "n_clusters should be 1 or more sizes; got 0"),
        ({"n_clusters": 4}, TypeError, "n_levels should be an integer.*None"),
        ({"n_clusters": {4, 5}}, TypeError, "n_clusters should be an integer; got"),
        ({"n_clusters": torch.ones(1, 1).int()}, TypeError, "n_clusters should be an integer; got"),
        ({"n_clusters": [4, 0]}, ValueError, "n_clusters should be >= 1; got 0"),
        ({"n_clusters": "44"}, TypeError, "n_levels|n_clusters"),
        ({"n_clusters": [4, 2], "shared_codebook": True}, ValueError, "share a codebook"),
        (
            {"n_clusters": 4, "n_levels": 2, "shared_codebook": True, "projection": 2},
            ValueError,
            "share a codebook have one size and no projection",
        ),
        ({"n_clusters": 4, "n_levels": 2, "projection": 0}, ValueError, "projection should be >="),
        ({"n_clusters": 4, "n_levels": 2, "dropout": "all"}, ValueError, "dropout should be"),
        ({"n_clusters": 4, "n_levels": 2, "dropout": 0.5}, ValueError, "dropout should be"),
        ({"n_clusters": 4, "n_levels": 2, "metric": "l1"}, ValueError, "metric should be one of"),
    ],
)
def test_levels_that_cannot_be_are_refused(
    options: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        ResidualQuantizer(n_features=D, **options)


@pytest.mark.parametrize("name", ["cosine", "projection", "all"])
def test_what_levels_cannot_do_is_refused(name: str) -> None:
    quantizer = trained(**KINDS[name]).eval()
    for door in (quantizer, quantizer.encode):
        with pytest.raises(ValueError, match="beam_size should be 1 where levels have a proj"):
            door(normal(5, D), beam_size=2)
    with pytest.raises(ValueError, match="to_faiss should be of levels without a projection"):
        quantizer.to_faiss()
    with pytest.raises(NotImplementedError, match="in training only"):
        quantizer.fit(normal(99, D))


def test_levels_of_other_sizes_are_fitted_and_searched_by_beams() -> None:
    x = blobs(600, D)
    quantizer = ResidualQuantizer(SIZES, D)
    quantizer.fit(x, seed=1)
    left = [
        (quantizer.decode(quantizer.encode(x, beam_size=b)) - x).square().mean() for b in (1, 5)
    ]
    smaller, larger = ResidualQuantizer(5, D, 3), ResidualQuantizer(32, D, 3)
    for other in (smaller, larger):
        other.fit(x, seed=1)
        left.append((other.decode(other.encode(x, beam_size=5)) - x).square().mean())
    assert left[3] < left[1] < left[0]
    assert left[1] < left[2]
    everything = torch.cartesian_prod(*(torch.arange(k) for k in SIZES))
    best = quantizer.distances(x[:50], everything).argmin(dim=-1)
    exhaustive = quantizer.encode(x[:50], beam_size=len(everything))
    torch.testing.assert_close(
        quantizer.decode(exhaustive), quantizer.decode(everything[best]), rtol=1e-3, atol=1e-3
    )
    found = quantizer.eval()(x, beam_size=5)
    assert torch.equal(found.codes, quantizer.encode(x, beam_size=5))


def test_a_list_of_equal_sizes_is_a_number_of_levels() -> None:
    x, states = blobs(300, D), []
    for sizes, levels in ((8, 3), ([8, 8, 8], None)):
        quantizer = ResidualQuantizer(sizes, D, levels)
        quantizer.fit(x, seed=1)
        states.append(quantizer.codebooks)
    assert torch.equal(*states)
    books, codes = fit_levels(x, SIZES, beam_size=3, max_iter=3, refinements=1, generator=seeded())
    assert [len(book) for book in books] == SIZES
    assert (codes.amax(dim=0) < torch.tensor(SIZES)).all()


def test_faiss_finds_the_codes_of_levels_of_other_sizes() -> None:
    pytest.importorskip("faiss")
    x = blobs(400, D)
    quantizer = ResidualQuantizer([32, 16, 4], D, beam_size=3)
    quantizer.fit(x, seed=1)
    index = quantizer.to_faiss()
    codes = quantizer.encode(x, beam_size=3)
    theirs = torch.from_numpy(index.rq.compute_codes(x.numpy()))
    assert torch.equal(quantizer.unpack(theirs), codes)
    decoded = torch.from_numpy(index.rq.decode(quantizer.pack(codes).numpy()))
    torch.testing.assert_close(decoded, quantizer.decode(codes))
    with pytest.raises(ValueError, match="n_clusters to be a power of 2; got 5"):
        trained(n_clusters=SIZES).to_faiss()


# projections


@pytest.mark.parametrize("mask", [None, torch.arange(60) % 3 > 0])
@pytest.mark.parametrize("options", [{}, {"metric": "cosine"}, {"heads": 2}, {"nonfinite": "skip"}])
def test_a_projection_is_two_linear_maps_around_a_quantizer(
    options: dict[str, Any], mask: Tensor | None
) -> None:
    torch.manual_seed(0)
    inside = VectorQuantizer(8, D, projection=4, **options)
    before, behind = nn.Linear(D, 4), nn.Linear(4, D)
    before.load_state_dict(inside.projection.project_in.state_dict())
    behind.load_state_dict(inside.projection.project_out.state_dict())
    around = VectorQuantizer(8, 4, **options)
    for step in range(3):
        x = normal(60, D, seed=step)
        y = x.clone().requires_grad_()
        x.requires_grad_()
        found, expected = inside(x, mask), around(before(y), mask)
        quantized = behind(expected.quantized)
        if mask is not None:
            quantized = quantized.where(mask.unsqueeze(-1), 0.0)
        assert torch.equal(found.codes, expected.codes)
        torch.testing.assert_close(found.quantized, quantized)
        torch.testing.assert_close(found.loss, expected.loss)
        for output, loss in ((found.quantized, found.loss), (quantized, expected.loss)):
            (output.square().sum() + loss).backward()
        torch.testing.assert_close(x.grad, y.grad)
    for ours, theirs in (
        (inside.projection.project_in, before),
        (inside.projection.project_out, behind),
    ):
        torch.testing.assert_close(ours.weight.grad, theirs.weight.grad)
        torch.testing.assert_close(ours.bias.grad, theirs.bias.grad)
    inside.eval()
    codes = inside.encode(normal(9, D))
    torch.testing.assert_close(inside.decode(codes), inside(normal(9, D)).quantized)
    none = torch.full_like(codes, -1)
    assert (inside.decode(none) == 0).all()


def test_a_row_that_is_not_finite_leaves_the_maps_alone() -> None:
    for options, value in (({"nonfinite": "skip"}, torch.nan), ({}, torch.inf)):
        quantizer = VectorQuantizer(8, D, projection=4, **options)
        quantizer(normal(60, D))
        x, mask = normal(60, D), torch.ones(60, dtype=torch.bool)
        x[3, 2] = value
        mask[3] = "nonfinite" in options
        found = quantizer(x, mask)
        assert found.codes[3] == -1
        assert (found.quantized[3] == 0).all()
        (found.quantized.sum() + found.loss).backward()
        assert all(p.grad.isfinite().all() for p in quantizer.parameters())
    with pytest.raises(ValueError, match="x should be finite; 1 row"):
        quantizer(x)


@pytest.mark.parametrize("cast", [torch.bfloat16, torch.float64])
def test_projections_follow_a_cast_and_autocast(cast: torch.dtype) -> None:
    quantizer = trained(**KINDS["all"]).to(cast)
    found = quantizer(normal(20, D).to(cast))
    assert found.quantized.dtype == cast
    found.quantized.sum().backward()
    other = trained(**KINDS["projection"])
    with torch.autocast("cpu", torch.bfloat16):
        found = other(normal(20, D))
    assert found.quantized.dtype == torch.float32
    assert other(normal(20, D).bfloat16()).quantized.dtype == torch.bfloat16
    state = state_of(other)
    other.reset_parameters()
    key = "levels.0.projection.project_in.weight"
    assert not torch.equal(other.state_dict()[key], state[key])


# cosine


def test_levels_compare_angles_of_what_is_left() -> None:
    for shared in (False, True):
        quantizer = trained(n_clusters=16, n_levels=3, metric="cosine", shared_codebook=shared)
        quantizer.eval()
        left = x = normal(50, D, seed=4)
        codes = quantizer.encode(x)
        found = quantizer(x)
        assert torch.equal(found.codes, codes)
        torch.testing.assert_close(found.loss, 0.25 * 2 / D * found.distances.mean(0).sum())
        for level in range(3):
            layer = quantizer.level(level).codebook
            distances = layer.transform(left).gather(1, codes[:, level, None]).squeeze(1)
            torch.testing.assert_close(found.distances[:, level], distances)
            torch.testing.assert_close(layer.centroids.norm(dim=-1), torch.ones(16))
            assert torch.equal(layer(left), codes[:, level])
            left = left - layer.centroids[codes[:, level]]


# dropout


@pytest.mark.parametrize("channel_first", [False, True])
@pytest.mark.parametrize("shared", [False, True])
def test_dropout_of_samples_draws_levels_for_each_entry_of_the_first_dimension(
    shared: bool, channel_first: bool
) -> None:
    torch.manual_seed(0)
    quantizer = ResidualQuantizer(
        8, D, 4, dropout="sample", shared_codebook=shared, channel_first=channel_first
    )
    x = normal(200, 3, 2, D)
    found = quantizer(x.movedim(-1, 1) if channel_first else x)
    used = (found.codes >= 0).sum(dim=-1)
    assert (used == used[:, :1, :1]).all()
    assert torch.bincount(used[:, 0, 0], minlength=5)[1:].min() > 30
    assert (found.codes[..., 0] >= 0).all()
    parts = [quantizer.level(n).decode(found.codes[..., n]) for n in range(4)]
    quantized = found.quantized.movedim(1, -1) if channel_first else found.quantized
    torch.testing.assert_close(quantized, torch.stack(parts).sum(dim=0))
    few = quantizer(x.movedim(-1, 1) if channel_first else x, n_levels=2)
    assert few.codes.shape[-1] == 2
    assert set((few.codes >= 0).sum(dim=-1).unique().tolist()) == {1, 2}
    assert quantizer(normal(2, D, 3) if channel_first else normal(D)).loss.isfinite()
    quantizer.eval()
    assert (quantizer(x.movedim(-1, 1) if channel_first else x).codes >= 0).all()


def test_the_loss_of_dropout_is_the_mean_over_all_samples_as_in_dac() -> None:
    quantizer = ResidualQuantizer(8, D, 3, dropout="sample", commitment=1.0)
    x, mask, weight = normal(90, D), normal(90) > -1, normal(90, seed=1).abs()
    quantizer(x)
    quantizer.apply_update()
    found = quantizer(x, mask, weight)
    total, left = torch.zeros(90), x
    for level in range(3):
        codes = found.codes[:, level]
        code = quantizer.level(level).codebook.centroids[codes.clamp(min=0)]
        total += (left - code).square().mean(dim=-1) * (codes >= 0)
        left = left - code
    counted = weight * mask
    torch.testing.assert_close(found.loss, (total * counted).sum() / counted.sum())


def test_dropout_of_batches_is_what_true_says() -> None:
    found = []
    for dropout in (True, "batch"):
        torch.manual_seed(0)
        quantizer = ResidualQuantizer(8, D, 3, dropout=dropout)
        found.append([quantizer(normal(30, D, seed=step)).codes for step in range(5)])
        assert quantizer.dropout == "batch"
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)
    assert ResidualQuantizer(8, D, 3).dropout is None


@pytest.mark.parametrize("dropout", [False, "sample"])
@pytest.mark.parametrize("shared", [False, True])
def test_the_first_levels_learn_over_ranks_as_they_do_alone(
    shared: bool, dropout: bool | str
) -> None:
    found = []
    for grouped in (False, True):
        if grouped:
            dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        try:
            torch.manual_seed(0)
            quantizer = ResidualQuantizer(8, D, 3, shared_codebook=shared, dropout=dropout)
            for step in range(4):
                torch.manual_seed(step)
                output = quantizer(normal(50, D, seed=step), n_levels=2)
            assert output.codes.shape == (50, 2)
            found.append({"loss": output.loss, **quantizer.state_dict()})
        finally:
            if grouped:
                dist.destroy_process_group()
    for key, tensor in found[0].items():
        if "levels.2" not in key:
            torch.testing.assert_close(tensor, found[1][key])
