"""k-means of each library on CUDA tensors, by its public functions."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks.gpu.clock import Absent
from benchmarks.machine import version
from kmeans_module import KMeansLayer

CHUNK = 1 << 29  # scores at once of torch's own operations: 2 GB


class Fitted(NamedTuple):
    """What a fit gave.

    Attributes:
        n_iter: iterations that it made.
        centroids: (k, d).
        labels: (n,), nearest of these centroids; None where a library returns the labels from
            before its last update.
    """

    n_iter: int | Tensor
    centroids: Tensor
    labels: Tensor | None


class Runner(NamedTuple):
    """A library made ready for some rows.

    Attributes:
        x: rows (n, d) as the library takes them.
        fit: Lloyd's algorithm for a number of iterations from the initial centroids.
        nearest: of centroids (k, d) a call that gives the labels (n,) of the rows for them.
    """

    x: Tensor
    fit: Callable[[int], Fitted]
    nearest: Callable[[Tensor], Callable[[], Tensor]]


class Library(NamedTuple):
    """A contestant.

    Attributes:
        dtype: of the rows that it gets.
        ready: takes rows (n, d) and initial centroids (k, d) of this dtype.
        needs: modules, by the names of the distributions that bring them.
        cuda: whether it takes CUDA tensors only.
    """

    dtype: torch.dtype
    ready: Callable[[Tensor, Tensor], Runner]
    needs: dict[str, tuple[str, ...]] = {}  # noqa: RUF012
    cuda: bool = True

    def absent(self, device: torch.device) -> str | None:
        """Why it cannot run here, in words; None where it can."""
        for module, distributions in self.needs.items():
            if importlib.util.find_spec(module) is None:
                return f"{distributions[0]} is not installed"
        return "it takes CUDA tensors only" if self.cuda and device.type != "cuda" else None


def kmeans_module(x: Tensor, start: Tensor) -> Runner:
    layer = KMeansLayer(*start.shape, device=x.device)
    start = start.float()

    def fit(iterations: int) -> Fitted:
        result = layer.fit(x, init=start, max_iter=iterations, tol=0)
        return Fitted(result.n_iter, layer.centroids.clone(), result.labels)

    def nearest(centroids: Tensor) -> Callable[[], Tensor]:
        holder = KMeansLayer(*start.shape, device=x.device)
        holder.initialize(x, centroids.float())
        return lambda: holder(x)

    return Runner(x, fit, nearest)


def on_the_cpu(x: Tensor, start: Tensor) -> Runner:
    return kmeans_module(x.cpu(), start.cpu())


def torch_alone(x: Tensor, start: Tensor) -> Runner:
    """A product, its argmin and index_add_, in chunks of rows."""

    def assign(centroids: Tensor) -> Tensor:
        norms, turned = centroids.square().sum(dim=1), centroids.T
        parts = x.split(max(1, CHUNK // len(centroids)))
        return torch.cat(
            [torch.addmm(norms, part, turned, alpha=-2).argmin(dim=1) for part in parts]
        )

    def fit(iterations: int) -> Fitted:
        centroids = start
        for _ in range(iterations):
            labels = assign(centroids)
            counts = torch.bincount(labels, minlength=len(start)).unsqueeze(1)
            sums = torch.zeros_like(start).index_add_(0, labels, x)
            centroids = torch.where(counts > 0, sums / counts.clamp(min=1), centroids)
        return Fitted(iterations, centroids, None)

    return Runner(x, fit, lambda centroids: lambda: assign(centroids))


def flash_kmeans(x: Tensor, start: Tensor) -> Runner:
    from flash_kmeans import batch_kmeans_Euclid
    from flash_kmeans.assign_euclid_triton import euclid_assign_triton

    def fit(iterations: int) -> Fitted:
        _, centroids, n_iter = batch_kmeans_Euclid(
            x[None], len(start), max_iters=iterations, tol=0.0, init_centroids=start[None].clone()
        )
        return Fitted(n_iter, centroids[0], None)

    def nearest(centroids: Tensor) -> Callable[[], Tensor]:
        def labels() -> Tensor:
            squares = x.float().square().sum(dim=1)  # which are to be handed in
            return euclid_assign_triton(x[None], centroids[None], squares[None])[0]

        return labels

    return Runner(x, fit, nearest)


def flashlib(backend: str) -> Callable[[Tensor, Tensor], Runner]:
    """With its "triton" or its "cutedsl" kernels."""

    def ready(x: Tensor, start: Tensor) -> Runner:
        from flashlib.primitives.kmeans import euclid_assign_triton
        from flashlib.primitives.kmeans import flash_kmeans as library

        if backend == "cutedsl":
            # These kernels take multiples of 16 features; zeros change no distance.
            x, start = (
                torch.nn.functional.pad(rows, (0, -rows.shape[1] % 16)) for rows in (x, start)
            )

        def run(centroids: Tensor, iterations: int) -> tuple[Tensor, Tensor, int]:
            return library(  # which writes into the initial centroids
                x, len(centroids), max_iters=iterations, tol=0.0, backend=backend,
                init_centroids=centroids[None].clone(),
            )  # fmt: skip

        def fit(iterations: int) -> Fitted:
            _, centroids, n_iter = run(start, iterations)
            return Fitted(n_iter, centroids.reshape(start.shape), None)

        def nearest(centroids: Tensor) -> Callable[[], Tensor]:
            if backend == "triton":
                return lambda: euclid_assign_triton(x[None], centroids[None])[0]
            return lambda: run(centroids, 1)[0]

        return Runner(x, fit, nearest)

    return ready


def faiss(x: Tensor, start: Tensor) -> Runner:
    """On all GPUs that it sees; its rows come from the host's memory."""
    import faiss as library

    if not getattr(library, "get_num_gpus", int)():
        raise Absent("faiss is installed without GPUs")
    rows, begin = x.cpu().numpy(), start.cpu().numpy()

    def fit(iterations: int) -> Fitted:
        model = library.Kmeans(
            x.shape[1], len(begin), niter=iterations, nredo=1, gpu=True,
            max_points_per_centroid=len(x), min_points_per_centroid=1,
        )  # fmt: skip
        model.train(rows, init_centroids=begin)
        return Fitted(iterations, torch.tensor(model.centroids, device=x.device), None)

    def nearest(centroids: Tensor) -> Callable[[], Tensor]:
        index = library.index_cpu_to_all_gpus(library.IndexFlatL2(x.shape[1]))
        index.add(centroids.cpu().numpy())
        return lambda: torch.from_numpy(index.search(rows, 1)[1][:, 0])

    return Runner(x, fit, nearest)


def cuml(x: Tensor, start: Tensor) -> Runner:
    import cupy
    from cuml.cluster import KMeans

    rows, begin = cupy.from_dlpack(x), cupy.from_dlpack(start)

    def fit(iterations: int) -> Fitted:
        # Its tol has to be positive; its labels are those of its last centroids.
        model = KMeans(
            n_clusters=len(start), init=begin, n_init=1, max_iter=iterations, tol=1e-16,
            output_type="cupy",
        ).fit(rows)  # fmt: skip
        found, labels = (
            torch.from_dlpack(array) for array in (model.cluster_centers_, model.labels_)
        )
        return Fitted(int(model.n_iter_), found, labels)

    def nearest(centroids: Tensor) -> Callable[[], Tensor]:
        raise NotImplementedError("cuML's labels are those of its own centroids")

    return Runner(x, fit, nearest)


FLASH_KMEANS = {"flash_kmeans": ("flash-kmeans",), "triton": ("triton",)}
FLASHLIB = {"flashlib": ("flashlib",), "triton": ("triton",)}
CUTE = {**FLASHLIB, "cutlass": ("nvidia-cutlass-dsl",)}
FAISS = {"faiss": ("faiss-gpu-cu12", "faiss-gpu", "faiss-cpu")}
CUML = {"cuml": ("cuml-cu12", "cuml-cu13", "cuml"), "cupy": ("cupy-cuda12x", "cupy")}
float32, float16, bfloat16 = torch.float32, torch.float16, torch.bfloat16

LIBRARIES: dict[str, Library] = {
    "kmeans_module float32": Library(float32, kmeans_module, cuda=False),
    "kmeans_module float16": Library(float16, kmeans_module, cuda=False),
    "kmeans_module bfloat16": Library(bfloat16, kmeans_module, cuda=False),
    "kmeans_module on the CPU": Library(float32, on_the_cpu, cuda=False),
    "flashlib float32": Library(float32, flashlib("triton"), FLASHLIB),
    "flashlib bfloat16": Library(bfloat16, flashlib("triton"), FLASHLIB),
    "flashlib CuTe bfloat16": Library(bfloat16, flashlib("cutedsl"), CUTE),
    "flash-kmeans float32": Library(float32, flash_kmeans, FLASH_KMEANS),
    "flash-kmeans float16": Library(float16, flash_kmeans, FLASH_KMEANS),
    "torch float32": Library(float32, torch_alone, cuda=False),
    "faiss float32": Library(float32, faiss, FAISS),
    "cuML float32": Library(float32, cuml, CUML),
}


def absent(device: torch.device) -> dict[str, str]:
    """The contestants that cannot run here, and why, in words."""
    found = {name: library.absent(device) for name, library in LIBRARIES.items()}
    return {name: why for name, why in found.items() if why is not None}


def versions() -> dict[str, str]:
    """Versions of what is installed, by the names of the distributions."""
    needs = [library.needs for library in LIBRARIES.values()]
    names = {name for need in needs for found in need.values() for name in found}
    found = {name: version(name) for name in sorted(names | {"vector-quantize-pytorch"})}
    return {name: of for name, of in found.items() if of is not None}
