"""Codebooks: in a network, trained by EM or by gradients; or fitted offline."""

from kmeans_module.quantization.joining import join
from kmeans_module.quantization.product import ProductQuantizer
from kmeans_module.quantization.quantized import Quantized
from kmeans_module.quantization.residual import ResidualQuantizer
from kmeans_module.quantization.vector import VectorQuantizer

__all__ = ["ProductQuantizer", "Quantized", "ResidualQuantizer", "VectorQuantizer", "join"]
