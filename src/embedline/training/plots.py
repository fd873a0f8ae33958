"""What the plots of all learners share: their look, and the history of a training as a frame."""

from typing import Any

import polars as pl

INK, ACCENT, SECOND, MUTED = "#1f2933", "#2563eb", "#d97706", "#9aa5b1"
LAYOUT = {
    "template": "plotly_white",
    "font": {"family": "Inter, Helvetica, Arial, sans-serif", "size": 13, "color": INK},
    "margin": {"l": 64, "r": 40, "t": 72, "b": 56},
    "colorway": [ACCENT, SECOND, "#059669", "#dc2626", "#7c3aed", "#0891b2"],
}


def history_frame(history: list[dict[str, Any]]) -> pl.DataFrame:
    """The records of a training as a frame; figures that were measured once an epoch are null in between."""
    return pl.from_dicts(history, infer_schema_length=None)
