"""A small Rossmann model on generated tables, and what a run of the pipeline forecasts with it."""

import io
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import yaml

from embedline.pipelines.rossmann import nodes as preparation
from embedline.pipelines.rossmann import service_nodes
from embedline.pipelines.rossmann.options import FeatureOptions
from embedline.pipelines.rossmann.simulator import GeneratorOptions, generate_tables
from embedline.pipelines.tabular import nodes as learner
from embedline.pipelines.tabular.columns import Columns, Split
from embedline.pipelines.tabular.options import EncodingOptions, NetworkOptions, TableTraining
from embedline.serving.service import Service

CONF = Path(__file__).resolve().parents[2] / "conf/base/parameters/rossmann.yml"
SETTINGS = yaml.safe_load(CONF.read_text())["rossmann"]
COLUMNS, SPLIT = Columns(**SETTINGS["columns"]), Split(**SETTINGS["split"])


def raw_tables() -> dict[str, pl.DataFrame]:
    """The seven files of six stores with the real calendar, all text."""
    files = generate_tables(GeneratorOptions(n_stores=6))
    return {name: pl.read_csv(io.BytesIO(content), infer_schema=False) for name, content in files.items()}


@dataclass(frozen=True)
class Batch:
    """The pipeline on raw tables: every artifact that a run would store."""

    raw: dict[str, pl.DataFrame]
    encoder: dict[str, Any] = field(default_factory=dict)
    features: FeatureOptions = field(default_factory=FeatureOptions)
    columns: Columns = COLUMNS

    @cached_property
    def tables(self) -> dict[str, pl.DataFrame]:
        """The typed tables by their catalog names."""
        return {
            "sales": preparation.type_sales(self.raw["train"], self.raw["test"]),
            "stores": preparation.type_stores(self.raw["store"], self.raw["store_states"], self.raw["state_names"]),
            "weather": preparation.type_weather(self.raw["weather"], self.raw["state_names"]),
            "trends": preparation.type_trends(self.raw["googletrend"]),
        }

    @cached_property
    def table(self) -> pl.DataFrame:
        options = (self.features, SPLIT)
        joined = preparation.join_tables(*self.tables.values(), *options)
        calendar = preparation.build_calendar(self.tables["sales"], *options)
        recency = preparation.build_recency(self.tables["sales"], *options)
        return preparation.build_table(joined, calendar, recency, *options)

    def fitted(self) -> "Batch":
        """The same with an encoder fitted on its training rows."""
        encoding = EncodingOptions(**SETTINGS["encoding"])
        return replace(self, encoder=learner.fit_encoder(self.table, self.columns, SPLIT, encoding))

    @cached_property
    def encoded(self) -> pl.DataFrame:
        return learner.encode(self.table, self.encoder, self.columns, SPLIT)

    def train(self) -> Any:
        """A bundle of two small networks."""
        where = {"device": "cpu", "precision": "fp32"}
        training = TableTraining(epochs=1, batch_size=256, lr=3e-3, seeds=(0, 1), loss="relative", **where)
        return learner.train(self.encoded, self.encoder, NetworkOptions(layers=(16,)), training)[0]

    def pack(self, model: Any, intervals: Any = None) -> Service:
        settings = {"features": self.features, "split": SPLIT, "intervals": intervals}
        return service_nodes.pack_service(model, self.encoded, **self.tables, **settings)

    def forecast(self, model: Any) -> dict[tuple[int, str], float]:
        """Sales by store and day of every row of test.csv, as the submission has them: 0 where the store is closed."""
        predicted = learner.forecast(self.encoded, model, self.columns).with_columns(pl.col("Date").cast(pl.String))
        is_open = self.tables["sales"].select("Store", pl.col("Date").cast(pl.String), "Open")
        joined = predicted.join(is_open, on=["Store", "Date"], how="left", maintain_order="left")
        return {(row["Store"], row["Date"]): row["predicted"] * row["Open"] for row in joined.iter_rows(named=True)}


def as_pandas(test: pl.DataFrame) -> pd.DataFrame:
    """Rows of test.csv as pandas reads them."""
    return pd.read_csv(io.BytesIO(test.write_csv().encode()), low_memory=False)
