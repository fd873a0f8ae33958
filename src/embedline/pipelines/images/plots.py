"""Plotly plots of an image model: its training, confusion, calibration, and grids of pictures."""

import base64
import io
from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
import polars as pl
from numpy.typing import NDArray
from PIL import Image
from plotly.subplots import make_subplots

from embedline.pipelines.images.evaluation import prediction_arrays
from embedline.pipelines.images.examples import Classes
from embedline.training import plots
from embedline.training.plots import ACCENT, COLOURS, LAYOUT, MUTED, SECOND

COLUMNS = 8  # of a grid of pictures
CELL, LEAST = 112, 64  # pixels of a cell, and of the smaller side in which pictures are drawn
HEAT = np.array([255.0, 60.0, 0.0])


def plot_training(history: pl.DataFrame) -> go.Figure:
    """Training loss, accuracy and loss on held-out pictures, and the rate of each network; stages one after another."""
    measured = [name for name in ("accuracy", "validation_loss") if name in history.columns]
    heights = [0.5, 0.3, 0.2] if measured else [0.7, 0.3]
    figure = make_subplots(rows=len(heights), cols=1, shared_xaxes=True, row_heights=heights, vertical_spacing=0.06)
    for (member,), rows in history.group_by("member", maintain_order=True):
        before, ends = 0.0, []
        stages = rows["stage"] if "stage" in rows.columns else pl.Series([0] * len(rows))
        for stage in stages.unique(maintain_order=True):
            epochs = rows.filter(stages == stage)["epoch"]
            ends += (epochs + before).to_list()
            before = ends[-1]
        colour = COLOURS[int(str(member)) % len(COLOURS)] if history["member"].n_unique() > 1 else ACCENT
        name = f"network {member}" if history["member"].n_unique() > 1 else "training loss"
        figure.add_scatter(x=ends, y=rows["train_loss"], name=name, line={"color": colour, "width": 1.5}, row=1, col=1)
        at = pl.Series(ends)
        style = {"mode": "lines+markers", "showlegend": False}
        if "validation_loss" in measured:
            known = rows["validation_loss"].is_not_null()
            look = {"line": {"color": colour, "dash": "dot"}, **style}
            figure.add_scatter(x=at.filter(known), y=rows["validation_loss"].filter(known), row=1, col=1, **look)
        if "accuracy" in measured:
            known = rows["accuracy"].is_not_null()
            look = {"line": {"color": colour if colour != ACCENT else SECOND}, **style}
            figure.add_scatter(x=at.filter(known), y=rows["accuracy"].filter(known), row=2, col=1, **look)
        rate = {"line": {"color": MUTED}, "showlegend": False, "name": "lr"}
        figure.add_scatter(x=ends, y=rows["lr"], row=len(heights), col=1, **rate)
    figure.update_yaxes(title_text="loss (nats)<br>dotted: held out" if measured else "loss (nats)", row=1, col=1)
    if measured:
        figure.update_yaxes(title_text="held-out accuracy", tickformat=".0%", row=2, col=1)
    figure.update_yaxes(title_text="rate", exponentformat="power", row=len(heights), col=1)
    figure.update_xaxes(title_text="epoch", row=len(heights), col=1)
    return figure.update_layout(title="Training of the networks", height=560, **LAYOUT)


def plot_confusion(predictions: pl.DataFrame, classes: Classes) -> go.Figure:
    """Counts of actual against predicted classes, a panel a target below the others."""
    figure = make_subplots(rows=len(classes), cols=1, subplot_titles=list(classes) if len(classes) > 1 else None)
    height = 0
    for row, (target, names) in enumerate(classes.items(), start=1):
        actual, probabilities = prediction_arrays(predictions, target, classes)
        plots.add_confusion(figure, actual, probabilities.argmax(axis=1), list(names), row=row, col=1)
        height += plots.confusion_height(names)
    return figure.update_layout(title="Test pictures: actual and predicted classes", height=height, **LAYOUT)


def plot_calibration(predictions: pl.DataFrame, baselines: pl.DataFrame, classes: Classes, n_bins: int) -> go.Figure:
    """Reliability diagram of the model and its first baseline, of the first target."""
    target = next(iter(classes))
    models = {"model": prediction_arrays(predictions, target, classes)}
    name = baselines["member"][0]
    models[name] = prediction_arrays(baselines.filter(member=name), target, classes)
    title = "Test pictures: confidence and accuracy" + (f" of {target}" if len(classes) > 1 else "")
    return plots.plot_calibration(models, title, n_bins=n_bins, rows="pictures")


def overlay(pictures: NDArray[np.uint8], maps: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Pictures uint8 [B, H, W, 3] with class activation maps float [B, h, w], 0 to 1, laid over them in red."""
    height, width = pictures.shape[1:3]
    found = np.empty_like(pictures)
    for place, (picture, heat) in enumerate(zip(pictures, maps, strict=True)):
        large = Image.fromarray(heat.astype(np.float32), mode="F").resize((width, height), Image.Resampling.BILINEAR)
        share = 0.6 * np.clip(np.asarray(large), 0.0, 1.0)[:, :, None]
        found[place] = np.rint(picture * (1.0 - share) + HEAT * share).astype(np.uint8)
    return found


def plot_grid(pictures: NDArray[np.uint8], captions: Sequence[str], title: str, note: str = "") -> go.Figure:
    """A grid of pictures uint8 [B, H, W, 3] in one image, with a caption below each (the first characters of it)."""
    columns = max(1, min(COLUMNS, len(pictures)))
    rows = max(1, -(-len(pictures) // columns))
    side = max(LEAST, *pictures.shape[1:3]) if len(pictures) else LEAST
    sheet = Image.new("RGB", (columns * (side + 4), rows * (side + 4)), "white")
    for place, pixels in enumerate(pictures):
        picture = Image.fromarray(pixels)
        picture = picture.resize([round(length * side / max(picture.size)) for length in picture.size])
        sheet.paste(picture, ((place % columns) * (side + 4) + 2, (place // columns) * (side + 4) + 2))
    figure = go.Figure()
    caption_height = 0.34  # of a cell
    for row in range(rows):  # the sheet, row by row, with room for the captions
        part = sheet.crop((0, row * (side + 4), sheet.width, (row + 1) * (side + 4)))
        content = io.BytesIO()
        part.save(content, "PNG")
        source = f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}"
        at = {"x": 0, "y": -row * (1 + caption_height), "sizex": columns, "sizey": 1, "sizing": "stretch"}
        figure.add_layout_image(source=source, xref="x", yref="y", xanchor="left", yanchor="top", **at)
    for place, caption in enumerate(captions):
        x, y = place % columns + 0.5, -(place // columns) * (1 + caption_height) - 1
        text = "<br>".join(line[:16] for line in caption.split("\n"))
        figure.add_annotation(x=x, y=y, text=text, yanchor="top", showarrow=False, font={"size": 10})
    hidden = {"visible": False, "showgrid": False, "zeroline": False, "fixedrange": True}
    figure.update_xaxes(range=[0, columns], **hidden)
    figure.update_yaxes(range=[-rows * (1 + caption_height), 0], **hidden)
    heading = {"text": title, **({"subtitle": {"text": note}} if note else {})}
    height = 90 + int(rows * CELL * (1 + caption_height))
    return figure.update_layout(**LAYOUT).update_layout(
        title=heading, height=height, width=columns * CELL + 40, margin={"l": 20, "r": 20, "b": 10}
    )
