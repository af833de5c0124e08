"""What a fit found, and where to look, on the screen at its end."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path

from lightning.pytorch.loggers import TensorBoardLogger
from rich.console import Console
from rich.table import Table

from kmeans_module.training.callbacks.labels import Evaluation
from kmeans_module.training.lit_kmeans import LitKMeans


def print_summary(
    lit: LitKMeans, evaluation: Evaluation, folder: Path | None, names: list[str]
) -> None:
    """Print a table, and below it the paths and commands that show more.

    Args:
        lit: whose fit it was.
        evaluation: of its rows.
        folder: of the run; None where nothing was written.
        names: of what was written there.
    """
    console = Console()
    table = Table(show_header=False, box=None, pad_edge=False)
    for name, value in _found(lit, evaluation).items():
        table.add_row(name, value)
    if folder is not None:
        table.add_row("run folder", str(folder))
        table.add_row("", ", ".join(names))
    console.print(table)
    # Not in the table, which breaks lines that are to be copied.
    for line in _where_to_look(lit, folder, names):
        console.print(line, soft_wrap=True, highlight=False, markup=False)


def _found(lit: LitKMeans, evaluation: Evaluation) -> dict[str, str]:
    sizes, restarts = evaluation.sizes, lit.restarts
    empty = int((sizes == 0).sum())
    smallest, median, largest = (float(size) for size in (sizes.min(), sizes.median(), sizes.max()))
    found = {
        "inertia": f"{evaluation.inertia:,.6g}",
        "iterations": f"{int(lit.kmeans.n_iter):,}",
        "stopped": lit.stop_reason,
        "cluster sizes": f"{smallest:,.6g} to {largest:,.6g}, median {median:,.6g}, "
        f"{empty or 'none'} empty",
    }
    if len(restarts.m_steps) > 1:
        found["restarts"] = (
            f"number {restarts.best + 1} of {len(restarts.m_steps)} is the best; the others end at "
            f"an inertia of up to {max(restarts.chosen_by):,.6g}"
        )
    if "adjusted_rand" in evaluation.agreement:
        found["adjusted Rand"] = f"{evaluation.agreement['adjusted_rand']:.3f}, by the true labels"
    return found


def _where_to_look(lit: LitKMeans, folder: Path | None, names: list[str]) -> list[str]:
    lines = []
    if folder is not None:
        pictures = [name for name in ("quantized.png", "animation.html") if name in names]
        lines += [f"look at {folder / name}" for name in pictures]
    boards = [logger for logger in lit.trainer.loggers if isinstance(logger, TensorBoardLogger)]
    if boards:
        lines.append(f"or run  {_tensorboard()} --logdir {shlex.quote(boards[0].save_dir)}")
    return lines


def _tensorboard() -> str:
    """The command of this environment's TensorBoard."""
    beside = Path(sys.executable).with_name("tensorboard")
    found = shutil.which("tensorboard")
    if found is not None and (not beside.exists() or os.path.samefile(found, beside)):
        return "tensorboard"
    if beside.exists():
        near = os.path.relpath(beside)
        return shlex.quote(str(beside) if near.startswith("..") else near)
    return f"{shlex.quote(sys.executable)} -m tensorboard.main"
