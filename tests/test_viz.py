"""kedro-viz on the artifacts of a small run, in a browser: layers, namespaces that fold, plots and previews."""

import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from kedro.io import DataCatalog, MemoryDataset
from PIL import Image

from browsers import Browser, served, waiting
from copies import PROJECT
from embedline.training.plots import INK

pytestmark = pytest.mark.slow
LAYERS = ["raw", "intermediate", "primary", "feature", "model_input", "models", "model_output", "reporting"]
NO_HINTS = """<script>localStorage.setItem("KedroViz", JSON.stringify({showFeatureHints: false}))</script>"""


@pytest.fixture(scope="module")
def pictures() -> ModuleType:
    """The script that draws the documentation's pictures, as a module."""
    spec = importlib.util.spec_from_file_location("pictures", PROJECT / "docs/pictures.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def site(small_project: Path, pictures: ModuleType) -> Path:
    """What `kedro viz build` makes of the small run, in a page that waits for its graph."""
    site: Path = pictures.build_viz(small_project)
    page = site / "index.html"
    page.write_text(page.read_text().replace("<head>", f"<head>{NO_HINTS}{waiting(pictures.DRAWN)}"))
    return site


def answer(site: Path, name: str) -> Any:
    """What the server would answer."""
    return json.loads((site / "api" / name).read_text())


def nodes_of(site: Path) -> dict[str, dict[str, Any]]:
    """Nodes of the graph of `__default__`, by name; of a task and a dataset of one name, the dataset."""
    return {node["name"]: node for node in answer(site, "main")["nodes"]}


def test_the_graph_has_all_layers_and_folds_every_source(site: Path) -> None:
    main = answer(site, "main")
    assert main["layers"] == LAYERS
    folded = {name: content for name, content in main["modular_pipelines"].items() if name != "__root__"}
    assert {"rossmann", "rossmann_notebook", "rossmann_forecast", "imdb", "movielens", "adult"} <= set(folded)
    inside = {child["id"] for child in folded["imdb"]["children"] if child["type"] == "task"}
    tasks = {
        node["id"] for node in main["nodes"] if node["type"] == "task" and "imdb" in (node["modular_pipelines"] or [])
    }
    assert inside and inside == tasks
    at_the_root = {child["id"] for child in main["modular_pipelines"]["__root__"]["children"]}
    assert not at_the_root & tasks


def test_what_is_stored_can_be_previewed(site: Path, small_project: Path) -> None:
    shown = {name: answer(site, f"nodes/{node['id']}") for name, node in nodes_of(site).items() if _is_shown(node)}
    missing = []
    for name, of_node in shown.items():
        path = Path(of_node["filepath"])
        if name.split(".")[0] not in ("rossmann", "imdb", "movielens") or not path.exists():
            continue
        kind = "plot" if name.endswith("_plot") else path.suffix
        wanted = {"plot": "PlotlyPreview", ".parquet": "TablePreview", ".json": "JSONPreview"}.get(kind)
        if wanted and (of_node.get("preview") is None or of_node["preview_type"] != wanted):
            missing.append(name)
    assert set(missing) <= {"imdb.raw", "imdb.vocabulary"}  # switched off: all texts, all words
    embeddings = shown["rossmann.embeddings"]["preview"]
    assert embeddings["columns"][-1] == "embedding"
    assert re.fullmatch(r"(-?[\d.e-]+, )*-?[\d.e-]+( …)?", embeddings["data"][0][-1])  # a list, as a text


def test_no_line_of_a_plot_is_black_on_the_dark_ground(site: Path) -> None:
    """kedro-viz replaces the template of a plot by that of its theme, and no colour of a trace."""
    plots = {name: answer(site, f"nodes/{node['id']}") for name, node in nodes_of(site).items() if "_plot" in name}
    drawn = {name: found["preview"]["data"] for name, found in plots.items() if found.get("preview")}
    assert len(drawn) > 10
    inked = {name for name, traces in drawn.items() for trace in traces if INK in json.dumps(trace)}
    assert inked <= {"movielens.crosstab_plot"}  # whose ink stands on pale cells


def _is_shown(node: dict[str, Any]) -> bool:
    return node["type"] == "data" and node.get("dataset_type") is not None


@pytest.mark.browser
def test_a_folded_namespace_opens(site: Path, browser: Browser) -> None:
    with served(site) as address:
        folded = browser.visit(f"{address}/?pid=__default__").tree
        opened = browser.visit(f"{address}/?pid=rossmann&expandAllPipelines=true").tree
    drawn = _drawn(folded)
    assert {"rossmann", "imdb", "movielens", "rossmann.metrics"} <= drawn
    assert not {"train", "fit_encoder", "rossmann.encoded"} & drawn  # inside of what is folded
    assert {"train", "fit_encoder", "rossmann.encoded", "rossmann.metrics"} <= _drawn(opened)
    layers = re.findall(r'class="pipeline-layer-name[^"]*"[^>]*>([^<]+)<', opened)
    assert sorted(layers) == sorted(LAYERS)


def _drawn(tree: str) -> set[str]:
    """Labels of the nodes in the graph."""
    return set(re.findall(r'class="pipeline-node__text"[^>]*>([^<]+)<', tree))


@pytest.mark.browser
def test_a_plot_is_drawn_in_the_panel_of_its_node(site: Path, browser: Browser) -> None:
    node = nodes_of(site)["rossmann.forecast_plot"]["id"]
    with served(site) as address:
        visit = browser.visit(f"{address}/?pid=__default__&sid={node}")
    panel = visit.tree.split('class="pipeline-metadata', 1)[1]
    assert "rossmann.forecast_plot" in panel and "kedro run --to-outputs=rossmann.forecast_plot" in panel
    assert 'class="main-svg"' in panel and panel.count('class="trace scatter') >= 2
    assert "Held-out rows: actual and predicted" in panel


@pytest.mark.browser
def test_the_pictures_of_the_readme_are_drawn(
    small_project: Path, browser: Browser, pictures: ModuleType, tmp_path: Path
) -> None:
    import plotly.io

    from small_runs import newest

    path = newest(small_project, "08_reporting/rossmann/embedding_plot.json")
    stored = DataCatalog({"rossmann.embedding_plot": MemoryDataset(plotly.io.read_json(path))})
    assert pictures.draw(browser, stored, "embeddings", tmp_path / "embeddings.png")
    assert not pictures.draw(browser, stored, "forecast", tmp_path / "forecast.png")
    assert sorted(file.name for file in tmp_path.glob("*.*") if file.suffix in (".png", ".html")) == ["embeddings.png"]
    with Image.open(tmp_path / "embeddings.png") as picture:
        assert 1400 < picture.width < 1720 and 600 < picture.height < 760
        colours = picture.convert("RGB").getcolors(1 << 20)
    assert len(colours) > 4 and (tmp_path / "embeddings.png").stat().st_size < 300_000
    points = sum(count for count, (red, green, blue) in colours if blue > 200 and red < 80)
    assert points > 500  # the blue marks


def test_the_readmes_pictures_are_small() -> None:
    found = {path.name: path.stat().st_size for path in (PROJECT / "docs").glob("*.png")}
    assert {"dag.png", "forecast.png", "embeddings.png"} <= set(found)
    assert all(size <= 300_000 for size in found.values()), found
