"""Where the data come from: blobs, files of rows, pictures; one LightningDataModule each."""

from kmeans_module.data.arrays import ArrayDataModule
from kmeans_module.data.blobs import BlobDataModule
from kmeans_module.data.images import ImageDataModule

__all__ = ["ArrayDataModule", "BlobDataModule", "ImageDataModule"]
