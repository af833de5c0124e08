"""Displays of a fit for people who wait: a bar, the output of a cell, plain lines."""

from __future__ import annotations

import logging
import math
import sys
from contextlib import suppress
from html import escape
from time import monotonic
from typing import Any, NamedTuple, Protocol

# Under the name of the module that people look for.
log = logging.getLogger("kmeans_module.progress")

_LINE_SECONDS = 10.0  # without a terminal: a line after so long at the latest
_BAR_SECONDS = 0.05  # a bar is drawn no more often
_CELL_SECONDS = 0.25  # nor is the output of a notebook's cell, which is sent over a network
_BAR_WIDTH = 12


class State(NamedTuple):
    """How far a fit is.

    Attributes:
        doing: what happens, in words: "seeding 12/64 centers", "iteration 3 of 300, inertia ...".
        share: how much of it is done, from 0 to 1; None where that is not known.
        stage: which of several fits this is; "" for the only one.
        seconds: since the fit began.
        number: iterations so far; 0 while it seeds.
        last: whether the fit, or the seeding, has ended with it.
    """

    doing: str
    share: float | None
    stage: str
    seconds: float
    number: int = 0
    last: bool = False

    @property
    def line(self) -> str:
        return f"{self.stage}: {self.doing}" if self.stage else self.doing

    @property
    def clock(self) -> str:
        minutes, seconds = divmod(int(self.seconds), 60)
        hours, minutes = divmod(minutes, 60)
        return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


class Display(Protocol):
    """Shows states to somebody.

    Attributes:
        every: seconds between two states that are worth their words.
    """

    every: float

    def show(self, state: State) -> None: ...

    def close(self) -> None:
        """Leave the terminal as it was."""


class Lines:
    """Plain lines, where there is neither a terminal nor a notebook: a batch job, a pipe.

    They go to stderr, or to the logger ``kmeans_module.progress`` where logging is set up for
    level INFO. Of a single fit iterations 1 to 10 get a line, then every tenth, every hundredth;
    of several fits, such as restarts, the last iteration of each; and one every 10 seconds.
    """

    every = 0.0

    def __init__(self) -> None:
        self._before: State | None = None
        self._written: State | None = None
        self._at = monotonic()

    def show(self, state: State) -> None:
        before, self._before = self._before, state
        if before is not None and before.number and before.stage != state.stage:
            self._write(before)
        magnitude = 10 ** int(math.log10(max(1, state.number)))
        round_number = state.number > 0 and not state.stage and state.number % magnitude == 0
        if state.last or round_number or monotonic() - self._at > _LINE_SECONDS:
            self._write(state)

    def close(self) -> None:
        pass

    def _write(self, state: State) -> None:
        if state == self._written or (state.number == 0 and state.share == 0):
            return
        self._written, self._at = state, monotonic()
        line = f"k-means: {state.line} ({state.seconds:.1f} s)"
        if log.isEnabledFor(logging.INFO) and log.hasHandlers():
            log.info(line)
        elif sys.stderr is not None:
            sys.stderr.write(line + "\n")
            sys.stderr.flush()


class Bar:
    """A bar of rich in a terminal; what else is written meanwhile appears above it.

    Without a thread that draws: workers that a loader forks would inherit its locks.
    """

    every = _BAR_SECONDS

    def __init__(self, console: Any) -> None:
        from rich.progress import BarColumn, Progress, TextColumn
        from rich.table import Column

        self._bar = Progress(
            BarColumn(
                _BAR_WIDTH, finished_style="green", table_column=Column(min_width=_BAR_WIDTH)
            ),
            TextColumn(
                "{task.fields[clock]}",
                style="progress.elapsed",
                table_column=Column(min_width=4, no_wrap=True),
            ),
            TextColumn(
                "{task.description}",
                markup=False,
                table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis"),
            ),
            console=console,
            expand=True,
            auto_refresh=False,
        )
        self._task = self._bar.add_task("k-means", total=1.0, clock="0:00")
        self._bar.start()

    def show(self, state: State) -> None:
        share = state.share or 0.0
        self._bar.update(
            self._task, completed=share, description=state.line, clock=state.clock, refresh=True
        )

    def close(self) -> None:
        self._bar.stop()


class Cell:
    """The output of a notebook's cell, which stays with the notebook."""

    every = _CELL_SECONDS

    def __init__(self) -> None:
        self._handle: Any = None

    def show(self, state: State) -> None:
        from IPython.display import display

        if self._handle is None:
            self._handle = display(CellOutput(state), display_id=True)  # type: ignore[no-untyped-call]
        else:
            self._handle.update(CellOutput(state))

    def close(self) -> None:
        pass


class CellOutput:
    """A state as a notebook shows it."""

    def __init__(self, state: State) -> None:
        self.state = state

    def __repr__(self) -> str:
        return f"k-means {self.state.clock} {self.state.line}"

    def _repr_html_(self) -> str:
        state = self.state
        share = "" if state.share is None else f' value="{state.share:.4f}"'
        return (
            '<div style="font-family: monospace; white-space: nowrap">k-means '
            f'<progress max="1"{share} style="width: 9em; vertical-align: middle"></progress> '
            f"{state.clock} {escape(state.line)}</div>"
        )


class Screen:
    """A display, how long it has been there, and when it was written to.

    Args:
        display: None for nobody to look at it.
    """

    def __init__(self, display: Display | None) -> None:
        self.display = self._opened = display
        self._began = self._shown = monotonic()

    @property
    def seconds(self) -> float:
        """Since the screen began."""
        return monotonic() - self._began

    def is_due(self, last: bool = False) -> bool:
        """Whether a state is worth its words now; the last one always is."""
        display = self.display
        return display is not None and (last or monotonic() - self._shown >= display.every)

    def show(self, state: State) -> None:
        """Show a state; a terminal that is gone or a closed file ends the display, not the fit."""
        if self.display is None:
            return
        self._shown = monotonic()
        try:
            self.display.show(state)
        except (OSError, ValueError):
            self.display = None

    def close(self) -> None:
        """Leave the terminal as it was."""
        display, self.display, self._opened = self._opened, None, None
        if display is not None:
            with suppress(OSError, ValueError):
                display.close()


def find_display() -> Display:
    """What suits the place: a notebook's cell, a terminal, or plain lines."""
    try:
        import rich
        from rich.console import Console
        from rich.errors import LiveError
    except ImportError:
        return Lines()
    shared = rich.get_console()
    if shared.is_jupyter:
        return Cell()
    # The shared console is the one that other displays of rich draw on: bars share the screen.
    for console in (shared, Console(stderr=True)):
        if console.is_interactive and console.file.isatty():
            try:
                return Bar(console)
            except LiveError:  # rich before 14.1 draws one display at a time
                return Lines()
    return Lines()
