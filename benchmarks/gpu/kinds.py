"""What is timed or counted in a case, for one contestant: a function for each kind."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks.gpu import epochs, steps
from benchmarks.gpu.cases import Case
from benchmarks.gpu.clock import Absent, Trial
from benchmarks.gpu.labels import check
from benchmarks.gpu.libraries import LIBRARIES, Fitted, Runner
from benchmarks.gpu.rows import chosen
from kmeans_module import KMeansLayer

Figures = dict[str, Any]


class Data(NamedTuple):
    """Rows (n, d) and initial centroids (k, d) of a case, and copies of them in other dtypes."""

    x: Tensor
    start: Tensor
    copies: dict[torch.dtype, tuple[Tensor, Tensor]]

    @classmethod
    def of(cls, x: Tensor, k: int) -> Data:
        return cls(x, chosen(x, k), {})

    def of_dtype(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """The same tensors for every contestant that takes this dtype."""
        if dtype not in self.copies:
            self.copies[dtype] = (self.x.to(dtype), self.start.to(dtype))
        return self.copies[dtype]


def _runner(contestant: str, data: Data) -> Runner:
    library = LIBRARIES[contestant]
    missing = library.absent(data.x.device)
    if missing is not None:
        raise Absent(missing)
    return library.ready(*data.of_dtype(library.dtype))


def _check_of_fit(runner: Runner, fitted: Fitted) -> tuple[float, float]:
    labels = fitted.labels
    if labels is None:  # older than the centroids: labels for these are asked for
        labels = runner.nearest(fitted.centroids)()
    return check(runner.x, fitted.centroids, labels)


def _iterations(short: int, long: int) -> Callable[[Case, str, Data], Trial]:
    """Milliseconds of an iteration, by the difference of fits of two lengths."""

    def kind(case: Case, contestant: str, data: Data) -> Trial:
        runner = _runner(contestant, data)

        def figures(ms: dict[str, float], results: dict[str, Fitted]) -> Figures:
            n = {name: int(fitted.n_iter) for name, fitted in results.items()}
            found: Figures = {"n_iter": n["long"]}
            if not ms:
                return found
            more, took = n["long"] - n["short"], ms["long"] - ms["short"]
            # A fit that converged has no later iterations: then it is the mean of all.
            enough = more >= 5 and took > 0
            each = took / more if enough else ms["long"] / n["long"]
            found |= {"ms": each, "whole_ms": ms["long"], "by": "difference" if enough else "mean"}
            if enough:
                found["start_iterations"] = ms["short"] / each - n["short"]
            return found

        timed = {"short": lambda: runner.fit(short), "long": lambda: runner.fit(long)}
        return Trial(timed, figures, lambda results: _check_of_fit(runner, results["long"]))

    return kind


def whole(case: Case, contestant: str, data: Data) -> Trial:
    """A fit of 10 iterations, k-means++ included."""
    x, start = _runner(contestant, data)[0], data.start
    layer = KMeansLayer(*start.shape, device=x.device)

    def fit() -> Fitted:
        generator = torch.Generator().manual_seed(0)
        result = layer.fit(x, max_iter=10, tol=0, generator=generator)
        return Fitted(result.n_iter, layer.centroids.clone(), result.labels)

    def checked(results: dict[str, Fitted]) -> tuple[float, float]:
        _, centroids, labels = results["fit"]
        return check(x, centroids, labels)

    def figures(ms: dict[str, float], results: dict[str, Fitted]) -> Figures:
        return {"n_iter": int(results["fit"].n_iter)} | ({"ms": ms["fit"]} if ms else {})

    return Trial({"fit": fit}, figures, checked)


def seeding(case: Case, contestant: str, data: Data) -> Trial:
    """k-means++; beside it, how far rows are from random centroids, in multiples."""
    runner = _runner(contestant, data)
    layer = KMeansLayer(*data.start.shape, device=runner.x.device)

    def seed() -> Tensor:
        layer.initialize(runner.x, "k-means++", generator=torch.Generator().manual_seed(0))
        return layer.centroids.clone()

    def figures(ms: dict[str, float], results: dict[str, Tensor]) -> Figures:
        random, seeded = (
            check(runner.x, centroids, runner.nearest(centroids)()).distance
            for centroids in (data.start, results["seed"])
        )
        return {"random_over_seeded": random / seeded} | ({"ms": ms["seed"]} if ms else {})

    return Trial(
        {"seed": seed},
        figures,
        lambda results: check(runner.x, results["seed"], runner.nearest(results["seed"])()),
    )


def assignment(case: Case, contestant: str, data: Data) -> Trial:
    """Labels of rows, all that has to be prepared for them included."""
    runner = _runner(contestant, data)
    centroids = data.of_dtype(LIBRARIES[contestant].dtype)[1]
    return Trial(
        {"labels": runner.nearest(centroids)},
        lambda ms, results: {"ms": ms["labels"]} if ms else {},
        lambda results: check(runner.x, centroids, results["labels"]),
    )


def memory(case: Case, contestant: str, data: Data) -> Trial:
    """Peak of a fit of 3 iterations beyond its rows, in MB; CUDA's, as torch counts it."""
    runner = _runner(contestant, data)
    device = runner.x.device

    def figures(ms: dict[str, float], results: dict[str, Any]) -> Figures:
        runner.fit(1)  # compiles, and leaves what libraries keep
        if device.type != "cuda":
            return {}
        torch.cuda.synchronize(device)
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        runner.fit(3)
        torch.cuda.synchronize(device)
        beyond = torch.cuda.max_memory_allocated(device) - before
        return {"mb": beyond / 2**20, "data_mb": runner.x.nbytes / 2**20}

    return Trial({}, figures)


def waits(case: Case, contestant: str, data: Data) -> Trial:
    """How often a warm fit of 20 iterations makes the host wait."""
    runner = _runner(contestant, data)

    def figures(ms: dict[str, float], results: dict[str, Any]) -> Figures:
        runner.fit(20)
        return counted(lambda: runner.fit(20), runner.x.device)

    return Trial({}, figures)


def waits_of_a_step(case: Case, contestant: str, data: Data) -> Trial:
    """How often a quantizer's training step makes the host wait, after the first ones."""
    quantizer = steps.Quantizer(contestant, case, data.x)

    def figures(ms: dict[str, float], results: dict[str, Any]) -> Figures:
        for _ in range(3):
            quantizer.step()
        return counted(quantizer.step, data.x.device)

    return Trial({}, figures)


def counted(work: Callable[[], object], device: torch.device) -> Figures:
    """The waits within a call: what torch warns of, and waits for events and streams by name."""
    if device.type != "cuda":
        work()
        return {}
    explicit: list[str] = []
    patched = [
        (torch.cuda, "synchronize"), (torch.cuda.Event, "synchronize"),
        (torch.cuda.Stream, "synchronize"),
    ]  # fmt: skip
    originals = [getattr(owner, name) for owner, name in patched]

    def noted(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            explicit.append(original.__qualname__)
            return original(*arguments, **options)

        return call

    torch.cuda.synchronize(device)
    mode = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            for (owner, name), original in zip(patched, originals, strict=True):
                setattr(owner, name, noted(original))
            torch.cuda.set_sync_debug_mode("warn")
            work()
        finally:
            torch.cuda.set_sync_debug_mode(mode)
            for (owner, name), original in zip(patched, originals, strict=True):
                setattr(owner, name, original)
    warned = sum("synchronizing CUDA operation" in str(one.message) for one in caught)
    return {"waits": warned + len(explicit)}


# By name: what a figure is, and the function that makes a contestant's trial.
KINDS: dict[str, tuple[str, Callable[[Case, str, Data], Trial]]] = {
    "iteration": ("ms an iteration, the 6th to the 25th", _iterations(5, 25)),
    "late iteration": (
        "ms an iteration, the 11th to the 25th / of a fit of 25 iterations",
        _iterations(10, 25),
    ),
    "whole": ("ms of a fit of 10 iterations with k-means++", whole),
    "seeding": ("ms of k-means++", seeding),
    "assignment": ("ms for the labels of new rows", assignment),
    "step": ("ms of a training step with gradients", steps.step),
    "epoch": ("ms of an epoch of LitKMeans", epochs.epoch),
    "memory": ("MB of a fit beyond its rows", memory),
    "waits": ("waits for the device in a fit of 20 iterations", waits),
    "waits of a step": ("waits for the device in a training step", waits_of_a_step),
}
