"""The README's "A table of your own", done word for word on a copy of the project."""

import json
import re
from pathlib import Path

import numpy as np
import polars as pl

from copies import PROJECT, copy_project, kedro


def readme_blocks() -> list[str]:
    """The code blocks of the section, in order: catalog, parameters, registry line."""
    section = (PROJECT / "README.md").read_text().split("## A table of your own")[1].split("\n## ")[0]
    blocks = re.findall(r"```\w+\n(.*?)```", section, flags=re.DOTALL)
    return ["\n".join(line.removeprefix("   ") for line in block.splitlines()) + "\n" for block in blocks]


def houses(n_rows: int = 3000) -> pl.DataFrame:
    """Prices with a known law: district and area decide, with 10 % noise."""
    rng = np.random.default_rng(0)
    district = rng.integers(0, 8, n_rows)
    area = rng.uniform(30, 200, n_rows)
    price = np.exp(7 + 0.2 * district + 0.9 * np.log(area) + rng.normal(0, 0.1, n_rows))
    return pl.DataFrame(
        {
            "Id": np.arange(n_rows),
            "District": [f"district {k}" for k in district],
            "Kind": rng.choice(["flat", "house"], n_rows),
            "Area": area,
            "Year": rng.integers(1900, 2020, n_rows),
            "Price": price,
        }
    )


def test_a_csv_reaches_metrics_as_the_readme_says(tmp_path: Path) -> None:
    project = copy_project(tmp_path / "project")
    (project / "data/01_raw").mkdir(parents=True)
    houses().write_csv(project / "data/01_raw/houses.csv")

    catalog, parameters, line = readme_blocks()
    (project / "conf/base/catalog/houses.yml").write_text(catalog)
    (project / "conf/base/parameters/houses.yml").write_text(parameters)
    registry = project / "src/embedline/pipeline_registry.py"
    marker = "    pipelines = {\n"
    assert marker in registry.read_text()
    registry.write_text(registry.read_text().replace(marker, marker + "        " + line.strip() + "\n"))

    kedro(project, "run", "--env", "base", "--pipelines", "houses")
    (path,) = (project / "data/08_reporting/houses/metrics.json").glob("*/metrics.json")
    metrics = json.loads(path.read_text())
    assert 0.09 < metrics["exp_rmspe"] < 0.14  # the noise of the law is 0.1
    assert metrics["exp_rmspe"] < metrics["baselines"]["group_mean"]["exp_rmspe"]
    assert (project / "mlflow.db").exists()
    assert list((project / "data/06_models/houses/model.safetensors").glob("*/model.safetensors"))
