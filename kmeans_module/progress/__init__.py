"""What a fit tells while it is under way: to a callback, and on a display for people who wait."""

from kmeans_module.progress.observer import Observer, observing

__all__ = ["Observer", "observing"]
