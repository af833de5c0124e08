"""Files of checkpoints: whole or not there when written, verified when read."""

from __future__ import annotations

import io
import os
import pickle
import shlex
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io import TorchCheckpointIO
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.model_helpers import _restricted_classmethod
from torch import Tensor

from kmeans_module.files import write_atomically
from kmeans_module.files.checksum import checksum
from kmeans_module.files.refusals import UnsuitableError, existing_file, refusing
from kmeans_module.layer import KMeansLayer

NOT_OURS = "not a checkpoint of LitKMeans"
_STATE = ("converged", "stop_reason", "variance", "generator")


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its place and renames it when the disk holds all of it; reads
    one only where it is what was written.

    Kill, power failure or a full disk leave the file that was there before. Every Trainer of a
    LitKMeans gets it, unless ``Trainer(plugins=...)`` names another CheckpointIO.
    """

    @staticmethod
    def serve(trainer: Trainer) -> None:
        """Take the place of Lightning's own CheckpointIO, but of no other."""
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = AtomicCheckpointIO()

    def save_checkpoint(
        self,
        checkpoint: dict[str, Any],
        path: str | Path,
        storage_options: Any | None = None,
    ) -> None:
        """Write a checkpoint.

        Raises:
            OSError: the file cannot be written; names ``path``.
        """
        if storage_options is not None or is_remote(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        # torch writes into memory: an error of the disk would lose its number in torch's writer
        content = io.BytesIO()
        torch.save(checkpoint, content)
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, lambda file: file.write(content.getbuffer()))

    def load_checkpoint(
        self,
        path: str | Path,
        map_location: Any = lambda storage, location: storage,
        weights_only: bool | None = None,
    ) -> dict[str, Any]:
        """Read a checkpoint; see :func:`read_checkpoint`."""
        if is_remote(path):
            return super().load_checkpoint(path, map_location, weights_only)
        return read_checkpoint(path, map_location=map_location, weights_only=weights_only)


class VerifiedCheckpoints(LightningModule):
    """A module whose checkpoints are written and read by :class:`AtomicCheckpointIO`."""

    def setup(self, stage: str) -> None:
        """Let checkpoints be whole or not there."""
        AtomicCheckpointIO.serve(self.trainer)

    @_restricted_classmethod  # as Lightning's: a call on an instance would leave it as it is
    def load_from_checkpoint(cls, checkpoint_path: Any, *args: Any, **kwargs: Any) -> Any:
        """A module from a checkpoint, as LightningModule's.

        Args:
            checkpoint_path: of the file, or a URL that fsspec reads.
            args, kwargs: of :meth:`lightning.pytorch.LightningModule.load_from_checkpoint`.

        Returns:
            The module, with the centroids of the checkpoint.

        Raises:
            ValueError: the file is damaged or of another kind of module; it is named.
        """
        if isinstance(checkpoint_path, str | os.PathLike) and not is_remote(checkpoint_path):
            read_checkpoint(checkpoint_path, weights_only=kwargs.get("weights_only"))
        return super().load_from_checkpoint(checkpoint_path, *args, **kwargs)


def is_remote(path: str | os.PathLike[str]) -> bool:
    """Whether fsspec has to fetch the path, as in s3://bucket/last.ckpt."""
    return "://" in str(path)


def sign(checkpoint: dict[str, Any]) -> None:
    """Put the checksum of the layer and the run into a checkpoint."""
    checkpoint["kmeans"]["checksum"] = _checksum(checkpoint)


def verify(checkpoint: dict[str, Any]) -> None:
    """Refuse a checkpoint of another module, or whose layer or run has changed.

    Raises:
        ValueError: says how to go on.
    """
    state = checkpoint.get("kmeans")
    if not isinstance(state, dict) or not all(key in state for key in _STATE):
        raise ValueError(NOT_OURS)
    if not isinstance(checkpoint.get("state_dict"), dict):
        raise ValueError(NOT_OURS)
    # Checkpoints from before the first release may have none.
    if "checksum" in state and state["checksum"] != _checksum(checkpoint):
        raise ValueError(
            "damaged: the layer or the run is not that of its checksum (if the change is meant, "
            "delete checkpoint['kmeans']['checksum'])"
        )


def check_fits(checkpoint: dict[str, Any], module: Any) -> None:
    """Refuse a checkpoint of another metric, or of centroids of another shape, than the module that
    a Trainer loads it into, and of another algorithm or number of restarts than a fit goes on with.

    Raises:
        ValueError: says which setting differs, and where the configuration of the run lies.
    """
    if module._trainer is None:
        return
    theirs = dict(checkpoint.get("hyper_parameters") or {})
    ours = {name: getattr(module, name) for name in ("metric", "algorithm", "n_init")}
    names = ["metric", *(("algorithm", "n_init") if module.trainer.training else ())]
    centroids = checkpoint["state_dict"].get("kmeans.centroids")
    if isinstance(centroids, Tensor):
        sizes = ("n_clusters", "n_features")
        theirs.update(zip(sizes, centroids.shape, strict=True))
        ours["n_clusters"] = module.n_clusters
        # without a layer yet, the checkpoint would make one, which the data may not fit
        source = module.kmeans if isinstance(module.kmeans, KMeansLayer) else module.trainer
        n_features = getattr(getattr(source, "datamodule", source), "n_features", None)
        if isinstance(n_features, int):
            ours["n_features"] = n_features
        names += [name for name in sizes if name in ours]
    differing = [name for name in names if theirs.get(name, ours[name]) != ours[name]]
    if differing:
        it_is, got = (
            ", ".join(f"{name}={values[name]!r}" for name in differing) for values in (theirs, ours)
        )
        raise ValueError(
            f"the checkpoint does not fit the configuration: it is of {it_is}; got {got}; "
            f"repeat the configuration of its run{_configuration(module.trainer)}"
        )


def _configuration(trainer: Trainer) -> str:
    """The option that repeats the configuration of a checkpoint; "" where no file of it is seen."""
    path = trainer.ckpt_path
    if path is None or is_remote(path):
        return ""
    config = Path(path).parent.parent / "config.yaml"
    return f": --config {shlex.quote(str(config))}" if config.is_file() else ""


def read_checkpoint(
    path: str | os.PathLike[str], *, map_location: Any = "cpu", weights_only: bool | None = None
) -> dict[str, Any]:
    """Read and verify a checkpoint of LitKMeans.

    Args:
        path: of a local file.
        map_location: as of torch.load.
        weights_only: as of torch.load.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, or no checkpoint of LitKMeans; names the file, and the
            newest other checkpoint of its folder that is whole.
    """
    options = {"map_location": map_location, "weights_only": weights_only}
    try:
        return _read(Path(path), **options)
    except ValueError as error:
        whole = _newest_whole(Path(path))
        if whole is None:
            raise
        raise ValueError(f"{error}; {whole} is whole") from error


def _read(path: Path, **options: Any) -> dict[str, Any]:
    path = existing_file(path)
    with refusing(path, "checkpoint"):
        with open(path, "rb") as file:
            start = file.read(4)
        if not start:
            raise UnsuitableError("not a checkpoint: the file is empty")
        archive = zipfile.is_zipfile(path)
        if archive:
            _check_records(path)
        elif start == b"PK\x03\x04":
            raise UnsuitableError("damaged: the file is cut short")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of pickles, which are refused
                checkpoint = torch.load(path, **options)
        except pickle.UnpicklingError as error:
            if archive and "Weights only load failed" in str(error):
                raise UnsuitableError(
                    "holds objects, which are read with weights_only=False alone"
                ) from error
            raise UnsuitableError(NOT_OURS) from error
        except Exception as error:
            raise UnsuitableError("damaged" if archive else NOT_OURS) from error
        if not isinstance(checkpoint, dict) or "pytorch-lightning_version" not in checkpoint:
            raise UnsuitableError(NOT_OURS)
        try:
            verify(checkpoint)
        except ValueError as error:
            raise UnsuitableError(str(error)) from error
    return checkpoint


def _check_records(path: Path) -> None:
    """Compare what the archive holds with the checksums that torch.save wrote, as torch does not.

    The checksums of the archive guard what :func:`sign` leaves out, the loops and the optimizer,
    and checkpoints from before the first release.
    """
    if not torch.serialization.get_crc32_options():
        return
    try:
        with zipfile.ZipFile(path) as records:
            bad = records.testzip()
    except Exception as error:  # a flipped bit may claim compression, a password, another name
        raise UnsuitableError("damaged") from error
    if bad is not None:
        raise UnsuitableError(f"damaged: {bad!r} is not what its checksum says")


def _newest_whole(path: Path) -> Path | None:
    """The newest other checkpoint of the folder that can be read."""
    try:
        others = [other for other in path.parent.glob("*.ckpt") if other.name != path.name]
        others.sort(key=lambda other: other.stat().st_mtime_ns, reverse=True)
    except OSError:
        return None
    for other in others:
        try:
            _read(other, map_location="cpu", weights_only=True)
        except (OSError, ValueError):
            continue
        return other
    return None


def _checksum(checkpoint: dict[str, Any]) -> str:
    layer = {k: x for k, x in checkpoint["state_dict"].items() if k.startswith("kmeans.")}
    run = {k: x for k, x in checkpoint["kmeans"].items() if k != "checksum"}
    return checksum([layer, run])
