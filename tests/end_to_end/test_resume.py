import os
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from kmeans_module import BlobDataModule, KMeansLayer, LitKMeans
from kmeans_module.cli import main
from kmeans_module.training.callbacks import Checkpoints, RunFolder
from tests.end_to_end.helpers import environment, quiet_trainer, script, train

pytestmark = pytest.mark.filterwarnings(
    "ignore:Be aware that when using `ckpt_path`, callbacks used to create the checkpoint",
    "ignore:Checkpoint directory .* exists and is not empty",
)

RUNS = {
    "lloyd": ({"tol": 0.0}, {"batch_size": 200}),
    "lloyd with a tolerance": ({"tol": 1e-3}, {}),
    "lloyd, shuffled": ({"tol": 0.0}, {"batch_size": 200, "shuffle": True}),
    "cosine": ({"tol": 1e-4, "metric": "cosine"}, {}),
    "minibatch": ({"algorithm": "minibatch", "tol": 2e-4}, {"batch_size": 200}),
    "minibatch, shuffled": (
        {"algorithm": "minibatch", "tol": 2e-4},
        {"batch_size": 200, "shuffle": True},
    ),
}


def start(name):
    model, data = RUNS[name]
    blobs = BlobDataModule(variance=200.0, **data)
    return LitKMeans(9, 2, init="random", **model), blobs


def outcome(lit):
    kmeans = lit.kmeans
    return (
        kmeans.centroids.tolist(), kmeans.counts.tolist(), int(kmeans.n_iter),
        lit.converged, lit.stop_reason, lit.last and lit.last[:3],
    )  # fmt: skip


@pytest.mark.parametrize("name", RUNS)
def test_a_run_interrupted_after_any_epoch_ends_as_if_it_had_not_been(name, tmp_path):
    whole, data = start(name)
    every = ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1)
    trainer = train(whole, data, callbacks=[every], enable_checkpointing=True, max_epochs=40)
    n_epochs = trainer.current_epoch
    assert whole.converged
    assert n_epochs > 4
    for epoch in {0, 1, 2, n_epochs // 2, n_epochs - 3, n_epochs - 2}:
        lit, data = start(name)
        torch.rand(1)  # the state of torch's generator is no part of it
        path = tmp_path / f"epoch={epoch}.ckpt"
        trainer = train(lit, data, ckpt_path=str(path), max_epochs=40)
        assert trainer.current_epoch == n_epochs
        assert outcome(lit) == outcome(whole), epoch


@pytest.mark.parametrize("name", ["lloyd", "minibatch, shuffled"])
def test_a_capped_run_goes_on_where_it_was_capped(name, tmp_path):
    whole, data = start(name)
    train(whole, data)
    lit, data = start(name)
    options = {"callbacks": [Checkpoints()], "enable_checkpointing": True}
    train(lit, data, max_epochs=3, default_root_dir=tmp_path, **options)
    assert lit.stop_reason == "max_epochs=3 reached"
    lit, data = start(name)
    train(lit, data, ckpt_path=str(tmp_path / "checkpoints" / "last.ckpt"))
    assert outcome(lit) == outcome(whole)


def test_a_converged_run_has_nothing_left_to_do(tmp_path):
    whole, data = start("lloyd")
    options = {"callbacks": [Checkpoints()], "enable_checkpointing": True}
    train(whole, data, default_root_dir=tmp_path, **options)
    path = str(tmp_path / "checkpoints" / "last.ckpt")
    lit, data = start("lloyd")
    trainer = train(lit, data, ckpt_path=path, max_epochs=1000)
    assert lit.last is None
    assert trainer.global_step == int(whole.kmeans.n_iter)
    assert outcome(lit)[:-1] == outcome(whole)[:-1]


@pytest.mark.parametrize("limit", [3, 1000], ids=["at its cap", "converged"])
def test_a_resumed_run_with_nothing_left_to_do_leaves_its_results(limit, tmp_path):
    whole, data = start("lloyd")
    options = {"callbacks": [Checkpoints()], "enable_checkpointing": True, "max_epochs": limit}
    train(whole, data, default_root_dir=tmp_path, **options)
    lit, data = start("lloyd")
    path = str(tmp_path / "checkpoints" / "last.ckpt")
    results = {"default_root_dir": tmp_path / "again", "callbacks": [RunFolder(summary=False)]}
    trainer = train(lit, data, ckpt_path=path, max_epochs=limit, **results)
    assert trainer.global_step == int(whole.kmeans.n_iter)
    names = {path.name for path in (tmp_path / "again").iterdir()}
    assert names >= {"centroids.safetensors", "labels.npy", "clusters.png", "animation.html"}
    labels = np.load(tmp_path / "again" / "labels.npy")
    np.testing.assert_array_equal(labels, whole(data.x))
    assert torch.equal(centroids(tmp_path / "again"), whole.kmeans.centroids)


def test_a_fit_without_batches_leaves_nothing(tmp_path):
    results = {"default_root_dir": tmp_path, "callbacks": [RunFolder(summary=False)]}
    train(LitKMeans(9), start("lloyd")[1], limit_train_batches=0, **results)
    assert [path.name for path in tmp_path.iterdir()] == [".kmeans_run"]


def test_load_from_checkpoint_brings_back_the_model(tmp_path):
    whole, data = start("cosine")
    options = {"callbacks": [Checkpoints()], "enable_checkpointing": True}
    train(whole, data, default_root_dir=tmp_path, **options)
    path = tmp_path / "checkpoints" / "best.ckpt"
    lit = LitKMeans.load_from_checkpoint(path, weights_only=True)
    assert outcome(lit)[:-1] == outcome(whole)[:-1]
    assert lit.hparams == whole.hparams
    assert torch.equal(lit(data.x), whole(data.x))
    assert torch.equal(lit.generator.get_state(), whole.generator.get_state())
    assert lit.variance == whole.variance


def test_the_monitored_checkpoint_is_that_of_lowest_inertia(tmp_path):
    lit, data = start("lloyd, shuffled")
    keep = ModelCheckpoint(tmp_path, "{step}", monitor="train/inertia", save_top_k=2)
    train(lit, data, callbacks=[keep], enable_checkpointing=True)
    n_iter = int(lit.kmeans.n_iter)
    kept = {torch.load(path)["global_step"] for path in keep.best_k_models}
    assert kept <= set(range(n_iter - 3, n_iter + 1))
    best = torch.load(keep.best_model_path)
    assert best["state_dict"]["kmeans.n_iter"] == best["global_step"]
    assert float(keep.best_model_score) == pytest.approx(lit.last.inertia, rel=1e-6)


NAMES = {
    ("{epoch}-{step}", "lloyd"): ["epoch=0-step=1", "epoch=1-step=2", "epoch=2-step=3"],
    (None, "lloyd"): ["epoch=0-step=1", "epoch=1-step=2", "epoch=2-step=3"],
    ("{step:03d}", "minibatch"): [f"step={i:03d}" for i in range(1, 13)],
    ("{epoch}-{step}", "minibatch"): [f"epoch={i // 4}-step={i + 1}" for i in range(12)],
}


@pytest.mark.filterwarnings("ignore:Using ModelCheckpoint with manual optimization")
@pytest.mark.parametrize(("template", "algorithm"), NAMES)
@pytest.mark.parametrize("val_check_interval", [1, 3, 1.0])
def test_checkpoints_are_named_by_the_step_they_are_of(
    template, algorithm, val_check_interval, tmp_path
):
    every = {"minibatch": {"every_n_train_steps": 1}, "lloyd": {"save_on_train_epoch_end": True}}
    keep = ModelCheckpoint(tmp_path, template, save_top_k=-1, **every[algorithm])
    train(
        LitKMeans(9, init="random", tol=0, algorithm=algorithm), BlobDataModule(batch_size=400),
        callbacks=[keep], enable_checkpointing=True, max_epochs=3,
        val_check_interval=val_check_interval,
    )  # fmt: skip
    names = [path.stem for path in tmp_path.iterdir()]
    assert sorted(names) == sorted(NAMES[template, algorithm])
    for path in tmp_path.iterdir():
        step = torch.load(path)["global_step"]
        assert path.stem.split("step=")[1].lstrip("0") == str(step)


def test_metrics_may_be_in_the_names_of_checkpoints(tmp_path):
    keep = ModelCheckpoint(
        tmp_path, "{step}-{val/inertia:.1f}", monitor="val/inertia", save_top_k=2,
        auto_insert_metric_name=False,
    )  # fmt: skip
    lit, data = start("lloyd")
    trainer = train(lit, data, callbacks=[keep], enable_checkpointing=True)
    assert len(keep.best_k_models) == 2
    for path, inertia in keep.best_k_models.items():
        assert Path(path).stem == f"{torch.load(path)['global_step']}-{inertia:.1f}"
    assert "step" not in trainer.callback_metrics


def test_a_validation_metric_can_be_monitored(tmp_path):
    lit, data = start("lloyd")
    keep = ModelCheckpoint(tmp_path, monitor="val/inertia")
    train(lit, data, callbacks=[keep], enable_checkpointing=True)
    best = LitKMeans.load_from_checkpoint(keep.best_model_path, weights_only=True)
    (scores,) = quiet_trainer().validate(best, data, verbose=False)
    assert scores["val/inertia"] == pytest.approx(float(keep.best_model_score))


COMMAND = (
    "fit", "--model.tol=0", "--model.n_clusters=9", "--data.variance=200",
    "--data.batch_size=400", "--figures.projector=false", "--figures.every_n_iterations=1000",
    "--run_folder.summary=false",
    "--trainer.enable_progress_bar=false", "--trainer.logger.init_args.save_dir=runs",
)  # fmt: skip
MINIBATCH = ("--model.algorithm=minibatch", "--model.tol=0.0002", "--data.shuffle=true")


def centroids(folder):
    return KMeansLayer.from_file(folder / "centroids.safetensors").centroids


@pytest.mark.parametrize("flags", [(), MINIBATCH], ids=["lloyd", "minibatch"])
def test_the_command_line_resumes(flags, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    main([*COMMAND, *flags])
    main([*COMMAND, *flags, "--trainer.max_epochs=3"])
    runs = tmp_path / "runs" / "blobs"
    main([*COMMAND, *flags, f"--ckpt_path={runs / 'version_1/checkpoints/last.ckpt'}"])
    whole, capped, resumed = (runs / f"version_{i}" for i in range(3))
    assert not torch.equal(centroids(capped), centroids(whole))
    assert torch.equal(centroids(resumed), centroids(whole))
    labels = [(folder / "labels.npy").read_bytes() for folder in (whole, resumed)]
    assert labels[0] == labels[1]
    states = [torch.load(folder / "checkpoints" / "last.ckpt") for folder in (whole, resumed)]
    for key in ("stop_reason", "converged", "variance"):
        assert states[0]["kmeans"][key] == states[1]["kmeans"][key], key


def test_ctrl_c_leaves_a_checkpoint_from_which_the_run_goes_on(tmp_path, monkeypatch):
    slow = (
        "fit", "--model.tol=0", "--model.n_clusters=300", "--data.n_clusters=300",
        "--data.variance=2000", "--data.n_features=4", "--figures.projector=false",
        "--figures.every_n_iterations=1000", "--trainer.enable_progress_bar=false",
        "--trainer.logger.init_args.save_dir=runs", "--run_folder.summary=false",
        "--trainer.max_epochs=60",
    )  # fmt: skip
    last = tmp_path / "runs" / "blobs" / "version_0" / "checkpoints" / "last.ckpt"
    signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs ignore it
    process = subprocess.Popen(
        script(*slow), cwd=tmp_path, env=environment(), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not last.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode not in (0, -signal.SIGINT), errors
    assert "Traceback" not in errors
    assert f"the same command with --ckpt_path {last.relative_to(tmp_path)} continues" in errors
    interrupted = torch.load(last)
    assert 1 <= interrupted["global_step"] < 60
    assert interrupted["state_dict"]["kmeans.n_iter"] == interrupted["global_step"]

    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        main([*slow, f"--ckpt_path={last}"])
        main([*slow])
    finally:
        torch.set_num_threads(threads)
    resumed, whole = (tmp_path / "runs" / "blobs" / f"version_{i}" for i in (1, 2))
    assert torch.equal(centroids(resumed), centroids(whole))
