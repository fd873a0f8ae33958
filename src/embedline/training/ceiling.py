"""The best values that a model can expect on generated data, whose law is known, beside those that it has."""

import logging
from collections.abc import Mapping
from typing import Any

logger = logging.getLogger(__name__)

HIGHER = ("accuracy",)  # of the other metrics that a law bounds, the errors, lower values are better


def beside(metrics: Mapping[str, Any], ceiling: Mapping[str, float] | None, prefix: str = "") -> dict[str, Any]:
    """Return ``{"ceiling": {metric: value}}`` to add to the metrics, and log each of its values after the measured one.

    A bound is an expectation: on a few rows, luck can lift a model a little over it.

    Args:
        metrics: measured values by name, in the units of the ceiling; others of the ceiling are left out.
        ceiling: the best value that any model can expect by metric; None or empty where the law is not known.
        prefix: put before the log line, such as ``income.`` of one of several targets.
    """
    found = {name: best for name, best in (ceiling or {}).items() if name in metrics}
    if not found:
        return {}
    texts = [
        f"{prefix}{name} {metrics[name]:.4f}, and no model can expect {'more' if name in HIGHER else 'less'} "
        f"than {best:.4f}"
        for name, best in found.items()
    ]
    logger.info("%s (by the law of the generated data)", "; ".join(texts))
    return {"ceiling": found}
