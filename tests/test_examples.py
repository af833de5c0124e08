"""The examples in miniature: each keeps its promise."""

from __future__ import annotations

import importlib
import sys
from argparse import ArgumentParser
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from kmeans_module import KMeansLayer
from tests.conftest import blobs

ROOT = Path(__file__).parents[1]
NAMES = sorted(file.stem for file in (ROOT / "examples").glob("*.py"))


@pytest.fixture(autouse=True)
def examples(monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder of the examples is where to import from."""
    monkeypatch.syspath_prepend(str(ROOT / "examples"))


def example(name: str) -> ModuleType:
    return importlib.import_module(name)


def run(name: str, *arguments: object) -> dict[str, Any]:
    found: dict[str, Any] = example(name).main([str(argument) for argument in arguments])
    return found


@pytest.mark.parametrize("name", NAMES)
def test_it_opens_with_its_command(name: str) -> None:
    first = (example(name).__doc__ or "").splitlines()[0]
    assert first == f"python examples/{name}.py"


@pytest.mark.parametrize("name", NAMES)
def test_every_option_is_explained(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ArgumentParser, "parse_args", lambda parser, arguments: parser)
    parser = example(name).parse([])
    assert parser.description
    for action in parser._actions:
        assert action.help, action.dest


# VQ-VAE

TINY = ("--codes", 32, "--features", 8, "--crop", 16, "--batch", 16)


@pytest.mark.filterwarnings("ignore:VectorQuantizer has no centroids yet")
def test_the_vq_vae_learns_to_reconstruct(tmp_path: Path) -> None:
    untrained = run("vq_vae", *TINY, "--steps", 1, "--folder", tmp_path)
    trained = run("vq_vae", *TINY, "--steps", 100, "--folder", tmp_path)
    assert trained["psnr"] > untrained["psnr"] + 3
    assert trained["perplexity"] > 4
    assert 0 < trained["used"] <= 1


@pytest.mark.filterwarnings("ignore:VectorQuantizer has no centroids yet")
def test_the_vq_vae_logs_its_course_and_a_picture(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run("vq_vae", *TINY, "--steps", 20, "--folder", tmp_path)
    (file,) = tmp_path.rglob("events.out.tfevents*")
    events = EventAccumulator(str(file)).Reload()
    scalars = events.Tags()["scalars"]
    for name in ("reconstruction", "commitment", "psnr", "perplexity"):
        assert len(events.Scalars(f"train/{name}")) == 2
    assert {"val/psnr", "val/perplexity", "val/used"} <= set(scalars)
    (picture,) = events.Images("val/reconstructions")
    assert (picture.width, picture.height) == (8 * 16, 2 * 16)


def test_without_the_peer_a_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vector_quantize_pytorch", None)
    with pytest.raises(SystemExit, match="needs: pip install vector-quantize-pytorch"):
        run("vq_vae", "--quantizer", "peer")


def test_the_peer_runs_in_place_of_ours(tmp_path: Path) -> None:
    pytest.importorskip("vector_quantize_pytorch")
    found = run("vq_vae", *TINY, "--steps", 2, "--quantizer", "peer", "--folder", tmp_path)
    assert found["psnr"] > 0


# HuBERT's codes


def test_made_up_speech_becomes_codes_that_tell_its_phonemes(tmp_path: Path) -> None:
    found = run("hubert_codes", "--utterances", 20, "--folder", tmp_path)
    assert found["files"] == 20
    assert found["used"] > 0.9
    assert found["purity"] > 0.7
    layer = KMeansLayer.from_file(tmp_path / "centroids.safetensors")
    features = sorted((tmp_path / "features").rglob("*.npy"))
    assert len(features) == 20
    for file in features:
        codes = np.load(tmp_path / "codes" / file.relative_to(tmp_path / "features"))
        assert codes.dtype == np.int64
        np.testing.assert_array_equal(codes, layer(torch.from_numpy(np.load(file))))


def test_features_of_ones_own_become_codes(tmp_path: Path) -> None:
    features = tmp_path / "mine"
    features.mkdir()
    torch.save(blobs(50, 4), features / "a.pt")
    torch.save(blobs(30, 4), features / "b.pt")
    folder = tmp_path / "results"
    found = run("hubert_codes", "--features", features, "--codes", 5, "--folder", folder)
    assert "purity" not in found
    assert [len(np.load(folder / "codes" / name)) for name in ("a.npy", "b.npy")] == [50, 30]
    with pytest.raises(SystemExit, match=r"should be a folder of arrays; got .*a\.pt"):
        run("hubert_codes", "--features", features / "a.pt", "--folder", folder)


# Deep clustering


@pytest.mark.slow
def test_deep_clustering_finds_the_digits_better_than_pixels_do(tmp_path: Path) -> None:
    better = []
    for seed in range(3):  # one alone scatters by 0.04
        found = run("deep_clustering", "--epochs", 8, "--seed", seed, "--folder", tmp_path)
        better.append(found["embeddings"] - found["pixels"])
    assert sum(better) / 3 > 0.04


def test_each_epoch_has_new_targets_and_a_fresh_head() -> None:
    deep = example("deep_clustering")
    pixels = torch.rand(60, 64)
    network = deep.Network(len(pixels), n_clusters=5)
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    class Watch(deep.DeepClustering):  # type: ignore[misc, name-defined]
        def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
            super().on_train_epoch_start(trainer, pl_module)
            assert torch.equal(network.targets, network.clusters(network.embed(pixels)))
            assert network.training
            seen.append((network.targets.clone(), network.head.weight.detach().clone()))

    trainer = deep.Trainer(
        max_epochs=3, callbacks=[Watch(pixels)], logger=False, enable_checkpointing=False,
        enable_model_summary=False, enable_progress_bar=False,
    )  # fmt: skip
    trainer.fit(network, deep.BatchLoader(pixels, batch_size=20, shuffle=True))
    (first, head), (second, other_head), _ = seen
    assert not torch.equal(first, second)
    assert not torch.equal(head, other_head)


def test_distorted_digits_keep_their_place() -> None:
    deep = example("deep_clustering")
    pixels = torch.zeros(200, 8, 8)
    pixels[:, 3:5, 3:5] = 1
    distorted = deep.distort(pixels.flatten(1), noise=0.0).view(200, 8, 8)
    assert not torch.equal(distorted, pixels)
    share = distorted[:, 1:7, 1:7].sum((1, 2)) / distorted.sum((1, 2))
    assert share.min() > 0.99
