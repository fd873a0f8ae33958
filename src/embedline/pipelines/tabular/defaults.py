"""Settings that follow the table: of the network where no layers are given, of the training where no epochs are."""

import logging
import math
from typing import Any

from embedline.pipelines.tabular.encoder import Encoder
from embedline.pipelines.tabular.options import NetworkOptions, PiecewiseLinearOptions, TableTraining
from embedline.training.options import HeldOutStopping

FEW_ROWS, MANY_ROWS = 2_000, 20_000
FEWEST_STEPS, MOST_STEPS = 400, 2_500
PASSES = 30  # of the training through its rows, where that lies between these numbers of steps
WIDEST_EMBEDDING = 16

logger = logging.getLogger(__name__)


def follow_table(
    network: NetworkOptions, training: TableTraining, encoder: Encoder, n_rows: int
) -> tuple[NetworkOptions, TableTraining]:
    """Both settings, with those that are not given put in: of ``n_rows`` training rows of the table of ``encoder``.

    Few rows get more networks, each of which is stopped by other rows held out of them (bagging, Breiman 1996), so that
    all rows are learned from; many rows get larger batches and wider layers.
    """
    few, many = n_rows < FEW_ROWS, n_rows > MANY_ROWS
    if not network.layers:
        width = 128 if few else 256
        sizes = zip(encoder.code_columns, encoder.cardinalities, strict=True)
        chosen: dict[str, Any] = {
            "layers": (width, width),
            "dropout": 0.15,
            "members": 4 if many else 8,
            "linear": True,
            "numeric_embedding": PiecewiseLinearOptions(kind="piecewise_linear", bins=16 if few else 48, size=8),
            "embedding_sizes": {name: min(WIDEST_EMBEDDING, (size + 1) // 2) for name, size in sizes},
        }
        network = _put_in(network, chosen, "network")
    if not training.epochs:
        batch_size = training.batch_size or (64 if few else 256 if not many else 512)
        steps = min(max(PASSES * n_rows / batch_size, FEWEST_STEPS), MOST_STEPS)
        epochs = max(1, math.ceil(steps * batch_size / n_rows))
        networks = 8 if few else 4 if not many else 2
        chosen = {
            "epochs": epochs,
            "batch_size": batch_size,
            "lr": 0.002,
            "weight_decay": 0.01,
            "betas": (0.9, 0.95),
            "momentum": None,
            "warmup": 0.1,
            "clip_norm": 1.0,
            "seeds": tuple(range(networks)),
            # All epochs are gone through: a one-cycle is at its best near its end.
            "early_stopping": HeldOutStopping(patience=epochs, fraction=1 / max(networks, 8), rotate=True),
        }
        training = _put_in(training, chosen, "training")
    return network, training


def _put_in(settings: Any, chosen: dict[str, Any], block: str) -> Any:
    chosen = {name: value for name, value in chosen.items() if name not in settings.model_fields_set}
    told = {name: value.model_dump() if hasattr(value, "model_dump") else value for name, value in chosen.items()}
    logger.info(
        "Settings of %s that follow the table: %s", block, {k: v for k, v in told.items() if k != "embedding_sizes"}
    )
    return settings.model_copy(update=chosen)
