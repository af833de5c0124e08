"""Errors whose cause is not in the code, and their words on the command line."""

from __future__ import annotations

import os
import signal
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException

# Words of the errors of torch and Lightning whose type says nothing.
_WORDS = (
    "in loading state_dict",
    "checkpoint contains only the model",
    "can't allocate memory",
    "out of memory",
    "DataLoader worker",
    "Early stopping conditioned on metric",
)
# Names that writers of files give to the path.
_PATHS = ("filename", "path", "metrics_file_path")


def is_fault(error: Exception) -> bool:
    """Whether data, files, arguments or the machine are to blame: no traceback helps."""
    if isinstance(error, RuntimeError | KeyError):
        return any(words in str(error) for words in _WORDS)
    return isinstance(
        error,
        ValueError | TypeError | OSError | MemoryError | ImportError | MisconfigurationException,
    )


def in_words(error: Exception) -> str:
    """The message of an error, with the path of the file where one is at fault."""
    message = str(error.args[0]) if isinstance(error, KeyError) else str(error)
    if "in loading state_dict" in message:
        return f"the checkpoint does not fit the configuration: {message}"
    # A worker of a DataLoader, or a process that was spawned, sends its traceback.
    if "Traceback (most recent call last)" in message:
        return message.strip().splitlines()[-1]
    if isinstance(error, OSError) and error.errno is not None and error.filename is None:
        path = _path_in_use(error)
        return message if path is None else f"{message}: {path!r}"
    return message or type(error).__name__


@contextmanager
def quiet_threads() -> Iterator[None]:
    """Let no thread print an error of a file: TensorBoard's writer hands it to its caller too."""
    before = threading.excepthook

    def hook(args: Any) -> None:
        if not isinstance(args.exc_value, OSError):
            before(args)

    threading.excepthook = hook
    try:
        yield
    finally:
        threading.excepthook = before


@contextmanager
def late_interrupts() -> Iterator[None]:
    """Let Ctrl-C wait until TensorBoard's writer is left.

    Within it, an interrupt may leave the lock of the writer's queue held (Condition.__enter__ has
    taken it, and has not returned): closing the writer would then wait without end.
    """
    main = threading.current_thread() is threading.main_thread()
    if not main or not hasattr(signal, "setitimer"):
        yield
        return
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.default_int_handler:
        yield
        return
    tries = 0

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal tries
        tries += 1
        if _in_writer(frame) and tries < 500:  # a disk that hangs shall be left after 10 seconds
            signal.signal(signal.SIGALRM, interrupt)
            signal.setitimer(signal.ITIMER_REAL, 0.02)
            return
        tries = 0
        signal.default_int_handler(signal.SIGINT, frame)

    signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        # Lightning ignores further interrupts from the first on
        if signal.getsignal(signal.SIGINT) is interrupt:
            signal.signal(signal.SIGINT, before)


def _in_writer(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.endswith("event_file_writer.py"):
            return True
        frame = frame.f_back
    return False


def _path_in_use(error: BaseException) -> str | None:
    """The path that the code at fault had in hand, as a failed write does not tell it."""
    for frame, _ in reversed(list(traceback.walk_tb(error.__traceback__))):
        owner = frame.f_locals.get("self")
        for name in _PATHS:
            for path in (frame.f_locals.get(name), getattr(owner, name, None)):
                if isinstance(path, str | bytes | os.PathLike) and os.path.lexists(path):
                    return os.fsdecode(path)
    return None
