"""The example of docs/images.md, done word for word on a copy of the project: run, predict, report, mistakes."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from copies import PROJECT, copy_project, kedro
from embedline.pipelines.pictures.simulator import GeneratorOptions, generate_files

PARAMETERS = "conf/base/parameters/buttons.yml"


def example() -> dict[str, str]:
    """Text of each YAML file by its path."""
    section = (PROJECT / "docs/images.md").read_text().split("## Pictures of your own")[1].split("\n## ")[0]
    return {path: text for text, path in re.findall(r"```yaml\n(# (conf/\S+\.yml)\n.*?)```", section, flags=re.DOTALL)}


def metrics_of(project: Path) -> dict[str, Any]:
    path = max((project / "data/08_reporting/buttons/metrics.json").glob("*/metrics.json"))
    found: dict[str, Any] = json.loads(path.read_text())
    return found


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project in which the steps were done, and run."""
    project = copy_project(tmp_path_factory.mktemp("own") / "project")
    for name, content in generate_files(GeneratorOptions(layout="folders", n_pictures=500, noise=0.0)).items():
        path = project / "data/01_raw/buttons" / name.partition("/")[2]  # without the split
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    files = example()
    assert sorted(files) == [PARAMETERS, "conf/base/sources.yml"]
    for path, text in files.items():
        (project / path).write_text(text)
    kedro(project, "run", "--env", "base", "--pipelines", "buttons")
    return project


def test_shapes_are_told_apart(project: Path) -> None:
    metrics = metrics_of(project)
    assert metrics["test_rows"] == pytest.approx(125, abs=2)
    assert metrics["accuracy"] > 0.75
    assert metrics["baselines"]["pixels"]["differences"]["accuracy"]["verdict"] == "better"
    assert "ceiling" not in metrics


def test_pictures_are_predicted_at_the_command_line(project: Path) -> None:
    folder = project / "data/01_raw/buttons/circle"
    shown = kedro(project, "predict", "buttons", str(folder), "--env", "base")
    assert len(re.findall(r"circle 0\.[5-9]|circle 1\.0", shown)) > 0.7 * len(list(folder.iterdir()))
    said = kedro(project, "predict", "buttons", "nowhere.jpg", "--env", "base", status=1)
    assert "nowhere.jpg" in said


def test_own_pictures_are_in_the_report(project: Path) -> None:
    kedro(project, "run", "--env", "base", "--pipelines", "report")
    page = max((project / "data/08_reporting/report/report.html").glob("*/report.html")).read_text()
    assert '<section id="buttons">' in page and "regression on pixels" in page
    for plot in ("mistakes_plot", "activation_plot", "batch_plot", "confusion_plot", "training_plot"):
        assert f'id="buttons-{plot}"' in page


@pytest.mark.parametrize(
    ("right", "wrong", "message"),
    [
        ("01_raw/buttons", "01_raw/battons", "battons"),
        ("arch: airbench", "arch: airbench, widht: 3", "widht"),
        ("size: 20", "size: 4", "4 x 4"),
        ("{test_fraction: 0.25}", "{}", "test_fraction"),
        ("targets: [label]", "targets: [label, tint]", "targets"),
        ("{rotate: 10.0, zoom: 0.85}", "{mixup: 0.2, cutmix: 0.2}", "cutmix"),
    ],
)
def test_a_mistake_is_answered_with_the_key_to_mend(project: Path, right: str, wrong: str, message: str) -> None:
    path = project / PARAMETERS
    text = path.read_text()
    assert right in text
    path.write_text(text.replace(right, wrong, 1))
    try:
        said = kedro(project, "run", "--env", "base", "--pipelines", "buttons", status=1)
    finally:
        path.write_text(text)
    assert message in " ".join(said.split())


def test_a_file_that_is_no_picture_is_named_or_left_out(project: Path) -> None:
    bad = project / "data/01_raw/buttons/circle/99999.jpg"
    bad.write_text("no picture")
    path = project / PARAMETERS
    text = path.read_text()
    try:
        said = kedro(project, "run", "--env", "base", "--pipelines", "buttons", status=1)
        assert "circle/99999.jpg" in " ".join(said.split())
        path.write_text(text + "  preparation: {on_bad_image: skip}\n")
        kedro(project, "run", "--env", "base", "--pipelines", "buttons", "--to-nodes", "buttons.prepare")
    finally:
        bad.unlink()
        path.write_text(text)
    encoder = max((project / "data/05_model_input/buttons/encoder.json").glob("*/encoder.json"))
    assert json.loads(encoder.read_text())["skipped"] == ["circle/99999.jpg"]
