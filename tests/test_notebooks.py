"""The notebooks: those of the Python API with the outputs that are stored, those of artifacts on a small run."""

from pathlib import Path
from typing import Any

import nbclient
import nbformat
import pytest

from copies import PROJECT

NOTEBOOKS = sorted((PROJECT / "notebooks").glob("*.ipynb"))
ALONE = {  # through the Python API, on data of their own: what the outputs must have, and a last cell
    "raw_data": (
        ("closed days", "skewness", "rise", "2015-07-31"),
        "assert 0.1 < wide['rise'].mean() < 1",
    ),
    "variation": (
        ("embedded numbers", "boosted trees", "verdict"),
        "assert all(losses[name].mean() < 0.5 for name in losses)",
    ),
    "what_if": (
        ("exp RMSPE of the held-out weeks", "PromoYesterday", "Promo set alone"),
        "assert len(differ) > 5 and gains['with_promotion'] > 0.1 and error < 0.25",
    ),
    "embeddings": (
        ("correlation of the first component", "vectors of the prices"),
        "assert errors['vectors of the prices'] < 0.7 * errors['one column each'] < errors['nothing']",
    ),
}
SAID = {  # what the outputs must have, by notebook: words that only a run through to the end can say
    "imdb": ("neg", "the baseline is right", "the acting was", "accuracy_low"),
    "movielens": ("ndcg_at_10", "by_bias", "neighbour_title", "score"),
}

CHECKS = {  # a last cell: of what the model answered
    "imdb": 'import numpy as np; assert np.allclose(answered["p_neg"] + answered["p_pos"], 1.0) and len(texts) == 2',
    "movielens": 'assert len(found) == 8 and not {liked, disliked} & set(found["item"])',
}


def test_there_is_a_notebook_of_each() -> None:
    assert [path.stem for path in NOTEBOOKS] == sorted((*SAID, *ALONE))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_are_kept_where_they_do_not_depend_on_a_run(path: Path) -> None:
    book = nbformat.read(path, as_version=4)
    nbformat.validate(book)
    cells = [cell for cell in book.cells if cell.cell_type == "code"]
    assert len(path.read_bytes()) < 300_000
    if path.stem in SAID:
        assert not any(cell.outputs or cell.execution_count for cell in cells)
        return
    said = "\n".join(text for cell in cells for text in _texts(cell))
    assert all(words in said for words in ALONE[path.stem][0])
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    noise = [output for cell in cells for output in cell.outputs if output.get("name") == "stderr"]
    assert not noise, noise


@pytest.mark.slow
@pytest.mark.parametrize("name", ALONE)
def test_it_runs_by_itself(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PYTHONPATH", str(PROJECT / "src"))
    book = nbformat.read(PROJECT / f"notebooks/{name}.ipynb", as_version=4)
    words, check = ALONE[name]
    book.cells.append(nbformat.v4.new_code_cell(check))
    nbclient.NotebookClient(book, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    said = "\n".join(text for cell in book.cells for text in _texts(cell))
    assert all(one in said for one in words), said


@pytest.mark.slow
@pytest.mark.parametrize("path", [path for path in NOTEBOOKS if path.stem in SAID], ids=lambda path: path.stem)
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
