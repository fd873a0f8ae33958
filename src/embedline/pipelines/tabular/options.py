"""Settings of the tabular learner, validated before the first node runs; light to import."""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from embedline.training.options import Seeds, Sizes, TrainingOptions

Weight = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
ClassName = bool | int | str  # YAML reads the names 1 and yes as a number and a boolean

QUANTILES = (0.1, 0.5, 0.9)
MOST_WINDOWS = 6  # of a back-test: the pipeline has a node for each


class EncodingOptions(BaseModel):
    """How targets are transformed, and which inputs the encoding adds, fills in, limits and scales.

    Attributes:
        target_transform: ``log`` for positive numeric targets whose relative error matters, else ``none``; or one for
            each target, ``{Sales: log}``.
        target_means: lists of columns; each adds a continuous input, the mean of the transformed target of the row's
            group on the training rows (:class:`.target_means.TargetMeans`). For a target with classes: the share of
            each class but the first.
        many_levels: of a categorical variable with more levels, those of fewer than ``min_count`` training rows share
            the code of missing ones; null: never.
        smoothing: rows of the wider group that the mean of each group is mixed with. ``auto``: as many as the groups'
            means, beyond chance, ask for (:func:`.target_means.fit_target_means`).
        fill: value that replaces a missing one of a continuous variable, instead of the median and a flag. Use it where
            values are missing for a known reason: a flag that is rare in training and common later would be learned
            from few rows.
        limits: lowest and highest value of a continuous variable; values beyond them are clipped.
        scaling: of the continuous variables. ``standard``: by mean and standard deviation. ``quantile``: to a normal
            distribution by ranks, for heavy tails (:func:`.encoder.normal_scores`).
        scalings: the scaling of single variables, such as ``{capital_gain: quantile}``.
        text_size: most numbers that a column of text becomes (:func:`.texts.fit_texts`).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    target_transform: Literal["log", "none"] | dict[str, Literal["log", "none"]] = "none"
    target_means: tuple[tuple[str, ...], ...] = ()
    many_levels: int | None = Field(default=100, ge=1)
    smoothing: Annotated[float, Field(gt=0.0)] | Literal["auto"] = "auto"
    min_count: int = Field(default=10, ge=1)
    fill: dict[str, float] = {}
    limits: dict[str, tuple[float, float]] = {}
    scaling: Literal["standard", "quantile"] = "standard"
    scalings: dict[str, Literal["standard", "quantile"]] = {}
    text_size: int = Field(default=16, ge=1)

    @field_validator("limits")
    @classmethod
    def _check_limits(cls, limits: dict[str, tuple[float, float]]) -> dict[str, tuple[float, float]]:
        for name, (low, high) in limits.items():
            if low >= high:
                raise ValueError(f"limits of {name} must rise, got [{low}, {high}]")
        return limits

    @field_validator("target_means")
    @classmethod
    def _check_groups(cls, groups: tuple[tuple[str, ...], ...]) -> tuple[tuple[str, ...], ...]:
        if any(not group or len(set(group)) < len(group) for group in groups) or len(set(groups)) < len(groups):
            raise ValueError("target_means needs lists of different columns, each list once")
        return groups

    def transform_of(self, target: str) -> Literal["log", "none"]:
        """The transform of one numeric target."""
        return (
            self.target_transform.get(target, "none")
            if isinstance(self.target_transform, dict)
            else self.target_transform
        )

    def scaling_of(self, variable: str) -> Literal["standard", "quantile"]:
        """The scaling of one continuous variable."""
        return self.scalings.get(variable, self.scaling)


class PiecewiseLinearOptions(BaseModel):
    """Piecewise-linear encoding of continuous inputs in ``bins`` bins, then ``size`` units a variable.

    Each bin holds the same number of distinct values of the training rows.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["piecewise_linear"]
    bins: int = Field(default=32, ge=1)
    size: int = Field(default=8, ge=1)


class PeriodicOptions(BaseModel):
    """Continuous inputs by sines and cosines, then ``size`` units a variable.

    Attributes:
        frequencies: number of learned frequencies a variable.
        sigma: standard deviation of the initial frequencies, in periods for each standard deviation of the variable.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["periodic"]
    frequencies: int = Field(default=16, ge=1)
    sigma: float = Field(default=0.1, gt=0.0)
    size: int = Field(default=8, ge=1)


NumericEmbeddingOptions = Annotated[PiecewiseLinearOptions | PeriodicOptions, Field(discriminator="kind")]


class NetworkOptions(BaseModel):
    """Shape of the network.

    Without ``layers``, all settings that are not given follow the table (:func:`.defaults.follow_table`).

    Attributes:
        layers: units of each hidden layer, a list or, for one layer, a number.
        dropout: one rate for all hidden layers or a list, one for each.
        numeric_embedding: embedding of the continuous inputs (:class:`.numeric_embeddings.NumericEmbeddings`); null for
            plain numbers.
        y_range: lowest and highest output, in units of the transformed numeric target.
        members: networks that share their matrices and differ in what goes in and comes out of each
            (:class:`.network.EnsembleLinear`); their predictions are averaged.
        linear: whether the outputs are mixed with those of a linear model of the same rows (ridge or logistic
            regression), in the share that is best on the rows that early stopping holds out.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    layers: Annotated[Sizes, Field(min_length=1)] = ()
    dropout: float | tuple[float, ...] = 0.0
    embedding_dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    embedding_rule: Literal["dl1", "v2"] = "dl1"
    embedding_sizes: dict[str, Annotated[int, Field(ge=1)]] = {}
    numeric_embedding: NumericEmbeddingOptions | None = None
    batch_norm: bool = False
    continuous_batch_norm: bool = False
    y_range: tuple[float, float] | Literal["auto"] | None = None
    members: int = Field(default=1, ge=1)
    linear: bool = False

    @model_validator(mode="after")
    def _check_sizes(self) -> Self:
        rates = self.dropout if isinstance(self.dropout, tuple) else (self.dropout,)
        if any(not 0.0 <= rate < 1.0 for rate in rates):
            raise ValueError(f"dropout must lie in [0, 1), got {self.dropout}")
        if isinstance(self.dropout, tuple) and self.layers and len(self.dropout) != len(self.layers):
            raise ValueError(f"dropout lists {len(self.dropout)} rates for {len(self.layers)} layers")
        if isinstance(self.y_range, tuple) and self.y_range[0] >= self.y_range[1]:
            raise ValueError(f"y_range must rise, got {list(self.y_range)}")
        if self.numeric_embedding and self.continuous_batch_norm:
            raise ValueError("continuous_batch_norm and numeric_embedding exclude each other: bins have fixed edges")
        if self.linear and self.y_range is not None:
            raise ValueError("linear and y_range exclude each other: a linear model has no range")
        if self.members > 1 and self.batch_norm:
            raise ValueError("batch_norm and members exclude each other")
        return self


def quantile_name(level: float) -> str:
    """Name of a quantile in columns: ``q10`` of 0.1, ``q2.5`` of 0.025."""
    return f"q{100.0 * level:g}"


class DecisionOptions(BaseModel):
    """Which class is predicted of two, from the calibrated probability of the positive one.

    Attributes:
        false_positive, false_negative: cost of a row of the negative class that is predicted positive, and of one of
            the positive class that is predicted negative. The threshold that costs least is ``false_positive /
            (false_positive + false_negative)`` (Elkan 2001).
        beta: the threshold with the highest F-beta on the rows that early stopping holds out; recall counts ``beta``
            times as much as precision.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    false_positive: Weight | None = None
    false_negative: Weight | None = None
    beta: Weight | None = None

    @model_validator(mode="after")
    def _check_kind(self) -> Self:
        costs = [cost is not None for cost in (self.false_positive, self.false_negative)]
        if any(costs) != all(costs) or any(costs) == (self.beta is not None):
            raise ValueError("decision needs both costs, false_positive and false_negative, or beta alone")
        return self


class TreeOptions(BaseModel):
    """LightGBM's settings, under its own names where it has them.

    Attributes:
        num_leaves, min_child_samples: ``auto`` follows the number of training rows.
        feature_fraction, bagging_fraction: share of the inputs and of the rows that each tree is fitted to.
        early_stopping: rounds without an improvement on inner held-out rows after which the number of trees is chosen;
            the model is then fitted on all training rows with so many. null: always ``n_estimators``.
        target_encoding: a category with more levels than this becomes its cross-fitted target mean; null: never.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    n_estimators: int = Field(default=2000, ge=1)
    learning_rate: float = Field(default=0.05, gt=0.0)
    num_leaves: Annotated[int, Field(ge=2)] | Literal["auto"] = "auto"
    min_child_samples: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    feature_fraction: float = Field(default=1.0, gt=0.0, le=1.0)
    bagging_fraction: float = Field(default=1.0, gt=0.0, le=1.0)
    early_stopping: int | None = Field(default=50, ge=1)
    target_encoding: int | None = Field(default=100, ge=1)
    seed: int = 42


class BlendOptions(BaseModel):
    """The prediction as a mean of the networks' and of LightGBM's, in units of the transformed target.

    Attributes:
        share: of LightGBM; ``<source>_backtest`` measures which is best. ``auto``: by the loss on the rows that the
            networks held out for early stopping (:func:`.learner.blend_share`); without such rows, 0.5.
        lightgbm: its settings; all categories are native ones, however many levels they have.
        without: inputs that LightGBM does not read, by the names in the encoder, such as ``mean(Store)``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    share: Annotated[float, Field(gt=0.0, lt=1.0)] | Literal["auto"] = "auto"
    lightgbm: TreeOptions = TreeOptions(target_encoding=None)
    without: tuple[str, ...] = ()


class IntervalOptions(BaseModel):
    """Prediction intervals of numbers, from rows that the networks did not learn from (:mod:`.calibration`).

    Attributes:
        levels: share of the values that each interval is to hold.
        days: of a table that is split by time, the length of the window before the training's end whose rows calibrate
            the intervals; null: that of the held-out window.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    levels: Annotated[tuple[Annotated[float, Field(gt=0.0, lt=1.0)], ...], Field(min_length=1)] = (0.8, 0.95)
    days: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _check_levels(self) -> Self:
        if sorted(set(self.levels)) != list(self.levels):
            raise ValueError(f"intervals.levels must rise, got {list(self.levels)}")
        return self


class TableTraining(TrainingOptions):
    """How to train the networks of a table; ``loss`` applies to numeric targets, classes have the cross-entropy.

    Without ``epochs``, all settings that are not given follow the table (:func:`.defaults.follow_table`).

    Attributes:
        label_smoothing: share of each label that is spread over all classes (Szegedy et al. 2016, arXiv:1512.00567).
        class_weights: weight of the rows of each class in the loss: ``{class: weight}``, 1 for a class that is not
            named; ``balanced``: all classes have the same total weight. With several targets ``{target: ...}``. The
            weight 2 counts every row of a class twice. The probabilities stay those of the classes as they are; the
            class with the largest probability times weight is predicted.
        decision: which class is predicted of a target with two, in place of the weights.
        target_weights: weight of the loss of each target in the sum, 1 for a target that is not named.
        quantiles: of numeric targets that the network predicts with ``loss: quantile``, the median among them
            (:func:`.losses.number_loss`).
        blend: LightGBM beside the networks, and its share in the prediction; null: the networks alone.
        intervals: of predicted numbers; null: none.
        memory: where the training rows are kept. ``device``: in the memory of the device. ``mapped``: in a file that is
            mapped into memory, for larger tables; best on a solid-state disk. ``auto``: ``mapped`` if they would take
            more than half of the free memory. Results are equal to the last bit.
    """

    # 0 stands for "follows the table", and cannot be given.
    epochs: int = Field(default=0, ge=1)
    batch_size: int = Field(default=0, ge=1)
    lr: float = Field(default=0.0, gt=0.0)
    label_smoothing: float = Field(default=0.0, ge=0.0, lt=1.0)
    class_weights: (
        Literal["balanced"] | dict[ClassName, Weight | Literal["balanced"] | dict[ClassName, Weight]] | None
    ) = None
    decision: DecisionOptions | None = None
    target_weights: dict[str, Weight] = Field(default={})
    quantiles: tuple[Annotated[float, Field(gt=0.0, lt=1.0)], ...] = QUANTILES
    blend: BlendOptions | None = None
    intervals: IntervalOptions | None = IntervalOptions()
    memory: Literal["auto", "device", "mapped"] = "auto"

    @model_validator(mode="after")
    def _check_quantiles(self) -> Self:
        names = [quantile_name(level) for level in self.quantiles]
        if sorted(set(self.quantiles)) != list(self.quantiles) or len(set(names)) < len(names):
            raise ValueError(f"quantiles must rise, got {list(self.quantiles)}")
        if 0.5 not in self.quantiles:
            raise ValueError(f"quantiles needs the median, 0.5, which is the prediction; got {list(self.quantiles)}")
        if self.quantiles != QUANTILES and self.loss != "quantile":
            raise ValueError(f"quantiles needs loss: quantile, and loss is {self.loss!r}")
        if self.loss == "quantile" and self.blend:
            raise ValueError("blend and loss: quantile exclude each other: LightGBM predicts no quantiles here")
        return self


class LinearOptions(BaseModel):
    """Ridge or logistic regression on one-hot categories and scaled numbers; inner rows choose the ``penalties``.

    Attributes:
        penalties: weights of the sum of squared coefficients beside the mean loss of a row.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    penalties: tuple[Weight, ...] = Field(
        default=(1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0, 1e1), min_length=1
    )
    seed: int = 42


class BaselineOptions(BaseModel):
    """Baselines beside the constant: means (or class shares) of the groups of ``group_by`` where it lists columns,
    and a linear model and LightGBM unless they are null.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    group_by: tuple[str, ...] = ()
    linear: LinearOptions | None = LinearOptions()
    lightgbm: TreeOptions | None = TreeOptions()


class BacktestOptions(BaseModel):
    """Windows of days that a back-test forecasts, each from the rows before it (Tashman 2000, rolling origins).

    Attributes:
        windows: their number; the last one ends just before the held-out window.
        length: of a window, in days.
        step: days from one window to the next; null: their length.
        seeds: networks of a window, as ``training.seeds``; null: as many as there.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    windows: int = Field(default=4, ge=1, le=MOST_WINDOWS)
    length: int = Field(default=42, ge=1)
    step: int | None = Field(default=None, ge=1)
    seeds: Seeds | None = None


class ImportanceOptions(BaseModel):
    """Permutation importance: each variable is shuffled ``repeats`` times on ``rows`` test rows drawn with ``seed``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rows: int = Field(default=10_000, ge=2)
    repeats: int = Field(default=3, ge=1)
    seed: int = 0


class ReportOptions(BaseModel):
    """What the plots show.

    Attributes:
        series_by: column whose values are separate time series, such as a store.
        n_series: number of series to draw, spread evenly over the sorted values.
        error_by: columns to break the error down by.
        embeddings: variables whose embedding is drawn in two dimensions.
        importance: how the importance of the variables is measured.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    series_by: str | None = None
    n_series: int = Field(default=4, ge=1)
    error_by: tuple[str, ...] = ()
    embeddings: tuple[str, ...] = ()
    importance: ImportanceOptions = ImportanceOptions()
