"""Careless calls of everything public: each ends in a result, or in one line about an argument."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kmeans_module.cli import main
from tests.careless import DOORS, GARBAGE, Door, complaint, state_of

# What a user's own function raises is the user's to see.
CALLED = ("init", "callback", "batch_of", "assign")
# Arguments whose size is time or memory.
SIZES = ("max_iter", "n_init", "n_levels", "n_clusters", "k", "n_subspaces", "heads", "beam_size")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("door", DOORS, ids=lambda door: door.name)
@settings(
    max_examples=25, deadline=None, database=None, derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)  # fmt: skip
@given(data=st.data())
def test_a_careless_call_is_served_or_refused_in_one_line(door: Door, data: st.DataObject) -> None:
    torch.manual_seed(data.draw(st.integers(0, 99), label="seed"))
    call, owner = door.make()
    arguments = {name: make() for name, make in door.good.items()}
    for name in data.draw(st.lists(st.sampled_from(list(door.good)), min_size=1, max_size=2)):
        value = data.draw(st.sampled_from(GARBAGE), label=name)()
        large = name in SIZES and isinstance(value, int) and 2**20 < value < 2**60
        if not large and not (name in CALLED and callable(value)):
            arguments[name] = value
    before = state_of(owner)
    refusal = None
    try:
        call(**arguments)
    except Exception as error:
        refusal = error
    if refusal is not None:
        wrong = complaint(door, refusal)
        assert wrong is None, f"{wrong}: {type(refusal).__name__}: {refusal}"
        assert state_of(owner) == before, f"a refusal changed the object: {refusal}"


WORDS = (
    "", "-1", "0", "1.5", "nan", "inf", "1e400", "true", "null", "[]", "[1,2]", "{}", "{a: 1}",
    "six", "a b", "no/such/file.npy", "text.npy", "torn.npy", "words.csv", ".", "/", "cosine",
    "9" * 40, "!!python/object:os.system", "torch.nn.Identity", "2", "x" * 300, "\u00fc",
)  # fmt: skip
FLAGS = (
    "model.n_clusters", "model.n_features", "model.init", "model.algorithm", "model.metric",
    "model.empty_cluster", "model.tol", "model.seed", "model.resident", "model.batch_of", "data",
    "data.n_clusters", "data.n_features", "data.samples_per_cluster", "data.variance",
    "data.outliers", "data.batch_size", "data.shuffle", "data.seed", "data.path", "trainer.logger",
    "trainer.max_epochs", "trainer.accelerator", "trainer.devices", "trainer.precision",
    "trainer.strategy", "trainer.callbacks", "trainer.limit_train_batches", "figures.projector",
    "figures.every_n_iterations", "checkpoints.save_top_k", "checkpoints.every_n_iterations",
    "run_folder.summary", "ckpt_path", "config", "seed_everything", "nonsense", "model", "trainer",
)  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@settings(
    max_examples=40, deadline=None, database=None, derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)  # fmt: skip
@given(
    command=st.sampled_from(["fit", "fit", "fit", "fit", "validate", "predict", "fot", ""]),
    given_flags=st.lists(
        st.tuples(st.sampled_from(FLAGS), st.sampled_from(WORDS)), min_size=1, max_size=2
    ),
    array=st.booleans(),
)
def test_a_careless_command_line_runs_or_fails_in_one_line(
    command: str, given_flags: list[tuple[str, str]], array: bool,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    Path("text.npy").write_text("these are no numbers")
    Path("torn.npy").write_bytes(b"\x93NUMPY\x01\x00v\x00{'descr': '<f4', 'fortran_order")
    Path("words.csv").write_text("a,b\nc,d\n")
    quiet = ["--trainer.logger=false", "--trainer.enable_progress_bar=false"]
    small = ["--trainer.max_epochs=2", "--trainer.accelerator=cpu"]
    data = ["--data=ArrayDataModule", "--data.path=torn.npy"] if array else []
    flags = [f"--{flag}={word}" for flag, word in given_flags]
    before = sorted(tmp_path.iterdir())
    capfd.readouterr()
    try:
        main([word for word in (command, *quiet, *small, *data, *flags) if word])
    except SystemExit as stopped:
        written = capfd.readouterr().err
        if stopped.code not in (0, None):
            lines = [line for line in written.splitlines() if line.startswith("kmeans: ")]
            assert len(lines) == 1, written
            assert len(lines[0]) < 500, lines[0]
            assert "Traceback" not in written
    assert not [path for path in tmp_path.iterdir() if path not in before and path.name != "runs"]
