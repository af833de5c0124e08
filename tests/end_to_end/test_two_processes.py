import os
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from kmeans_module import LitKMeans
from tests.end_to_end.helpers import environment, fit_layer, run_script, train
from tests.end_to_end.two_ranks import CASES, blobs, run_all, run_rank
from tests.processes import run_ranks

REFUSED = ("error", "NaN", "too few rows")
LABELLED = [name for name in CASES if name.startswith(("labels", "predicted"))]
FITTED = [name for name in CASES if name not in (*REFUSED, *LABELLED, "metrics")]
# The sampler that Lightning injects shuffles in training, whatever the loader does.
RESHUFFLED = ("foreign", "foreign, shuffled")


def work(rank, folder, port):
    """As a rank that torchrun has started."""
    os.environ.update(
        {
            **environment(), "RANK": str(rank), "LOCAL_RANK": str(rank), "GROUP_RANK": "0",
            "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "tests",
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
        }
    )  # fmt: skip
    run_rank(Path(folder), rank, 2)


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """Of all cases: by one process, by rank 0 and by rank 1."""
    folder = tmp_path_factory.mktemp("ranks")
    data = blobs()
    np.save(folder / "x.npy", data.x.numpy())
    pixels = np.random.default_rng(0).integers(0, 256, (13, 17, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "x.png")
    train(LitKMeans(10, 2), data, max_epochs=2).save_checkpoint(folder / "file.ckpt")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    run_ranks(work, (str(folder), port), 2)
    threads = torch.get_num_threads()
    try:
        one = run_all(folder)
    finally:
        torch.set_num_threads(threads)
    return one, *(torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(2))


@pytest.mark.parametrize("name", FITTED)
def test_two_ranks_equal_one(outcomes, name):
    one, rank, _ = (found[name] for found in outcomes)
    assert torch.equal(rank["labels"], one["labels"])
    assert rank["inertia"] == pytest.approx(one["inertia"], rel=1e-9)
    assert rank["n_iter"] == one["n_iter"] > 1
    assert rank["stopped"] == one["stopped"]
    assert torch.equal(rank["sizes"], one["sizes"])


@pytest.mark.parametrize("name", FITTED)
def test_ranks_hold_the_same_centroids_after_every_m_step(outcomes, name):
    _, first, second = (found[name] for found in outcomes)
    assert len(first["steps"]) >= first["n_iter"]
    assert torch.equal(first["steps"], second["steps"])
    assert first["inertia"] == second["inertia"]
    assert torch.equal(first["sizes"], second["sizes"])


@pytest.mark.parametrize("name", FITTED)
def test_each_row_counts_once(outcomes, name):
    n_rows = len(blobs().x)
    assert n_rows % 2 == 1
    for found in outcomes:
        assert float(found[name]["sizes"].sum()) == n_rows


@pytest.mark.parametrize("name", FITTED)
def test_two_ranks_log_what_one_logs(outcomes, name):
    one, rank, _ = (found[name]["logged"] for found in outcomes)
    assert len(rank) == len(one)
    for (step, expected), (at, found) in zip(one, rank, strict=True):
        assert at == step
        missing = {"train/reassigned"} if name in RESHUFFLED else set()
        assert set(found) | missing == set(expected) | missing
        for key in set(found) & set(expected):
            assert found[key] == pytest.approx(expected[key], rel=1e-6, abs=1e-9), (step, key)


@pytest.mark.parametrize("name", ["relocate", "split", "keep"])
def test_the_policies_had_empty_clusters_to_meet(outcomes, name):
    for found in outcomes:
        metrics = [metrics for _, metrics in outcomes[0][name]["logged"]]
        empty = [m["train/empty_clusters"] for m in metrics if "train/empty_clusters" in m]
        assert empty[0] >= 3
        assert (empty[-1] > 0) == (name == "keep"), found


@pytest.mark.parametrize("name", LABELLED)
def test_the_run_folder_has_the_labels_of_one_process(outcomes, name):
    one, first, second = (found[name]["labels"] for found in outcomes)
    assert len(one) > 200
    assert torch.equal(first, one)
    assert torch.equal(second, one)


def test_metrics_merge(outcomes):
    one, first, second = (found["metrics"] for found in outcomes)
    assert first == second
    assert first == pytest.approx(one, rel=1e-12)


@pytest.mark.parametrize("name", REFUSED)
def test_an_error_ends_both_ranks_with_its_message(outcomes, name):
    messages = [found[name]["error"] for found in outcomes]
    expected = {
        "error": "3 of 10 clusters have no samples",
        "NaN": "x should be finite; 1 row holds NaN or infinity, the first is row 502",
        "too few rows": "n_samples=503 should be >= n_clusters=2000",
    }[name]
    for message in messages:
        assert expected in message
    assert all(found[name]["seconds"] < 10 for found in outcomes)
    if name == "NaN":
        assert messages[1] == f"rank 1: {messages[2]}"


@pytest.mark.slow
def test_the_command_line_starts_both_processes(tmp_path):
    data = blobs()
    np.save(tmp_path / "x.npy", data.x.numpy())
    args = ("fit", "--data=ArrayDataModule", "--data.path=x.npy", "--data.batch_size=100",
            "--figures.projector=false", "--trainer.accelerator=cpu")  # fmt: skip
    ranks = ("--trainer.devices=2", "--trainer.strategy=ddp")
    found = run_script(*args, *ranks, cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    assert found.stdout.count("cluster sizes") == 1
    folder = tmp_path / "runs" / "blobs" / "version_0"
    _, result = fit_layer(LitKMeans(6, 2), data.x)
    assert np.load(folder / "labels.npy").tolist() == result.labels.tolist()
    assert {path.name for path in folder.glob("checkpoints/*")} == {"best.ckpt", "last.ckpt"}

    x = data.x.clone()
    x[400, 1] = torch.nan
    np.save(tmp_path / "x.npy", x.numpy())
    found = run_script(*args, *ranks, cwd=tmp_path)
    assert found.returncode == 1
    message = "x should be finite; 1 row holds NaN or infinity, the first is row 400"
    assert f"kmeans: x.npy: {message}" in found.stderr
    assert "Traceback" not in found.stderr
