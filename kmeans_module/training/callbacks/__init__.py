"""Pictures into TensorBoard, files into the run folder, a bar that shows the iterations."""

from kmeans_module.training.callbacks.checkpoints import Checkpoints
from kmeans_module.training.callbacks.figures import ClusterFigures
from kmeans_module.training.callbacks.progress import IterationBar
from kmeans_module.training.callbacks.run_folder import RunFolder

__all__ = ["Checkpoints", "ClusterFigures", "IterationBar", "RunFolder"]
