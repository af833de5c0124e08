"""Promises of docs/migration.md: where a row says that both give the same, they do."""

from __future__ import annotations

import inspect
import re
import tempfile
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from io import StringIO
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from scipy.sparse import csr_array
from sklearn.base import clone
from sklearn.cluster import KMeans as SklearnKMeans
from sklearn.cluster import MiniBatchKMeans as SklearnMiniBatchKMeans
from torch import Tensor, nn

from kmeans_module import (
    KMeans,
    KMeansLayer,
    MiniBatchKMeans,
    NotInitializedError,
    ProductQuantizer,
    ResidualQuantizer,
    VectorQuantizer,
)
from kmeans_module.quantization.revival import least_counts
from tests.conftest import blobs, brute_force, layer_at, seeded, weights_for
from tests.documents import ROOT, blocks_of
from tests.estimators.helpers import OTHER_BATCHES, OTHER_DRAWS
from tests.processes import run_ranks
from tests.quantization.helpers import normal

DOCUMENT = "docs/migration.md"
VQ, RVQ = "VectorQuantize", "ResidualVQ"
KMEANS, PQ, RQ = "faiss.Kmeans", "faiss.ProductQuantizer", "faiss.ResidualQuantizer"
MINI, FULL = "MiniBatchKMeans", "KMeans"

Check = Callable[[], None]
CHECKS: dict[str, Check] = {}
close = torch.testing.assert_close


def row(section: str, name: str) -> Callable[[Check], Check]:
    """The check of a row, by the text of its first cell."""

    def register(check: Check) -> Check:
        CHECKS[f"{section}: {name}"] = check
        return check

    return register


def rows_of_the_document() -> dict[str, str]:
    """What each row of each table has in its column for ours."""
    found, section = {}, ""
    for line in (ROOT / DOCUMENT).read_text().splitlines():
        if line.startswith("### "):
            section = line[4:]
        elif line.startswith("| ") and not line.startswith("| theirs"):
            theirs, ours = (cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:3])
            found[f"{section}: {theirs.replace('`', '')}"] = ours
    return found


@pytest.mark.filterwarnings(
    "ignore:The '.*_dataloader' does not have many workers",
    "ignore:You defined a `validation_step` but have no `val_dataloader`",
)
@pytest.mark.parametrize("name", CHECKS)
def test_what_the_row_says_is_so(name: str) -> None:
    CHECKS[name]()


def test_each_row_with_a_counterpart_is_checked() -> None:
    rows = rows_of_the_document()
    assert set(CHECKS) == {name for name, ours in rows.items() if ours != "none"}


def test_each_argument_of_theirs_has_a_row() -> None:
    faiss = pytest.importorskip("faiss")
    library = pytest.importorskip("vector_quantize_pytorch")
    fields = {name for name in vars(faiss.ClusteringParameters) if not name.startswith("_")}
    assert {"niter", "spherical"} <= fields
    arguments = {
        VQ: [library.VectorQuantize, library.VectorQuantize.forward],
        RVQ: [library.ResidualVQ, library.ResidualVQ.forward],
        KMEANS: [faiss.Kmeans.train],
        MINI: [SklearnMiniBatchKMeans],
        FULL: [SklearnKMeans],
    }
    for section, functions in arguments.items():
        words = set()
        for name in rows_of_the_document():
            if name.startswith(f"{section}: "):
                words |= set(re.findall(r"\w+", name))
        own = {name for function in functions for name in inspect.signature(function).parameters}
        own |= fields - {"this", "thisown"} if section == KMEANS else set()
        assert own - words <= {"self", "x", "vq_kwargs"}


@pytest.mark.parametrize(
    "code",
    [code for _, code in blocks_of(DOCUMENT)[:4]],  # test_programs.py runs the others
    ids=["vector-quantize", "faiss", "sklearn", "sklearn by steps"],
)
def test_every_code_block_runs(code: str, capsys: pytest.CaptureFixture[str]) -> None:
    for library in ("vector_quantize_pytorch", "faiss"):
        if f"from {library} import" in code:
            pytest.importorskip(library)
    if OTHER_DRAWS and "cluster.MiniBatchKMeans" in code:
        pytest.skip(OTHER_BATCHES)
    exec(compile(code, DOCUMENT, "exec"), {})
    assert "False" not in capsys.readouterr().out


# vector-quantize-pytorch


def their_quantizer(*sizes: int, **options: Any) -> Any:
    """A VectorQuantize of dim 4 and 8 codes, whose codes are spread out."""
    library = pytest.importorskip("vector_quantize_pytorch")
    dim, k = sizes or (4, 8)
    theirs = library.VectorQuantize(dim, k, rotation_trick=False, **options)
    spread_out(theirs)
    return theirs


def spread_out(theirs: Any, seed: int = 1) -> None:
    state = theirs._codebook
    codes = normal(*state.embed.shape, seed=seed)
    if state.use_cosine_sim:
        codes = F.normalize(codes, dim=-1)
    state.embed.data.copy_(codes)
    state.embed_avg.copy_(codes)


def brought_over(theirs: Any, **options: Any) -> VectorQuantizer:
    """Ours at the codebook and the counts of theirs, with the defaults of theirs."""
    state = theirs._codebook
    options = {"decay": state.decay, "commitment": 1.0, "revive_below": 0, **options}
    width = state.embed.shape[-1] * theirs.heads
    ours = VectorQuantizer(theirs.codebook_size, width, heads=theirs.heads, **options)
    copy_state(theirs, ours)
    return ours


def copy_state(theirs: Any, ours: VectorQuantizer) -> None:
    own, state = ours.codebook, theirs._codebook
    state_dict = {
        "centroids": state.embed.detach().reshape(own.centroids.shape),
        "counts": state.cluster_size.double().reshape(own.counts.shape) / (1 - ours.decay),
        "n_iter": own.n_iter,
        "initialized": torch.tensor(True),
    }
    own.load_state_dict(state_dict)


def with_gradient(
    module: nn.Module, x: Tensor, **arguments: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Quantized, codes, loss, and the gradient of x for a weighted sum and the loss."""
    x = x.clone().requires_grad_()
    quantized, codes, loss = module(x, **arguments)
    weight = normal(*quantized.shape, seed=99)
    ((quantized * weight).sum() + 10 * loss.sum()).backward()
    assert x.grad is not None
    return quantized, codes, loss.sum(), x.grad


def assert_one_pass_agrees(ours: nn.Module, theirs: Any, x: Tensor, **arguments: Any) -> None:
    found = with_gradient(ours, x, **arguments)
    expected = with_gradient(theirs, x, **arguments)
    assert torch.equal(found[1], expected[1])
    for own, other in zip(found, expected, strict=True):
        close(own, other)


def assert_codebooks_agree(ours: VectorQuantizer, theirs: Any) -> None:
    ours.apply_update()
    state, own = theirs._codebook, ours.codebook
    close(own.centroids, state.embed.reshape(own.centroids.shape))
    counts = state.cluster_size.reshape(own.counts.shape)
    close((own.counts * (1 - ours.decay)).float(), counts)


def assert_steps_agree(
    ours: VectorQuantizer, theirs: Any, shape: tuple[int, ...] = (3, 40, 4), n_steps: int = 3
) -> None:
    for seed in range(n_steps):
        assert_one_pass_agrees(ours, theirs, normal(*shape, seed=seed))
    assert_codebooks_agree(ours, theirs)


@row(VQ, "dim")
@row(VQ, "codebook_size")
def sizes() -> None:
    theirs = their_quantizer(6, 11)
    assert_steps_agree(brought_over(theirs), theirs, (3, 40, 6))
    x = normal(2, 3, 4, 6)
    found = brought_over(theirs)(x)
    assert torch.equal(found.codes.flatten(), theirs(x.view(1, -1, 6))[1].flatten())


@row(VQ, "codebook_dim")
def projections() -> None:
    for options, width in (({"codebook_dim": 3}, 3), ({"codebook_dim": 3, "heads": 2}, 6)):
        theirs = their_quantizer(4, 8, **options)
        ours = VectorQuantizer(
            8, 4, projection=width, heads=theirs.heads, decay=0.8, commitment=1.0, revive_below=0
        )
        copy_state(theirs, ours)
        for name in ("project_in", "project_out"):
            getattr(ours.projection, name).load_state_dict(getattr(theirs, name).state_dict())
        assert_steps_agree(ours, theirs)
    assert their_quantizer(4, 8, heads=2).project_in.out_features == 8
    assert not their_quantizer(4, 8, heads=2, codebook_dim=2).has_projections


@row(VQ, "return_loss_breakdown")
def breakdown() -> None:
    theirs = their_quantizer(ema_update=False, learnable_codebook=True)
    ours = brought_over(theirs, update="gradient")
    x = normal(3, 40, 4)
    found = ours(x)
    commitment = theirs(x, return_loss_breakdown=True)[3].commitment
    close(ours.commitment * found.distances.mean() / 4, commitment)
    close(found.loss, 2 * commitment)
    close(found.sample_loss.mean(), found.loss)
    assert 1 <= found.perplexity <= 8
    assert 1 / 8 <= found.usage <= 1


@row(VQ, "indices in int64")
def code_dtype() -> None:
    theirs = their_quantizer()
    ours = brought_over(theirs, code_dtype=torch.int16)
    x = normal(3, 40, 4)
    expected = theirs(x)[1]
    assert expected.dtype == brought_over(theirs)(x).codes.dtype == torch.int64
    assert torch.equal(ours.encode(x, dtype=torch.int32), expected.int())
    assert torch.equal(ours(x).codes, expected.short())


@row(VQ, "heads")
def heads() -> None:
    theirs = their_quantizer(4, 8, heads=2, codebook_dim=2)
    assert_steps_agree(brought_over(theirs), theirs)


@row(VQ, "separate_codebook_per_head")
def separate_codebooks() -> None:
    theirs = their_quantizer(4, 8, heads=2, codebook_dim=2, separate_codebook_per_head=True)
    ours = brought_over(theirs, separate_codebooks=True)
    assert ours.codebook.centroids.shape == theirs.codebook.shape
    assert_steps_agree(ours, theirs)


@row(VQ, "decay")
def decay() -> None:
    for number in (0.5, 0.95):
        theirs = their_quantizer(decay=number)
        assert_steps_agree(brought_over(theirs, decay=number), theirs)
    assert their_quantizer()._codebook.decay == 0.8
    assert VectorQuantizer(8, 4).decay is None


@row(VQ, "eps")
def eps() -> None:
    theirs = their_quantizer(eps=0.5)
    assert_steps_agree(brought_over(theirs, smoothing=0.5), theirs)


@row(VQ, "freeze_codebook")
def frozen() -> None:
    theirs = their_quantizer(freeze_codebook=True)
    ours = brought_over(theirs, update="frozen")
    before = ours.codebook.centroids.clone()
    assert_steps_agree(ours, theirs)
    assert torch.equal(ours.codebook.centroids, before)
    with pytest.raises(NotInitializedError):
        VectorQuantizer(8, 4, update="frozen")(normal(20, 4))


@row(VQ, "kmeans_init, kmeans_iters, sync_kmeans")
def start() -> None:
    library = pytest.importorskip("vector_quantize_pytorch")
    x = normal(1, 8, 4)
    theirs = library.VectorQuantize(4, 8, kmeans_init=True, eps=0)
    quantized, _, _ = VectorQuantizer(8, 4)(x)
    close(quantized, x)
    close(theirs(x)[0], quantized)
    thrice = VectorQuantizer(8, 4, init_batches=3)
    for part in (x[:, :3], x[:, 3:5], x[:, 5:]):
        thrice(part)
    close(thrice.codebook.centroids.sort(dim=0).values, x[0].sort(dim=0).values)


@row(VQ, "use_cosine_sim")
def cosine() -> None:
    theirs = their_quantizer(use_cosine_sim=True)
    ours = brought_over(theirs, metric="cosine")
    assert_steps_agree(ours, theirs, n_steps=1)
    assert_one_pass_agrees(ours, theirs, normal(3, 40, 4, seed=5))
    ours.apply_update()
    away = (ours.codebook.centroids - theirs.codebook).abs().max()
    assert away > 1e-3, "the second step is another one"


@row(VQ, "threshold_ema_dead_code")
def dead_codes() -> None:
    theirs = their_quantizer(threshold_ema_dead_code=3)
    theirs._codebook.embed[0, ::3] += 100
    theirs._codebook.embed_avg.copy_(theirs._codebook.embed)
    ours, x = brought_over(theirs, revive_below=3), normal(1, 40, 4)
    never = brought_over(theirs, revive_below=0)
    for module in (ours, never, theirs):
        module(x)
    ours.apply_update()
    never.apply_update()
    revived = (theirs.codebook - never.codebook.centroids).abs().amax(dim=-1) > 1e-4
    close(theirs.codebook[~revived], ours.codebook.centroids[~revived])
    for codebook in (theirs.codebook, ours.codebook.centroids):
        at_samples = (codebook.unsqueeze(1) == x[0]).all(dim=-1).any(dim=-1)
        assert torch.equal(at_samples, revived)
    assert 3 <= int(revived.sum()) < 8
    counts = ours.codebook.counts
    count = min(float(counts[~revived].mean()), 3 / 0.2 / 0.8**8)
    close(counts[revived], torch.full_like(counts[revived], count))
    assert (theirs._codebook.cluster_size[0, revived] == 3).all()
    assert VectorQuantizer(8, 4).revive_below is None
    uneven = torch.tensor([[9.0, 1.2, 0.8]])
    close(least_counts(uneven, decay=0.8, threshold=None), torch.tensor([[11 / 30]]))
    assert not their_quantizer()._codebook.has_dead_code_replacement


@row(VQ, "channel_last=False, accept_image_fmap, accept_3d_fmap")
def channel_first() -> None:
    for option, shape in (
        ({"channel_last": False}, (3, 4, 20)),
        ({"accept_image_fmap": True}, (3, 4, 5, 6)),
        ({"accept_3d_fmap": True}, (3, 4, 5, 2, 3)),
    ):
        theirs = their_quantizer(**option)
        ours = brought_over(theirs, channel_first=True)
        assert_steps_agree(ours, theirs, shape)
        codes = ours.eval()(normal(*shape)).codes
        assert codes.shape == (shape[0], *shape[2:])
        close(ours.decode(codes), theirs.get_codes_from_indices(codes))


@row(VQ, "commitment_weight")
def commitment() -> None:
    theirs = their_quantizer(commitment_weight=0.3)
    assert_steps_agree(brought_over(theirs, commitment=0.3), theirs)
    assert their_quantizer().commitment_weight == 1
    assert VectorQuantizer(8, 4).commitment == 0.25


@row(VQ, "stochastic_sample_codes, sample_codebook_temp, straight_through")
def gumbel() -> None:
    options = {"stochastic_sample_codes": True, "straight_through": True, "freeze_codebook": True}
    x, rows = normal(1, 1, 4).expand(1, 20_000, 4), normal(1, 50, 4)
    for metric in ("cosine", "euclidean"):
        theirs = their_quantizer(**options, use_cosine_sim=metric == "cosine")
        ours = brought_over(theirs, update="frozen", estimator="gumbel", metric=metric)
        ours.temperature = 0.7
        torch.manual_seed(0)
        found = ours(x).codes.flatten().bincount(minlength=8)
        _, expected, _ = theirs(x, sample_codebook_temp=0.7)
        away = (found - expected.flatten().bincount(minlength=8)).abs().max() / x.shape[1]
        assert (away < 0.02) == (metric == "cosine")
        ours.temperature = 1e-6
        _, expected, _ = theirs(rows, sample_codebook_temp=1e-6)
        assert torch.equal(ours(rows).codes, expected)
    weight = normal(1, 50, 4, seed=99)
    for routed in (True, False):
        theirs = their_quantizer(**options, commitment_weight=0, route_gradients_to_input=routed)
        assert torch.equal(with_gradient(theirs, rows)[3], weight) == routed
    ours = brought_over(theirs, update="frozen", estimator="gumbel", commitment=0)
    assert not torch.equal(with_gradient(ours, rows)[3], weight)


@row(VQ, "rotation_trick")
def rotation() -> None:
    library = pytest.importorskip("vector_quantize_pytorch")
    theirs = library.VectorQuantize(4, 8)
    assert theirs.rotation_trick
    spread_out(theirs)
    assert_steps_agree(brought_over(theirs, estimator="rotation"), theirs)
    assert VectorQuantizer(8, 4).estimator == "straight-through"


def on_two_ranks(rank: int, folder: str) -> None:
    """Both learn from the samples of both ranks, or of their own."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    for synchronous in (None, True, False):
        theirs = their_quantizer(sync_codebook=synchronous)
        group = None if synchronous is False else "default"
        ours = brought_over(theirs, process_group=group)
        for step in range(3):
            x = normal(2, 30, 4, seed=10 * rank + step)
            found, expected = ours(x), theirs(x)
            assert torch.equal(found.codes, expected[1])
            close(found.loss, expected[2])
        assert_codebooks_agree(ours, theirs)
        both = [torch.empty_like(ours.codebook.centroids) for _ in range(2)]
        dist.all_gather(both, ours.codebook.centroids)
        assert torch.equal(*both) == (synchronous is not False)
    dist.destroy_process_group()


@row(VQ, "sync_codebook")
def ranks() -> None:
    pytest.importorskip("vector_quantize_pytorch")
    with tempfile.TemporaryDirectory() as folder:
        run_ranks(on_two_ranks, (folder,), 2)


@row(VQ, "learnable_codebook=True, ema_update=False")
def learnable() -> None:
    theirs = their_quantizer(learnable_codebook=True, ema_update=False)
    ours = brought_over(theirs, update="gradient")
    x = normal(3, 40, 4)
    found, expected = with_gradient(ours, x), with_gradient(theirs, x)
    for own, other in zip(found, (expected[0], expected[1], 2 * expected[2]), strict=False):
        close(own, other)
    close(found[3], expected[3])
    close(ours.codebook.centroids.grad, theirs._codebook.embed.grad[0])
    weighted = their_quantizer(learnable_codebook=True, ema_update=False, commitment_weight=0.3)
    with_gradient(weighted, x)
    assert ours.codebook.centroids.grad is not None
    close(0.3 * ours.codebook.centroids.grad, weighted._codebook.embed.grad[0])


@row(VQ, "return_zeros_for_masked_padding")
def masked_padding() -> None:
    x, mask = normal(3, 40, 4), normal(3, 40, seed=9) > 0
    zeros, kept = their_quantizer(), their_quantizer(return_zeros_for_masked_padding=False)
    quantized = brought_over(zeros)(x, mask).quantized
    close(quantized, zeros(x, mask=mask)[0])
    close(torch.where(mask.unsqueeze(-1), quantized, x), kept(x, mask=mask)[0])


@row(VQ, "route_gradients_to_input=False")
def decoded_gradient() -> None:
    theirs = their_quantizer(
        learnable_codebook=True, ema_update=False, route_gradients_to_input=False,
        commitment_weight=0,
    )  # fmt: skip
    ours = brought_over(theirs, update="gradient")
    x, weight = normal(3, 40, 4).requires_grad_(), normal(3, 40, 4, seed=7)
    decoded = ours.decode(ours.encode(x))
    quantized = theirs(x)[0]
    close(decoded, quantized)
    (decoded * weight).sum().backward()
    (quantized * weight).sum().backward()
    close(ours.codebook.centroids.grad, theirs._codebook.embed.grad[0])
    assert x.grad is None


@row(VQ, "mask")
def mask() -> None:
    theirs = their_quantizer()
    ours = brought_over(theirs)
    for seed in range(3):
        mask = normal(3, 40, seed=20 + seed) > 0
        assert_one_pass_agrees(ours, theirs, normal(3, 40, 4, seed=seed), mask=mask)
    assert_codebooks_agree(ours, theirs)
    headed = their_quantizer(heads=2, codebook_dim=2)
    codes = brought_over(headed)(normal(3, 40, 4), mask).codes
    assert torch.equal((codes != -1).all(dim=-1), mask)


@row(VQ, "lens")
def lens() -> None:
    theirs = their_quantizer()
    ours, x, lengths = brought_over(theirs), normal(3, 40, 4), torch.tensor([40, 7, 0])
    found = with_gradient(ours, x, mask=torch.arange(40) < lengths.unsqueeze(-1))
    for own, other in zip(found, with_gradient(theirs, x, lens=lengths), strict=True):
        close(own, other)
    assert_codebooks_agree(ours, theirs)


@row(VQ, "indices")
def cross_entropy() -> None:
    theirs = their_quantizer().eval()
    vq, indices = brought_over(theirs).eval(), torch.randint(8, (3, 40), generator=seeded())
    x, other = (normal(3, 40, 4).requires_grad_() for _ in range(2))
    found = F.cross_entropy(-vq.codebook.transform(x).sqrt().movedim(-1, 1), indices)
    _, expected = theirs(other, indices=indices)
    close(found, expected)
    found.backward()
    expected.backward()
    close(x.grad, other.grad)


@row(VQ, "topk")
def topk() -> None:
    theirs = their_quantizer().eval()
    vq, x = brought_over(theirs).eval(), normal(3, 40, 4)
    codes = vq.codebook.transform(x).topk(3, largest=False).indices
    quantized, expected, _ = theirs(x, topk=3)
    assert torch.equal(codes, expected)
    close(vq.decode(codes), quantized)


@row(VQ, "forward(freeze_codebook=True)")
def frozen_pass() -> None:
    theirs = their_quantizer()
    ours, x = brought_over(theirs), normal(3, 40, 4)
    assert_steps_agree(ours, theirs)
    expected = with_gradient(theirs, x, freeze_codebook=True)
    for own, other in zip(with_gradient(ours.eval(), x), expected, strict=True):
        close(own, other)
    ours.train()
    assert_steps_agree(ours, theirs)


@row(VQ, "eval()")
def evaluation() -> None:
    theirs = their_quantizer()
    ours, x = brought_over(theirs).eval(), normal(3, 40, 4).requires_grad_()
    found, expected = ours(x), theirs.eval()(x)
    assert torch.equal(found.codes, expected[1])
    close(found.quantized, expected[0])
    assert expected[2] == 0
    assert not expected[0].requires_grad
    assert found.loss > 0
    assert found.quantized.requires_grad


@row(VQ, "codebook")
@row(VQ, "_codebook.cluster_size")
def state() -> None:
    theirs = their_quantizer()
    ours = brought_over(theirs)
    assert_steps_agree(ours, theirs)
    assert ours.codebook.centroids.shape == theirs.codebook.shape
    fresh = brought_over(theirs)
    close(fresh.codebook.counts, ours.codebook.counts, rtol=1e-5, atol=0)
    assert_steps_agree(fresh, theirs)


@row(VQ, "get_codes_from_indices, get_output_from_indices")
def decode() -> None:
    codes = torch.randint(8, (3, 40), generator=seeded())
    theirs = their_quantizer()
    ours = brought_over(theirs)
    assert torch.equal(ours.decode(codes), theirs.get_codes_from_indices(codes))
    assert torch.equal(ours.decode(codes), theirs.get_output_from_indices(codes))
    none = torch.tensor([-1])
    assert (ours.decode(none) == 0).all()
    assert torch.equal(theirs.get_codes_from_indices(none)[0], theirs.codebook[-1])
    codes = torch.randint(8, (3, 40, 2), generator=seeded())
    for separate in (True, False):
        theirs = their_quantizer(heads=2, codebook_dim=2, separate_codebook_per_head=separate)
        ours = brought_over(theirs, separate_codebooks=separate)
        expected = theirs.get_codes_from_indices(codes)
        assert expected.shape == ((3, 40, 4) if separate else (3, 40, 2, 2))
        assert torch.equal(ours.decode(codes), expected.reshape(3, 40, 4))


# vector-quantize-pytorch: residual


def residual_pair(
    *, theirs: dict[str, Any] | None = None, ours: dict[str, Any] | None = None, levels: int = 3
) -> tuple[ResidualQuantizer, Any]:
    """Both at the same codebooks."""
    library = pytest.importorskip("vector_quantize_pytorch")
    sizes = {"dim": 4, "num_quantizers": levels, "codebook_size": 8, **(theirs or {})}
    other = library.ResidualVQ(rotation_trick=False, **sizes)
    options: dict[str, Any] = {"decay": 0.8, "commitment": 1.0, "revive_below": 0, **(ours or {})}
    own = ResidualQuantizer(sizes["codebook_size"], other.codebook_dim, levels, **options)
    for number, level in enumerate(other.layers):
        spread_out(level, seed=number)
    for level, source in zip(own.levels, other.layers, strict=False):
        assert isinstance(level, VectorQuantizer)
        copy_state(source, level)
    return own, other


def assert_levels_agree(own: ResidualQuantizer, other: Any, x: Tensor, **arguments: Any) -> None:
    """In value; gradients pass in other ways."""
    found, expected = own(x, **arguments), other(x, **arguments)
    assert torch.equal(found.codes, expected[1])
    close(found.quantized, expected[0])
    close(found.loss, expected[2].sum())


@row(RVQ, "dim, num_quantizers, codebook_size")
@row(RVQ, "loss")
@row(RVQ, "codebooks")
def levels() -> None:
    own, other = residual_pair()
    for seed in range(3):
        assert_levels_agree(own, other, normal(2, 40, 4, seed=seed))
    own.apply_update()
    assert own.codebooks.shape == other.codebooks.shape
    close(own.codebooks, other.codebooks)
    x = normal(2, 40, 4)
    found, losses = own(x), other(x)[2]
    close(found.distances.mean(dim=(0, 1)) / 4, losses)
    own, other = residual_pair(theirs={"codebook_size": (8, 4, 2)})
    for seed in range(3):
        assert_levels_agree(own, other, normal(2, 40, 4, seed=seed))


@row(RVQ, "use_cosine_sim")
def residual_cosine() -> None:
    own, other = residual_pair(theirs={"use_cosine_sim": True}, ours={"metric": "cosine"})
    assert_levels_agree(own, other, normal(2, 40, 4))


@row(RVQ, "codebook_dim")
def residual_projections() -> None:
    own, other = residual_pair(theirs={"codebook_dim": 3})
    x = normal(2, 40, 4)
    found, expected = own(other.project_in(x)), other(x)
    assert torch.equal(found.codes, expected[1])
    close(other.project_out(found.quantized), expected[0])


@row(RVQ, "gradient of quantized")
def residual_gradient() -> None:
    x = normal(2, 40, 4)
    own, other = residual_pair(theirs={"commitment_weight": 0.0}, ours={"commitment": 0.0})
    close(3 * with_gradient(own, x)[3], with_gradient(other, x)[3])
    own, other = residual_pair()
    x, again = (x.clone().requires_grad_() for _ in range(2))
    own(x).loss.backward()
    other(again)[2].sum().backward()
    close(x.grad, again.grad)


@row(RVQ, "shared_codebook")
def shared() -> None:
    options = {"shared_codebook": True}
    own, other = residual_pair(theirs=options, ours=options)
    assert_levels_agree(own, other, normal(2, 40, 4))
    own.apply_update()
    counts = own.levels[0].codebook.counts  # type: ignore[union-attr]
    close(counts.sum() * 0.2, torch.tensor(0.8 * 8 + 0.2 * 240, dtype=torch.float64))
    total = 8.0
    for _ in range(3):
        total = 0.8 * total + 0.2 * 80
    close(other.layers[0]._codebook.cluster_size.sum(), torch.tensor(total))


@row(RVQ, "quantize_dropout")
def dropout() -> None:
    own, other = residual_pair(
        theirs={"quantize_dropout": True, "freeze_codebook": True},
        ours={"dropout": True, "update": "frozen"},
    )
    x = normal(2, 40, 4)
    _, all_codes, losses = residual_pair()[1](x)
    assert torch.equal(own.encode(x, beam_size=1), all_codes)
    for module, arguments in ((own, {}), (other, {"freeze_codebook": True})):
        seen = set()
        for _ in range(40):
            quantized, codes, loss = module(x, **arguments)
            used = int((codes[0, 0] >= 0).sum())
            assert torch.equal(codes[..., :used], all_codes[..., :used])
            assert (codes[..., used:] == -1).all()
            close(quantized, own.decode(codes))
            close(loss.sum(), losses[:used].sum())
            seen.add(used)
        assert seen == {1, 2, 3}


@row(RVQ, "accept_image_fmap")
def images() -> None:
    own, other = residual_pair(theirs={"accept_image_fmap": True}, ours={"channel_first": True})
    assert_levels_agree(own, other, normal(2, 4, 4, 4))
    x = normal(2, 4, 4, 6)
    assert own(x).codes.shape == (2, 4, 6, 3)
    with pytest.raises(RuntimeError, match="Sizes of tensors must match"):
        other(x)


@row(RVQ, "beam_size, eval_beam_size")
def beams() -> None:
    own, other = residual_pair(theirs={"beam_size": 4}, levels=2)
    x = normal(2, 200, 4)
    other.eval()
    greedy, codes = (own.encode(x, beam_size=size) for size in (1, 4))
    assert torch.equal(greedy, own.eval()(x).codes)
    assert torch.equal(greedy, other(x, beam_size=1)[1])
    errors = [(x - own.decode(c)).square().sum(-1) for c in (codes, other(x)[1], greedy)]
    for better, worse in pairwise((errors[0], found) for found in errors[1:]):
        assert (better[0] <= better[1] + 1e-5).all()
        assert (worse[0] <= worse[1] + 1e-5).all()


@row(RVQ, "mask, return_zeros_for_masked_padding")
def residual_mask() -> None:
    own, other = residual_pair()
    for seed in range(3):
        mask = normal(2, 40, seed=20 + seed) > 0
        assert_levels_agree(own, other, normal(2, 40, 4, seed=seed), mask=mask)
    own.apply_update()
    close(own.codebooks, other.codebooks)


@row(RVQ, "sample_codebook_temp")
def residual_temperature() -> None:
    own, other = residual_pair(
        theirs={"stochastic_sample_codes": True}, ours={"estimator": "gumbel"}
    )
    x, nearest = normal(2, 40, 4), own.encode(normal(2, 40, 4), beam_size=1)
    assert not torch.equal(own(x).codes, nearest)
    for level in own.levels:
        level.temperature = 1e-6  # type: ignore[assignment]
    own.load_state_dict(residual_pair()[0].state_dict())
    assert torch.equal(own(x).codes, nearest)
    assert torch.equal(other(x, sample_codebook_temp=1e-6)[1], nearest)


@row(RVQ, "freeze_codebook")
def residual_frozen() -> None:
    own, other = residual_pair()
    x, before = normal(2, 40, 4), own.codebooks
    assert_levels_agree(own.eval(), lambda x: other(x, freeze_codebook=True), x)
    assert torch.equal(own.codebooks, before)
    assert torch.equal(other.codebooks, before)


@row(RVQ, "return_all_codes, get_codes_from_indices")
@row(RVQ, "get_output_from_indices")
def residual_decode() -> None:
    rq, other = residual_pair(theirs={"quantize_dropout": True})
    x = normal(2, 40, 4)
    _, codes, _, each = other.eval()(x, return_all_codes=True)
    found = torch.stack([level.decode(codes[..., i]) for i, level in enumerate(rq.levels)])  # type: ignore[operator]
    close(found, each)
    close(found, other.get_codes_from_indices(codes))
    close(rq.decode(codes), other.get_output_from_indices(codes))
    close(rq.decode(codes[..., :2]), other.get_output_from_indices(codes[..., :2]))


# faiss


def faiss_kmeans(x: Tensor, k: int = 8, **options: Any) -> Any:
    """Of all rows, without a warning."""
    faiss = pytest.importorskip("faiss")
    limits = {"max_points_per_centroid": len(x), "min_points_per_centroid": 1}
    return faiss.Kmeans(x.shape[1], k, **{**limits, **options})


def assert_fits_agree(
    x: Tensor, *, n_iter: int = 6, weight: Tensor | None = None, **options: Any
) -> tuple[KMeansLayer, Any, Any]:
    """The same centroids after each number of iterations from the first rows."""
    for iterations in (1, n_iter):
        theirs = faiss_kmeans(x, niter=iterations, **options)
        weights = None if weight is None else weight.numpy()
        theirs.train(x.numpy(), weights=weights, init_centroids=x[:8].numpy())
        layer = KMeansLayer(8, x.shape[1])
        result = layer.fit(x, init=x[:8], max_iter=iterations, tol=0, sample_weight=weight)
        close(layer.centroids, torch.from_numpy(theirs.centroids), rtol=1e-4, atol=1e-4)
    return layer, result, theirs


def same_set(found: Tensor, expected: Tensor) -> bool:
    """Whether rows are the same in some order, to half a unit."""
    distances = torch.cdist(found, expected)
    nearest = distances.argmin(dim=-1)
    return len(nearest.unique()) == len(expected) and bool((distances.amin(dim=-1) < 0.5).all())


def apart(k: int = 8) -> Tensor:
    """Blobs so far apart that every good start ends in the same centroids."""
    middles = 100 * torch.stack([torch.arange(k), torch.arange(k) % 3], dim=1).float()
    return (middles.unsqueeze(1) + normal(k, 60, 2)).flatten(0, 1)


@row(KMEANS, "d, k")
@row(KMEANS, "niter")
@row(KMEANS, "init_centroids")
@row(KMEANS, "train")
@row(KMEANS, "centroids")
@row(KMEANS, "obj, iteration_stats")
def faiss_fit() -> None:
    layer, result, theirs = assert_fits_agree(blobs(600, 3))
    assert layer.centroids.shape == theirs.centroids.shape
    assert len(result.history) == len(theirs.obj) + 1
    close(result.history[:-1], torch.from_numpy(theirs.obj), rtol=1e-5, atol=0)
    assert result.inertia == result.history[-1]
    assert [stats["obj"] for stats in theirs.iteration_stats] == theirs.obj.tolist()


@row(KMEANS, "nredo")
@row(KMEANS, "init_method")
def faiss_starts() -> None:
    faiss = pytest.importorskip("faiss")
    x = apart()
    methods = {"random": "RANDOM", "k-means++": "KMEANS_PLUS_PLUS", "k-means||": "AFK_MC2"}
    if not hasattr(faiss, "ClusteringInitMethod_RANDOM"):  # faiss 1.8 has no other start
        methods = {"random": ""}
    for init, method in methods.items():
        start = {"init_method": getattr(faiss, f"ClusteringInitMethod_{method}")} if method else {}
        theirs = faiss_kmeans(x, nredo=40, niter=20, **start)
        theirs.train(x.numpy())
        layer = KMeansLayer(8, 2)
        result = layer.fit(x, init=init, n_init=40, generator=seeded())
        assert same_set(layer.centroids, torch.from_numpy(theirs.centroids))
        inertia = brute_force(x, torch.from_numpy(theirs.centroids)).amin(dim=1).sum()
        assert float(result.inertia) == pytest.approx(float(inertia), rel=1e-4)
    if len(methods) > 1:
        assert faiss.ClusteringParameters().init_method == faiss.ClusteringInitMethod_RANDOM


@row(KMEANS, "seed")
def faiss_seed() -> None:
    x, found = blobs(600, 3), []
    for _ in range(2):
        theirs = faiss_kmeans(x, seed=5)
        theirs.train(x.numpy())
        layer = KMeansLayer(8, 3)
        layer.fit(x, seed=5)
        found.append((layer.centroids, torch.from_numpy(theirs.centroids)))
    assert all(torch.equal(first, second) for first, second in zip(*found, strict=True))


@row(KMEANS, "spherical")
def faiss_spherical() -> None:
    rows = normal(500, 4)
    for x, weight in ((F.normalize(rows, dim=1), None), (rows, rows.norm(dim=1))):
        theirs = faiss_kmeans(x, niter=6, spherical=True)
        theirs.train(x.numpy(), init_centroids=x[:8].numpy())
        layer = KMeansLayer(8, 4, metric="cosine")
        result = layer.fit(x, init=x[:8], max_iter=6, tol=0, sample_weight=weight)
        close(layer.centroids, torch.from_numpy(theirs.centroids), rtol=1e-4, atol=1e-4)
        total = 500.0 if weight is None else weight.double().sum()
        close(total - result.history[:-1], torch.from_numpy(theirs.obj), rtol=1e-5, atol=0)


@row(KMEANS, "weights")
def faiss_weights() -> None:
    x = normal(500, 4)
    weight = weights_for(x) + 0.1
    _, result, theirs = assert_fits_agree(x, weight=weight)
    step = layer_at(x[:8]).e_step(x, weight)
    close(result.history[0], step.stats.inertia)
    close(step.distances.sum(), torch.tensor(theirs.obj[0]).float(), rtol=1e-4, atol=0)


@row(KMEANS, "verbose")
def faiss_verbose() -> None:
    for verbose in (False, True):
        with redirect_stderr(StringIO()) as written:
            result = KMeansLayer(8, 3).fit(normal(100, 3), seed=0, verbose=verbose)
        numbers = re.findall(r"iteration (\d+) of 300", written.getvalue())
        assert numbers[:3] == (["1", "2", "3"] if verbose else [])
    assert len(result.history) == int(result.n_iter) + 1


@row(KMEANS, "max_points_per_centroid")
def faiss_max_points() -> None:
    x, fits = blobs(600, 3), []
    theirs = faiss_kmeans(x, max_points_per_centroid=10)
    theirs.train(x.numpy())
    for most in (None, 10):
        layer = KMeansLayer(8, 3)
        fits.append(layer.fit(x, seed=0, max_points_per_centroid=most))
        assert fits[-1].labels is not None
        assert torch.equal(fits[-1].labels, layer(x))
    every, sample = fits
    assert float(sample.history[-1]) < float(every.history[-1]) / 3  # of 80 rows, as is theirs
    assert float(theirs.obj[-1]) < float(every.history[-1]) / 2
    assert float(sample.inertia) > float(every.inertia) / 1.5


@row(KMEANS, "check_input_data_for_NaNs")
def faiss_nan() -> None:
    x = normal(100, 3)
    x[17, 1] = torch.nan
    with pytest.raises(ValueError, match="row 17"):
        KMeansLayer(8, 3).fit(x)
    with pytest.raises(RuntimeError, match="NaN"):
        faiss_kmeans(x).train(x.numpy())


@row(KMEANS, "gpu")
def faiss_device() -> None:
    layer = KMeansLayer(8, 3, device="meta")
    assert layer.centroids.device.type == "meta"
    assert KMeansLayer(8, 3).to("meta").centroids.device.type == "meta"


@row(KMEANS, "empty clusters")
def faiss_empty() -> None:
    x = apart()
    start = torch.cat([x[:60:30], x[60::60][:5], x[:1] + 1e6])
    theirs = faiss_kmeans(x, niter=20)
    theirs.train(x.numpy(), init_centroids=start.numpy())
    layer = KMeansLayer(8, 2, empty_cluster="split")
    layer.fit(x, init=start)
    assert (layer.counts > 0).all()
    assert len(set(theirs.assign(x.numpy())[1].tolist())) == 8
    assert KMeansLayer(8, 2).empty_cluster == "relocate"


@row(KMEANS, "index.search")
@row(KMEANS, "assign")
def faiss_search() -> None:
    layer, _, theirs = assert_fits_agree(blobs(600, 3))
    queries = blobs(200, 3, seed=4)
    theirs.index.reset()
    theirs.index.add(layer.centroids.numpy())
    distances, labels = theirs.index.search(queries.numpy(), 3)
    found = layer.search(queries, 3)
    assert torch.equal(found.labels, torch.from_numpy(labels))
    close(found.distances, torch.from_numpy(distances), rtol=1e-3, atol=1e-3)
    assert torch.equal(layer(queries), torch.from_numpy(labels[:, 0]))
    distances, labels = theirs.assign(queries.numpy())
    step = layer.e_step(queries)
    assert torch.equal(step.labels, torch.from_numpy(labels))
    close(step.distances, torch.from_numpy(distances), rtol=1e-3, atol=1e-3)


@row(KMEANS, "reset")
def faiss_reset() -> None:
    layer, _, theirs = assert_fits_agree(blobs(600, 3))
    layer.reset_parameters()
    theirs.reset()
    assert theirs.centroids is None
    assert theirs.k == layer.n_clusters == 8
    with pytest.raises(NotInitializedError):
        layer(blobs(10, 3))


def product_pair() -> tuple[ProductQuantizer, Any, Tensor]:
    """Both with the codebooks of ours."""
    faiss = pytest.importorskip("faiss")
    x = normal(500, 8)
    own, other = ProductQuantizer(16, 8, 4), faiss.ProductQuantizer(8, 4, 4)
    own.fit(x, generator=seeded())
    faiss.copy_array_to_vector(own.codebooks.numpy().ravel(), other.centroids)
    return own, other, x


@row(PQ, "d, M, nbits")
@row(PQ, "centroids")
def product_sizes() -> None:
    faiss = pytest.importorskip("faiss")
    own, other, _ = product_pair()
    assert (other.d, other.M, 2**other.nbits) == (own.n_features, own.n_subspaces, own.n_clusters)
    centroids = faiss.vector_to_array(other.centroids).reshape(4, 16, 2)
    assert torch.equal(own.codebooks, torch.from_numpy(centroids))
    assert ProductQuantizer(11, 8, 4).codebooks.shape == (4, 11, 2)


@row(PQ, "train")
def product_training() -> None:
    own, other, x = product_pair()
    other.train(x.numpy())
    decoded = torch.from_numpy(other.decode(other.compute_codes(x.numpy())))
    errors = [float((x - d).square().mean()) for d in (own.decode(own.encode(x)), decoded)]
    assert errors[0] == pytest.approx(errors[1], rel=0.05)
    assert other.cp.niter == 25
    assert inspect.signature(own.fit).parameters["max_iter"].default == 20


@row(PQ, "compute_codes")
@row(PQ, "decode")
def product_codes() -> None:
    pq, other, x = product_pair()
    packed = pq.pack(pq.encode(x))
    assert torch.equal(packed, torch.from_numpy(other.compute_codes(x.numpy())))
    close(pq.decode(pq.unpack(packed)), torch.from_numpy(other.decode(packed.numpy())))


@row(PQ, "compute_distance_tables")
@row(PQ, "search")
@row(PQ, "IndexPQ")
def product_search() -> None:
    faiss = pytest.importorskip("faiss")
    pq, other, x = product_pair()
    queries, codes = normal(7, 8, seed=3), pq.encode(x)
    table = np.empty((7, 4, 16), dtype=np.float32)
    pointers = faiss.swig_ptr(queries.numpy()), faiss.swig_ptr(table)
    other.compute_distance_tables(7, *pointers)
    close(pq.tables(queries), torch.from_numpy(table), rtol=1e-4, atol=1e-4)
    index = pq.to_faiss()
    assert isinstance(index, faiss.IndexPQ)
    index.add(x.numpy())
    distances, _ = index.search(queries.numpy(), 5)
    found = pq.distances(queries, codes).topk(5, largest=False).values
    close(found, torch.from_numpy(distances), rtol=1e-4, atol=1e-4)


@row(PQ, "OPQMatrix")
def product_rotation() -> None:
    faiss = pytest.importorskip("faiss")
    x = normal(1000, 8) @ torch.diag(torch.tensor([9.0, 9, 1, 1, 1, 1, 1, 1]))
    plain, turned = (ProductQuantizer(16, 8, 4, rotation=rotation) for rotation in (False, True))
    for own in (plain, turned):
        own.fit(x, generator=seeded())
    matrix, other = faiss.OPQMatrix(8, 4), faiss.ProductQuantizer(8, 4, 4)
    matrix.pq = other
    matrix.train(x.numpy())
    rotated = matrix.apply(x.numpy())
    other.train(rotated)
    back = torch.from_numpy(matrix.reverse_transform(other.decode(other.compute_codes(rotated))))
    errors = [
        float((x - decoded).square().mean())
        for decoded in (*(q.decode(q.encode(x)).detach() for q in (turned, plain)), back)
    ]
    assert errors[0] < 0.9 * errors[1]
    assert errors[0] < 1.05 * errors[2]


def residual_index_pair() -> tuple[ResidualQuantizer, Any, Tensor]:
    """Both with the codebooks of ours."""
    pytest.importorskip("faiss")
    x = normal(500, 8)
    own = ResidualQuantizer(16, 8, 3)
    own.fit(x, generator=seeded())
    return own, own.to_faiss(), x


@row(RQ, "d, M, nbits")
@row(RQ, "max_beam_size")
@row(RQ, "codebooks")
@row(RQ, "IndexResidualQuantizer")
def residual_sizes() -> None:
    faiss = pytest.importorskip("faiss")
    own, index, _ = residual_index_pair()
    other = faiss.ResidualQuantizer(8, 3, 4)
    assert isinstance(index, faiss.IndexResidualQuantizer)
    assert (other.d, other.M, 2**4) == (own.n_features, own.n_levels, own.n_clusters)
    assert other.max_beam_size == own.beam_size == 5
    assert inspect.signature(own.encode).parameters["beam_size"].default == 1
    codebooks = faiss.vector_to_array(index.rq.codebooks).reshape(3, 16, 8)
    assert torch.equal(own.codebooks, torch.from_numpy(codebooks))


@row(RQ, "train")
@row(RQ, "train_type, niter_codebook_refine")
def residual_training() -> None:
    faiss = pytest.importorskip("faiss")
    x, errors = normal(2000, 8), {}
    for refinements in (0, 2):
        own = ResidualQuantizer(16, 8, 3)
        own.fit(x, refinements=refinements, generator=seeded())
        codes = own.encode(x, beam_size=5)
        errors[refinements] = float((x - own.decode(codes)).square().mean())
    other = faiss.ResidualQuantizer(8, 3, 4)
    assert not other.train_type & other.Train_refine_codebook
    assert other.cp.niter == 10
    defaults = inspect.signature(own.fit).parameters
    assert (defaults["max_iter"].default, defaults["refinements"].default) == (20, 3)
    other.train(x.numpy())
    decoded = torch.from_numpy(other.decode(other.compute_codes(x.numpy())))
    assert errors[0] == pytest.approx(float((x - decoded).square().mean()), rel=0.1)
    assert other.train_type & other.Train_progressive_dim
    assert errors[2] < errors[0]


@row(RQ, "compute_codes")
@row(RQ, "decode")
@row(RQ, "compute_LUT")
def residual_codes() -> None:
    faiss = pytest.importorskip("faiss")
    rq, index, x = residual_index_pair()
    packed = rq.pack(rq.encode(x, beam_size=5))
    assert torch.equal(packed, torch.from_numpy(index.rq.compute_codes(x.numpy())))
    decoded = torch.from_numpy(index.rq.decode(packed.numpy()))
    close(rq.decode(rq.unpack(packed)), decoded)
    queries, table = normal(7, 8, seed=3), np.empty((7, 3, 16), dtype=np.float32)
    pointers = faiss.swig_ptr(queries.numpy()), faiss.swig_ptr(table)
    index.rq.compute_LUT(7, *pointers)
    close(rq.tables(queries), torch.from_numpy(table), rtol=1e-4, atol=1e-4)


# scikit-learn


def doubles() -> Tensor:
    return blobs(600, 3).double()


def pair_of(section: str, **options: Any) -> tuple[Any, Any]:
    """Both, to start from the first rows; ours before theirs."""
    options = {"n_clusters": 8, "init": doubles()[:8].numpy(), "n_init": 1, **options}
    pairs = {MINI: (MiniBatchKMeans, SklearnMiniBatchKMeans), FULL: (KMeans, SklearnKMeans)}
    own, other = pairs[section]
    return own(**options), other(**options)


def fitted_pair(
    section: str, x: Tensor | None = None, weight: Tensor | None = None, **options: Any
) -> tuple[Any, Any]:
    rows = (doubles() if x is None else x).numpy()
    sample_weight = None if weight is None else weight.numpy()
    options = {"random_state": 3, **options}
    own, other = (
        model.fit(rows, sample_weight=sample_weight) for model in pair_of(section, **options)
    )
    return own, other


def expect_the_same_draws(section: str) -> None:
    if section == MINI and OTHER_DRAWS:
        pytest.skip(OTHER_BATCHES)


def assert_estimators_agree(own: Any, other: Any) -> None:
    expect_the_same_draws(MINI if isinstance(own, MiniBatchKMeans) else FULL)
    np.testing.assert_allclose(own.cluster_centers_, other.cluster_centers_)
    assert np.array_equal(own.labels_, other.labels_)
    assert own.labels_.dtype == other.labels_.dtype
    assert own.inertia_ == pytest.approx(other.inertia_)
    assert own.n_iter_ == other.n_iter_
    assert own.n_features_in_ == other.n_features_in_
    assert getattr(own, "n_steps_", None) == getattr(other, "n_steps_", None)


def of_both(*names: str) -> Callable[[Callable[[str], None]], Callable[[str], None]]:
    """The check of rows that both estimators have."""

    def register(check: Callable[[str], None]) -> Callable[[str], None]:
        for section, name in ((MINI, names[0]), (FULL, names[-1])):
            row(section, name)(partial(check, section))
        return check

    return register


@of_both(
    "n_clusters, max_iter, batch_size, compute_labels, tol, max_no_improvement, init_size, n_init",
    "n_clusters, n_init, max_iter, tol, copy_x",
)
def the_same_parameters(section: str) -> None:
    own, other = (model.get_params() for model in pair_of(section))
    assert {name: own[name] for name in other if name != "init"} == {
        name: value for name, value in other.items() if name != "init"
    }
    x = normal(600, 3).double()
    tight = {"tol": 0.05, "max_iter": 3, "init": x[:8].numpy()}
    assert_estimators_agree(*fitted_pair(section, x, **tight))
    if section == MINI:
        options = {"batch_size": 50, "max_no_improvement": 3, "init_size": 100}
        assert_estimators_agree(*fitted_pair(section, **options))


@of_both("init")
def starts(section: str) -> None:
    x = apart().double()
    for init in ("k-means++", "k-means||", "random"):
        named = {"init": "k-means++" if init == "k-means||" else init, "n_init": 40}
        if section == FULL or init != "random":  # batches seldom leave such a start
            own, other = fitted_pair(section, x, **named)
            own.set_params(init=init).fit(x.numpy())
            found, expected = own.cluster_centers_, other.cluster_centers_
            assert same_set(torch.from_numpy(found), torch.from_numpy(expected))
    tensor, _ = pair_of(section, init=x[:8], random_state=3)
    array, other = fitted_pair(section, x, init=x[:8].numpy())
    close(tensor.fit(x).cluster_centers_, torch.from_numpy(array.cluster_centers_))
    assert_estimators_agree(array, other)


@of_both("random_state")
def seeds(section: str) -> None:
    first, second = (fitted_pair(section, init="k-means++", random_state=4) for _ in range(2))
    for one, other in zip(first, second, strict=True):
        assert np.array_equal(one.cluster_centers_, other.cluster_centers_)
    if section == MINI:
        assert_estimators_agree(*fitted_pair(section, batch_size=30, random_state=7))


@row(MINI, "reassignment_ratio")
def moves_of_light_clusters() -> None:
    far = torch.cat([doubles()[:6], doubles()[6:8] + 1e6]).numpy()
    for ratio in (0, 0.3):
        options = {"init": far, "reassignment_ratio": ratio, "batch_size": 50}
        own, other = fitted_pair(MINI, **options)
        assert_estimators_agree(own, other)
        assert (own.cluster_centers_ > 1e5).any() == (ratio == 0)


@row(FULL, "algorithm")
def algorithms() -> None:
    lloyd, elkan = (fitted_pair(FULL, algorithm=name)[0] for name in ("lloyd", "elkan"))
    assert_estimators_agree(lloyd, elkan)


@of_both("verbose")
def lines(section: str) -> None:
    expect_the_same_draws(section)
    said = []
    for model in pair_of(section, random_state=3, verbose=1):
        with redirect_stdout(StringIO()) as out:
            model.fit(doubles().numpy())
        said.append([line[:12] for line in out.getvalue().splitlines()])
    assert said[0] == said[1]


@of_both("fit, partial_fit, sample_weight", "fit, sample_weight")
def fits(section: str) -> None:
    x, weight = doubles(), weights_for(doubles()).double()
    if section == MINI:
        own, other = pair_of(MINI)
        for part in torch.arange(600).chunk(5):
            for model in (own, other):
                model.partial_fit(x[part].numpy(), sample_weight=weight[part].numpy())
        np.testing.assert_allclose(own.cluster_centers_, other.cluster_centers_)
        np.testing.assert_allclose(own._counts, other._counts)
    assert_estimators_agree(*fitted_pair(section))
    assert_estimators_agree(*fitted_pair(section, weight=weight))


@of_both("predict, fit_predict, transform, fit_transform, score")
def estimator_methods(section: str) -> None:
    expect_the_same_draws(section)
    x, rows = doubles().numpy(), blobs(100, 3, seed=4).double().numpy()
    own, other = fitted_pair(section)
    assert np.array_equal(own.predict(rows), other.predict(rows))
    assert own.predict(rows).dtype == other.predict(rows).dtype
    np.testing.assert_allclose(own.transform(rows), other.transform(rows))
    assert own.score(rows) == pytest.approx(other.score(rows))
    assert np.array_equal(own.fit_predict(x), other.fit_predict(x))
    np.testing.assert_allclose(own.fit_transform(x), other.fit_transform(x))


@of_both(
    "cluster_centers_, labels_, inertia_, n_iter_, n_steps_, n_features_in_, feature_names_in_",
    "cluster_centers_, labels_, inertia_, n_iter_, n_features_in_, feature_names_in_",
)
def attributes(section: str) -> None:
    own, other = fitted_pair(section)
    assert_estimators_agree(own, other)
    close(own.layer_.centroids, torch.from_numpy(own.cluster_centers_))
    fresh, _ = pair_of(section)
    fresh.cluster_centers_ = own.cluster_centers_
    rows = normal(50, 3).double().numpy()
    assert np.array_equal(fresh.predict(rows), other.predict(rows))


@of_both("set_output, get_feature_names_out, get_params, set_params")
def parameters(section: str) -> None:
    own, other = fitted_pair(section)
    assert list(own.get_feature_names_out()) == list(other.get_feature_names_out())
    for estimator in (own, other):
        assert clone(estimator.set_params(n_init=3)).get_params()["n_init"] == 3
    frames = [
        model.set_output(transform="pandas").transform(doubles()[:4].numpy())
        for model in (own, other)
    ]
    assert list(frames[0].columns) == list(frames[1].columns)


@row(FULL, "sparse x")
def sparse_rows() -> None:
    x = doubles().numpy()
    own, other = (model.fit(csr_array(x)) for model in pair_of(FULL))
    assert_estimators_agree(own, other)
    assert np.array_equal(own.labels_, own.fit(x).labels_)
