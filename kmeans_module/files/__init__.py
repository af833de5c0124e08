"""Files in and out: safe readers, atomic writes.

Numbers in, numbers out: nothing is unpickled, and a file that is not what its name says is refused
in one line that names it. What existed before a write stays whole until its successor is.
"""

from kmeans_module.files.atomic import (
    load_tensors,
    remove_abandoned,
    save_array,
    save_tensors,
    write_atomically,
)
from kmeans_module.files.columns import checked_columns
from kmeans_module.files.images import IMAGE_SUFFIXES, image_files, read_image
from kmeans_module.files.readers import (
    ARRAY_SUFFIXES,
    Table,
    check_header,
    read_array,
    read_table,
)
from kmeans_module.files.refusals import ColumnsError, checked_path, enumerated
from kmeans_module.files.text import Header

__all__ = [
    "ARRAY_SUFFIXES",
    "IMAGE_SUFFIXES",
    "ColumnsError",
    "Header",
    "Table",
    "check_header",
    "checked_columns",
    "checked_path",
    "enumerated",
    "image_files",
    "load_tensors",
    "read_array",
    "read_image",
    "read_table",
    "remove_abandoned",
    "save_array",
    "save_tensors",
    "write_atomically",
]
