"""Atomic writes: a file is complete or it is not there; and named tensors, written and read."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save as to_safetensors
from torch import Tensor

from kmeans_module.files.refusals import existing_file, refusing


def write_atomically(path: str | os.PathLike[str], write: Callable[[BinaryIO], object]) -> None:
    """Let ``write`` fill a file that takes the place of ``path`` only when it is complete.

    On any failure, also Ctrl-C, what was at ``path`` stays as it was and nothing is left beside it.

    Raises:
        OSError: the file cannot be written; names ``path``.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "xb") as file:
            write(file)
            file.flush()
            # without it, a crash of the machine may leave the new name on an empty file
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        if error.errno is None or error.filename not in (None, str(temporary)):
            raise
        raise OSError(error.errno, f"cannot write: {error.strerror}", str(path)) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def save_array(path: str | os.PathLike[str], tensor: Tensor) -> None:
    """Write a tensor of any shape as .npy, atomically (bfloat16 as float32)."""
    tensor = tensor.detach().cpu()
    array = (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
    write_atomically(path, lambda file: np.save(file, array, allow_pickle=False))


def save_tensors(
    path: str | os.PathLike[str],
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write named tensors of any shapes and a few strings as .safetensors, atomically."""
    # clones, as safetensors refuses tensors that share memory
    copies = {name: x.detach().cpu().contiguous().clone() for name, x in tensors.items()}
    content = to_safetensors(copies, dict(metadata or {}))
    write_atomically(path, lambda file: file.write(content))


def load_tensors(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read what :func:`save_tensors` wrote: the tensors by name, and the metadata.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a complete .safetensors file.
    """
    path = existing_file(path)
    with refusing(path, ".safetensors file"), safe_open(path, framework="pt") as file:
        names = file.keys()
        return {name: file.get_tensor(name) for name in names}, file.metadata() or {}
