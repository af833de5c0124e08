"""Promises of the door for arrays: what NumPy reads is read, the rest is refused in words."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from lightning.pytorch import Trainer
from numpy.typing import NDArray
from scipy.sparse import coo_array, csr_array, csr_matrix
from sklearn.cluster import KMeans as SklearnKMeans

from kmeans_module import BlobDataModule, KMeans, KMeansLayer, LitKMeans
from kmeans_module.arrays import as_tensor, column_names
from kmeans_module.data import ArrayDataModule

Array = NDArray[Any]
X: Array = np.random.default_rng(0).integers(0, 50, (40, 3)).astype(np.float64)


class Frame:
    """What pandas, polars and xarray have in common, as far as NumPy sees it."""

    def __init__(self, columns: list[Any], values: Any) -> None:
        self.columns = columns
        self._values = np.asarray(values)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        return self._values if dtype is None else self._values.astype(dtype)


class Missing:
    """As pandas.NA: no number, and no truth."""

    def __repr__(self) -> str:
        return "<NA>"

    def __bool__(self) -> bool:
        raise TypeError("boolean value of NA is ambiguous")


def read_only(x: Array) -> Array:
    x = x.copy()
    x.flags.writeable = False
    return x


def field_of_records(x: Array) -> Array:
    records = np.zeros(x.shape, dtype=[("flag", "i1"), ("value", "f8")])
    records["value"] = x
    return records["value"]


def unaligned(x: Array) -> Array:
    memory = np.zeros(x.nbytes + 1, np.uint8)[1:]
    array = memory.view(np.float64).reshape(x.shape)
    array[:] = x
    return array


READ: dict[str, Callable[[Array], Any]] = {
    "plain": lambda x: x,
    "Fortran order": np.asfortranarray,
    "big-endian": lambda x: x.astype(">f8"),
    "big-endian integers": lambda x: x.astype(">i2"),
    "negative strides": lambda x: x[::-1, ::-1].copy()[::-1, ::-1],
    "every other column": lambda x: np.repeat(x, 2, axis=1)[:, ::2],
    "read-only": read_only,
    "read-only, big-endian": lambda x: read_only(x.astype(">f4")),
    "field of records": field_of_records,
    "unaligned": unaligned,
    "float16": lambda x: x.astype(np.float16),
    "float32": lambda x: x.astype(np.float32),
    "long double": lambda x: x.astype(np.longdouble),
    **{f"{kind}": lambda x, kind=kind: x.astype(kind) for kind in ("u1", "u2", "u4", "u8", "q")},
    "objects": lambda x: x.astype(object),
    "objects of several kinds": lambda x: np.array(
        [[Decimal(int(a)), Fraction(int(b)), np.float32(c)] for a, b, c in x], dtype=object
    ),
    "masked nowhere": lambda x: np.ma.array(x, mask=False),
    "lists": lambda x: x.tolist(),
    "tuples of arrays": tuple,
    "frame": lambda x: Frame(["a", "b", "c"], x),
    "nullable frame": lambda x: Frame(["a", "b", "c"], x.astype(int).astype(object)),
    "pyarrow table": lambda x: pa.table({name: x[:, i] for i, name in enumerate("abc")}),
}
reads = pytest.mark.parametrize("kind", READ)


@reads
def test_every_kind_of_array_is_read(kind: str) -> None:
    given = READ[kind](X)
    tensor = as_tensor(given)
    np.testing.assert_array_equal(tensor.numpy(), X)
    assert tensor.dtype in (
        torch.float64, torch.float32, torch.float16, torch.int64, torch.int32, torch.int16,
        torch.uint8,
    )  # fmt: skip


@reads
def test_every_kind_of_array_is_clustered_as_the_plain_one(kind: str) -> None:
    given = READ[kind](X)
    model = KMeans(3, init=READ[kind](X[:3])).fit(given)
    plain = KMeans(3, init=X[:3]).fit(X)
    np.testing.assert_array_equal(model.labels_, plain.labels_)
    assert isinstance(model.labels_, np.ndarray)
    for method in ("predict", "transform"):
        results = [getattr(m, method)(x) for m, x in ((model, given), (plain, X))]
        np.testing.assert_allclose(*results, rtol=1e-5)
    assert model.score(given) == pytest.approx(plain.score(X), rel=1e-5)


@pytest.mark.parametrize("kind", ["plain", "Fortran order", "read-only", "every other column"])
def test_memory_is_shared_where_it_can_be(kind: str) -> None:
    array = READ[kind](X)
    assert as_tensor(array).data_ptr() == array.__array_interface__["data"][0]


def test_the_memory_of_a_mapped_file_is_shared(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    assert as_tensor(mapped).data_ptr() == mapped.__array_interface__["data"][0]
    KMeans(3).fit(mapped).predict(mapped)  # a write would end the process


def test_a_tensor_comes_back_as_it_is() -> None:
    x = torch.randn(3, 2, requires_grad=True)
    assert as_tensor(x) is x
    assert KMeans(2).fit(x).predict(x).shape == (3,)


REFUSED: dict[str, tuple[Any, type[Exception], str]] = {
    "text": (X.astype(str), TypeError, "x should hold numbers; got an array of <U"),
    "bytes": (X.astype(bytes), TypeError, "x should hold numbers; got an array of |S"),
    "complex": (X + 1j, TypeError, "got an array of complex128"),
    "dates": (X.astype("M8[s]"), TypeError, "got an array of datetime64[s]"),
    "durations": (X.astype("m8[s]"), TypeError, "got an array of timedelta64[s]"),
    "records": (np.zeros(4, "i4,f8"), TypeError, "x should hold numbers; got an array of ["),
    "masked": (np.ma.array(X, mask=X[4, 1] == X), ValueError, "x should have no masked value; "),
    "masked rows": ([np.ma.array(X[0], mask=True)], ValueError, "masked value; 3 of 3 are"),
    "huge integers": (np.full((4, 2), 2**63, np.uint64), ValueError, "9223372036854775808, beyond"),
    "ragged": ([[1, 2], [3]], ValueError, "NumPy cannot read the list: setting an array element"),
    "rows of tensors": ([torch.ones(2)] * 3, TypeError, "a list of tensors; use torch.stack(x)"),
    "sparse matrix": (csr_matrix(X), TypeError, "it is csr_matrix, sparse; use x.toarray()"),
    "sparse array": (coo_array(X), TypeError, "it is coo_array, sparse; use x.toarray()"),
    "none": (None, TypeError, "x should be an array of numbers or a tensor; it is NoneType"),
    "generator": ((row for row in X), TypeError, "it is generator"),
    "map": (map(list, X), TypeError, "it is map"),
    "dictionary": ({"a": [1, 2]}, TypeError, "it is dict"),
    "set": ({1, 2}, TypeError, "it is set"),
    "class": (KMeans, TypeError, "it is type"),
    "word": ("x", TypeError, "got an array of <U1"),
    "missing value": (
        Frame([0, 1], np.array([[1, 2], [3, Missing()]], object)),
        TypeError,
        "x should hold numbers; row 1, column 1 holds <NA> (Missing)",
    ),
    "None within": ([[1.0, 2.0], [None, 3.0]], TypeError, "row 1, column 0 holds None (NoneType)"),
    "text among numbers": (np.array([[1, "2"]], object), TypeError, "holds '2' (str)"),
    "dictionary among numbers": (np.array([[{}, 1]], object), TypeError, "holds {} (dict)"),
    "lists in objects": (np.array([[1], [2, 3], 0], object)[:2], TypeError, "row 0 holds [1]"),
    "beyond float64": (np.array([[10**400], [1]], object), ValueError, "that float64 does not"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_array_of_numbers_is_refused_in_one_line(kind: str) -> None:
    given, error, message = REFUSED[kind]
    with pytest.raises(error) as raised:
        as_tensor(given)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)
    assert "torch.from_numpy" not in str(raised.value)


def test_the_argument_is_named() -> None:
    for value in ([[1], [2, 3]], np.array([["a"]]), np.ma.array([1.0], mask=[True])):
        with pytest.raises((TypeError, ValueError), match=r"^init should"):
            as_tensor(value, "init")


def test_frames_of_names_of_two_kinds_are_refused() -> None:
    with pytest.raises(TypeError, match="Feature names are only supported if"):
        column_names(Frame(["a", 1, 2], X))


def test_the_names_of_columns_are_those_of_a_frame() -> None:
    assert column_names(Frame(["a", "b"], X[:, :2])) == ["a", "b"]
    assert column_names(pa.table({"b": [1], "a": [2]})) == ["b", "a"]
    for nameless in (X, torch.ones(2), Frame([0, 1], X[:, :2]), [[1]], np.zeros(2, "i4,f8")):
        assert column_names(nameless) is None


@pytest.mark.parametrize("kind", [">f8", "u2", "u4", "u8", "f2", "g", "F"])
def test_files_of_rows_come_by_the_same_door(kind: str, tmp_path: Path) -> None:
    x = np.asfortranarray(X) if kind == "F" else X.astype(kind)
    np.save(tmp_path / "x.npy", x)
    np.savez(tmp_path / "x.npz", x=x)
    expected = KMeans(3, init=X[:3]).fit(X).labels_
    for name in ("x.npy", "x.npz"):
        data = ArrayDataModule(path=str(tmp_path / name))
        np.testing.assert_array_equal(KMeans(3, init=X[:3]).fit(data.x).labels_, expected)


def test_scikit_learn_reads_the_same() -> None:
    theirs = SklearnKMeans(3, init=X[:3], n_init=1).fit(X)
    np.testing.assert_array_equal(KMeans(3, init=X[:3]).fit(X.tolist()).labels_, theirs.labels_)


@pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*Skipping val loop")
def test_numbers_of_numpy_do_not_hinder_a_checkpoint(tmp_path: Path) -> None:
    def run(max_epochs: int) -> Trainer:
        return Trainer(
            max_epochs=max_epochs, logger=False, enable_checkpointing=False, accelerator="cpu",
            enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip

    data = BlobDataModule(
        n_clusters=np.int64(3), n_features=np.int16(2), samples_per_cluster=np.uint8(20),
        variance=np.float32(3), batch_size=np.int64(7), shuffle=True, seed=np.int32(1),
    )  # fmt: skip
    first = run(1)
    lit = LitKMeans(np.int64(3), np.int8(2), seed=np.int64(4), tol=np.float64(0))
    first.fit(lit, data)
    first.save_checkpoint(tmp_path / "last.ckpt")
    again = LitKMeans(3, seed=4, tol=0)
    run(2).fit(again, data, ckpt_path=tmp_path / "last.ckpt", weights_only=True)
    assert int(again.kmeans.n_iter) == 2


def test_scipy_matrices_become_sparse_rows_where_asked() -> None:
    dense = np.array([[0, 1.5, 0], [2, 0, 3]], np.float32)
    for kind in ("csr", "csc", "coo", "lil", "dok", "bsr"):
        for matrix in (csr_matrix(dense).asformat(kind), csr_array(dense).asformat(kind)):
            x = as_tensor(matrix, sparse=True)
            assert x.layout == torch.sparse_csr
            assert torch.equal(x.to_dense(), torch.from_numpy(dense))
    with pytest.raises(TypeError, match=r"sparse; use x.toarray\(\)"):
        as_tensor(csr_matrix(dense))


@pytest.mark.parametrize("index", [np.int32, np.int64])
def test_sparse_rows_share_the_memory_of_csr(index: type) -> None:
    matrix = csr_array(np.eye(3, dtype=np.float32))
    matrix.indptr, matrix.indices = matrix.indptr.astype(index), matrix.indices.astype(index)
    x = as_tensor(matrix, sparse=True)
    assert x.values().data_ptr() == matrix.data.ctypes.data
    assert x.col_indices().data_ptr() == matrix.indices.ctypes.data


def test_sparse_rows_may_hold_no_number_at_all() -> None:
    rows = as_tensor(csr_array((3, 2)), sparse=True)
    assert KMeansLayer.from_centroids(torch.eye(2))(rows).tolist() == [0, 0, 0]


def test_sparse_rows_are_sorted_and_summed_and_the_matrix_stays() -> None:
    matrix = csr_matrix((np.array([1.0, 2, 3]), np.array([3, 1, 3]), np.array([0, 3])), (1, 4))
    assert as_tensor(matrix, sparse=True).to_dense().tolist() == [[0, 2, 0, 4]]
    assert matrix.data.tolist() == [1, 2, 3]


def test_numbers_of_sparse_rows_go_through_the_door_of_arrays() -> None:
    eye = csr_matrix(np.eye(3))
    assert as_tensor(eye.astype(np.uint16), sparse=True).dtype == torch.int32
    assert as_tensor(eye.astype(np.longdouble), sparse=True).dtype == torch.float64
    frozen = csr_matrix(np.eye(3))
    frozen.data.flags.writeable = False
    assert as_tensor(frozen, sparse=True).dtype == torch.float64
    with pytest.raises(TypeError, match="x should hold numbers; got an array of complex128"):
        as_tensor(eye.astype(complex), sparse=True)
