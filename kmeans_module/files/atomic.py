"""Atomic writes: a file is complete or it is not there; and named tensors, written and read."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from kmeans_module.files.checksum import checksum
from kmeans_module.files.refusals import UnsuitableError, existing_file, refusing

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_SUFFIX = ".kmeans.tmp"
_CHECKSUM = "checksum"


def write_atomically(path: str | os.PathLike[str], write: Callable[[BinaryIO], object]) -> None:
    """Let ``write`` fill a file that takes the place of ``path`` only when the disk holds it.

    On any failure, also Ctrl-C, what was at ``path`` stays as it was and nothing is left beside it;
    after a kill what was begun is left, for :func:`remove_abandoned`.

    Args:
        path: of the file.
        write: fills a binary file that is open.

    Raises:
        OSError: the file cannot be written; names ``path``.
    """
    path = Path(path)
    temporary = path.with_name(f".{secrets.token_hex(4)}{_SUFFIX}")
    try:
        with open(temporary, "xb") as file:
            with suppress(OSError):  # not every system of files has locks
                _lock(file)
            write(file)
            file.flush()
            # without it, a crash of the machine may leave the new name on an empty file
            os.fsync(file.fileno())
            os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        if error.filename not in (None, str(temporary)):
            raise
        if error.errno is None:  # of a library
            raise OSError(f"{path}: cannot write: {error}") from error
        raise OSError(error.errno, f"cannot write: {error.strerror}", str(path)) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def remove_abandoned(folder: str | os.PathLike[str]) -> None:
    """Remove what :func:`write_atomically` had begun in a folder when its process was killed.

    Args:
        folder: in which files are written.
    """
    for temporary in Path(folder).glob(f".*{_SUFFIX}"):
        # a lock that is held, by a process that writes, is an OSError too
        with suppress(OSError), open(temporary, "rb") as file:
            _lock(file)
            temporary.unlink()


def _lock(file: BinaryIO) -> None:
    """Hold the file as long as it is open and this process lives."""
    if fcntl is not None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _sync_folder(folder: Path) -> None:
    """Let the new name of a file last through a crash of the machine."""
    with suppress(OSError):  # not every system opens folders, or syncs them
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def save_array(path: str | os.PathLike[str], tensor: Tensor) -> None:
    """Write a tensor as .npy, atomically.

    Args:
        path: of the file.
        tensor: of any shape; bfloat16 becomes float32.

    Raises:
        OSError: see :func:`write_atomically`.
    """
    tensor = tensor.detach().cpu()
    array = (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()

    def write(file: BinaryIO) -> None:
        # into a true file numpy writes by itself, and loses the number of the system's error
        np.save(SimpleNamespace(write=file.write), array, allow_pickle=False)

    write_atomically(path, write)


def save_tensors(
    path: str | os.PathLike[str],
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write named tensors of any shapes and a few strings as .safetensors, atomically.

    A checksum of the tensors goes into the metadata.

    Args:
        path: of the file.
        tensors: by name.
        metadata: texts for the header of the file, by name.

    Raises:
        OSError: see :func:`write_atomically`.
    """
    from safetensors.torch import save as to_safetensors

    # clones, as safetensors refuses tensors that share memory
    copies = {name: x.detach().cpu().contiguous().clone() for name, x in tensors.items()}
    content = to_safetensors(copies, {**(metadata or {}), _CHECKSUM: checksum(copies)})
    # safetensors writes the metadata in any order; the same tensors shall be the same bytes
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8:end]), sort_keys=True).encode()
    header += b" " * (-len(header) % 8)

    def write(file: BinaryIO) -> None:
        file.write(len(header).to_bytes(8, "little") + header)
        file.write(memoryview(content)[end:])

    write_atomically(path, write)


def load_tensors(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read what :func:`save_tensors` wrote.

    Args:
        path: of the file.

    Returns:
        The tensors by name, and the metadata.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a complete .safetensors file, or its tensors are not those of its
            checksum.
    """
    from safetensors import safe_open

    path = existing_file(path)
    with refusing(path, ".safetensors file"), safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        metadata = file.metadata() or {}
        expected = metadata.pop(_CHECKSUM, None)
        if expected not in (None, checksum(tensors)):
            raise UnsuitableError(
                "damaged: the tensors are not those of the checksum (if the change is meant, "
                f"leave {_CHECKSUM!r} out of the metadata)"
            )
        return tensors, metadata
