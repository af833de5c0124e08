"""The C interface of the native kernels, for ctypes.

Made of csrc/abi/native.h by csrc/abi/bind.py: change that header, and run the script. The header
says what each number, field and argument means.
"""

from __future__ import annotations

from ctypes import POINTER, Structure, c_int, c_int32, c_int64, c_void_p
from typing import Any

import torch

ABI_VERSION = 5
FEW_FEATURES = 8
LANES = 16
FEATURES_IN_PART = 1024
MOST_INTEGER_OF_FLOAT = 16777216
SORTED_FEATURES = 16
MEASURED_FEATURES = 23
CANDIDATES_TOGETHER = 16
MOST_BEAMS = 64
MOST_BITS = 51
MOST_EXPONENT = 2000

# km_element
ELEMENTS = {
    torch.float32: 0,
    torch.float64: 1,
    torch.float16: 2,
    torch.bfloat16: 3,
    torch.bool: 4,
    torch.uint8: 5,
    torch.int8: 6,
    torch.uint16: 7,
    torch.int16: 8,
    torch.uint32: 9,
    torch.int32: 10,
    torch.uint64: 11,
    torch.int64: 12,
}


class RowsStruct(Structure):
    """km_rows"""

    _fields_ = (
        ("x", c_void_p),
        ("n", c_int64),
        ("d", c_int64),
        ("row_stride", c_int64),
        ("column_stride", c_int64),
        ("weights", c_void_p),
        ("is_double", c_int32),
        ("cosine", c_int32),
        ("element", c_int32),
        ("beyond", c_void_p),
    )


class SparseStruct(Structure):
    """km_sparse"""

    _fields_ = (
        ("starts", c_void_p),
        ("columns", c_void_p),
        ("values", c_void_p),
        ("n", c_int64),
        ("d", c_int64),
        ("weights", c_void_p),
        ("is_double", c_int32),
        ("cosine", c_int32),
    )


class ResultStruct(Structure):
    """km_result"""

    _fields_ = (
        ("labels", c_void_p),
        ("distances", c_void_p),
        ("sums", c_void_p),
        ("counts", c_void_p),
        ("inertia", c_void_p),
        ("changed", c_void_p),
        ("warm", c_int32),
    )


# The type of the result, and those of the arguments.
FUNCTIONS: dict[str, tuple[Any, ...]] = {
    "km_abi_version": (c_int,),
    "km_open": (c_void_p, c_int, c_int),
    "km_close": (None, c_void_p),
    "km_project": (c_int, c_void_p, c_void_p, c_void_p, c_int64, c_int64),
    "km_e_step": (
        c_int,
        POINTER(RowsStruct),
        c_void_p,
        c_int64,
        POINTER(ResultStruct),
        c_void_p,
        c_int,
    ),
    "km_label_distances": (
        c_int,
        POINTER(RowsStruct),
        c_void_p,
        c_int64,
        c_void_p,
        c_void_p,
        c_int,
    ),
    "km_lower": (c_int, POINTER(RowsStruct), c_void_p, c_void_p, c_int, c_void_p, c_int),
    "km_potentials": (
        c_int,
        POINTER(RowsStruct),
        c_void_p,
        c_void_p,
        c_int64,
        c_int,
        c_void_p,
        c_void_p,
        c_int,
    ),
    "km_sparse_e_step": (
        c_int,
        POINTER(SparseStruct),
        c_void_p,
        c_int64,
        POINTER(ResultStruct),
        c_int,
    ),
    "km_sparse_label_distances": (
        c_int,
        POINTER(SparseStruct),
        c_void_p,
        c_int64,
        c_void_p,
        c_void_p,
        c_int,
    ),
    "km_sparse_lower": (c_int, POINTER(SparseStruct), c_void_p, c_void_p, c_int),
    "km_sparse_potentials": (
        c_int,
        POINTER(SparseStruct),
        c_void_p,
        c_void_p,
        c_int64,
        c_void_p,
        c_int,
    ),
    "km_sparse_distances": (c_int, POINTER(SparseStruct), c_void_p, c_int64, c_void_p, c_int),
    "km_sparse_unit": (c_int, POINTER(SparseStruct), c_void_p, c_int),
    "km_block_sums": (c_int, c_void_p, c_int, c_int64, c_int64, c_int, c_int, c_void_p, c_int),
    "km_search_sums": (
        c_int,
        c_void_p,
        c_int,
        c_int64,
        c_int64,
        c_int,
        c_int,
        c_void_p,
        c_void_p,
        c_int64,
        c_void_p,
    ),
    "km_draw": (
        c_int,
        c_void_p,
        c_int,
        c_int64,
        c_int64,
        c_int,
        c_int,
        c_void_p,
        c_int64,
        c_void_p,
        c_int,
    ),
    "km_load": (c_int, POINTER(RowsStruct), c_void_p, c_int),
    "km_spread": (c_int, POINTER(RowsStruct), c_void_p, c_void_p, c_void_p, c_void_p, c_int),
    "km_beam_search": (
        c_int,
        c_void_p,
        c_int,
        c_int64,
        c_int64,
        c_void_p,
        c_int64,
        c_int64,
        c_int64,
        c_void_p,
        c_void_p,
        c_int,
    ),
    "km_neighbors": (
        c_int,
        c_void_p,
        c_int,
        c_int64,
        c_int64,
        c_void_p,
        c_int64,
        c_int64,
        c_void_p,
        c_void_p,
        c_int,
    ),
    "km_guard_mapping": (c_int, c_void_p, c_int64),
    "km_mapping_was_cut": (c_int, c_int),
    "km_release_mapping": (None, c_int),
    "km_forked": (None,),
}
