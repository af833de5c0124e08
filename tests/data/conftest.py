"""A file of rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.data.helpers import X


@pytest.fixture
def npy(tmp_path: Path) -> str:
    path = str(tmp_path / "rows.npy")
    np.save(path, X)
    return path
