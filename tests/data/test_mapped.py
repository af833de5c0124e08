"""Promises about a mapped file that is cut short between two looks at it: no signal, a refusal."""

from __future__ import annotations

import copy
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from kmeans_module import ArrayDataModule
from kmeans_module.backends.native.library import INSTALLED
from kmeans_module.data.mapped import Copied, MappedFile

pytestmark = [
    pytest.mark.skipif(not INSTALLED, reason="without the native library the process ends"),
    pytest.mark.skipif(sys.platform == "win32", reason="files in use cannot be cut short"),
]
START = """
import os, sys, signal, numpy as np, torch
from kmeans_module import ArrayDataModule, KMeansLayer
path = sys.argv[1]
data = ArrayDataModule(path=path)
"""
READ = """
data.setup()
layer = KMeansLayer(8, 4)
rows = layer.prepare(data.x)
os.truncate(path, 5_000)
layer.fit(rows, max_iter=2)  # the native kernel, on its threads
float(data.x.sum())  # and torch
try:
    data.check_intact()
except ValueError as error:
    print(error)
"""
DIE = """
data.setup()
os.kill(os.getpid(), signal.SIGBUS)
"""


def ran(script: str, path: Path) -> subprocess.CompletedProcess[str]:
    flags = ("-W", "ignore", "-X", "faulthandler")  # whose handler was there before
    command = [sys.executable, *flags, "-c", START + script, str(path)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    np.save(tmp_path / "rows.npy", np.random.default_rng(0).random((50_000, 4), np.float32))
    return tmp_path / "rows.npy"


def test_reading_what_is_lost_does_not_end_the_process(path: Path) -> None:
    done = ran(READ, path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{path}: was cut short while it was read\n"


def test_other_bus_errors_end_the_process_as_before(path: Path) -> None:
    assert ran(DIE, path).returncode == -signal.SIGBUS


def test_rows_that_were_copied_are_not_lost(path: Path) -> None:
    data = ArrayDataModule(path=str(path), val_share=0.1)
    loaders = data.train_dataloader(), data.val_dataloader()
    os.truncate(path, 5_000)
    assert [sum(len(batch.x) for batch in loader) for loader in loaders] == [45_000, 5_000]
    with pytest.raises(ValueError, match="was cut short while it was read, from 800128 bytes"):
        data.predict_dataloader()  # of all rows: those are not a copy yet


def test_many_mappings_are_guarded_one_after_the_other(path: Path) -> None:
    x = torch.from_numpy(np.load(path, mmap_mode="c"))
    numbers = {MappedFile(path, x)._number for _ in range(600)}
    assert -1 not in numbers
    held = [MappedFile(path, x) for _ in range(300)]
    assert held[-1]._number == -1  # there are 256 at a time; the others watch the size alone
    held[-1].check()


def test_in_another_process_the_rows_are_a_copy(path: Path) -> None:
    data = ArrayDataModule(path=str(path))
    data.setup()
    for again in (pickle.loads(pickle.dumps(data)), copy.deepcopy(data)):
        assert isinstance(again._mapped, Copied)
        assert torch.equal(torch.cat([batch.x for batch in again.train_dataloader()]), data.x)
