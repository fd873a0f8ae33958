"""Settings of a training, validated before the first node runs."""

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Averaging(BaseModel):
    """Exponential moving average of the weights, evaluated and stored instead of the last weights.

    See :class:`embedline.training.averaging.WeightAverage` (Polyak & Juditsky 1992; Izmailov et al. 2018 for why it
    helps networks).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    decay: float = Field(ge=0.0, lt=1.0)


class OptimizerOptions(BaseModel):
    """How to train any network, but for how long and at what rate: optimiser, schedule, device."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    batch_size: int = Field(ge=1)
    weight_decay: float = Field(default=0.0, ge=0.0)
    betas: tuple[float, float] = (0.9, 0.99)
    eps: float = Field(default=1e-5, gt=0.0)
    schedule: Literal["one_cycle", "cosine_restarts", "constant"] = "one_cycle"
    warmup: float = Field(default=0.25, gt=0.0, lt=1.0)
    momentum: tuple[float, float] | None = (0.95, 0.85)
    cycle_epochs: int = Field(default=1, ge=1)
    cycle_growth: int = Field(default=2, ge=1)
    clip_norm: float | None = Field(default=None, gt=0.0)
    averaging: Averaging | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "fp32", "bf16"] = "auto"

    @model_validator(mode="after")
    def _check_ranges(self) -> Self:
        for name in ("betas", "momentum"):
            pair = getattr(self, name)
            if pair is not None and not all(0.0 <= value < 1.0 for value in pair):
                raise ValueError(f"{name} must lie in [0, 1), got {list(pair)}")
        return self


class FitOptions(OptimizerOptions):
    """One training: ``epochs`` long, ``lr`` the rate that the schedule starts from or peaks at."""

    epochs: int = Field(ge=1)
    lr: float = Field(gt=0.0)


class TrainingOptions(FitOptions):
    """How to train networks on the rows of a table: the loss, and a network for each seed."""

    loss: Literal["mse", "l1", "huber", "relative"] = "mse"
    seeds: tuple[int, ...] = Field(default=(42,), min_length=1)
    threads: int = Field(default=1, ge=1)

    @model_validator(mode="after")
    def _check_seeds(self) -> Self:
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"seeds must differ, got {list(self.seeds)}: equal seeds train the same model twice")
        return self


class FinderOptions(BaseModel):
    """The learning-rate range test: ``steps`` batches with the rate growing geometrically from ``low`` to ``high``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    low: float = Field(default=1e-6, gt=0.0)
    high: float = Field(default=1.0, gt=0.0)
    steps: int = Field(default=100, ge=10)

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"low must be below high, got low={self.low}, high={self.high}")
        return self
