"""Promises of the shapes and the names that all quantizers share."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from torch import nn

from kmeans_module import (
    NotInitializedError,
    ProductQuantizer,
    ResidualQuantizer,
    VectorQuantizer,
)
from kmeans_module.quantization.layout import Layout
from tests.quantization.helpers import normal

LAYOUTS = [
    (Layout(6), (5, 7, 6), (1, 35, 6)),
    (Layout(6), (6,), (1, 1, 6)),
    (Layout(6, heads=2), (5, 7, 6), (1, 70, 3)),
    (Layout(6, heads=2, separate_codebooks=True), (5, 7, 6), (2, 35, 3)),
    (Layout(6, channel_first=True), (5, 6, 7), (1, 35, 6)),
    (Layout(6, heads=3, separate_codebooks=True, channel_first=True), (5, 6, 7, 2), (3, 70, 2)),
]
QUANTIZERS: list[tuple[type[nn.Module], tuple[int, ...]]] = [
    (VectorQuantizer, (8, 4)),
    (ResidualQuantizer, (8, 4, 3)),
    (ProductQuantizer, (8, 4, 2)),
]


@pytest.mark.parametrize(("layout", "shape", "expected"), LAYOUTS)
def test_rows_masks_and_codes_come_back_as_they_went(
    layout: Layout, shape: tuple[int, ...], expected: tuple[int, ...]
) -> None:
    given = normal(*shape)
    last = given.movedim(1, -1) if layout.channel_first else given
    x, mask = layout.check(given, torch.ones(last.shape[:-1]), given.device)
    assert x.shape == last.shape
    assert mask is not None
    assert mask.dtype == torch.bool
    rows = layout.to_rows(x, torch.float64)
    assert rows.shape == expected
    assert layout.mask_to_rows(mask).shape == expected[:2]
    back = layout.features_back(layout.from_rows(rows, x.shape, x.dtype))
    assert torch.equal(back, given)
    codes = torch.arange(expected[0] * expected[1]).view(expected[:2])
    of_x = layout.codes_from_rows(codes, x.shape)
    assert of_x.shape == (x.shape[:-1] if layout.heads == 1 else (*x.shape[:-1], layout.heads))
    assert torch.equal(layout.codes_to_rows(of_x), codes)


def test_a_mask_hides_all_heads_of_a_sample() -> None:
    mask = torch.tensor([True, False, True])
    for layout in (Layout(4, heads=2), Layout(4, heads=2, separate_codebooks=True)):
        x = torch.arange(12.0).view(3, 4)
        rows, valid = layout.to_rows(x, x.dtype), layout.mask_to_rows(mask)
        hidden = layout.from_rows(rows.where(valid.unsqueeze(-1), -1.0), x.shape, x.dtype)
        assert torch.equal(hidden, x.where(mask.unsqueeze(-1), -1.0))


@pytest.mark.parametrize(("kind", "sizes"), QUANTIZERS)
def test_update_is_named_by_the_error_that_replaces_it(
    kind: type[nn.Module], sizes: tuple[int, ...]
) -> None:
    quantizer = kind(*sizes)
    assert not hasattr(quantizer, "update")
    with pytest.raises(AttributeError, match=rf"{kind.__name__} .* apply_update\(\)"):
        _ = quantizer.update
    with pytest.raises(AttributeError, match="no attribute 'upgrade'"):
        _ = quantizer.upgrade


@pytest.mark.parametrize(("kind", "sizes"), QUANTIZERS)
def test_every_option_is_listed_documented_and_refused_by_name(
    kind: type[nn.Module], sizes: tuple[int, ...]
) -> None:
    parameters = inspect.signature(kind).parameters
    documentation = inspect.getdoc(kind) or ""
    for name, parameter in parameters.items():
        assert parameter.kind is not parameter.VAR_KEYWORD
        assert f"    {name}" in documentation or f", {name}:" in documentation, name
    defaults = inspect.signature(VectorQuantizer).parameters
    for name in parameters.keys() & defaults.keys():
        assert parameters[name].default == defaults[name].default, name
    options: dict[str, Any] = {"learning_rate": 1.0}
    with pytest.raises(TypeError, match=f"{kind.__name__}.*learning_rate"):
        kind(*sizes, **options)


@pytest.mark.parametrize(("kind", "sizes"), QUANTIZERS)
def test_a_quantizer_without_centroids_is_named(
    kind: type[nn.Module], sizes: tuple[int, ...]
) -> None:
    quantizer, x = kind(*sizes, update="frozen"), normal(20, 4)
    for call in (quantizer, quantizer.encode):
        assert callable(call)
        with pytest.raises(NotInitializedError, match=f"{kind.__name__} has no centroids"):
            call(x)
