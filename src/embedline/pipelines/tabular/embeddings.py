"""The learned embeddings as data: one row a category value, ready to join to another model's table."""

from typing import Any

import numpy as np
import polars as pl

from embedline.pipelines.tabular.encoder import Encoder
from embedline.pipelines.tabular.learner import build_network
from embedline.training.model_file import ModelBundle

UNKNOWN = "(missing or unseen)"


def embedding_frame(bundle: ModelBundle) -> pl.DataFrame:
    """Every embedding of the first member of a tabular bundle.

    Returns:
        Columns ``variable`` (str), ``value`` (str; row 0 is ``(missing or unseen)``), ``code`` (int32) and
        ``embedding`` (list of float32, as long as the variable's size). Only one member's: the axes of two networks
        mean different things, so that their mean would mean nothing.
    """
    encoder = Encoder.model_validate(bundle.encoder)
    network = build_network(bundle.config, seed=0)
    network.load_state_dict(bundle.member(0))
    frames = []
    for index, variable in enumerate(encoder.code_columns if network.embeddings is not None else ()):
        assert network.embeddings is not None
        vectors = network.embeddings.table(index).detach().numpy()
        levels = encoder.categorical[variable].levels if variable in encoder.categorical else (False, True)
        frames.append(
            pl.DataFrame(
                {
                    "variable": [variable] * len(vectors),
                    "value": [UNKNOWN, *map(str, levels)],
                    "code": np.arange(len(vectors), dtype=np.int32),
                    "embedding": pl.Series(vectors.tolist(), dtype=pl.List(pl.Float32)),
                }
            )
        )
    schema: Any = {"variable": pl.String, "value": pl.String, "code": pl.Int32, "embedding": pl.List(pl.Float32)}
    return pl.concat(frames) if frames else pl.DataFrame(schema=schema)
