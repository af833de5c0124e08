"""Figures of clusterings, and a page that plays the iterations.

Every figure is a ``matplotlib.figure.Figure``, drawn without pyplot, so that neither its state nor
``rcParams`` change; a notebook shows it by itself. A cluster has the same color in every figure and
in the animation.
"""

from kmeans_module.figures.animation import animation_html
from kmeans_module.figures.clusterings import cluster_sizes_figure, clustering_figure
from kmeans_module.figures.colors import cluster_colors
from kmeans_module.figures.history import plot_history
from kmeans_module.figures.page import Animation
from kmeans_module.figures.pictures import palette_figure, quantized_figure
from kmeans_module.figures.trajectory import Trajectory

__all__ = [
    "Animation",
    "Trajectory",
    "animation_html",
    "cluster_colors",
    "cluster_sizes_figure",
    "clustering_figure",
    "palette_figure",
    "plot_history",
    "quantized_figure",
]
