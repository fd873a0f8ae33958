"""The project's own `kedro run`: an error that the user can mend is one line, not a traceback."""

import copy
import functools
from collections.abc import Callable
from typing import Any

import click
from kedro.framework.cli.project import run as kedro_run
from kedro.io import DatasetError
from kedro.validation.exceptions import DataValidationError, ParameterValidationError

from embedline.errors import DataError

MENDABLE = (DataError, DataValidationError, DatasetError, ParameterValidationError)


@click.group(name="embedline")
def cli() -> None:
    """Commands of the project."""


def _in_one_line(command: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(command)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except MENDABLE as error:
            raise click.ClickException(str(error)) from error

    return guarded


run = copy.copy(kedro_run)
run.callback = _in_one_line(kedro_run.callback)  # type: ignore[arg-type]
cli.add_command(run)
