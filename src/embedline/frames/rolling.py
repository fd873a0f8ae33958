"""Sums of flags over the rows of a group around each row."""

from collections.abc import Sequence

import narwhals as nw
from narwhals.typing import FrameT

_PACKED, _REVERSED, _BACKWARD, _FORWARD = "_packed", "_reversed", "_backward", "_forward"


def add_window_sums(frame: FrameT, flags: Sequence[str], *, window: int, order: str, group: str) -> FrameT:
    """Add ``<flag>_bw`` and ``<flag>_fw``: how often each flag is 1 in the rows of its group around each row.

    Parameters
    ----------
    flags : columns of 0 and 1 without missing values
    window : rows counted, the row itself among them: it and those before it (``_bw``, fewer at the start of a group),
        it and those after it (``_fw``, fewer at the end); at most 127, as the sums are Int8
    order : number that orders the rows of a group, such as a day number

    All flags travel as the digits of one integer, so that there are two windows in all: 0.10 s rather than 0.24 s for
    three flags of a million rows.
    """
    base = window + 1  # no digit can overflow: a sum is at most `window`
    packed = nw.lit(0, nw.Int32)
    for place, flag in enumerate(flags):
        packed = packed + nw.col(flag).cast(nw.Int32) * base**place
    # Not every engine orders windows downwards: hence a column that falls where the order rises.
    rows = frame.with_columns(packed.alias(_PACKED), (-nw.col(order)).alias(_REVERSED))
    sums = nw.col(_PACKED).rolling_sum(window, min_samples=1)
    rows = rows.with_columns(
        sums.over(group, order_by=order).cast(nw.Int32).alias(_BACKWARD),
        sums.over(group, order_by=_REVERSED).cast(nw.Int32).alias(_FORWARD),
    )
    digits = {
        f"{flag}{side}": (nw.col(total) // base**place % base).cast(nw.Int8)
        for side, total in (("_bw", _BACKWARD), ("_fw", _FORWARD))
        for place, flag in enumerate(flags)
    }
    return rows.with_columns(**digits).drop(_PACKED, _REVERSED, _BACKWARD, _FORWARD)
