"""Pictures in, their classes out: the model of the image learner as a service."""

import base64
import binascii
import io
from typing import ClassVar

import pandas as pd
import polars as pl

from embedline.errors import DataError
from embedline.pipelines.images.examples import TEST
from embedline.pipelines.images.predictions import ImageModel
from embedline.pipelines.images.preparation import BadImage
from embedline.serving.columns import InputColumn, require_columns, typed_values
from embedline.serving.contract import Limits
from embedline.serving.service import Score, Service
from embedline.training.model_file import ModelBundle

IMAGE = "image"
MAX_PIXELS = 25_000_000  # of a picture: 75 MB while it is decoded


class ImageService:
    """The classes of each picture, with the probability of every class, as the batch prediction has them.

    A picture is a file (JPEG, PNG, …) in base64, as it is or as a data URI.
    """

    limits: ClassVar[Limits] = Limits(body=40_000_000, rows=1_000, text=20_000_000)

    def __init__(self, service: Service) -> None:
        self._model = ImageModel.from_bundle(service.bundle)
        self._columns = service.columns

    def predict(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Columns ``predicted``, ``confidence`` and ``p_<class>``; of several targets those of each.

        A missing column ``image``, and a value that is no picture in base64 (row from 1), are a DataError.
        """
        require_columns(rows, self._columns)
        texts = typed_values(rows[IMAGE], "string", optional=False)
        files = [(f"column {IMAGE!r}, row {row}", _decoded(text, row)) for row, text in enumerate(texts, start=1)]
        try:
            found = self._model.predict_files(files, MAX_PIXELS)
        except BadImage as error:
            raise DataError(f"the request: {error}") from error
        return pd.DataFrame(found.to_dict(as_series=False))

    def measure(self, answers: pd.DataFrame, actual: pd.Series) -> Score:
        """Accuracy of the first target, the metric in ``<source>.metrics``; ``actual`` holds the labels."""
        target, several = next(iter(self._model.classes)), len(self._model.classes) > 1
        predicted = answers[f"predicted_{target}" if several else "predicted"]
        path = ("targets", target, "accuracy") if several else ("accuracy",)
        return Score(path, float((predicted.to_numpy() == actual.to_numpy()).mean()), "higher")


def _decoded(text: str, row: int) -> bytes:
    try:
        return base64.b64decode(text.partition(",")[2] if text.startswith("data:") else text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise DataError(f"the request: column {IMAGE!r}, row {row} is no file in base64: {error}") from error


def pack_images(bundle: ModelBundle) -> Service:
    """The service of a stored image model; its example is a grey picture."""
    from PIL import Image

    height, width = bundle.config["architectures"][0]["size"]
    content = io.BytesIO()
    Image.new("RGB", (width, height), (128, 128, 128)).save(content, "PNG")
    return Service(
        service="embedline.serving.images.ImageService",
        bundle=bundle,
        tables={},
        settings={},
        columns=(InputColumn(name=IMAGE, type="string"),),
        example=[{IMAGE: base64.b64encode(content.getvalue()).decode()}],
    )


def hold_out_images(images: pl.DataFrame, raw: pl.DataFrame, skipped: list[str], target: str) -> pl.DataFrame:
    """The files of the test pictures as a request has them, and the label of each as ``actual``.

    ``images`` has ``image_id``, ``path``, ``split`` and ``target``, ``raw`` has ``path`` and ``content``; ``skipped``
    are the ids of pictures that cannot be read.
    """
    test = images.filter((pl.col("split") == TEST) & ~pl.col("image_id").is_in(skipped))
    rows = test.join(raw, on="path", how="left", maintain_order="left")
    return rows.select(pl.col("content").bin.encode("base64").alias(IMAGE), actual=pl.col(target))
