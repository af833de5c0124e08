"""Promises of the checks of arguments."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kmeans_module import checks as check


@pytest.mark.parametrize("value", [3, np.int64(3), torch.tensor(3).item()])
def test_integers_of_numpy_are_integers(value: int) -> None:
    assert check.check_integer("n_clusters", value, minimum=1) == 3
    assert type(check.check_integer("n_clusters", value, minimum=1)) is int


@pytest.mark.parametrize("value", [True, 2.0, "2", None, torch.tensor(2)])
def test_nothing_else_is_an_integer(value: object) -> None:
    with pytest.raises(TypeError, match="n_clusters should be an integer; got"):
        check.check_integer("n_clusters", value, minimum=1)


@pytest.mark.filterwarnings("ignore::UserWarning")  # torch says that masked tensors are new
def test_a_masked_tensor_is_refused_in_words() -> None:
    from torch.masked import masked_tensor

    x = torch.ones(3, 2)
    with pytest.raises(TypeError, match=r"^x should have no mask; got a MaskedTensor.*$"):
        check.check_rows(masked_tensor(x, x > 0))
