"""What a run has left in its folder, for labels of other data."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kmeans_module import files
from kmeans_module.arrays import column_names
from kmeans_module.clustering.given import Given, given
from kmeans_module.clustering.labeling import labels_by
from kmeans_module.data.file_rows import FileRows
from kmeans_module.devices import usable_device
from kmeans_module.files.refusals import UnsuitableError, refusing
from kmeans_module.layer import KMeansLayer
from kmeans_module.layer.portable import read_file
from kmeans_module.rows.batch import Batch

CENTROIDS = "centroids.safetensors"
STANDARDIZATION = "standardization.safetensors"
CONFIG = "config.yaml"
# Of the metadata of CENTROIDS: what the centroids are centroids of.
DATA_KEY = "data"


@dataclass(frozen=True, eq=False)
class SavedRun:
    """A run folder, as train.py and :class:`~kmeans_module.training.callbacks.RunFolder` leave it.

    Attributes:
        folder: of the run.
        layer: with the run's centroids, (k, d).
        mean, scale: what the run subtracted from the features and divided them by, (d,) float64;
            None where it did neither.
        config: of the run, as its config.yaml holds it; {} where there is none.
        feature_names: of the columns of its rows; None where they had none.
        of_images: whether its rows are pixels of pictures.
    """

    folder: Path
    layer: KMeansLayer
    mean: Tensor | None = None
    scale: Tensor | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    feature_names: list[str] | None = None
    of_images: bool = False

    @classmethod
    def read(cls, folder: str | os.PathLike[str]) -> SavedRun:
        """Read a run folder.

        Args:
            folder: of the run, such as ``runs/table/version_0``.

        Returns:
            The run, its layer on the CPU.

        Raises:
            FileNotFoundError: there is none, or a file is missing that the run has left.
            ValueError: the folder is that of no run, or a file is damaged; it is named.
        """
        path = files.checked_path(folder)
        if not os.fspath(folder):
            raise ValueError("folder should be the path of a run folder; got ''")
        _check_folder(path)
        layer, _ = read_file(KMeansLayer, path / CENTROIDS)
        config = _read_config(path / CONFIG)
        module = config.get("data")
        module = module if isinstance(module, dict) else {}
        options = module.get("init_args")
        options = options if isinstance(options, dict) else {}
        described = _description(path / CENTROIDS)
        standardize = described.get("standardize", options.get("standardize", False))
        if not config and not described:  # of a run in Python, before it said more
            standardize = (path / STANDARDIZATION).exists()
        name = str(described.get("kind", module.get("class_path", "")))
        mean, scale = _read_moments(path / STANDARDIZATION, layer) if standardize else (None, None)
        return cls(
            path, layer, mean, scale, config, described.get("feature_names"),
            of_images=name.rpartition(".")[2] == "ImageDataModule",
        )  # fmt: skip

    def predict(self, x: Any, *, device: torch.device | str | None = None) -> Any:
        """Labels of other data, standardized as the run's were.

        Args:
            x: of the run's columns: (..., d) in a tensor or anything that NumPy reads, batches, or
                the path of a file or folder; of a run of pictures these are pictures, whose labels
                come row by row of each. Pictures in uint8 are scaled to [0, 1] as the run's were.
            device: where to compute; by default the CPU.

        Returns:
            (...) int64: an array, or for a tensor a tensor on its device.

        Raises:
            ValueError: other columns than those of the run, NaN, infinity; files are named.
        """
        place = usable_device(device)
        if isinstance(x, str | os.PathLike):
            data = Given(self.open(x), None, self.layer.n_features)
        else:
            data = given(self._columns_of(x), least_dimensions=1)
        return data.answer(labels_by(self.layer, data, place, before=self.standardized))

    def open(self, path: str | os.PathLike[str]) -> FileRows | Pictures:
        """The rows of a file or folder, read as the run read its own.

        Args:
            path: of the file or folder.

        Returns:
            Batches that can be gone through again and again.

        Raises:
            ValueError: a file cannot be read, or has other columns than those of the run.
        """
        if self.of_images:
            return Pictures(files.image_files(files.checked_path(path)))
        try:
            rows = FileRows(path, **self._reading(Path(path)))
        except files.ColumnsError as error:
            raise error.advising("leave the others out of the file") from None
        if rows.n_features != self.layer.n_features:
            raise ValueError(
                f"{path}: rows of {rows.n_features} features, those of {self.folder} have "
                f"{self.layer.n_features}"
            )
        self._check_names(rows.names, str(path))
        return rows

    def standardized(self, rows: Tensor) -> Tensor:
        """Rows (..., d) in the units of the centroids.

        Args:
            rows: (..., d), in the units of the file.

        Returns:
            (..., d); rows themselves where the run did not standardize.
        """
        if self.of_images and rows.dtype == torch.uint8:
            return rows.float().div_(255)
        if self.mean is None or self.scale is None:
            return rows
        dtype = rows.dtype if rows.is_floating_point() else torch.get_default_dtype()
        mean, scale = self.mean.to(rows.device), self.scale.to(rows.device)
        if rows.ndim < 1 or rows.shape[-1] != len(mean):
            return rows  # the layer refuses another number of features
        return ((rows.double() - mean) / scale).to(dtype)

    def _reading(self, path: Path) -> dict[str, Any]:
        """What the run's configuration says of how to read a file of this kind."""
        module = self.config.get("data")
        options = module.get("init_args") if isinstance(module, dict) else None
        if not isinstance(options, dict) or "path" not in options:
            return {}
        suffix = path.suffix.lower()
        if path.is_dir():
            suffix = next((file.suffix for file in sorted(path.rglob("*.*"))), "").lower()
        reading = {"columns": options.get("columns")}
        if suffix == ".csv":
            reading["header"] = options.get("header", "auto")
        if suffix in (".npz", ".safetensors", ".pt"):
            reading["key"] = options.get("key")
        return reading

    def _columns_of(self, x: Any) -> Any:
        """x, of a frame the run's columns."""
        names = column_names(x)
        if names is None or self.feature_names is None or names == self.feature_names:
            return x
        chosen = self._reading(Path("x")).get("columns") is not None
        if chosen and set(self.feature_names) <= set(names):
            select = getattr(x, "select", None) if hasattr(x, "column_names") else x.__getitem__
            return x if select is None else select(self.feature_names)
        self._check_names(names, "x")
        return x

    def _check_names(self, names: Sequence[str] | None, where: str) -> None:
        if names is None or self.feature_names is None or list(names) == self.feature_names:
            return
        raise ValueError(
            f"{where}: the columns should be those of {self.folder}, "
            f"{files.enumerated(self.feature_names)}; got {files.enumerated(list(names))}"
        )


class Pictures:
    """The pixels of pictures, a picture at a time; can be gone through again and again.

    Args:
        paths: of the pictures, in their order.
    """

    stable = True

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = list(paths)

    def __iter__(self) -> Iterator[Batch]:
        for path in self.paths:
            yield Batch(files.read_image(path).reshape(-1, 3))


def description_of(data: Any) -> dict[str, str]:
    """What :meth:`SavedRun.read` has to know of the data of a run, for the metadata of its
    centroids.

    Args:
        data: the data module of the run, or None.
    """
    names = getattr(data, "feature_names", None)
    known = {
        "kind": type(data).__name__,
        "feature_names": names if isinstance(names, list) else None,
        "standardize": bool(getattr(data, "standardize", False)),
    }
    note = {
        "note": "centroids of standardized rows; predict() by the folder of the run standardizes "
        f"other rows too, by {STANDARDIZATION}"
    }
    return {DATA_KEY: json.dumps(known), **(note if known["standardize"] else {})}


def _check_folder(path: Path) -> None:
    """Refuse what is no folder of a run."""
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such run folder")
    if not path.is_dir():
        raise ValueError(f"{path}: is a file, expected the folder of a run")
    if (path / CENTROIDS).exists():
        return
    versions = list(path.glob(f"*/{CENTROIDS}"))
    runs = versions or list(path.glob(f"*/*/{CENTROIDS}"))
    if runs:
        newest = max(runs, key=_version if versions else _time).parent
        raise ValueError(f"{path}: is no run folder but holds {len(runs)}; the newest is {newest}")
    if (path / CONFIG).exists():
        raise FileNotFoundError(f"{path / CENTROIDS}: no such file; the run has not ended")
    raise ValueError(f"{path}: is no run folder, it holds no {CENTROIDS}")


def _time(centroids: Path) -> int:
    return centroids.stat().st_mtime_ns


def _version(centroids: Path) -> tuple[int, int]:
    """Of the versions of one name the number says which is newer, whatever was copied when."""
    version = re.fullmatch(r"version_(\d+)", centroids.parent.name)
    return int(version[1]) if version else -1, _time(centroids)


def _read_config(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    import yaml

    with refusing(path, "YAML file"):
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(config, dict):
        raise ValueError(f"{path}: not the configuration of a run")
    return config


def _description(path: Path) -> dict[str, Any]:
    """What :func:`description_of` has left; {} where an older version has written the file."""
    _, metadata = files.load_tensors(path)
    with refusing(path, "file of centroids"):
        known = json.loads(metadata.get(DATA_KEY, "{}"))
        names = known.get("feature_names")
        if names is not None and not all(isinstance(name, str) for name in names):
            raise UnsuitableError("its feature_names are no names")
        return dict(known)


def _read_moments(path: Path, layer: KMeansLayer) -> tuple[Tensor, Tensor]:
    tensors, _ = files.load_tensors(path)
    with refusing(path, "file of a standardization"):
        mean, scale = (tensors[name].double() for name in ("mean", "scale"))
        if mean.shape != (layer.n_features,) or scale.shape != mean.shape:
            raise UnsuitableError(
                f"mean and scale should have shape ({layer.n_features},), as the centroids; got "
                f"{tuple(mean.shape)} and {tuple(scale.shape)}"
            )
        if not bool((mean.isfinite() & scale.isfinite() & (scale > 0)).all()):
            raise UnsuitableError("mean and scale should be finite, and scale positive")
    return mean, scale
