"""What draws come from: a generator, or an integer."""

from __future__ import annotations

from numbers import Integral

import torch

from kmeans_module.checks import check_integer


def generator_of(generator: object, seed: object) -> torch.Generator | None:
    """What draws come from: a generator, or a new one on the CPU from a seed; None for torch's
    default generator.

    Args:
        generator: a torch.Generator or None.
        seed: an integer from 0 to 2^64 - 1, NumPy's too; or None.

    Raises:
        TypeError: the generator is none, or the seed no integer.
        ValueError: both are given, or the seed is negative or too large.
    """
    if generator is not None and not isinstance(generator, torch.Generator):
        raise TypeError(
            f"generator should be a torch.Generator or None; got {type(generator).__name__}"
        )
    if seed is None:
        return generator
    if generator is not None:
        raise ValueError("generator or seed should be given, not both")
    if isinstance(seed, Integral) and 2**62 < int(seed) < 2**64:  # such as torch.initial_seed()
        return torch.Generator().manual_seed(int(seed))
    return torch.Generator().manual_seed(check_integer("seed", seed, minimum=0))
