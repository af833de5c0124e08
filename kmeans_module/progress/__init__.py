"""What a fit tells while it is under way: to a callback, and on a display for people who wait."""

from kmeans_module.progress.watch import Watch, watching

__all__ = ["Watch", "watching"]
