"""The errors that a user can mend: one sentence that names the file, column, row or key."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

_INPUTS: ContextVar[Mapping[str, str]] = ContextVar("inputs of the node that runs")


class DataError(ValueError):
    """The data or a setting is at fault, not the code; the message says what to mend and where."""


class FrameError(DataError):
    """A frame that a node takes is at fault.

    The message begins with the frame: "the table" after the node's parameter, until the run puts the name of the
    dataset in (:class:`embedline.hooks.DatasetNames`).

    Args:
        argument: the parameter of the node that takes the frame, such as ``table`` or ``ratings``.
        text: what is wrong, to follow the frame's name.
    """

    def __init__(self, argument: str, text: str) -> None:
        super().__init__(argument, text)
        self.argument, self.text = argument, text
        self.dataset: str | None = None

    def __str__(self) -> str:
        """The whole message."""
        return f"{self.dataset or f'the {self.argument}'}{self.text}"


def name_inputs(names: Mapping[str, str]) -> None:
    """Tell :func:`input_name` the dataset or parameter behind each argument of the node that runs next."""
    _INPUTS.set(names)


def input_name(argument: str) -> str:
    """The dataset or YAML key behind a node's argument, such as ``albums.ratings``; outside of a run the argument."""
    return _INPUTS.get({}).get(argument, argument).removeprefix("params:")


class TrainingError(DataError):
    """A training diverged: its loss, its weights or a metric are not finite.

    Args:
        text: what happened, and when.
        lr: the learning rate of the settings.

    Attributes:
        block: the block of parameters with the settings; the run puts the source's name in
            (:class:`embedline.hooks.DatasetNames`).
    """

    def __init__(self, text: str, lr: float) -> None:
        super().__init__(text, lr)
        self.text, self.lr = text, lr
        self.block = "training"

    def __str__(self) -> str:
        """The whole message."""
        return f"{self.text}. Lower lr in {self.block}, which is {self.lr:g}, or bound the gradient by clip_norm there"


@contextmanager
def about_frame(argument: str) -> Iterator[None]:
    """Turn a DataError raised inside the ``with`` block into a :class:`FrameError` about the node's ``argument``."""
    try:
        yield
    except FrameError:
        raise
    except DataError as error:
        text, name = str(error), f"the {argument}"
        raise FrameError(argument, text.removeprefix(name) if text.startswith(f"{name} ") else f": {text}") from error
