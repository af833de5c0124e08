"""Promises of the one call: whatever holds the data, it is the layer's own fit of them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file
from scipy import sparse
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset, WeightedRandomSampler

import kmeans_module
from kmeans_module import (
    Batch,
    BatchLoader,
    KMeans,
    KMeansLayer,
    ProductQuantizer,
    ResidualQuantizer,
    VectorQuantizer,
    figures,
    kmeans,
    predict,
)
from kmeans_module.data import file_rows
from tests.conftest import blobs, seeded

X = blobs(240, 3)
A = X.numpy()
WEIGHTS = torch.linspace(0, 2, 240)


def written(name: str, write: Callable[[Path], object]) -> Callable[[Path], str]:
    def path(folder: Path) -> str:
        write(folder / name)
        return str(folder / name)

    return path


def folder_of(suffix: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        for name, rows in zip("abc", np.split(A, [50, 51]), strict=True):
            path = folder / f"rows{suffix}" / name / f"x.{suffix}"
            path.parent.mkdir(parents=True)
            if suffix == "npy":
                np.save(path, rows)
            else:
                pd.DataFrame(rows, columns=list("uvw")).to_csv(path, index=False)
        return folder / f"rows{suffix}"

    return write


def mapped(folder: Path) -> Any:
    np.save(folder / "map.npy", A)
    return np.load(folder / "map.npy", mmap_mode="r")


class Again:
    """Batches of a class of one's own."""

    def __init__(self, batches: Any) -> None:
        self.batches = batches

    def __iter__(self) -> Any:
        return iter(self.batches)


ARRAYS: dict[str, Callable[[Path], Any]] = {
    "array": lambda _: A,
    "array by columns": lambda _: np.asfortranarray(A),
    "big endian": lambda _: A.astype(">f4"),
    "read-only memmap": mapped,
    "frame": lambda _: pd.DataFrame(A, columns=list("uvw")),
    "lists": lambda _: A.tolist(),
    ".npy": written("x.npy", lambda path: np.save(path, A)),
    ".npz": written("x.npz", lambda path: np.savez(path, A)),
    ".pt": written("x.pt", lambda path: torch.save(X, path)),
    ".safetensors": written("x.safetensors", lambda path: save_file({"x": X}, path)),
    ".csv": written("x.csv", lambda path: pd.DataFrame(A).to_csv(path, index=False)),
    ".parquet": written(
        "x.parquet", lambda path: pd.DataFrame(A, columns=list("uvw")).to_parquet(path)
    ),
    "path object": lambda folder: Path(ARRAYS[".npy"](folder)),
    "folder of .npy": folder_of("npy"),
    "folder of .csv": folder_of("csv"),
    "list of arrays": lambda _: np.split(A, [7, 100]),
    "loader of arrays": lambda _: Again(np.split(A, [7, 100])),
    "loader of pairs of arrays": lambda _: Again([(A[:99], np.zeros(99, int)), (A[99:], None)]),
}
TENSORS: dict[str, Callable[[Path], Any]] = {
    "tensor": lambda _: X,
    "tensor with gradient": lambda _: X.clone().requires_grad_(),
    "list of tensors": lambda _: list(X.split(77)),
    "list of dictionaries": lambda _: [{"x": part} for part in X.split(77)],
    "DataLoader": lambda _: DataLoader(TensorDataset(X, torch.arange(240)), batch_size=50),
    "shuffling DataLoader": lambda _: DataLoader(X, batch_size=50, shuffle=True),  # type: ignore[arg-type]
    "BatchLoader": lambda _: BatchLoader(X, batch_size=50),
    "shuffling BatchLoader": lambda _: BatchLoader(X, batch_size=50, shuffle=True),
    "loader of one's own": lambda _: Again(X.split(60)),
}
KINDS = {**ARRAYS, **TENSORS}


@pytest.fixture
def read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are too large to be held, whatever their size."""
    monkeypatch.setattr(file_rows, "HELD_BYTES", 0)
    monkeypatch.setattr(file_rows, "_BATCH_ELEMENTS", 100)


@pytest.fixture(scope="module")
def fitted() -> tuple[KMeansLayer, Any]:
    layer = KMeansLayer(5, 3)
    return layer, layer.fit(X, seed=3)


def check(found: kmeans_module.Clustering, kind: str, fitted: tuple[KMeansLayer, Any]) -> None:
    layer, result = fitted
    expected = np.ndarray if kind in ARRAYS else Tensor
    assert all(isinstance(field, expected) for field in (*found[:2], found.history))
    assert found.labels.dtype == (np.int64 if kind in ARRAYS else torch.int64)
    assert np.array_equal(found.labels, result.labels)
    np.testing.assert_allclose(found.centroids, layer.centroids, rtol=2e-6)
    assert isinstance(found.inertia, float if kind in ARRAYS else Tensor)
    assert isinstance(found.n_iter, int if kind in ARRAYS else Tensor)
    assert float(found.inertia) == pytest.approx(float(result.inertia), rel=1e-6)
    assert found.n_iter == result.n_iter
    assert found.converged
    assert len(found.history) == found.n_iter + 1
    assert torch.equal(found.layer.centroids, torch.as_tensor(found.centroids))


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_data_gives_the_fit_of_the_layer(
    kind: str, tmp_path: Path, fitted: tuple[KMeansLayer, Any]
) -> None:
    data = KINDS[kind](tmp_path)
    check(kmeans(data, 5, seed=3), kind, fitted)


@pytest.mark.usefixtures("read_again")
@pytest.mark.parametrize("kind", [kind for kind in ARRAYS if "." in kind])
def test_files_larger_than_memory_give_it_too(
    kind: str, tmp_path: Path, fitted: tuple[KMeansLayer, Any]
) -> None:
    check(kmeans(ARRAYS[kind](tmp_path), 5, seed=3), kind, fitted)


def quantizers() -> dict[str, Any]:
    torch.manual_seed(0)
    vector, residual, product = (
        VectorQuantizer(5, 3), ResidualQuantizer(5, 3, 2), ProductQuantizer(5, 3, 3)
    )  # fmt: skip
    for quantizer in (vector, residual, product):
        quantizer(X)
        quantizer.eval()
    return {"VectorQuantizer": vector, "ResidualQuantizer": residual, "ProductQuantizer": product}


@pytest.fixture(scope="module")
def sources(fitted: tuple[KMeansLayer, Any]) -> dict[str, tuple[Any, Tensor]]:
    """Sources, and what they say of X."""
    layer, result = fitted
    estimator = KMeans(5, random_state=3).fit(A)
    return {
        "layer": (layer, result.labels),
        "result": (kmeans(A, 5, seed=3), result.labels),
        "estimator": (estimator, torch.as_tensor(estimator.labels_)),
        **{name: (q, q.encode(X)) for name, q in quantizers().items()},
    }


SOURCES = (
    "layer", "result", "estimator", "VectorQuantizer", "ResidualQuantizer", "ProductQuantizer"
)  # fmt: skip


@pytest.mark.filterwarnings("ignore:X has feature names, but KMeans was fitted without")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("source", SOURCES)
def test_every_source_labels_every_kind_of_data(
    source: str, kind: str, tmp_path: Path, sources: dict[str, tuple[Any, Tensor]]
) -> None:
    learned, expected = sources[source]
    labels = predict(learned, KINDS[kind](tmp_path))
    assert isinstance(labels, np.ndarray if kind in ARRAYS else Tensor)
    assert np.array_equal(labels, expected)


@pytest.mark.parametrize("form", ["csr", "csc", "coo"])
def test_sparse_matrices_are_clustered_and_labelled(form: str) -> None:
    dense = np.maximum(A, 0)
    matrix = sparse.csr_array(dense).asformat(form)
    found, expected = kmeans(matrix, 5, seed=3, verbose=False), kmeans(dense, 5, seed=3)
    assert isinstance(found.labels, np.ndarray)
    assert np.array_equal(found.labels, expected.labels)
    assert found.inertia == pytest.approx(expected.inertia)
    for source in (found, found.layer, KMeans(5, random_state=3).fit(matrix)):
        assert np.array_equal(predict(source, matrix), predict(source, dense))
    with pytest.raises(TypeError, match="x should be"):
        predict(quantizers()["VectorQuantizer"], matrix)


def test_labels_come_part_by_part(
    monkeypatch: pytest.MonkeyPatch, fitted: tuple[KMeansLayer, Any]
) -> None:
    from kmeans_module.clustering import labeling

    monkeypatch.setattr(labeling, "_PART_ELEMENTS", 100)
    layer, result = fitted
    assert torch.equal(predict(layer, X), result.labels)
    spoilt = A.copy()
    spoilt[[130, 200], 1] = np.nan
    with pytest.raises(ValueError, match="NaN or infinity, the first is row 130"):
        predict(layer, spoilt)


def test_one_sample_has_one_label(fitted: tuple[KMeansLayer, Any]) -> None:
    layer, result = fitted
    assert predict(layer, A[3]) == result.labels[3]
    assert predict(layer, X[3]).shape == ()


@pytest.mark.parametrize("sample", [A[3], X[3], ()])
def test_an_estimator_labels_rows_and_no_single_sample(
    sample: Any, sources: dict[str, tuple[Any, Tensor]]
) -> None:
    with pytest.raises(ValueError, match=r"x should have shape .*, n_features.; got") as refusal:
        predict(sources["estimator"][0], sample)
    assert "\n" not in str(refusal.value)


DTYPES: list[tuple[Any, torch.dtype]] = [
    (X.half(), torch.float32),
    (X.bfloat16(), torch.float32),
    (X, torch.float32),
    (X.double(), torch.float64),
    (X.long(), torch.float32),
    (X.long() * 2**30, torch.float64),
    (X > 0, torch.float32),
    (A.astype(np.float16), torch.float32),
    (A.astype(np.longdouble), torch.float64),
    (A.astype(np.uint16), torch.float32),
    ([part.double() for part in X.split(50)], torch.float64),
    (Again([(A[:99] * 2**30).astype(int), (A[99:] * 2**30).astype(int)]), torch.float64),
]


@pytest.mark.filterwarnings("ignore:.*clusters have no samples")
@pytest.mark.parametrize(("data", "dtype"), DTYPES)
def test_centroids_are_as_wide_as_the_data_ask(data: Any, dtype: torch.dtype) -> None:
    found = kmeans(data, 3, seed=0)
    assert torch.as_tensor(found.centroids).dtype == dtype
    if isinstance(data, Tensor):
        assert torch.equal(found.labels, found.layer(data))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_dtype_is_that_of_the_centroids(dtype: torch.dtype) -> None:
    assert kmeans(X, 3, seed=0, dtype=dtype).centroids.dtype == dtype
    wide = np.float64 if dtype == torch.float64 else np.float32  # NumPy has no bfloat16
    assert kmeans(A, 3, seed=0, dtype=dtype).centroids.dtype == wide


@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor])
@pytest.mark.parametrize("shape", [(2, 120), (2, 3, 40)])
def test_leading_dimensions_are_problems_of_their_own(
    kind: Callable[[Any], Any], shape: tuple[int, ...]
) -> None:
    x = kind(A.reshape(*shape, 3))
    found = kmeans(x, 4, seed=0, init="random", n_init=2)
    layer = KMeansLayer(4, 3, batch_shape=shape[:-1])
    result = layer.fit(torch.as_tensor(x), seed=0, init="random", n_init=2)
    for name in ("labels", "inertia", "n_iter", "converged", "history"):
        assert np.array_equal(getattr(found, name), getattr(result, name)), name
        assert isinstance(getattr(found, name), type(x))
    assert found.centroids.shape == (*shape[:-1], 4, 3)
    assert np.array_equal(predict(found, x), found.labels)


OPTIONS: list[dict[str, Any]] = [
    {"init": "random", "n_init": 3},
    {"init": A[:5]},
    {"init": A[:5].tolist(), "max_iter": 2},
    {"init": lambda x, k, generator: x[:k].numpy()},
    {"metric": "cosine", "init": "k-means||"},
    {"tol": 0.5, "empty_cluster": "split"},
    {"sample_weight": WEIGHTS.numpy()},
    {"sample_weight": WEIGHTS.tolist(), "max_points_per_centroid": 9},
    {"generator": 3},
]


@pytest.mark.usefixtures("read_again")
@pytest.mark.parametrize("options", OPTIONS)
def test_options_are_those_of_the_layer(options: dict[str, Any], tmp_path: Path) -> None:
    def drawn(fit: Callable[..., Any], **more: Any) -> Any:
        if "generator" in options:
            return fit(**{**options, **more, "generator": seeded(3)})
        return fit(seed=3, **{**options, **more})

    layer = KMeansLayer(
        5, 3, metric=options.get("metric", "euclidean"),
        empty_cluster=options.get("empty_cluster", "relocate"),
    )  # fmt: skip
    own = {k: v for k, v in options.items() if k not in ("metric", "empty_cluster", "init")}
    init = options.get("init", "k-means++")
    if isinstance(init, np.ndarray | list):
        init = torch.as_tensor(init)
    elif callable(init):
        init = lambda x, k, generator: x[:k]  # noqa: E731
    if "sample_weight" in own:
        own["sample_weight"] = torch.as_tensor(own["sample_weight"])
    own.pop("generator", None)
    result = layer.fit(X, init=init, seed=3, **own)
    for data in (A, ARRAYS["folder of .npy"](tmp_path)):
        found = drawn(lambda data=data, **taken: kmeans(data, 5, **taken))
        np.testing.assert_allclose(found.centroids, layer.centroids, rtol=1e-6)
        assert np.array_equal(found.labels, result.labels)


def test_a_callback_is_told_of_iterations() -> None:
    told: list[int] = []
    found = kmeans(A, 5, seed=0, callback=lambda iteration: told.append(iteration.number))
    assert told == list(range(1, found.n_iter + 1))


def test_results_belong_to_the_caller() -> None:
    found = kmeans(X, 5, seed=0)
    before = found.layer.centroids.clone()
    found.centroids.zero_()
    found.labels.zero_()
    assert torch.equal(found.layer.centroids, before)
    assert torch.equal(kmeans(A, 5, seed=0).layer.centroids, before)


def test_nothing_is_drawn_from_the_default_generator_with_a_seed(tmp_path: Path) -> None:
    before = torch.get_rng_state()
    kmeans(A, 5, seed=0, max_points_per_centroid=4)
    kmeans(ARRAYS["folder of .npy"](tmp_path), 5, seed=0, max_points_per_centroid=4)
    assert torch.equal(before, torch.get_rng_state())


def test_labels_that_would_line_up_with_nothing_are_not_given() -> None:
    sampler = WeightedRandomSampler([1.0] * 240, 240, generator=seeded())
    loader = DataLoader(X, batch_size=240, sampler=sampler)  # type: ignore[arg-type]
    found = kmeans([X], 5, seed=0)
    with pytest.raises(ValueError, match="x is a loader that shuffles"):
        predict(found, loader)


def test_a_file_is_in_memory_batch_by_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.save(tmp_path / "x.npy", A)
    monkeypatch.setattr(file_rows, "HELD_BYTES", A.nbytes - 1)
    monkeypatch.setattr(file_rows, "_BATCH_ELEMENTS", 30)
    rows = file_rows.FileRows(tmp_path / "x.npy")
    assert rows.held() is None
    assert [len(batch.x) for batch in rows] == [10] * 24
    monkeypatch.setattr(file_rows, "HELD_BYTES", A.nbytes)
    assert torch.equal(rows.held(), X)  # type: ignore[arg-type]


def nan_in(folder: Path, name: str) -> Path:
    x = A.copy()
    x[[60, 61], 1] = np.nan
    for part, rows in zip("ab", (A, x), strict=True):
        np.save(folder / f"{part}.npy", rows)
    return folder if name == "folder" else folder / "b.npy"


@pytest.mark.parametrize("held", [0, 1 << 20])
@pytest.mark.parametrize("name", ["folder", "file"])
def test_nan_in_a_file_is_refused_by_its_name(
    name: str, held: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    fitted: tuple[KMeansLayer, Any],
) -> None:  # fmt: skip
    monkeypatch.setattr(file_rows, "HELD_BYTES", held)
    path = nan_in(tmp_path, name)
    message = r"b\.npy: x should be finite; 2 rows hold NaN or infinity, the first is row 60"
    with pytest.raises(ValueError, match=message):
        kmeans(path, 3, seed=0)
    with pytest.raises(ValueError, match=message):
        predict(fitted[0], path)


@pytest.mark.usefixtures("read_again")
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_file_that_is_cut_short_meanwhile_is_refused_by_its_name(
    kind: str, tmp_path: Path
) -> None:
    path = tmp_path / "x.npy"
    np.save(path, np.tile(A, (100, 1)))

    def cut(iteration: object) -> None:
        with open(path, "r+b") as file:
            file.truncate(10_000)

    with pytest.raises(ValueError, match=r"x\.npy: "):
        kmeans(path if kind == "file" else tmp_path, 5, seed=0, tol=0, callback=cut)


def test_a_file_with_text_is_refused_with_a_way_to_choose_columns(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,b,c\n1,x,2\n3,y,4\n")
    expected = r"are a, c: read the file yourself, or use ArrayDataModule\(columns=\['a', 'c'\]\)$"
    with pytest.raises(ValueError, match=expected):
        kmeans(tmp_path / "t.csv", 2)


BAD: dict[str, tuple[Callable[..., Any], type[Exception], str]] = {
    "no file": (lambda: kmeans("x.npy", 2), FileNotFoundError, "x is the path of no file"),
    "no text": (lambda: kmeans(A.astype(str), 2), TypeError, "x should hold numbers"),
    "a vector": (lambda: kmeans(A[0], 2), ValueError, r"x should have shape .*reshape\(-1, 1\)"),
    "k": (lambda: kmeans(A, 0), ValueError, "k should be >= 1; got 0"),
    "k is text": (lambda: kmeans(A, "2"), TypeError, "k should be an integer"),  # type: ignore[arg-type]
    "too few": (lambda: kmeans(A[:3], 5), ValueError, "n_samples=3 should be >= n_clusters=5"),
    "seeds": (lambda: kmeans(A, 2, seed=1, generator=seeded()), ValueError, "generator or seed"),
    "current": (lambda: kmeans(A, 2, init="current"), ValueError, "init=layer.centroids"),
    "init": (lambda: kmeans(A, 2, init=A[:3]), ValueError, "init should have shape"),
    "weights": (
        lambda: kmeans(A, 2, sample_weight=[1.0, 2.0]), ValueError, "sample_weight should have"
    ),
    "device": (lambda: kmeans(A, 2, device="gpu"), ValueError, "device should be one that torch"),
    "meta": (lambda: kmeans(A, 2, device="meta"), ValueError, "device should hold numbers"),
    "points": (
        lambda: kmeans(A, 2, max_points_per_centroid=0), ValueError, "max_points_per_centroid"
    ),
    "an iterator": (lambda: kmeans(iter([X]), 2), ValueError, "x is an iterator"),
    "no batch": (lambda: kmeans(Again([]), 2), ValueError, "x holds no batch"),
    "a nested tensor": (
        lambda: kmeans(torch.nested.as_nested_tensor([X]), 2), TypeError, "got a nested tensor"
    ),
    "a data set": (lambda: kmeans(TensorDataset(X), 2), TypeError, "DataLoader"),
    "prepared": (
        lambda: kmeans(KMeansLayer(2, 3).prepare(X), 2), TypeError, "that layer's fit"
    ),
    "NaN": (lambda: kmeans(np.full((9, 2), np.nan), 2), ValueError, "9 rows hold NaN"),
    "ragged": (lambda: kmeans([[1.0], [2.0, 3.0]], 1), ValueError, "x should"),
    "source": (lambda: predict(5, A), TypeError, "source should be a Clustering, .* got int"),
    "a class": (lambda: predict(KMeans, A), TypeError, "source should be"),
    "a module": (lambda: predict(torch.nn.Linear(3, 2), A), TypeError, "source should be"),
    "untrained": (lambda: predict(KMeansLayer(2, 3), A), ValueError, "no centroids yet"),
    "no run": (lambda: predict("nowhere", A), FileNotFoundError, "source is the path of no run"),
    "an estimator elsewhere": (
        lambda: predict(KMeans(2).fit(A), A, device="cpu"), ValueError, "device should be None"
    ),
    "layer.fit of an array": (
        lambda: KMeansLayer(2, 3).fit(A), TypeError, "kmeans_module.kmeans takes arrays"  # type: ignore[arg-type]
    ),
    "layer of an array": (
        lambda: kmeans(A, 2, seed=0).layer(A), TypeError, "torch.from_numpy makes one"
    ),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("bad", BAD)
def test_what_cannot_be_clustered_is_refused_by_name(bad: str) -> None:
    call, error, message = BAD[bad]
    with pytest.raises(error, match=message) as refused:
        call()
    assert "\n" not in str(refused.value)


def test_other_features_are_refused(tmp_path: Path, fitted: tuple[KMeansLayer, Any]) -> None:
    for data in (A[:, :2], A[:, :2].tolist(), X[:, :2], [X[:, :2]]):
        with pytest.raises(ValueError, match=r"x should have shape \(..., 3\); got"):
            predict(fitted[0], data)


def test_a_plot_is_that_of_the_history(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "plot_history", lambda history: history, raising=False)
    for data in (A, X):
        found = kmeans(data, 5, seed=0)
        assert torch.equal(found.plot(), torch.as_tensor(found.history))


def test_one_call_needs_no_lightning(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", A)
    code = (
        "import sys, kmeans_module as km; "
        f"found = km.kmeans({str(tmp_path / 'x.npy')!r}, 3, seed=0); "
        f"km.predict(found, {str(tmp_path)!r}); "
        "print(*{name.split('.')[0] for name in sys.modules})"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"lightning", "matplotlib", "pandas"} & set(run.stdout.split())


def test_a_batch_stays_what_it_is() -> None:
    loader = [Batch(X[:100], WEIGHTS[:100]), Batch(X[100:], WEIGHTS[100:])]
    found = kmeans(loader, 5, seed=0)
    layer = KMeansLayer(5, 3)
    result = layer.fit(loader, seed=0)
    assert torch.equal(found.labels, result.labels)  # type: ignore[arg-type]
    assert torch.equal(found.centroids, layer.centroids)
