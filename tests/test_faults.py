"""Promises of the command line where disks, folders and signals fail: one line, nothing lost."""

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest.mock import patch

import pytest

from kmeans_module.cli import KMeansCLI, main
from kmeans_module.faults import in_words, is_fault, late_interrupts
from kmeans_module.training.callbacks import ClusterFigures, RunFolder
from kmeans_module.training.checkpoint_files import read_checkpoint
from tests.end_to_end.helpers import environment

pytestmark = pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
QUIET = (
    "--trainer.enable_progress_bar=false", "--run_folder.summary=false",
    "--figures.projector=false", "--figures.every_n_iterations=1000",
    "--data.samples_per_cluster=30", "--trainer.max_epochs=2",
)  # fmt: skip
PLAIN = ("--trainer.logger=false", "--trainer.default_root_dir=out")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(capsys, *args):
    """The one line of a command that fails."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main(list(args))
    assert stopped.value.code == 1
    error = capsys.readouterr().err
    lines = [line for line in error.splitlines() if "exists and is not empty" not in line]
    assert len(lines) == 1, error
    return lines[0]


def contents(folder):
    return {path: path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


# The largest file that the disk takes, and the file that does not fit.
FULL = {
    0.5: (PLAIN, "'out/config.yaml'"),
    5: (PLAIN, "'out/checkpoints/best-v1.ckpt'"),
    25: (PLAIN, "'out/clusters.png'"),
    30: ((*PLAIN, "--data.samples_per_cluster=2000"), "'out/labels.npy'"),
    15: (("--trainer.logger.save_dir=out",), "'out/blobs/version_0/events.out.tfevents."),
}


@pytest.mark.parametrize("kilobytes", FULL)
def test_a_full_disk_gives_one_line_and_loses_nothing(kilobytes, capsys):
    args, name = FULL[kilobytes]
    main(["fit", *QUIET, *PLAIN])
    before = contents("out")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(kilobytes * 1024), limits[1]))
    try:
        line = refused(capsys, "fit", *QUIET, *args)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert line.startswith("kmeans: [Errno 27] ")
    assert name in line
    after = contents("out")
    assert set(before) <= set(after)
    earlier = [path for path in before if "checkpoints" in str(path)]
    assert all(after[path] == before[path] for path in (*earlier, Path("out/clusters.png")))
    assert not [path for path in after if path.suffix == ".tmp"]


LONG = "a" * 300
PLACES = {
    ("--trainer.logger=false", "--trainer.default_root_dir=file/x"): "'file/x'",
    ("--trainer.logger=false", "--trainer.default_root_dir=file"): "file",
    ("--trainer.logger=false", f"--trainer.default_root_dir={LONG}"): LONG,
    ("--trainer.logger=false", "--trainer.default_root_dir=/proc/none"): "'/proc/none'",
    ("--trainer.logger.save_dir=file",): "/file/blobs",
    (f"--trainer.logger.save_dir={LONG}",): LONG,
    ("--trainer.logger=CSVLogger", "--trainer.logger.save_dir=file"): "/file",
}


@pytest.mark.parametrize("args", PLACES, ids=" ".join)
def test_a_folder_that_cannot_be_written_gives_one_line(args, capsys):
    Path("file").write_text("mine")
    assert PLACES[args] in refused(capsys, "fit", *QUIET, *args)
    assert contents(".") == {Path("file"): b"mine"}


def test_without_any_folder_for_temporary_files_there_is_one_line(tmp_path):
    code = (
        "import tempfile; tempfile._candidate_tempdir_list = lambda: ['/nonexistent']\n"
        "from kmeans_module.__main__ import main\n"
        "main()\n"
    )
    finished = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment(), text=True,
        capture_output=True, check=False,
    )  # fmt: skip
    assert finished.returncode == 1
    (line,) = finished.stderr.splitlines()
    assert line.startswith("kmeans: ")
    assert "'/nonexistent'" in line


FAULTS = {
    ValueError("k should be >= 1"): "k should be >= 1",
    MemoryError(): "MemoryError",
    RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes"): None,
    KeyError("... checkpoint contains only the model."): "... checkpoint contains only the model.",
    ValueError(
        "Caught ValueError in DataLoader worker process 0.\nOriginal Traceback (most recent call "
        "last):\n  File ...\nValueError: x.npy: cut\n"
    ): "ValueError: x.npy: cut",
    RuntimeError("a bug"): False,
    KeyError("name"): False,
    AssertionError(): False,
}


@pytest.mark.parametrize("error", FAULTS, ids=repr)
def test_errors_of_the_user_have_words_and_bugs_a_traceback(error):
    expected = FAULTS[error]
    assert is_fault(error) == (expected is not False)
    if isinstance(expected, str):
        assert in_words(error) == expected


@pytest.mark.parametrize("asked", [False, True])
def test_a_bug_and_a_fault_on_demand_come_with_their_traceback(asked, monkeypatch):
    def fail(*args):
        raise ValueError("a fault") if asked else ZeroDivisionError("a bug")

    monkeypatch.setattr(RunFolder, "on_train_end", fail)
    monkeypatch.setenv("KMEANS_TRACEBACK", "1" if asked else "")
    with pytest.raises(ValueError if asked else ZeroDivisionError):
        main(["fit", *QUIET, "--trainer.logger=false"])


def test_sigterm_leaves_a_checkpoint_and_its_status(monkeypatch, capsys, caplog):
    def terminate(self, trainer, pl_module):
        if trainer.current_epoch == 1:
            assert signal.getsignal(signal.SIGTERM) != signal.SIG_DFL
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(ClusterFigures, "on_train_epoch_end", terminate)
    with pytest.raises(SystemExit) as stopped:
        main(["fit", *QUIET, *PLAIN, "--trainer.max_epochs=9", "--model.tol=0"])
    assert stopped.value.code == 128 + signal.SIGTERM
    assert capsys.readouterr().err.splitlines()[-1] == "kmeans: terminated"
    said = "terminated; the same command with --ckpt_path out/checkpoints/last.ckpt continues"
    assert said in caplog.messages
    assert read_checkpoint("out/checkpoints/last.ckpt")["global_step"] == 2


def test_ctrl_c_before_the_fit_gives_one_line(monkeypatch, capsys):
    def interrupt(self, *args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(KMeansCLI, "instantiate_classes", interrupt)
    with pytest.raises(SystemExit) as stopped:
        main(["fit"])
    assert stopped.value.code == 128 + signal.SIGINT
    assert capsys.readouterr().err == "kmeans: interrupted\n"


@pytest.fixture
def interruptible():
    """Ctrl-C as in a terminal: a process that was started in the background ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_waits_until_the_writer_of_tensorboard_is_left(tmp_path):
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    passed = []

    def interrupted_put(item):
        signal.raise_signal(signal.SIGINT)
        time.sleep(0.05)
        passed.append(item)

    before = signal.getsignal(signal.SIGINT)
    writer = EventFileWriter(str(tmp_path))
    queue = writer._async_writer._byte_queue

    def write():
        with patch.object(queue, "put", interrupted_put):
            writer._async_writer.write(b"event")
        time.sleep(10)

    with late_interrupts(), pytest.raises(KeyboardInterrupt):
        write()
    assert passed == [b"event"]
    assert signal.getsignal(signal.SIGINT) is before
    writer.close()


@pytest.mark.usefixtures("interruptible")
def test_an_interrupted_fit_exits_with_130(capsys, monkeypatch):
    def interrupt(*_):
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(RunFolder, "on_train_end", interrupt)
    with pytest.raises(SystemExit) as stopped:
        main(["fit", *QUIET, *PLAIN])
    assert stopped.value.code == 128 + signal.SIGINT
    assert capsys.readouterr().err.endswith("kmeans: interrupted\n")
