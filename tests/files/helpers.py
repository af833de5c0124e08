"""One small matrix in every format that can be read."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from pyarrow import parquet
from safetensors.torch import save_file

from kmeans_module import files

X = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
Y = np.arange(40)


def write_csv(path: Path, x: np.ndarray) -> None:
    lines = [",".join(repr(float(value)) for value in row) for row in x]
    path.write_text("a,b,c\n" + "\n".join(lines) + "\n")


def write_npz(path: Path, x: np.ndarray) -> None:
    with open(path, "wb") as file:
        np.savez(file, x=x, y=Y)


WRITERS: dict[str, Callable[[Path, np.ndarray], object]] = {
    ".npy": np.save,
    ".npz": write_npz,
    ".csv": write_csv,
    ".parquet": lambda path, x: parquet.write_table(pa.table(dict(zip("abc", x.T))), path),  # noqa: B905
    ".safetensors": lambda path, x: save_file(
        {"x": torch.from_numpy(x), "y": torch.from_numpy(Y)}, path
    ),
    ".pt": lambda path, x: torch.save({"x": torch.from_numpy(x), "y": torch.from_numpy(Y)}, path),
}
formats = pytest.mark.parametrize("suffix", WRITERS)


def written(folder: Path, suffix: str, x: np.ndarray = X) -> Path:
    path = folder / f"rows{suffix}"
    WRITERS[suffix](path, x)
    return path


def refusal(path: Path, **options: object) -> str:
    """The message of the refusal: one line, which names the file."""
    with pytest.raises(ValueError, match=re.escape(str(path))) as caught:
        files.read_array(path, **options)  # type: ignore[arg-type]
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 500
    return message
