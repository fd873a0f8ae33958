"""Plot of a learning-rate range test."""

import plotly.graph_objects as go
import polars as pl

from embedline.training.plots import ACCENT, LAYOUT, SECOND


def range_test_figure(rates: pl.DataFrame, title: str, loss: str = "smoothed loss") -> go.Figure:
    """Smoothed loss against the learning rate on a log axis; the suggestion is marked.

    Args:
        rates: frame of :meth:`embedline.training.lr_finder.RangeTest.frame`.
        loss: what the loss is, with its unit.
    """
    figure = go.Figure(go.Scatter(x=rates["rate"], y=rates["loss"], line={"color": ACCENT}, showlegend=False))
    if len(rates):
        suggestion = rates["suggestion"][0]
        figure.add_scatter(
            x=[suggestion, suggestion],
            y=[rates["loss"].min(), rates["loss"].max()],
            mode="lines",
            line={"dash": "dash", "color": SECOND},
            name=f"suggested: {suggestion:.1e}",
        )
    figure.update_xaxes(type="log", exponentformat="power", title="learning rate", dtick=1)
    figure.update_yaxes(title=loss)
    return figure.update_layout(title=title, height=400, **LAYOUT)
