"""The project's own commands: an incremental `kedro run`, whose errors are one line where the user can fix them."""

import copy
import functools
import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click
from kedro.config import MissingConfigException
from kedro.framework.cli.project import run as kedro_run
from kedro.io import DatasetError
from kedro.validation.exceptions import DataValidationError, ParameterValidationError

from embedline.commands import export, generate, predict, recommend, serve
from embedline.errors import DataError, describe_outage
from embedline.redaction import redacted
from kedro_incremental import RunInterrupted, RunnerError
from kedro_incremental.cli import incremental, prune, why

USER_ERRORS = (DataError, DataValidationError, ParameterValidationError, RunnerError)
# Where Kedro raises a ValueError for a pipeline, node, tag, dataset or namespace that is not there.
KEDRO_SELECTION = {"kedro.framework.session.session", "kedro.pipeline.pipeline"}
INTERRUPTED = 130  # exit status of a shell command that Ctrl-C ended


def _replace_what_the_console_lacks() -> None:
    """Have a console that is not UTF-8 show ``?`` for what it cannot: an arrow in a table must not end a run."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors in ("strict", "surrogateescape"):
            stream.reconfigure(errors="replace")


_replace_what_the_console_lacks()  # here, since both `kedro` and `embedline` import this module before they print


@click.group(name="embedline")
def cli() -> None:
    """Commands of the project."""


@contextmanager
def _launched() -> Iterator[bool]:
    """Whether this process runs the command: not where a launcher such as ``torchrun`` started it beside another."""
    if "MASTER_ADDR" not in os.environ:  # every other command is spared the import of PyTorch
        yield True
        return
    from embedline.training.distributed import launched

    with launched() as runs:
        yield runs


def _in_one_line(command: click.Command) -> click.Command:
    guarded = copy.copy(command)
    callback: Callable[..., Any] = command.callback  # type: ignore[assignment]

    @functools.wraps(callback)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            with _launched() as runs:
                return callback(*args, **kwargs) if runs else None
        except DatasetError as error:  # Kedro puts the cause, such as a full disk, on a line of its own
            raise click.ClickException(redacted(" ".join(str(error).splitlines()))) from error
        except USER_ERRORS as error:
            raise click.ClickException(redacted(str(error))) from error
        except MissingConfigException as error:
            where = "call it in the folder that has conf/, or unpack the packaged conf-embedline.tar.gz here"
            raise click.ClickException(f"{' '.join(str(error).split())}: {where}") from error
        except RunInterrupted as error:
            click.echo(f"Stopped: {error}", err=True)
            raise click.exceptions.Exit(INTERRUPTED) from error
        except Exception as error:
            line = describe_outage(error)
            if line is None and isinstance(error, ValueError) and _raised_in(error) in KEDRO_SELECTION:
                line = redacted(" ".join(str(error).split()))
            if line:
                raise click.ClickException(line) from error
            raise

    guarded.callback = call
    return guarded


def _raised_in(error: BaseException) -> str:
    """The module whose code raised an error."""
    trace = error.__traceback__
    while trace and trace.tb_next:
        trace = trace.tb_next
    return str(trace.tb_frame.f_globals.get("__name__")) if trace else ""


run = _in_one_line(incremental(kedro_run))
for _command in (run, *map(_in_one_line, (why, prune, predict, generate, recommend, serve, export))):
    cli.add_command(_command)
