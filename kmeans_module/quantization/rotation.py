"""The orthogonal matrix that turns vectors before they are cut into parts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from kmeans_module.core.distances import full_precision
from kmeans_module.core.guard import constant_in_onnx


def _widened(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


class Rotation(nn.Linear):
    """A square ``nn.Linear`` without a bias that is float32 at least, whatever its network is
    cast to: the exponential that keeps a weight orthogonal has no derivative in half precision.
    """

    def __init__(self, n_features: int, dtype: torch.dtype) -> None:
        super().__init__(n_features, n_features, bias=False, dtype=dtype)
        nn.init.eye_(self.weight)
        self.register_load_state_dict_post_hook(_widen)  # type: ignore[no-untyped-call]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Rotation:
        def moved_only(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            if moved.dtype == _widened(moved).dtype:
                return moved
            return tensor.to(_widened(moved).dtype).to(moved.device)

        super()._apply(moved_only, recurse)  # type: ignore[no-untyped-call]
        return self


def _widen(module: nn.Module, incompatible_keys: object) -> None:
    """Loading may assign tensors as they are."""
    module._apply(lambda tensor: tensor)  # type: ignore[no-untyped-call]


def rotation_like(centroids: Tensor, n_features: int) -> nn.Linear:
    """A :class:`Rotation` by nothing, kept orthogonal, on the device of the centroids."""
    # torch looks at the numbers of what it makes orthogonal: not on the meta device.
    host = torch.device("cpu")
    with host, full_precision(host):
        rotation = Rotation(n_features, _widened(centroids).dtype)
        turned: Any = parametrizations.orthogonal(rotation)
    return cast("nn.Linear", turned.to(centroids.device))


def weight_of(rotation: nn.Linear) -> Tensor:
    """The rotation, (d, d), which is computed from parameters that keep it orthogonal."""
    return constant_in_onnx(lambda: rotation.weight)
