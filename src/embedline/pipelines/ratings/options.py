"""Settings of the ratings learner, validated before the first node runs; light to import."""

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, ConfigDict, Field, RootModel, model_validator

from embedline.training.options import FitOptions, Options, Sizes, TrainingOptions

Id = int | str  # of a user or an item
Finite = Annotated[float, Field(allow_inf_nan=False)]
Span = tuple[Finite, Finite] | Literal["auto"]


def _as_list(value: Any) -> Any:
    return (value,) if isinstance(value, int | float) and not isinstance(value, bool) else value


Positive = Annotated[tuple[Annotated[Finite, Field(gt=0.0)], ...], BeforeValidator(_as_list), Field(min_length=1)]
NotNegative = Annotated[tuple[Annotated[Finite, Field(ge=0.0)], ...], BeforeValidator(_as_list), Field(min_length=1)]


class RatingRange(RootModel[Span]):
    """Lowest and highest possible rating, ``[low, high]``; ``auto``: those of the training rows."""

    model_config = ConfigDict(frozen=True)

    root: Span = "auto"

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        if self.root != "auto" and self.root[0] >= self.root[1]:
            raise ValueError(f"rating_range must rise, got {list(self.root)}")
        return self


class FeatureOptions(Options):
    """Columns that describe items and users; a new item or user is known by them alone.

    A column of lists of strings holds several features a row, one of strings or booleans one; one of numbers is cut
    into ``bins`` of one width between the first and the last percentile. A missing value is no feature.
    """

    items: tuple[str, ...] = ()
    users: tuple[str, ...] = ()
    bins: int = Field(default=10, ge=2)

    @model_validator(mode="after")
    def _check_columns(self) -> Self:
        for key, names in (("items", self.items), ("users", self.users)):
            if len(set(names)) < len(names):
                raise ValueError(f"features.{key} lists a column more than once: {list(names)}")
        return self


class RatingNetwork(Options):
    """Shape of the network (:class:`.network.FactorModel`).

    Attributes:
        factors: length of the vector of a user and of an item.
        bias: whether users and items have a bias, too.
        kind: ``dot``: the product of the two vectors; ``mlp``: hidden ``layers`` on both, for what is no product.
        y_range: the score goes through a sigmoid from the first to the second; ``auto``: half a unit beyond the rating
            range on either side, since a sigmoid does not reach its ends. None: the score is any number.
        init_std: deviation of the normal distribution that vectors are drawn from.
        layers: units of each hidden layer, of ``mlp`` alone.
        dropout: one rate for all hidden layers or a list, one for each.
    """

    factors: int = Field(default=50, ge=1)
    bias: bool = True
    kind: Literal["dot", "mlp"] = "dot"
    y_range: tuple[Finite, Finite] | Literal["auto"] | None = None
    init_std: float = Field(default=0.03, gt=0.0)
    layers: Sizes = ()
    dropout: float | tuple[float, ...] = 0.0

    @model_validator(mode="after")
    def _check_shape(self) -> Self:
        if self.kind == "mlp" and not self.layers:
            raise ValueError("network.kind 'mlp' needs layers, such as [100]")
        if self.kind == "dot" and (self.layers or self.dropout):
            raise ValueError("network.layers and network.dropout are of the kind 'mlp': set network.kind to it")
        rates = self.dropout if isinstance(self.dropout, tuple) else (self.dropout,)
        if any(not 0.0 <= rate < 1.0 for rate in rates):
            raise ValueError(f"network.dropout must lie in [0, 1), got {self.dropout}")
        if isinstance(self.dropout, tuple) and len(rates) != len(self.layers):
            raise ValueError(f"network.dropout lists {len(rates)} rates for {len(self.layers)} layers")
        if isinstance(self.y_range, tuple) and self.y_range[0] >= self.y_range[1]:
            raise ValueError(f"network.y_range must rise, got {list(self.y_range)}")
        return self


class Penalty(Options):
    """Pull of the vectors towards 0, as much of it as a user or an item has ratings.

    The classic objective of matrix factorisation (Koren, Bell & Volinsky 2009, "Matrix factorization techniques for
    recommender systems"): each rating's loss has the squares of the vectors that it concerns. Weight decay, in
    contrast, pulls a user with one rating as hard as one with a thousand.

    Attributes:
        factors: of the squared length of a user's and an item's own vector, and of each one's sum over its features.
        biases: of their squared biases.
    """

    factors: float = Field(default=0.0, ge=0.0)
    biases: float = Field(default=0.0, ge=0.0)


class RatingsTraining(TrainingOptions):
    """How to train the networks; the reported ``train_loss`` is without the ``penalty``."""

    loss: Literal["mse", "l1", "huber"] = "mse"
    penalty: Penalty = Penalty()


class BaselineOptions(Options):
    """Damped biases (:func:`.evaluation.fit_biases`): numbers of ratings equal to the mean that are added."""

    user_damping: float = Field(default=5.0, ge=0.0)
    item_damping: float = Field(default=10.0, ge=0.0)


class RankingOptions(Options):
    """How lists of recommendations are scored: their length, and the rating from which an item is relevant.

    Of events without ratings (``columns.rating: null``) every held-out one is relevant.
    """

    k: int = Field(default=10, ge=1)
    relevant: float = 4.0


class EaseOptions(Options):
    """Settings of :class:`.rankers.Ease`; of several ridge penalties the best on the inner split is taken.

    EASE takes 12 bytes for each pair of items: of more than ``max_items`` it is left out, or refused where it is asked
    for.
    """

    penalty: Positive = (30.0, 100.0, 300.0, 1000.0)
    max_items: int = Field(default=15_000, ge=1)


class AlsOptions(Options):
    """Settings of :class:`.rankers.Als`; all combinations of the lists are tried on the inner split."""

    factors: Sizes = Field(default=(16, 32, 64), min_length=1)
    penalty: Positive = (3.0, 10.0, 30.0)
    alpha: NotNegative = (1.0,)
    iterations: int = Field(default=10, ge=1)
    seed: int = 0


class ItemKnnOptions(Options):
    """Settings of :class:`.rankers.ItemKnn`; all combinations of the lists are tried on the inner split."""

    neighbours: Sizes = Field(default=(10, 30, 100), min_length=1)
    shrinkage: NotNegative = (0.0, 10.0)


class FactorsTraining(FitOptions):
    """One training of :class:`.factors.FactorNetwork`, on the CPU in float32.

    Attributes:
        factors: length of a vector.
        negatives: items that each user's wanted ones are ranked against in a step; all, where there are no more.
        item_dropout: share of the items that have their features alone in a step.
        batch_size: users.
        weight_decay: pull of all vectors towards 0.
    """

    factors: int = Field(default=32, ge=1)
    negatives: int = Field(default=4096, ge=1)
    item_dropout: float = Field(default=0.1, ge=0.0, lt=1.0)
    epochs: int = Field(default=30, ge=1)
    batch_size: int = Field(default=128, ge=1)
    lr: float = Field(default=0.01, gt=0.0)
    weight_decay: float = Field(default=3.0, ge=0.0)
    eps: float = Field(default=1e-8, gt=0.0)  # the gradient of one vector is small: of few users of a batch
    momentum: tuple[float, float] | None = None
    device: Literal["cpu"] = "cpu"
    precision: Literal["fp32"] = "fp32"


class FactorsOptions(Options):
    """Settings of :class:`FactorsTraining`; all combinations of the lists are tried on the inner split."""

    factors: Sizes = Field(default=(32,), min_length=1)
    weight_decay: NotNegative = (0.1, 0.3, 1.0, 3.0)
    negatives: int = Field(default=4096, ge=1)
    item_dropout: float = Field(default=0.1, ge=0.0, lt=1.0)
    epochs: int = Field(default=30, ge=1)
    batch_size: int = Field(default=128, ge=1)
    lr: float = Field(default=0.01, gt=0.0)
    seed: int = 0


class InnerSplit(Options):
    """The training rows on which settings of rankers are compared; of the split ``latest`` or ``time`` it is that.

    Ways to rank items without training ratings are compared without this ``fraction`` of the items.
    """

    fraction: float = Field(default=0.2, gt=0.0, lt=1.0)
    seed: int = 0


class RankerOptions(Options):
    """The rankers that are compared, and their settings: numbers, or lists to choose from.

    Attributes:
        compared: popularity is compared in any case; ``rating``, the predicted ratings, takes the training of one more
            network, that of the first seed, on the inner split.
        recency: a choice counts ``(1 + later choices of the user) ** -recency`` when the items are scored, where rows
            have times; rankers learn from all alike. It is tried with every ranker and setting.
    """

    compared: tuple[Literal["ease", "als", "item_knn", "factors", "rating"], ...] = (
        *("ease", "als", "item_knn", "factors", "rating"),
    )
    inner: InnerSplit = InnerSplit()
    recency: NotNegative = (0.0, 0.25, 0.5, 1.0)
    ease: EaseOptions = EaseOptions()
    als: AlsOptions = AlsOptions()
    item_knn: ItemKnnOptions = ItemKnnOptions()
    factors: FactorsOptions = FactorsOptions()


class ColdStartOptions(Options):
    """The cold-start measurement of new users and new items.

    ``fraction`` of the users, and of the items, are held out from a model of its own, chosen by ``seed``; each number
    ``given`` of known ratings of a new user is measured.
    """

    fraction: float = Field(default=0.1, gt=0.0, lt=1.0)
    seed: int = 0
    given: tuple[Annotated[int, Field(ge=1)], ...] = Field(default=(1, 3, 5, 10), min_length=1)


class FoldInOptions(Options):
    """Ridge penalty of the vector of a new user, on top of the penalty of the training.

    The training's penalty grows with the number of ratings; alone it lets one rating decide the whole vector. The
    defaults were best for 3 to 10 known ratings of users held out inside the training split of ml-100k.

    Attributes:
        factors: multiple of the vector's squared length that is added to the sum of squared errors.
        biases: the same of the squared bias; of the bias alone it is the number of ratings of 0 that count beside
            the user's own, the damping of :class:`.options.BaselineOptions`.
        iterations: Gauss-Newton steps at most, of models with a sigmoid or with hidden layers; a plain product needs
            but one.
    """

    factors: float = Field(default=2.0, gt=0.0)
    biases: float = Field(default=6.0, gt=0.0)
    iterations: int = Field(default=12, ge=1)


class RecommendationOptions(Options):
    """Numbers of recommended items and of nearest items, the users to recommend to, and what ranks the items.

    Attributes:
        ranker: one of :mod:`.rankers`; ``factors``, of :mod:`.factors`; ``rating``: the predicted ratings; ``auto``:
            the best of ``rankers.compared`` and popularity by the NDCG on an inner split of the training rows.
    """

    k: int = Field(default=10, ge=1)
    ranker: Literal["auto", "ease", "als", "item_knn", "factors", "popularity", "rating"] = "auto"
    users: Literal["all"] | tuple[Id, ...] = "all"
    neighbours: int = Field(default=10, ge=1)


class RatingReport(Options):
    """Sizes of the plots.

    Attributes:
        biases: items with the highest bias, and as many with the lowest.
        map_items: of the most rated items in the picture of the two main components.
        crosstab: most active users and most rated items in the crosstab.
        min_ratings: an item with fewer training ratings is in no plot.
    """

    biases: int = Field(default=15, ge=1)
    map_items: int = Field(default=50, ge=2)
    crosstab: int = Field(default=15, ge=2)
    min_ratings: int = Field(default=1, ge=1)


class CrossValidationOptions(Options):
    """Hold out the rows of one value of ``column`` after another; of all of its values unless ``values`` lists some."""

    column: str = "fold"
    values: tuple[bool | int | str, ...] | None = None
