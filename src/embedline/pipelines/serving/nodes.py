"""Nodes that every published model shares."""

import logging
import math
from typing import Any

import polars as pl

from embedline.errors import DataError
from embedline.training.metrics import require_finite

logger = logging.getLogger(__name__)

Packed = Any  # embedline.serving.packed.PackedService
TOLERANCE = 1e-4  # relative: rows in other batches differ by rounding, features computed otherwise by far more


def measure_service(service: Packed, evaluation: pl.DataFrame, metrics: dict[str, Any]) -> dict[str, Any]:
    """Have the service answer the raw held-out rows, and compare its figure with that of the model.

    Returns:
        ``metric`` (name), ``path``, ``value``, ``better``, ``rows``, and ``evaluation``: fingerprint of the rows.

    Raises:
        DataError: if the service's metric is not finite, or not that of ``metrics``: it would answer otherwise than was
            measured.
    """
    from embedline.serving.champion import fingerprint, measure

    measured = measure(service.open(), evaluation)
    require_finite({measured.name: measured.value}, "the service on raw rows")
    expected: Any = metrics
    for key in measured.path:
        expected = expected[key]
    if not math.isclose(measured.value, expected, rel_tol=TOLERANCE):
        raise DataError(
            f"the service's {measured.name} on raw rows is {measured.value:.6f}, and that of the model {expected:.6f}: "
            "it turns rows into other inputs than the pipeline does, and is not published"
        )
    logger.info("The service's %s on %d raw rows is %.6f", measured.name, len(evaluation), measured.value)
    return {
        "metric": measured.name,
        "path": list(measured.path),
        "value": measured.value,
        "better": measured.better,
        "rows": len(evaluation),
        "evaluation": fingerprint(evaluation),
    }
