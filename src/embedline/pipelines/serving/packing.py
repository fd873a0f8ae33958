"""Nodes that make services of texts and ratings, and the raw rows that these are measured on.

PyTorch is imported inside the functions, since every Kedro command reads this module.
"""

from typing import Any

import polars as pl

from embedline.errors import about_frame
from embedline.ratings.options import RatingColumns, RatingSplit
from embedline.text.documents import read_documents

Frame = Any  # polars.DataFrame or pandas.DataFrame
Bundle = Any  # embedline.training.bundle.ModelBundle
Packed = Any  # embedline.serving.packed.PackedService


def pack_texts(model: Bundle) -> Packed:
    """The service of a text classifier."""
    from embedline.serving.texts import pack_texts as pack

    return pack(model)


def pack_ratings(model: Bundle) -> Packed:
    """The service of a ratings model."""
    from embedline.serving.ratings import pack_ratings as pack

    return pack(model)


def hold_out_texts(documents: Frame) -> pl.DataFrame:
    """The test documents: ``text``, and the label as ``actual``."""
    from embedline.serving.texts import hold_out_texts as hold_out

    with about_frame("documents"):
        return hold_out(read_documents(documents))


def hold_out_ratings(ratings: Frame, columns: RatingColumns, split: RatingSplit) -> pl.DataFrame:
    """The ratings that the split holds out: user, item, and the rating as ``actual``."""
    from embedline.serving.ratings import hold_out_ratings as hold_out

    with about_frame("ratings"):
        return hold_out(ratings, columns, split)
