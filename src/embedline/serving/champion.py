"""The champion of a source: the better of two services by their answers to the same raw held-out rows."""

import hashlib
import io
import math
from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd
import polars as pl

from embedline.errors import DataError
from embedline.serving.service import Better, Score, Scorer
from embedline.training.options import Options

ACTUAL = "actual"  # column of the true values among held-out rows


class RecordedScore(Options):
    """The score of a service and the rows that it was measured on, as the registry stores them.

    Attributes:
        path: keys of the metric in ``<source>.metrics``.
        rows, evaluation: how many were held out, and their fingerprint.
    """

    path: tuple[str, ...]
    value: float
    better: Better
    rows: int
    evaluation: str

    @property
    def score(self) -> Score:
        """The score without the rows."""
        return Score(self.path, self.value, self.better)


@dataclass(frozen=True)
class Decision:
    """Whether a service becomes the champion, and why."""

    wins: bool
    reason: str


def fingerprint(evaluation: pl.DataFrame) -> str:
    """SHA-256 of held-out rows: names, types and values of their columns, in order."""
    buffer = io.BytesIO()
    text = [name for name, dtype in evaluation.schema.items() if dtype in (pl.Categorical, pl.Enum)]
    evaluation.with_columns(pl.col(text).cast(pl.String)).rechunk().write_ipc(buffer)
    return hashlib.sha256(buffer.getvalue()).hexdigest()


def request_of(evaluation: pl.DataFrame) -> pd.DataFrame:
    """Held-out rows as a request has them."""
    return evaluation.drop(ACTUAL).to_pandas()


def measure(scorer: Scorer, evaluation: pl.DataFrame) -> Score:
    """The main metric of a service on held-out rows: their columns but ``actual`` are the request."""
    answers = scorer.predict(request_of(evaluation))
    return scorer.measure(answers, evaluation.get_column(ACTUAL).to_pandas())


def decide(
    challenger: RecordedScore, champion: RecordedScore | None, score_champion: Callable[[], Score] | None
) -> Decision:
    """A challenger wins where there is no champion, or by a strictly better score on the same rows.

    Args:
        champion: what was recorded of the champion, perhaps on other rows; None where nothing was.
        score_champion: has the champion answer the challenger's rows; called only where no score of these rows and this
            kind is recorded. A champion that learned from some of the rows is favoured. None without a champion.
    """
    ours = challenger.score
    if not math.isfinite(ours.value):
        return Decision(False, f"{ours.name} {ours.value} is no number to compare")
    if score_champion is None:
        return Decision(True, f"{ours.name} {ours.value:.6g}, and there was no champion")
    if champion and (champion.evaluation, champion.path) == (challenger.evaluation, challenger.path):
        theirs, how = champion.score, "on the same rows"
    else:
        how = "of the champion on the new rows"
        try:
            theirs = score_champion()
        except DataError as error:
            return Decision(False, f"the champion cannot answer the new rows, so that it is not beaten: {error}")
        if theirs.path != ours.path:
            return Decision(False, f"the champion is measured by {theirs.name}, not by {ours.name}")
    if ours.beats(theirs.value):
        return Decision(True, f"{ours.name} {ours.value:.6g} beats {theirs.value:.6g} {how}")
    return Decision(False, f"{ours.name} {ours.value:.6g} does not beat {theirs.value:.6g} {how}")
