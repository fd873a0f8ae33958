"""A small table whose classes a few rows tell, and the settings of a search on it."""

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from embedline.pipelines.tabular.columns import Columns, Split
from embedline.pipelines.tabular.options import BaselineOptions, EncodingOptions, NetworkOptions, TableTraining
from embedline.pipelines.tuning import nodes
from embedline.pipelines.tuning.options import TableTuning

COLUMNS = Columns(categorical=("shop",), continuous=("heat",), target="price")
SPLIT = Split(kind="random", fraction=0.25, seed=1)
TUNE: dict[str, Any] = {
    "trials": 6,
    "seeds": [0],
    "inner": {"fraction": 0.3},
    "space": {
        "training.lr": {"low": 0.001, "high": 0.1, "log": True},
        "training.epochs": {"low": 1, "high": 6},
        "network.layers": {"choices": [[8], [16, 8]]},
    },
}


def small_table(n_rows: int = 240) -> pl.DataFrame:
    """Prices that rise with the heat, by shop."""
    random = np.random.default_rng(0)
    shop, heat = random.integers(0, 4, n_rows), random.normal(size=n_rows)
    price = 3.0 * heat + shop + 0.3 * random.normal(size=n_rows)
    return pl.DataFrame({"shop": [f"s{k}" for k in shop], "heat": heat, "price": price})


def settings(**changes: Any) -> dict[str, Any]:
    """Arguments of :func:`.nodes.tune_table` beside the table; changes of ``tune``, or whole blocks."""
    training = {"epochs": 2, "batch_size": 32, "lr": 0.005, "device": "cpu", "precision": "fp32", "seeds": [0, 1]}
    blocks = {
        "columns": COLUMNS,
        "split": SPLIT,
        "encoding": EncodingOptions(),
        "network": NetworkOptions(layers=(8,)),
        "training": TableTraining.model_validate(training),
        "baselines": BaselineOptions(),
    }
    whole = {name: changes.pop(name) for name in [*changes] if name in blocks}
    return blocks | whole | {"tune": TableTuning.model_validate(TUNE | changes)}


def search(table: pl.DataFrame | None = None, **changes: Any) -> tuple[pl.DataFrame, str]:
    """The trials and ``tuned.yml`` of a search on the small table."""
    return nodes.tune_table(small_table() if table is None else table, **settings(**changes))


def main(folder: Path, kill_at: int) -> None:
    """Search in a folder, and end by SIGKILL in the middle of the trial that begins after ``kill_at`` others."""
    import signal

    from embedline.pipelines.tuning import study, tables

    began: list[int] = []
    measure = tables.train_network

    def train(*given: Any, **named: Any) -> Any:
        began.append(1)
        if len(began) > kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return measure(*given, **named)

    tables.train_network = train
    with study.keeping(folder, lambda record: None):
        search()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
