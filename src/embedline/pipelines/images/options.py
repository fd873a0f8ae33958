"""Settings of the image learner: targets, preparation, networks, augmentation, training, predictions, report."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, ConfigDict, Field, RootModel, field_validator, model_validator

from embedline.training.options import EarlyStopping, FitOptions, MemberOptions, Options, Sizes

Resize = Literal["squish", "crop", "pad"]


def _as_pair(value: Any) -> Any:
    return (value, value) if isinstance(value, int) and not isinstance(value, bool) else value


Size = Annotated[tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]], BeforeValidator(_as_pair)]
"""Height and width in pixels: a pair, or one number for a square."""


class Targets(RootModel[tuple[str, ...]]):
    """``params:<source>.targets``: the columns that one network predicts; the first one decides on the splits."""

    model_config = ConfigDict(frozen=True)

    @field_validator("root")
    @classmethod
    def _check(cls, targets: tuple[str, ...]) -> tuple[str, ...]:
        if not targets or len(set(targets)) < len(targets):
            raise ValueError(f"targets lists one column or more, each once, such as [label], got {list(targets)}")
        return targets

    def __iter__(self) -> Iterator[str]:  # type: ignore[override]
        return iter(self.root)


class PreparationOptions(Options):
    """How files become arrays.

    Attributes:
        on_bad_image: what to do with a file that is no readable picture: end the run, or leave it out with a warning.
        max_pixels: a picture with more is a bad one; its size is read from its header, before it is decoded.
        processes: that decode; None: one for each core.
    """

    on_bad_image: Literal["error", "skip"] = "error"
    max_pixels: int = Field(default=100_000_000, ge=1)
    processes: int | None = Field(default=None, ge=1)


class ImageShape(Options):
    """The shape in which pictures reach a network.

    Attributes:
        size: of the network's input.
        item_size: of the stored pictures, from which augmentation cuts and turns its views; None: ``size``.
        resize: ``squish`` to it, ``crop`` the middle, or ``pad`` with black.
    """

    size: Size = (32, 32)
    item_size: Size | None = None
    resize: Resize = "squish"

    @model_validator(mode="after")
    def _check_sizes(self) -> Self:
        if any(item < side for item, side in zip(self.stored, self.size, strict=True)):
            raise ValueError(f"item_size {list(self.stored)} must not be smaller than size {list(self.size)}")
        return self

    @property
    def stored(self) -> tuple[int, int]:
        """Height and width of the stored pictures."""
        return self.item_size or self.size

    @property
    def key(self) -> str:
        """Name of the stored array, such as ``squish_32x32``."""
        return f"{self.resize}_{self.stored[0]}x{self.stored[1]}"


class Architecture(ImageShape):
    """A network, and the shape of its input.

    Attributes:
        arch: ``resnet9`` or ``airbench``, for small pictures, or the name of an architecture of timm.
        width: channels of the first block of ``resnet9`` and ``airbench``; the others have multiples of it.
        weights: of the body: ``pretrained``, which timm downloads, or the path of a file (safetensors, or a state
            dictionary of PyTorch), matched by name or, where all shapes agree, by order. None: random ones.
        layers: hidden layers of the head; ``[]``: a linear layer alone.
        dropout: rate before each linear layer of the head: one for all, or a list (``layers`` and the output).
        mean, std: of the channels, from 0 to 1; None: those of the training pictures, or of timm's weights.
        weight: of its probabilities in the average of all members.
    """

    arch: str = "resnet9"
    width: int = Field(default=64, ge=1)
    weights: str | None = None
    layers: Sizes = ()
    dropout: float | tuple[float, ...] = 0.0
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    weight: float = Field(default=1.0, gt=0.0, allow_inf_nan=False)

    def rates(self) -> tuple[float, ...]:
        """Dropout rate before each linear layer of the head."""
        return self.dropout if isinstance(self.dropout, tuple) else (self.dropout,) * (len(self.layers) + 1)

    @model_validator(mode="after")
    def _check_rates(self) -> Self:
        if len(self.rates()) != len(self.layers) + 1 or not all(0.0 <= rate < 1.0 for rate in self.rates()):
            raise ValueError(f"dropout needs {len(self.layers) + 1} rate(s) in [0, 1), got {list(self.rates())}")
        return self


class NetworkOptions(Architecture):
    """``params:<source>.network``: one architecture, or ``members`` of an ensemble, which change some of its keys."""

    members: tuple[dict[str, Any], ...] = ()

    def architectures(self) -> list[Architecture]:
        """The members; the block itself where there are none."""
        shared = self.model_dump(exclude={"members"})
        return [Architecture(**{**shared, **member}) for member in self.members or ({},)]

    @model_validator(mode="after")
    def _check_members(self) -> Self:
        self.architectures()
        return self


class AugmentationOptions(Options):
    """Random changes of training pictures, drawn anew for each picture and epoch (:mod:`.augmentation`).

    Attributes:
        flip: mirror left and right. ``alternate``: every picture is mirrored in every other epoch, half of them in the
            first (Jordan 2024, arXiv:2404.00498).
        shift: move by up to so many pixels of the input, up or down and left or right; what enters is mirrored.
        rotate: turn by up to so many degrees.
        zoom: cut a view with a side between this and 1 times that of the picture, 1 being all of it.
        brightness, contrast: change by a factor of ``1 ± x``.
        cutout: side in pixels of a square that is greyed; 0: none.
        mixup, cutmix: parameter of the beta distribution by which a picture and its labels are mixed with another one's
            (Zhang et al. 2018, arXiv:1710.09412; Yun et al. 2019, arXiv:1905.04899); 0: not. One of them at most.
    """

    flip: Literal["none", "random", "alternate"] = "random"
    shift: int = Field(default=2, ge=0)
    rotate: float = Field(default=0.0, ge=0.0, le=180.0)
    zoom: float = Field(default=1.0, gt=0.0, le=1.0)
    brightness: float = Field(default=0.0, ge=0.0, lt=1.0)
    contrast: float = Field(default=0.0, ge=0.0, lt=1.0)
    cutout: int = Field(default=0, ge=0)
    mixup: float = Field(default=0.0, ge=0.0)
    cutmix: float = Field(default=0.0, ge=0.0)

    @field_validator("flip", mode="before")
    @classmethod
    def _as_name(cls, flip: Any) -> Any:
        return {True: "random", False: "none"}.get(flip, flip) if isinstance(flip, bool) else flip

    @model_validator(mode="after")
    def _check_mixing(self) -> Self:
        if self.mixup and self.cutmix:
            raise ValueError("mixup and cutmix are two ways to mix pictures: set one of them to 0")
        return self

    @property
    def warps(self) -> bool:
        """Whether views need interpolation: a flip and a shift by whole pixels do not."""
        return self.rotate > 0.0 or self.zoom < 1.0


class Stage(Options):
    """A stage of a training: ``epochs`` at ``lr`` with the last ``unfrozen`` layer groups learning; null: all."""

    unfrozen: int | None = Field(default=None, ge=1)
    epochs: int = Field(ge=1)
    lr: float = Field(gt=0.0)


class ImageTraining(MemberOptions):
    """How to train the networks: a network for each architecture and each of ``seeds``.

    Attributes:
        stages: instead of ``epochs`` at ``lr``: gradual unfreezing. Batch-norm of a frozen group keeps its statistics.
        rate_decay: learning rate of a layer group divided by that of the group below it (nearer the input).
        precompute: compute the activations of a frozen body once, and train the head on them in the first stage, with
            ``unfrozen: 1``; without augmentation, since it changes the pictures.
        label_smoothing: share of a target's probability that all classes have alike.
        class_weights: weigh the loss of a picture by the inverse frequency of its class.
        early_stopping: monitors the loss of the split ``validation``.
    """

    stages: tuple[Stage, ...] | None = Field(default=None, min_length=1)
    rate_decay: float = Field(default=3.0, ge=1.0)
    precompute: bool = False
    label_smoothing: float = Field(default=0.0, ge=0.0, lt=1.0)
    class_weights: bool = False
    early_stopping: EarlyStopping | None = None
    batch_size: int = Field(ge=2)  # batch-norm takes two

    def of_stage(self, stage: Stage) -> FitOptions:
        """Settings for training one stage."""
        shared = self.model_dump(include=set(FitOptions.model_fields) - {"epochs", "lr"})
        return FitOptions(**shared, epochs=stage.epochs, lr=stage.lr)

    def all_stages(self) -> tuple[Stage, ...]:
        """The stages; one of all layers where none are set."""
        return self.stages or (Stage(epochs=self.epochs, lr=self.lr),)

    @model_validator(mode="after")
    def _check_stages(self) -> Self:
        if self.precompute and (self.stages is None or self.stages[0].unfrozen != 1):
            raise ValueError("precompute needs stages whose first one has unfrozen: 1, the head alone")
        return self


class TestTimeOptions(Options):
    """Predictions as the mean over views: the picture, and ``n`` random views like those of the training.

    Attributes:
        weight: of the picture itself in the mean; the random views share the rest. None: all views count the same.
        flip: add the mirrored picture, without chance; ``n`` may be 0.
        seed: of the random views.
    """

    n: int = Field(default=0, ge=0)
    flip: bool = False
    weight: float | None = Field(default=None, gt=0.0, le=1.0)
    seed: int = Field(default=0, ge=0)


class BaselineOptions(Options):
    """Multinomial regression on pixels: ``size`` of the pictures, ``c``, the inverse strength of its L2 penalty."""

    size: Size = (8, 8)
    c: float = Field(default=0.1, gt=0.0, allow_inf_nan=False)
    max_iterations: int = Field(default=200, ge=1)


class ReportOptions(Options):
    """Number of mistakes to list, of pictures in a grid, of neighbours, and bins of equal width of confidence."""

    mistakes: int = Field(default=50, ge=0)
    pictures: int = Field(default=24, ge=1)
    neighbours: int = Field(default=5, ge=1)
    calibration_bins: int = Field(default=15, ge=1)
