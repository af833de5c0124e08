"""Whether a tensor has memory that a kernel may read: the one guard in front of every pointer.

Traced, exported, compiled, fake, functionalized and vmapped code shows tensors without numbers
behind them, or records what is done with them. A kernel that takes a pointer there crashes, or
bakes the labels of one input into a program for all: such calls go through the operators that
are registered with torch, and only plain calls go direct.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

_PLAIN = (Tensor, torch.nn.Parameter)
_PROXY = torch._C._TorchDispatchModeKey.PROXY
_FAKE = torch._C._TorchDispatchModeKey.FAKE
_FUNCTIONALIZE = torch._C._functorch.TransformType.Functionalize

P = ParamSpec("P")
R = TypeVar("R")


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
    return under_mode() or no_plain(x)


def no_plain(x: Tensor) -> str | None:
    """Why x itself has no numbers in a row of this process's memory; None where it has."""
    if type(x) not in _PLAIN and type(x).__torch_dispatch__ is not Tensor.__torch_dispatch__:
        return f"x is a {type(x).__name__}"
    if x.layout == torch.sparse_csr:
        parts = (x.crow_indices(), x.col_indices(), x.values())
        return next((obstacle for part in parts if (obstacle := no_plain(part))), None)
    if x.layout != torch.strided or x.is_meta or x.is_neg() or x.is_conj():
        return f"x is no plain dense tensor in memory ({x.layout}, {x.device})"
    return None


def nan_like(x: Tensor) -> Tensor:
    """NaN of the dtype of x, (): torch.export of 2.8 cannot save the number in a program."""
    zero = x.new_zeros(())
    return zero / zero


def captured(x: Tensor) -> bool:
    """Whether a CUDA graph records what is done with x, which must not be waited for."""
    return x.is_cuda and torch.cuda.is_current_stream_capturing()


def exporting() -> bool:
    """What :func:`torch.compiler.is_exporting` says; torch.compile of 2.7 and 2.8 takes that for
    true wherever it reads it."""
    return torch.compiler._is_exporting_flag


def for_other_inputs() -> bool:
    """Whether a program is made that will run on other rows, perhaps another number of them:
    what Python counts now would be a constant in it."""
    if compiling():
        return exporting()
    if torch._C._get_tracing_state() is not None:
        return True
    return bool(torch._C._len_torch_dispatch_stack()) and (
        torch._C._get_dispatch_mode(_PROXY) is not None
    )


def for_onnx() -> bool:
    """Whether a program is made that knows the operators of ONNX alone."""
    return for_other_inputs() and torch.onnx.is_in_onnx_export()


def recorded() -> bool:
    """Whether torch's own operators are asked for, not functions of Python's: in a graph, and
    where functionalize does not know any other."""
    if compiling() or torch._C._get_tracing_state() is not None:
        return True
    transform = torch._C._functorch.peek_interpreter_stack()
    return transform is not None and transform.key() == _FUNCTIONALIZE


def under_functorch() -> bool:
    """Whether a transform of torch.func is active."""
    return not compiling() and torch._C._functorch.peek_interpreter_stack() is not None


def differentiated(*tensors: Tensor) -> bool:
    """Whether somebody may ask for a derivative by one of them, forwards or backwards."""
    if torch.is_grad_enabled() and any(x.requires_grad for x in tensors):
        return True
    # A transform inside another one hides what the other asks for.
    return not compiling() and (
        torch._C._functorch.peek_interpreter_stack() is not None
        or torch.autograd.forward_ad._current_level >= 0
    )


def is_distributed(x: Tensor) -> bool:
    """Whether x is a DTensor, asked without an import of those."""
    return not compiling() and type(x).__module__.startswith("torch.distributed.tensor")


def is_masked(x: Tensor) -> bool:
    """Whether x is a MaskedTensor, asked without an import of those."""
    return not compiling() and type(x).__module__.startswith("torch.masked")


def no_values(*tensors: Tensor) -> str | None:
    """Why the values of tensors cannot be looked at; None where they can. Unlike a kernel, what
    only looks may run under a mode that watches the operators, such as a counter of them."""
    if compiling():
        return "code is being compiled or exported"
    if torch._C._get_tracing_state() is not None:
        return "torch.jit traces"
    if torch._C._len_torch_dispatch_stack():
        for key in (_PROXY, _FAKE):
            if torch._C._get_dispatch_mode(key) is not None:
                return "tensors are fake" if key is _FAKE else "a graph is recorded"
    if torch._C._functorch.peek_interpreter_stack() is not None:
        return "a functorch transform is active"
    for x in tensors:
        if x.is_meta:
            return "tensors are on the meta device"
        if type(x) not in _PLAIN and type(x).__torch_dispatch__ is not Tensor.__torch_dispatch__:
            return f"it is handed a {type(x).__name__}"
    return None


def require_values(method: str, *tensors: Tensor) -> None:
    """Refuse, in the name of a method, what has no values, or would make constants of them.

    Raises:
        RuntimeError: values cannot be read at the moment; says why, and what to do.
    """
    if compiling() and not exporting():
        # Eager code goes on here; where there is to be one graph, this is what the error says.
        torch._dynamo.graph_break(msg=f"{method} reads the values of tensors: no graph holds it")
        return
    obstacle = no_values(*tensors)
    if obstacle is not None:
        raise RuntimeError(
            f"{method} reads the values of tensors, which it cannot where {obstacle}: "
            "call it on plain tensors in eager code"
        )


def changed_in_place(method: str, instead: str) -> None:
    """Refuse, in the name of a method, to write into a module where functorch forbids it.

    Raises:
        RuntimeError: a transform is active; says what to use instead.
    """
    if under_functorch():
        raise RuntimeError(
            f"{method} changes the module in place, which it cannot where a functorch transform "
            f"is active: {instead}"
        )


def constant_in_onnx(compute: Callable[[], Tensor]) -> Tensor:
    """What is computed of the state alone; a trace for ONNX, which does not know how, gets the
    numbers."""
    state = None if compiling() or not for_onnx() else torch._C._get_tracing_state()
    if state is None:
        return compute()
    torch._C._set_tracing_state(None)  # type: ignore[attr-defined]
    try:
        return compute().detach()
    finally:
        torch._C._set_tracing_state(state)  # type: ignore[attr-defined]


def require_training(rows: Tensor) -> None:
    """Refuse to let a codebook learn in programs that outlive this process, which knows how, and
    where nothing may be written.

    Raises:
        RuntimeError: says why, and what to do.
    """
    if compiling():
        obstacle = "code is being exported" if exporting() else None
    elif torch._C._get_tracing_state() is not None:
        obstacle = "torch.jit traces"
    elif under_functorch():
        obstacle = "a functorch transform is active"
    else:
        obstacle = "tensors are on the meta device" if rows.is_meta else None
    if obstacle is not None:
        raise RuntimeError(
            f"a quantizer learns in training, which it cannot where {obstacle}: call eval() first"
        )


def without_gradients(function: Callable[P, R]) -> Callable[P, R]:
    """As :class:`torch.no_grad` does, but a region inside another one is none: torch.export
    writes empty regions that it cannot load again."""

    @wraps(function)
    def alone(*args: P.args, **kwargs: P.kwargs) -> R:
        if not torch.is_grad_enabled():
            return function(*args, **kwargs)
        with torch.no_grad():
            return function(*args, **kwargs)

    return alone


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
