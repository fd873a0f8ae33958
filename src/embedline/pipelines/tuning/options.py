"""Settings of the tuning, validated before the first node runs; light to import."""

import json
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from embedline.training.options import Options, Seeds

FRACTION = 0.2  # of the training part that is held out where nothing else is said

Number = Annotated[int, Field(strict=True)] | Annotated[float, Field(allow_inf_nan=False)]


class Dimension(Options):
    """Values that one setting may take: from ``low`` to ``high``, both included, or one of ``choices``.

    Attributes:
        low, high: whole numbers are drawn where both are such, else any number; ``log``: their logarithms evenly.
        choices: numbers, texts, null, lists or mappings.
    """

    low: Number | None = None
    high: Number | None = None
    log: bool = False
    choices: Annotated[tuple[Any, ...], Field(min_length=2)] | None = None

    @model_validator(mode="after")
    def _check_kind(self) -> Self:
        if self.choices is not None:
            if self.low is not None or self.high is not None or self.log:
                raise ValueError("choices stand alone, without low, high and log")
            try:
                labels = self.labels()
            except TypeError as error:
                raise ValueError(f"choices holds what is no number, text, list or mapping: {error}") from error
            if len(set(labels)) < len(labels):
                raise ValueError(f"choices lists a value twice: {', '.join(labels)}")
            return self
        if self.low is None or self.high is None:
            raise ValueError("a setting of the space needs low and high, or choices")
        if self.low >= self.high:
            raise ValueError(f"low must be below high, got low={self.low}, high={self.high}")
        if self.log and self.low <= 0:
            raise ValueError(f"log needs a low above 0, got {self.low}")
        return self

    @property
    def is_whole(self) -> bool:
        """Whether whole numbers are drawn."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    def labels(self) -> list[str]:
        """The choices as JSON, under which Optuna knows them: it takes neither lists nor mappings."""
        return [json.dumps(choice, sort_keys=True) for choice in self.choices or ()]

    def edges(self) -> list[Any]:
        """Values that stand for all: both ends, or every choice."""
        return list(self.choices) if self.choices is not None else [self.low, self.high]

    def suggest(self, trial: Any, name: str) -> Any:
        """The value of an Optuna trial for the setting ``name``."""
        if self.choices is not None:
            return json.loads(trial.suggest_categorical(name, self.labels()))
        suggest = trial.suggest_int if self.is_whole else trial.suggest_float
        return suggest(name, self.low, self.high, log=self.log)

    def parameter(self, value: Any) -> Any:
        """A value as Optuna stores it; None if it lies outside of the space."""
        if self.choices is not None:
            label = json.dumps(value, sort_keys=True, default=str)
            return label if label in self.labels() else None
        if isinstance(value, bool) or not isinstance(value, int | float):
            return None
        assert self.low is not None and self.high is not None
        fits = self.low <= value <= self.high and (not self.is_whole or value == int(value))
        return value if fits else None


class InnerOptions(Options):
    """Which rows of the training part a trial is measured on; it learns from the others.

    A random ``fraction`` of them, or so many ``folds``, each held out once; ``seed`` draws either.
    """

    fraction: float | None = Field(default=None, gt=0.0, lt=1.0)
    folds: int | None = Field(default=None, ge=2)
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _check_kind(self) -> Self:
        kinds = ("windows", "fraction", "folds")
        if len(given := [name for name in kinds if getattr(self, name, None) is not None]) > 1:
            raise ValueError(f"inner takes one of {' and '.join(given)}")
        return self


class TableInner(InnerOptions):
    """Inner rows of a table, which may be those of its last days; without a kind they follow ``split``.

    Attributes:
        windows: so many windows before the held-out one (:func:`..tabular.splits.backtest_windows`), each forecast
            from the rows before it.
        length: days of a window; by default as many as the held-out one has.
        step: days from one window to the next; by default ``length``.
    """

    windows: int | None = Field(default=None, ge=1)
    length: int | None = Field(default=None, ge=1)
    step: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _check_days(self) -> Self:
        if self.windows is None and (self.length is not None or self.step is not None):
            raise ValueError("inner.length and inner.step are those of inner.windows, which is not given")
        return self


class TuneOptions(Options):
    """How to search, and what through.

    Attributes:
        trials: in all, those of earlier runs counted; the first one has the settings as they are.
        seeds: a network for each on all inner rows; the loss of a trial is the mean of their losses.
        inner: rows that trials are measured on.
        seed: of the sampler.
        timeout: seconds after which no further trial begins, of one run.
        space: by setting, such as ``training.lr``, the values that it may take; null: it is not tuned.
    """

    trials: int = Field(default=20, ge=1)
    seeds: Seeds = (0,)
    inner: InnerOptions = InnerOptions()
    seed: int = Field(default=0, ge=0)
    timeout: float | None = Field(default=None, gt=0.0, allow_inf_nan=False)
    space: dict[str, Dimension | None]

    @model_validator(mode="after")
    def _check_search(self) -> Self:
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds must differ, got {list(self.seeds)}")
        if not self.dimensions:
            raise ValueError("space names no setting to tune")
        return self

    @property
    def dimensions(self) -> dict[str, Dimension]:
        """The settings that are tuned."""
        return {name: dimension for name, dimension in self.space.items() if dimension is not None}


class TableTuning(TuneOptions):
    """The same of a table; ``learner`` is the one whose loss counts."""

    learner: Literal["network", "lightgbm"] = "network"
    inner: TableInner = TableInner()
