"""Where the rows of a job are: in a tensor, in batches over ranks, behind a loader.

:func:`rows_of` makes Rows of whatever a user hands in. :class:`HeldRows` are in memory,
:class:`StreamRows` come again in every pass; :mod:`kmeans_module.core.rows` says what both do.
"""

from kmeans_module.rows.batch import Batch, as_batch
from kmeans_module.rows.entry import rows_of
from kmeans_module.rows.held import HeldRows
from kmeans_module.rows.loader import BatchLoader
from kmeans_module.rows.stream import StreamRows

__all__ = ["Batch", "BatchLoader", "HeldRows", "StreamRows", "as_batch", "rows_of"]
