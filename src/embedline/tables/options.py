"""Settings of the tabular learner, validated before the first node runs; light to import."""

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class NetworkOptions(BaseModel):
    """Shape of the network; ``dropout`` is one rate for all hidden layers or a list, one for each."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    layers: tuple[int, ...] = Field(min_length=1)
    dropout: float | tuple[float, ...] = 0.0
    embedding_dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    embedding_rule: Literal["dl1", "v2"] = "dl1"
    embedding_sizes: dict[str, int] = {}
    batch_norm: bool = False
    continuous_batch_norm: bool = False
    y_range: tuple[float, float] | Literal["auto"] | None = None

    @model_validator(mode="after")
    def _check_sizes(self) -> Self:
        if any(size < 1 for size in (*self.layers, *self.embedding_sizes.values())):
            raise ValueError("layers and embedding_sizes must be positive")
        rates = self.dropout if isinstance(self.dropout, tuple) else (self.dropout,)
        if any(not 0.0 <= rate < 1.0 for rate in rates):
            raise ValueError(f"dropout must lie in [0, 1), got {self.dropout}")
        if isinstance(self.dropout, tuple) and len(self.dropout) != len(self.layers):
            raise ValueError(f"dropout lists {len(self.dropout)} rates for {len(self.layers)} layers")
        if isinstance(self.y_range, tuple) and self.y_range[0] >= self.y_range[1]:
            raise ValueError(f"y_range must rise, got {list(self.y_range)}")
        return self

    @property
    def dropouts(self) -> tuple[float, ...]:
        """One rate for each hidden layer."""
        return self.dropout if isinstance(self.dropout, tuple) else (self.dropout,) * len(self.layers)


class TreeOptions(BaseModel):
    """LightGBM's settings, under its own names."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    n_estimators: int = Field(default=1500, ge=1)
    learning_rate: float = Field(default=0.05, gt=0.0)
    num_leaves: int = Field(default=63, ge=2)
    min_child_samples: int = Field(default=50, ge=1)
    seed: int = 42


class BaselineOptions(BaseModel):
    """Which baselines to run: a mean over the groups of ``group_by`` columns, and LightGBM unless it is null."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    group_by: tuple[str, ...] = ()
    lightgbm: TreeOptions | None = TreeOptions()


class ReportOptions(BaseModel):
    """What the plots show.

    Attributes:
        series_by: column whose values are separate time series, such as a store.
        n_series: how many of them to draw, spread evenly over the sorted values.
        error_by: columns to break the error down by.
        embeddings: variables whose embedding is drawn in two dimensions.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    series_by: str | None = None
    n_series: int = Field(default=4, ge=1)
    error_by: tuple[str, ...] = ()
    embeddings: tuple[str, ...] = ()
