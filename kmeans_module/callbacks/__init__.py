"""Pictures into TensorBoard, files into the run folder, a bar that shows the iterations."""

from kmeans_module.callbacks.checkpoints import Checkpoints
from kmeans_module.callbacks.figures import ClusterFigures
from kmeans_module.callbacks.progress import IterationBar
from kmeans_module.callbacks.run_folder import RunFolder

__all__ = ["Checkpoints", "ClusterFigures", "IterationBar", "RunFolder"]
