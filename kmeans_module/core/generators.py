"""What restarts draw from: each a generator of its own, so that they start alike whether they run
one after the other or together, on a tensor or on a stream."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

# Of one run, None for torch's default; or of restarts, each of which has a share of the problems.
Generators: TypeAlias = "torch.Generator | tuple[torch.Generator | None, ...] | None"


def of_restarts(
    generator: torch.Generator | None, n_init: int
) -> tuple[torch.Generator | None, ...]:
    """The generators of n_init restarts, of which the first draws what a single run would."""
    if n_init == 1:
        return (generator,)
    device = place_of(generator)
    state = torch.get_rng_state() if generator is None else generator.get_state()
    first = torch.Generator(device)
    first.set_state(state)
    seeds = torch.randint(2**62, (n_init - 1,), device=device, generator=generator).tolist()
    return (first, *(torch.Generator(device).manual_seed(seed) for seed in seeds))


def n_restarts(generators: Generators) -> int:
    """How many restarts draw together."""
    return len(generators) if isinstance(generators, tuple) else 1


def place_of(generators: Generators) -> torch.device:
    """Where the generators draw."""
    first = generators[0] if isinstance(generators, tuple) else generators
    return torch.device("cpu") if first is None else first.device


def drawn(draw: Callable[[torch.Generator | None], Tensor], generators: Generators) -> Tensor:
    """What each generator draws, those of restarts one after the other."""
    if not isinstance(generators, tuple):
        return draw(generators)
    parts = [draw(generator) for generator in generators]
    return parts[0] if len(parts) == 1 else torch.cat(parts)
