"""Whether a tensor has memory that a kernel may read: the one guard in front of every pointer.

Traced, exported, compiled, fake, functionalized and vmapped code shows tensors without numbers
behind them, or records what is done with them. A kernel that takes a pointer there crashes, or
bakes the labels of one input into a program for all: such calls go through the operators that
are registered with torch, and only plain calls go direct.
"""

from __future__ import annotations

import torch
from torch import Tensor

_PLAIN = (Tensor, torch.nn.Parameter)


def compiling() -> bool:
    """Whether torch.compile or torch.export reads this code. Asked first, it keeps what follows
    from becoming a condition of the compiled code."""
    return torch.compiler.is_compiling()


def under_mode() -> str | None:
    """What is being recorded or transformed at the moment; None in plain eager code."""
    if compiling():
        return "code is being compiled or exported"
    return transformed()


def transformed() -> str | None:
    """What tensors are traced or transformed by, also inside of an operator that runs."""
    # No public functions tell these: they are what torch's own dispatch asks.
    if torch._C._get_tracing_state() is not None:
        return "torch.jit traces"
    if torch._C._len_torch_dispatch_stack():
        return "a torch dispatch mode is active"
    if torch._C._functorch.peek_interpreter_stack() is not None:
        return "a functorch transform is active"
    return None


def no_memory(x: Tensor) -> str | None:
    """Why a pointer to the numbers of x must not be taken; None where it may."""
    mode = under_mode()
    if mode is not None:
        return mode
    if type(x) not in _PLAIN and type(x).__torch_dispatch__ is not Tensor.__torch_dispatch__:
        return f"x is a {type(x).__name__}"
    if x.layout != torch.strided or x.is_meta or x.is_neg() or x.is_conj():
        return f"x is no plain dense tensor in memory ({x.layout}, {x.device})"
    return None


def in_backward() -> bool:
    """Whether activation checkpointing runs this forward pass for the second time.

    torch has no public name for the number of the backward pass that is under way, -1 for none.
    """
    return torch._C._current_graph_task_id() != -1


def version_of(tensor: Tensor) -> int:
    """How often torch has written into a tensor; inference tensors do not count."""
    # No public name tells it.
    return 0 if tensor.is_inference() else tensor._version


def readable(x: Tensor) -> bool:
    """Whether a look at the values costs no wait: on the CPU, in plain eager code."""
    return x.device.type == "cpu" and no_memory(x) is None
