"""Where the data come from: blobs, files of rows, pictures; one LightningDataModule each.

Another source of rows is a subclass of :class:`RowsDataModule` that gives ``training_split``. The
command line takes it by its import path: ``--data=my_package.MyDataModule``.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kmeans_module.data.arrays import ArrayDataModule
    from kmeans_module.data.base import RowsDataModule, Split
    from kmeans_module.data.blobs import BlobDataModule
    from kmeans_module.data.images import ImageDataModule

__all__ = ["ArrayDataModule", "BlobDataModule", "ImageDataModule", "RowsDataModule", "Split"]

# Files are read without Lightning; the data modules are it.
_LAZY = {
    "ArrayDataModule": "arrays",
    "BlobDataModule": "blobs",
    "ImageDataModule": "images",
    "RowsDataModule": "base",
    "Split": "base",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
