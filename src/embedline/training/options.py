"""Settings of a training, validated before the first node runs."""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator


def _as_list(value: Any) -> Any:
    return (value,) if isinstance(value, int) and not isinstance(value, bool) else value


def _first_seeds(value: Any) -> Any:
    """``4`` for ``[0, 1, 2, 3]``: Kedro's command line takes no lists."""
    return tuple(range(value)) if isinstance(value, int) and not isinstance(value, bool) else value


Sizes = Annotated[tuple[Annotated[int, Field(ge=1)], ...], BeforeValidator(_as_list)]
"""Units of each hidden layer; in YAML a list, or one number for one layer."""

Seeds = Annotated[tuple[int, ...], BeforeValidator(_first_seeds), Field(min_length=1)]
"""Seeds of networks: a list, or a number for the first so many from 0 on."""


class Options(BaseModel):
    """A block of settings: no other keys, and no changes."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Averaging(Options):
    """Exponential moving average of the weights, evaluated and stored instead of the last weights.

    See :func:`embedline.training.optimizer.average_weights` (Polyak & Juditsky 1992; Izmailov et al. 2018).
    """

    decay: float = Field(ge=0.0, lt=1.0)


class EarlyStopping(Options):
    """End a training once a loss on held-out data no longer falls, and keep the network of the epoch with the lowest.

    The schedules still run over all of ``epochs``: a ``one_cycle`` that ends early has not annealed its rate, so that
    ``constant`` and ``cosine_restarts`` go better with it.

    Attributes:
        patience: epochs in a row without an improvement after which the training ends.
        min_delta: how far the loss must fall below that of the last improvement to count as one.
    """

    patience: int = Field(default=2, ge=1)
    min_delta: float = Field(default=0.0, ge=0.0, allow_inf_nan=False)


class HeldOutStopping(EarlyStopping):
    """Early stopping on a random ``fraction`` of the training rows, which the network then does not learn from.

    Attributes:
        seed: draws the rows, the same for every member of an ensemble.
        rotate: have each member hold out the next fraction instead, so that together they learn from all rows.
    """

    rotate: bool = False
    fraction: float = Field(default=0.1, gt=0.0, lt=1.0)
    seed: int = 0


class OptimizerOptions(Options):
    """How to train any network, but for how long and at what rate: optimiser, schedule, device.

    Attributes:
        batch_size: rows (documents, streams) that go through the network at a time.
        accumulate: batches of a step: its gradient is that of the mean of their losses. The last step of an epoch takes
            the batches that are left. Batch-norm still sees one batch at a time.
        optimizer: ``adam``, or ``sgd`` with Nesterov's momentum, whose coefficient is that of Adam's first one.
        weight_decay: pull of the weights of matrices towards 0 (see ``decay``); biases and batch-norm have none.
        decay: ``decoupled``: each step takes away the share ``lr * weight_decay`` of a weight (AdamW, Loshchilov &
            Hutter 2019, arXiv:1711.05101). ``l2``: the loss has the penalty ``weight_decay / 2 * sum(w**2)``, whose
            gradient Adam scales with the rest. The lesson's penalty is ``wd * (w**2).sum()``: its ``wd`` is half of
            this ``weight_decay``.
        precision: ``fp32``, ``bf16``, or ``auto``: on CUDA bf16 where it is native, on a CPU what is measured to be
            faster (:func:`embedline.training.device.choose_precision`).
        processes: number of processes on this machine that share each batch; a GPU for each on CUDA. The result is that
            of one process but for rounding, the masks of dropout and, on a CPU, batch-norm, which sees the rows of one
            process. The processes of a launcher (:func:`embedline.training.distributed.launched`) need no number.
    """

    batch_size: int = Field(ge=1)
    accumulate: int = Field(default=1, ge=1)
    optimizer: Literal["adam", "sgd"] = "adam"
    weight_decay: float = Field(default=0.0, ge=0.0)
    decay: Literal["decoupled", "l2"] = "decoupled"
    betas: tuple[float, float] = (0.9, 0.99)
    eps: float = Field(default=1e-5, gt=0.0)
    schedule: Literal["one_cycle", "cosine_restarts", "constant"] = "one_cycle"
    warmup: float = Field(default=0.25, gt=0.0, lt=1.0)
    momentum: tuple[float, float] | None = (0.95, 0.85)
    cycle_epochs: int = Field(default=1, ge=1)
    cycle_growth: int = Field(default=2, ge=1)
    clip_norm: float | None = Field(default=None, gt=0.0)
    averaging: Averaging | None = None
    processes: int = Field(default=1, ge=1)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "fp32", "bf16"] = "auto"

    @model_validator(mode="after")
    def _check_ranges(self) -> Self:
        for name, pair in (("betas", self.betas), ("momentum", self.momentum or ())):
            if not all(0.0 <= value < 1.0 for value in pair):
                raise ValueError(f"{name} must lie in [0, 1), got {list(pair)}")
            if self.optimizer == "sgd" and 0.0 in pair[: 1 if name == "betas" else 2]:
                raise ValueError(f"{name} must be above 0 for sgd, which has Nesterov's momentum, got {list(pair)}")
        return self


class FitOptions(OptimizerOptions):
    """One training: ``epochs`` long, ``lr`` the rate that the schedule starts from or peaks at."""

    epochs: int = Field(ge=1)
    lr: float = Field(gt=0.0)
    early_stopping: EarlyStopping | None = None


class SeedOptions(Options):
    """An ensemble: a network for each seed, their outputs averaged.

    Attributes:
        seeds: a list, or a number for the first so many from 0 on.
        weights: of the members in the average, one for each seed; only their ratios count. All alike when absent.
    """

    seeds: Seeds = (42,)
    weights: tuple[Annotated[float, Field(gt=0.0, allow_inf_nan=False)], ...] | None = None

    @model_validator(mode="after")
    def _check_seeds(self) -> Self:
        seeds = list(self.seeds)
        if len(set(seeds)) != len(seeds):
            raise ValueError(f"seeds must differ, got {seeds}: equal seeds train the same model twice")
        if self.weights is not None and len(self.weights) != len(seeds):
            got = list(self.weights)
            raise ValueError(f"weights needs {len(seeds)} values, one for each of seeds {seeds}, got {got}")
        return self


class MemberOptions(SeedOptions, FitOptions):
    """How to train a network for each seed; ``threads`` are PyTorch's on a CPU, for each of them."""

    threads: int = Field(default=1, ge=1)


class TrainingOptions(MemberOptions):
    """How to train networks on the rows of a table, and their loss."""

    loss: Literal["mse", "l1", "huber", "relative", "quantile"] = "mse"
    early_stopping: HeldOutStopping | None = None


class FinderOptions(Options):
    """The learning-rate range test: ``steps`` batches with the rate growing geometrically from ``low`` to ``high``."""

    low: float = Field(default=1e-6, gt=0.0)
    high: float = Field(default=1.0, gt=0.0)
    steps: int = Field(default=100, ge=10)

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"low must be below high, got low={self.low}, high={self.high}")
        return self
