"""Every code block of the README, run from top to bottom in one folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.documents import ROOT, blocks_of, run_blocks


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_every_code_block_of_the_readme_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    names = run_blocks("README.md", tmp_path)
    assert (names["labels"] == names["result"].labels).all()
    assert (tmp_path / "runs/table/version_0/clusters.png").stat().st_size


def test_the_readme_has_a_block_for_every_use() -> None:
    code = "\n".join(block for _, block in blocks_of("README.md"))
    for use in (
        "make train", " kmeans(", " predict(", "layer.fit(x", "layer.m_step(", " ProductQuantizer(",
        "kmeans fit table.csv", " LitKMeans(", "trainer.fit(", " VectorQuantizer(", "DataLoader(",
        " KMeans(",
    ):  # fmt: skip
        assert use in code, use


def test_the_readme_is_one_page_and_shows_code_soon() -> None:
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) < 250
    assert lines.index("```python") + 1 < 40
