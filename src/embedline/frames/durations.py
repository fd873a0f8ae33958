"""How long something has lasted on a day, in whole months or weeks up to a cap."""

import narwhals as nw

_EARLIEST_YEAR = 1990  # the notebook takes starts before 1990, 1900 for "not known" among them, as never


def months_open(*, day: str, start: nw.Expr, start_year: str, cap: int) -> nw.Expr:
    """Whole months (of 30 days) from day number ``start`` to column ``day``, 0 before it, at most ``cap``, as Int16."""
    return _elapsed(day=day, start=start, start_year=start_year, unit=30, cap=cap)


def weeks_running(*, day: str, start: nw.Expr, start_year: str, cap: int) -> nw.Expr:
    """Whole weeks from day number ``start`` to column ``day``, 0 before it, at most ``cap``, as Int16."""
    return _elapsed(day=day, start=start, start_year=start_year, unit=7, cap=cap)


def _elapsed(*, day: str, start: nw.Expr, start_year: str, unit: int, cap: int) -> nw.Expr:
    units = ((nw.col(day) - start) // unit).clip(0, cap)
    return nw.when(nw.col(start_year) >= _EARLIEST_YEAR).then(units).otherwise(nw.lit(0)).cast(nw.Int16)
