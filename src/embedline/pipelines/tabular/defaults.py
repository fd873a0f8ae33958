"""Settings of the network and its training that follow the table where they are not given."""

import logging
import math
from collections.abc import Sequence
from typing import Any

from embedline.pipelines.tabular.options import BlendOptions, NetworkOptions, PiecewiseLinearOptions, TableTraining
from embedline.training.options import HeldOutStopping

FEW_ROWS, MANY_ROWS = 2_000, 20_000
FEWEST_STEPS = 300
# Of a training: passes through its rows, and most steps.
FEW_PASSES, FEW_MOST_STEPS = 120, 800
PASSES, MOST_STEPS = 30, 2_500
WIDEST_EMBEDDING = 16

logger = logging.getLogger(__name__)


def follow_table(
    network: NetworkOptions,
    training: TableTraining,
    variables: Sequence[str],
    cardinalities: Sequence[int],
    n_rows: int,
    with_means: Sequence[str] = (),
) -> tuple[NetworkOptions, TableTraining]:
    """Both settings, with those that are not given put in, where no layers or no epochs are given.

    Few rows get more networks, each of which is stopped by other rows held out of them (bagging, Breiman 1996), so that
    all rows are learned from; many rows get larger batches and wider layers. LightGBM takes the share of the prediction
    that the rows held out ask for.

    Args:
        variables, cardinalities: categorical variables, and the rows of their embeddings.
        n_rows: of the training.
        with_means: variables whose target means are inputs as well; LightGBM reads these alone.
    """
    few, many = n_rows < FEW_ROWS, n_rows > MANY_ROWS
    if not network.layers:
        width = 256 if many else 128
        sizes = zip(variables, cardinalities, strict=True)
        chosen: dict[str, Any] = {
            "layers": (width, width),
            "dropout": 0.1,
            "members": 4,
            "linear": network.y_range is None and (not training.epochs or training.early_stopping is not None),
            "numeric_embedding": PiecewiseLinearOptions(
                kind="piecewise_linear", bins=16 if few else 48 if many else 32, size=8
            ),
            "embedding_sizes": {name: min(WIDEST_EMBEDDING, (size + 1) // 2) for name, size in sizes},
        }
        network = _put_in(network, chosen, "network")
    if not training.epochs:
        batch_size = training.batch_size or (64 if few else 256 if not many else 512)
        passes, most_steps = (FEW_PASSES, FEW_MOST_STEPS) if few else (PASSES, MOST_STEPS)
        steps = min(max(passes * n_rows / batch_size, FEWEST_STEPS), most_steps)
        epochs = max(1, math.ceil(steps * batch_size / n_rows))
        networks = 8 if few else 2 if many else 4
        chosen = {
            "epochs": epochs,
            "batch_size": batch_size,
            "lr": 0.004,
            "weight_decay": 0.01,
            "betas": (0.9, 0.95),
            "momentum": None,
            "warmup": 0.1,
            "clip_norm": 1.0,
            "seeds": tuple(range(networks)),
            # A one-cycle is at its best near its end: all epochs are gone through where that takes seconds.
            "early_stopping": HeldOutStopping(
                patience=max(2, epochs // 4) if many else epochs, fraction=0.125, rotate=True
            ),
        }
        if training.loss != "quantile":
            chosen["blend"] = BlendOptions(without=tuple(with_means))
        training = _put_in(training, chosen, "training")
    return network, training


def _put_in(settings: Any, chosen: dict[str, Any], block: str) -> Any:
    chosen = {name: value for name, value in chosen.items() if name not in settings.model_fields_set}
    told = {name: value.model_dump() if hasattr(value, "model_dump") else value for name, value in chosen.items()}
    logger.info(
        "Settings of %s that follow the table: %s", block, {k: v for k, v in told.items() if k != "embedding_sizes"}
    )
    return settings.model_copy(update=chosen)
