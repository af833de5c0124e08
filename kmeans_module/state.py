"""What modules share: counts that stay exact, shapes that are refused, a flag read once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from kmeans_module.core.statistics import accumulator_dtype


class ExactBuffers(nn.Module):
    """A module some of whose float64 buffers keep their dtype whatever is asked for.

    Attributes:
        exact: names of these buffers.
    """

    exact: Sequence[str] = ()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> ExactBuffers:
        """Move the exact buffers with the module, but not to another precision."""
        before = {name: getattr(self, name) for name in self.exact}
        for name, buffer in before.items():
            setattr(self, name, buffer.float())  # no float64 goes to MPS
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, buffer in before.items():
            moved = getattr(self, name)
            kept = moved if buffer.is_meta else buffer
            setattr(
                self, name, kept.to(dtype=accumulator_dtype(moved.device)).to(device=moved.device)
            )
        return self


def size_mismatches(
    state: Iterable[tuple[str, Tensor | None]], state_dict: Mapping[str, Any], prefix: str
) -> list[str]:
    """Errors for tensors of a state_dict that have another shape than a module's.

    Args:
        state: names and tensors of the module.
        state_dict: to be loaded.
        prefix: of the module's keys.
    """
    return [
        f"size mismatch for {prefix}{name}: copying a tensor of shape "
        f"{tuple(state_dict[prefix + name].shape)} from the checkpoint, the layer's has shape "
        f"{tuple(tensor.shape)}"
        for name, tensor in state
        if tensor is not None
        and isinstance(state_dict.get(prefix + name), Tensor)
        and state_dict[prefix + name].shape != tensor.shape
    ]
