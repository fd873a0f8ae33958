"""Settings of the text networks, of their training, predictions and samples, validated before the first node runs."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, ConfigDict, Field, RootModel, field_validator, model_validator

from embedline.training.options import EarlyStopping, FitOptions, OptimizerOptions, Options, SeedOptions, Sizes

Preset = Literal["dl1", "ulmfit", "auto"]
Direction = Literal["forward", "backward"]
DIRECTIONS: tuple[Direction, ...] = ("forward", "backward")
AUTO = 0  # what `auto` is read as, where a number stands: see pipelines.text.automatic


def _read_auto(value: Any) -> Any:
    if value == "auto":
        return AUTO
    if isinstance(value, int | float) and not isinstance(value, bool) and value == AUTO:
        raise ValueError(f"must be above 0, or auto, got {value}")
    return value


def _read_stages(value: Any) -> Any:
    if value == "auto":
        return ()
    if isinstance(value, list | tuple) and not value:
        raise ValueError("must have a stage at least, or be auto")
    return value


Count = Annotated[int, BeforeValidator(_read_auto), Field(ge=0)]
Rate = Annotated[float, BeforeValidator(_read_auto), Field(ge=0.0)]
ChangedRates = dict[Literal["input", "embedding", "weight", "hidden", "output"], float]


class Classes(RootModel[tuple[str, ...]]):
    """``params:<source>.classes``: the labels as text, in the order of the model's outputs; empty: no classifier.

    Integers become text, since labels in files are text. Other types are an error, since YAML changes the values:
    ``no`` and ``off`` become ``False``, and ``1.50`` becomes ``1.5``.
    """

    model_config = ConfigDict(frozen=True)

    @field_validator("root", mode="before")
    @classmethod
    def _as_text(cls, labels: Any) -> tuple[str, ...]:
        if not isinstance(labels, list | tuple):
            raise ValueError(f"classes must be a list of labels, such as [neg, pos], got {labels!r}")
        for label in labels:
            if isinstance(label, bool) or not isinstance(label, str | int):
                raise ValueError(
                    f"classes lists {label!r}, which YAML reads as {type(label).__name__}, not as text: "
                    'quote the labels as they stand in the file, such as ["no", "yes"]'
                )
        return tuple(map(str, labels))

    def __iter__(self) -> Iterator[str]:  # type: ignore[override]
        return iter(self.root)


class Directions(RootModel[tuple[Direction, ...]]):
    """``params:<source>.directions``: the directions in which networks read, each with its own language model.

    ``[forward]``, or ``[forward, backward]``: the second reads the tokens of a document in reverse order (Howard &
    Ruder 2018, §3.4). As text, since Kedro's command line takes no lists: ``forward`` or ``both``.
    """

    model_config = ConfigDict(frozen=True)

    root: tuple[Direction, ...] = ("forward",)

    @field_validator("root", mode="before")
    @classmethod
    def _as_names(cls, given: Any) -> tuple[str, ...]:
        names = {"both": DIRECTIONS, "forward": DIRECTIONS[:1]}.get(given) if isinstance(given, str) else given
        if not isinstance(names, list | tuple) or tuple(names) not in (DIRECTIONS, DIRECTIONS[:1]):
            choices = "[forward] or [forward, backward] (at the command line: forward or both)"
            raise ValueError(f"directions must be {choices}, got {given!r}")
        return tuple(names)

    def __iter__(self) -> Iterator[Direction]:  # type: ignore[override]
        return iter(self.root)


class Rates(Options):
    """Dropout rates of an encoder and of the layer after it (``output``)."""

    input: float = Field(ge=0.0, lt=1.0)
    embedding: float = Field(ge=0.0, lt=1.0)
    weight: float = Field(ge=0.0, lt=1.0)
    hidden: float = Field(ge=0.0, lt=1.0)
    output: float = Field(ge=0.0, lt=1.0)


# dl1: the notebook lesson4-imdb of 2017; ulmfit: fastai v2's awd_lstm_lm_config and awd_lstm_clas_config; auto: dl1,
# until a corpus is there to choose for.
SIZES: dict[str, dict[str, int]] = {
    "dl1": {"embedding_size": 200, "hidden_size": 500, "n_layers": 3},
    "ulmfit": {"embedding_size": 400, "hidden_size": 1152, "n_layers": 3},
}
LANGUAGE_MODEL_RATES = {
    "dl1": Rates(input=0.05, embedding=0.02, weight=0.1, hidden=0.05, output=0.05),
    "ulmfit": Rates(input=0.25, embedding=0.02, weight=0.2, hidden=0.15, output=0.1),
}
CLASSIFIER_RATES = {
    "dl1": Rates(input=0.4, embedding=0.05, weight=0.5, hidden=0.3, output=0.1),
    "ulmfit": Rates(input=0.4, embedding=0.05, weight=0.5, hidden=0.3, output=0.4),
}
SIZES["auto"] = SIZES["dl1"]
LANGUAGE_MODEL_RATES["auto"], CLASSIFIER_RATES["auto"] = LANGUAGE_MODEL_RATES["dl1"], CLASSIFIER_RATES["dl1"]


class EncoderOptions(Options):
    """Sizes and dropout rates of an :class:`.awd_lstm.Encoder`; all are required."""

    embedding_size: int = Field(ge=1)
    hidden_size: int = Field(ge=1)
    n_layers: int = Field(ge=1)
    rates: Rates


class PretrainedOptions(Options):
    """``params:<source>.pretrained``: addresses or paths of language models to start from, by direction of reading.

    One address alone is that of the forward model.
    """

    forward: str | None = None
    backward: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _forward_alone(cls, value: Any) -> Any:
        return {"forward": value} if isinstance(value, str) else value

    def addresses(self) -> dict[str, str]:
        """The addresses that are given, by direction."""
        return {direction: address for direction, address in self if address is not None}


class LanguageModelOptions(Options):
    """A language model: a preset with optional changes of its sizes and rates; ``drop_mult`` multiplies all rates.

    The preset ``auto`` has the sizes and rates that suit the number of training tokens (:mod:`.automatic`).
    """

    model_config = ConfigDict(protected_namespaces=())

    preset: Preset = "ulmfit"
    embedding_size: int | None = Field(default=None, ge=1)
    hidden_size: int | None = Field(default=None, ge=1)
    n_layers: int | None = Field(default=None, ge=1)
    dropout: ChangedRates = Field(default={})
    drop_mult: float = Field(default=1.0, ge=0.0)
    decoder_bias: bool | None = None

    def encoder(self) -> EncoderOptions:
        """Options of the encoder."""
        changed = {name: getattr(self, name) for name in SIZES[self.preset] if getattr(self, name) is not None}
        rates = _rates(LANGUAGE_MODEL_RATES[self.preset], self.dropout, self.drop_mult)
        return EncoderOptions(**{**SIZES[self.preset], **changed}, rates=rates)

    @property
    def has_bias(self) -> bool:
        """Whether the decoder has a bias: not in dl1, unless it is set."""
        return self.preset != "dl1" if self.decoder_bias is None else self.decoder_bias

    @model_validator(mode="after")
    def _check_rates(self) -> Self:
        self.encoder()
        return self


class ClassifierOptions(Options):
    """The head on the language model's encoder, and the dropout rates of encoder and head.

    Attributes:
        layers: sizes of the head's hidden layers: a list, or a number for one layer.
        head_dropout: rate before each linear layer of the head: one for all, or a list (``layers`` and the output). By
            default the first rate is the preset's output rate times ``drop_mult``, and the others are 0.1.
        bptt: tokens that the gradient flows back through; a document is read in chunks of this length.
        max_tokens: tokens at the end of a document whose outputs are pooled; earlier ones only change the state.
    """

    preset: Preset = "ulmfit"
    dropout: ChangedRates = Field(default={})
    drop_mult: float = Field(default=0.5, ge=0.0)
    layers: Sizes = (50,)
    head_dropout: float | tuple[float, ...] | None = None
    bptt: int = Field(default=70, ge=1)
    max_tokens: int = Field(default=1400, ge=1)

    def rates(self) -> Rates:
        """Dropout rates of the encoder."""
        return _rates(CLASSIFIER_RATES[self.preset], self.dropout, self.drop_mult)

    def head_rates(self) -> tuple[float, ...]:
        """Dropout rate before each linear layer of the head."""
        n_linear = len(self.layers) + 1
        if self.head_dropout is None:
            return (self.rates().output, *[0.1] * (n_linear - 1))
        if isinstance(self.head_dropout, tuple):
            return self.head_dropout
        return (self.head_dropout,) * n_linear

    @model_validator(mode="after")
    def _check_rates(self) -> Self:
        rates = self.head_rates()
        if len(rates) != len(self.layers) + 1:
            raise ValueError(
                f"head_dropout needs {len(self.layers) + 1} rates, one before each linear layer (layers and the "
                f"output), got {list(rates)}"
            )
        if not all(0.0 <= rate < 1.0 for rate in rates):
            raise ValueError(f"head_dropout lies in [0, 1), got {list(rates)}")
        return self


def _rates(preset: Rates, changed: dict[Any, float], factor: float) -> Rates:
    rates = Rates(**{**preset.model_dump(), **changed})  # valid before they are multiplied, too
    return Rates(**{name: rate * factor for name, rate in rates.model_dump().items()})


class TextSettings(OptimizerOptions):
    """Settings for training either text network.

    Attributes:
        alpha: weight of the activation regularisation (AR), the mean square of the last layer's outputs.
        beta: weight of the temporal activation regularisation (TAR), the mean square of their differences between
            consecutive tokens.
        early_stopping: monitors the loss of the split ``validation``, whose size is ``split.validation``: it holds out
            no documents of its own.
        threads: PyTorch threads on a CPU; all cores if None.
    """

    betas: tuple[float, float] = (0.7, 0.99)
    momentum: tuple[float, float] | None = (0.8, 0.7)
    weight_decay: float = Field(default=0.01, ge=0.0)
    alpha: float = Field(default=2.0, ge=0.0)
    beta: float = Field(default=1.0, ge=0.0)
    early_stopping: EarlyStopping | None = None
    threads: int | None = Field(default=None, ge=1)


class Stage(Options):
    """A stage of gradual unfreezing (Howard & Ruder 2018, §3.3), with a schedule of its own.

    Attributes:
        unfrozen: number of trained layer groups, counted from the last one: 1 is only a classifier's head, or a
            language model's embedding and decoder; null: all.
        lr: peak learning rate of the last layer group.
    """

    unfrozen: int | None = Field(default=None, ge=1)
    epochs: int = Field(ge=1)
    lr: float = Field(gt=0.0)


class LanguageModelTraining(TextSettings, FitOptions):
    """Settings for training a language model; ``batch_size`` is the number of parallel rows of the token stream.

    Attributes:
        bptt: tokens of each row in a batch.
        random_bptt: draw the lengths around ``bptt`` (95 %) or half of it (5 %), with a standard deviation of 5, and
            scale the learning rate in proportion (Merity et al. 2017, §4.1); false: fixed lengths.
        tokens_per_epoch: training tokens of an epoch, a random choice of documents; None: all.
        softmax: ``full``, or ``sampled``: each batch's loss is estimated from ``sampled_words`` words of the vocabulary
            (:mod:`.sampled_softmax`), several times as fast on a CPU. Evaluations use the full vocabulary.
        sampled_words: words of a batch's estimate; a vocabulary that has no more is used in full.
        seed: a single one: there is no ensemble of language models, since a classifier starts from one network.
        stages: gradual unfreezing instead of ``epochs`` at ``lr``, for a pretrained language model; None: one schedule.
        epochs, batch_size, lr: a number, or ``auto``: what suits the corpus (:mod:`.automatic`), as by default for
            batch_size and lr. With ``epochs: auto`` the other settings that are not given are chosen, too.
        rate_decay: in stages, the learning rate of a layer group divided by that of the group below it.
    """

    epochs: Count
    batch_size: Count = AUTO
    lr: Rate = AUTO
    bptt: int = Field(default=70, ge=2)
    random_bptt: bool = False
    tokens_per_epoch: int | None = Field(default=None, ge=1)
    softmax: Literal["full", "sampled"] = "full"
    sampled_words: int = Field(default=1024, ge=1)
    seed: int = 42
    stages: tuple[Stage, ...] | None = Field(default=None, min_length=1)
    rate_decay: float = Field(default=2.6, ge=1.0)

    def of_stage(self, stage: Stage) -> "LanguageModelTraining":
        """Settings for training one stage."""
        return self.model_copy(update={"stages": None, "epochs": stage.epochs, "lr": stage.lr})


class StageTraining(TextSettings, FitOptions):
    """Settings for training one stage."""


class ClassifierTraining(SeedOptions, TextSettings):
    """Settings for fine-tuning a classifier: each of ``stages`` has its trained layer groups, epochs and learning rate.

    Each of ``seeds`` trains a classifier from the same language model; ``weights`` average their probabilities. With
    ``early_stopping`` each stage may end early, and the next stage starts from its best epoch.

    Attributes:
        batch_size: two documents at least, for batch-norm; or ``auto``.
        stages: or ``auto``: what suits the corpus (:mod:`.automatic`); the other settings that are not given are then
            chosen, too.
        rate_decay: learning rate of a layer group divided by that of the group below it (nearer the input).
    """

    batch_size: Count = AUTO
    stages: Annotated[tuple[Stage, ...], BeforeValidator(_read_stages)]
    rate_decay: float = Field(default=2.6, ge=1.0)

    @field_validator("batch_size")
    @classmethod
    def _two_for_batch_norm(cls, value: int) -> int:
        if value == 1:
            raise ValueError("must be 2 or more, for batch-norm, got 1")
        return value

    def of_stage(self, stage: Stage) -> StageTraining:
        """Settings for training one stage."""
        shared = self.model_dump(exclude={"stages", "rate_decay", "seeds", "weights"})
        return StageTraining(**shared, epochs=stage.epochs, lr=stage.lr)


class PredictionOptions(Options):
    """Column with the texts; number of the most influential words to list for each row: 0 is far faster."""

    column: str = "text"
    words: int = Field(default=0, ge=0)


class GenerationOptions(Options):
    """How to continue a prompt.

    Attributes:
        n_tokens, n_samples: number of tokens to add, and of continuations to return.
        beams: width of a beam search; None: random sampling instead.
        temperature: divisor of the logits: below 1 more likely tokens, above 1 less likely ones, 0 always the most
            probable token.
        top_k: draw only from the ``top_k`` most probable tokens; None: from all.
        min_p: draw only from tokens with ``p >= min_p * max(p)`` (Nguyen et al. 2024, arXiv 2407.01082).
        seed: of the draws; the same seed gives the same text.
        length_penalty: exponent of Wu et al. 2016; above 0 it favours longer beams. It matters only if beams may end.
        stop: end the text where the model ends the document; otherwise it continues with another document.
        never: tokens that are not drawn; None: the unknown and the padding token.
    """

    n_tokens: int = Field(default=50, ge=1)
    n_samples: int = Field(default=1, ge=1)
    beams: int | None = Field(default=None, ge=1)
    temperature: float = Field(default=1.0, ge=0.0, allow_inf_nan=False)
    top_k: int | None = Field(default=None, ge=1)
    min_p: float = Field(default=0.0, ge=0.0, le=1.0)
    seed: int = Field(default=0, ge=0)
    length_penalty: float = Field(default=0.0, ge=0.0, allow_inf_nan=False)
    stop: bool = False
    never: tuple[str, ...] | None = None

    @model_validator(mode="after")
    def _check_beams(self) -> Self:
        if self.beams is None:
            if self.length_penalty:
                raise ValueError("length_penalty is a setting of the beam search: give beams too")
            return self
        if self.n_samples > self.beams:
            raise ValueError(f"{self.beams} beams give no {self.n_samples} samples: raise beams or lower n_samples")
        drawn = {"temperature": self.temperature != 1.0, "top_k": self.top_k is not None, "min_p": self.min_p > 0.0}
        if any(drawn.values()):
            names = ", ".join(name for name, given in drawn.items() if given)
            raise ValueError(f"a beam search draws nothing at random: leave out {names}, or beams")
        return self


class SampleOptions(Options):
    """Texts to continue (an empty one is the start of a document), and how many of the next words to list for each."""

    prompts: tuple[str, ...] = Field(default=("",), min_length=1)
    next_words: int = Field(default=10, ge=1)
    options: GenerationOptions = GenerationOptions()
