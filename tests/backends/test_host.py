"""Parts of csrc/host/ that no result shows: the states of the policy, and boxes of rows."""

from __future__ import annotations

from pathlib import Path

from tests.native.build import build, needs_cmake, run


@needs_cmake
def test_bounds_are_kept_as_the_table_of_states_says_and_boxes_unite(tmp_path: Path) -> None:
    run(build(tmp_path, "host_test") / "host_test")
