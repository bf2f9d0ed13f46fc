"""The notebooks in examples/: their cells run in their order, and hold no outputs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import ROOT, SAMPLES

NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A notebook checks itself with assertions, which this test relies on."""
    pytest.importorskip("matplotlib")
    (tmp_path / "sample_models").symlink_to(SAMPLES)
    (tmp_path / "examples").mkdir()
    monkeypatch.chdir(tmp_path / "examples")
    cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells)
    sources = ["".join(cell["source"]) for cell in cells]
    assert any("assert " in source for source in sources)
    names: dict[str, object] = {"__name__": "__main__"}
    for number, source in enumerate(sources):
        exec(compile(source, f"{path.name}[{number}]", "exec"), names)
