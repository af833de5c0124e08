"""Where the data come from: blobs, files of rows, pictures; one LightningDataModule each.

Another source of rows is a subclass of :class:`RowsDataModule` that gives ``training_split``. The
command line takes it by its import path: ``--data=my_package.MyDataModule``.
"""

from kmeans_module.data.arrays import ArrayDataModule
from kmeans_module.data.base import RowsDataModule, Split
from kmeans_module.data.blobs import BlobDataModule
from kmeans_module.data.images import ImageDataModule

__all__ = ["ArrayDataModule", "BlobDataModule", "ImageDataModule", "RowsDataModule", "Split"]
