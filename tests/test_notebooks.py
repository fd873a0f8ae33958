"""The notebooks, executed on the artifacts of a small run."""

from pathlib import Path
from typing import Any

import nbclient
import nbformat
import pytest

from copies import PROJECT

NOTEBOOKS = sorted((PROJECT / "notebooks").glob("*.ipynb"))
SAID = {  # what the outputs must have, by notebook: words that only a run through to the end can say
    "rossmann": ("the blend is better than LightGBM", "stores most like store", "with a promotion", "exp_rmspe"),
    "imdb": ("neg", "the baseline is right", "the acting was", "accuracy_low"),
    "movielens": ("ndcg_at_10", "by_bias", "neighbour_title", "score"),
}

STORED = 'predictions.filter(pl.col("Store") == days["Store"][0]).sort("Date")["predicted"].to_numpy()'
CHECKS = {  # a last cell: of what the model answered
    "rossmann": f"assert len(as_it_was) > 30 and np.allclose(as_it_was, {STORED}, rtol=1e-5), as_it_was",
    "imdb": 'import numpy as np; assert np.allclose(answered["p_neg"] + answered["p_pos"], 1.0) and len(texts) == 2',
    "movielens": 'assert len(found) == 8 and not {liked, disliked} & set(found["item"])',
}


def test_there_is_a_notebook_of_each() -> None:
    assert [path.stem for path in NOTEBOOKS] == sorted(SAID)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_no_outputs_are_kept(path: Path) -> None:
    book = nbformat.read(path, as_version=4)
    nbformat.validate(book)
    for cell in book.cells:
        if cell.cell_type == "code":
            assert not cell.outputs and cell.execution_count is None, cell.source


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs_on_the_artifacts_of_a_small_run(
    path: Path, small_project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(small_project / "src"))
    folder = small_project / "notebooks"
    folder.mkdir(exist_ok=True)
    before = {found for found in small_project.glob("data/sample/**/*.json") if ".runs" not in found.parts}
    book = nbformat.read(path, as_version=4)
    book.cells.append(nbformat.v4.new_code_cell(CHECKS[path.stem]))
    nbclient.NotebookClient(book, timeout=120, resources={"metadata": {"path": str(folder)}}).execute()
    said = "\n".join(text for cell in book.cells for text in _texts(cell))
    for words in SAID[path.stem]:
        assert words in said
    figures = [output for cell in book.cells for output in cell.get("outputs", []) if _is_figure(output)]
    assert figures, "no figure is shown"
    after = {found for found in small_project.glob("data/sample/**/*.json") if ".runs" not in found.parts}
    assert after == before  # it reads artifacts and makes none


def _texts(cell: Any) -> list[str]:
    """What a cell has printed, and what its value looks like."""
    outputs = cell.get("outputs", [])
    return [output.get("text") or str(output.get("data", {}).get("text/plain", "")) for output in outputs]


def _is_figure(output: Any) -> bool:
    return "application/vnd.plotly.v1+json" in output.get("data", {})
