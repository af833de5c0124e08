"""Times of several contestants in turns: warm, by CUDA events, within a budget."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch

ROUNDS = 15  # at most, for each contestant
SLOW = 20_000.0  # milliseconds of the first calls after which they are not repeated


class Absent(Exception):
    """What a case or a contestant needs and this environment lacks, in words."""


class Trial(NamedTuple):
    """What one contestant does in a case.

    Attributes:
        timed: the calls that are timed, by name; none where something is counted instead.
        figures: the contestant's figures, of the milliseconds and the results of these calls.
        check: of the results, the share of wrong labels and the mean squared distance; None where
            there are no labels.
    """

    timed: dict[str, Callable[[], Any]]
    figures: Callable[[dict[str, float], dict[str, Any]], dict[str, Any]]
    check: Callable[[dict[str, Any]], tuple[float, float]] | None = None


class Timed(NamedTuple):
    """Times of the calls of one contestant.

    Attributes:
        ms: times of each call after the first, or of the first where that took too long.
        first: time of the first of each call, compilation included, in milliseconds.
        results: what each call returned last.
    """

    ms: dict[str, list[float]]
    first: dict[str, float]
    results: dict[str, Any]

    def medians(self) -> dict[str, float]:
        return {name: statistics.median(found) for name, found in self.ms.items() if found}


class Clock:
    """Times calls on one device.

    Args:
        device: whose events are taken; the time of day on the CPU.
        share: seconds for the repeats of one contestant in one case.
        seconds: for everything, from now; None for no limit.
        timing: False makes each call once.
    """

    def __init__(
        self,
        device: torch.device,
        *,
        share: float = 0.5,
        seconds: float | None = None,
        timing: bool = True,
    ) -> None:
        self.device, self.share, self.timing = device, share, timing
        self.end = None if seconds is None else time.monotonic() + seconds

    def is_over(self) -> bool:
        """Whether the time for everything has been spent."""
        return self.end is not None and time.monotonic() > self.end

    def once(self, work: Callable[[], Any]) -> tuple[float, Any]:
        """Milliseconds of one call, until the device has done all of it; and its result."""
        if self.device.type != "cuda":
            begin = time.perf_counter()
            result = work()
            return 1e3 * (time.perf_counter() - begin), result
        torch.cuda.synchronize(self.device)
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        result = work()
        end.record()
        end.synchronize()
        return start.elapsed_time(end), result

    def in_turns(self, trials: dict[str, Trial], without: dict[str, Exception]) -> dict[str, Timed]:
        """Times of each trial; the exceptions of those that fail go into ``without``."""
        timed: dict[str, Timed] = {}
        rounds: dict[str, int] = {}
        for name, trial in trials.items():
            with noted(without, name):
                if self.is_over():
                    raise Absent("the time was spent")
                timed[name], rounds[name] = self._warm(trial)
        for turn in range(ROUNDS):
            for name in timed:
                if turn < rounds[name] and name not in without:
                    with noted(without, name):
                        self._repeat(trials[name], timed[name])
        return {name: found for name, found in timed.items() if name not in without}

    def _warm(self, trial: Trial) -> tuple[Timed, int]:
        """The first of each call, and how many more rounds there is time for."""
        timed = Timed({name: [] for name in trial.timed}, {}, {})
        for name, work in trial.timed.items():
            timed.first[name], timed.results[name] = self.once(work)
        if not self.timing or not trial.timed:
            return timed, 0
        if sum(timed.first.values()) > SLOW:
            timed.ms.update({name: [ms] for name, ms in timed.first.items()})
            return timed, 0
        cost = self._repeat(trial, timed)
        wanted = 1e3 * self.share / max(cost, 1e-3)
        # Three rounds where they take no more than twice the share; one in any case.
        rounds = max(3, int(wanted)) if wanted >= 1.5 else max(1, int(wanted))
        for found in timed.ms.values():
            found.clear()  # a second call may still compile or tune something
        return timed, rounds

    def _repeat(self, trial: Trial, timed: Timed) -> float:
        """Each call once more, in milliseconds together."""
        for name, work in trial.timed.items():
            timed.results[name] = None  # its memory goes before the next result needs some
            ms, timed.results[name] = self.once(work)
            timed.ms[name].append(ms)
        return sum(found[-1] for found in timed.ms.values())


@contextlib.contextmanager
def noted(without: dict[str, Exception], name: str) -> Iterator[None]:
    """An exception becomes an entry of ``without`` under this name, and nothing more."""
    try:
        yield
    except Exception as error:
        # Its frames would keep the tensors of a call that ran out of memory.
        without[name] = error.with_traceback(None)


def reason(error: BaseException) -> str:
    """An exception in one line."""
    lines = str(error).strip().splitlines()
    text = lines[0][:160] if lines else ""
    return text if isinstance(error, Absent) else f"{type(error).__name__}: {text}".rstrip(": ")
