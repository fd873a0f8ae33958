"""Sums of a flag over the rows of a group around each row."""

import narwhals as nw


def backward_sum(flag: str, *, window: int, order: str, group: str) -> nw.Expr:
    """Sum of ``flag`` over the row and the ``window - 1`` rows before it in the group (fewer at the start), as Int8."""
    return _rolling_sum(flag, window=window, order=order, group=group)


def forward_sum(flag: str, *, window: int, reversed_order: str, group: str) -> nw.Expr:
    """Sum of ``flag`` over the row and the ``window - 1`` rows after it in the group (fewer at the end), as Int8.

    ``reversed_order`` names a column that falls where the order rises, such as the negated day number: not every engine
    orders windows downwards.
    """
    return _rolling_sum(flag, window=window, order=reversed_order, group=group)


def _rolling_sum(flag: str, *, window: int, order: str, group: str) -> nw.Expr:
    counts = nw.col(flag).cast(nw.Int16).rolling_sum(window, min_samples=1)
    return counts.over(group, order_by=order).cast(nw.Int8)
