"""A small table with every type of input, and a small network trained on it."""

import numpy as np
import polars as pl

from embedline.pipelines.publish.nodes import pack_table
from embedline.pipelines.tabular import nodes as learner
from embedline.pipelines.tabular.columns import Columns, Split
from embedline.pipelines.tabular.options import EncodingOptions, NetworkOptions, ReportOptions, TableTraining
from embedline.serving.service import Service

SPLIT = Split(kind="column", column="held_out", value=True)
CATEGORICAL = ("shop", "colour", "size", "member")
CLASSES = Columns(categorical=CATEGORICAL, continuous=("heat", "year"), target="grade", id=("row",))
SALES = Columns(categorical=("shop", "size"), continuous=("heat",), target=("sales", "grade"), id=("row",))
ENCODING = EncodingOptions(target_means=(("shop", "size"),))


def grades(n_rows: int = 800) -> pl.DataFrame:
    """Rows with every type of input; colour and size are missing in some, heat is a Float32."""
    random = np.random.default_rng(1)
    heat = random.normal(size=n_rows)
    return pl.DataFrame(
        {
            "row": np.arange(n_rows),
            "shop": pl.Series([f"shop {k}" for k in random.integers(0, 5, n_rows)], dtype=pl.Categorical),
            "colour": random.choice(["blue", "red", None], n_rows).tolist(),
            "size": random.choice([36, 38, None], n_rows).tolist(),
            "member": random.random(n_rows) < 0.5,
            "heat": pl.Series(np.where(random.random(n_rows) < 0.1, np.nan, heat), dtype=pl.Float32).fill_nan(None),
            "year": random.integers(1990, 2000, n_rows),
            "held_out": np.arange(n_rows) % 4 == 0,
            "grade": np.where(heat > 0, "high", "low"),
            "sales": np.exp(heat + 3.0),
        }
    )


class Trained:
    """A run of the tabular learner on :func:`grades`, without Kedro."""

    def __init__(self, columns: Columns) -> None:
        self.table, self.columns = grades(), columns
        self.encoder = learner.fit_encoder(self.table, columns, SPLIT, ENCODING)
        self.encoded = learner.encode(self.table, self.encoder, columns, SPLIT)
        training = TableTraining(epochs=2, batch_size=64, lr=1e-2, seeds=(0, 1), device="cpu", precision="fp32")
        self.model = learner.train(self.encoded, self.encoder, NetworkOptions(layers=(8,)), training)[0]
        self.packed = Service.from_bytes(pack_table(self.model, self.table).to_bytes())

    def predictions(self) -> pl.DataFrame:
        """The held-out rows as a run predicts them."""
        nothing = pl.DataFrame()
        return learner.predict(
            self.table, self.encoded, self.model, nothing, nothing, self.columns, SPLIT, ReportOptions()
        )
