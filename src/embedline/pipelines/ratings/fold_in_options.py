"""How new users are folded in; light to import."""

from pydantic import BaseModel, ConfigDict, Field


class FoldInOptions(BaseModel):
    """What holds the vector of a new user back, beside the penalty of the training: a fixed pull towards 0.

    The training's penalty of a vector grows with its ratings; alone it lets one rating say all about a user. The
    defaults were best for 3 to 10 given ratings of users held out inside the training part of ml-100k.

    Attributes:
        factors: multiple of the vector's squared length that is added to the sum of squared errors.
        biases: the same of the squared bias; of the bias alone it is the number of ratings of 0 that count beside
            the user's own, the damping of :class:`.options.BaselineOptions`.
        iterations: Gauss-Newton steps at most, of models with a sigmoid or with hidden layers; a plain product needs
            but one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    factors: float = Field(default=2.0, gt=0.0)
    biases: float = Field(default=6.0, gt=0.0)
    iterations: int = Field(default=12, ge=1)
