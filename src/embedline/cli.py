"""The project's own commands: an incremental `kedro run`, whose errors are one line where the user can fix them."""

import copy
import difflib
import functools
import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import click
from kedro.config import MissingConfigException
from kedro.framework.cli.project import run as kedro_run
from kedro.io import DatasetError
from kedro.validation.exceptions import DataValidationError, ParameterValidationError

from embedline.commands import export, generate, init, predict, recommend, serve
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


class Commands(click.Group):
    """The project's commands by purpose; a misspelt one gets a suggestion, and a source the command that runs it."""

    purposes: ClassVar = {
        "Train and compare": {
            "init": "make a source of a file: a table, texts or ratings",
            "run": "run sources, or all demos: only what changed",
            "report": "write one HTML page of all results",
            "why": "show what made an artifact",
            "prune": "delete old versions",
        },
        "Ask models": {
            "predict": "rows of a file, texts or pictures",
            "generate": "go on from a prompt",
            "recommend": "items for a user",
            "export": "a table's model as an ONNX file",
        },
        "Into service": {
            "publish": "register a model, as the champion if it is the best",
            "serve": "answer HTTP requests",
        },
    }

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write a section for each purpose."""
        for purpose, lines in self.purposes.items():
            with formatter.section(purpose):
                formatter.write_dl([*lines.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; a UsageError names one that is not there, and what it may have been."""
        if args[0] not in self.commands and not args[0].startswith("-"):
            from kedro.framework.project import pipelines

            near = difflib.get_close_matches(args[0], self.commands, n=1)
            hint = f": did you mean {near[0]!r}?" if near else f"; there are {', '.join(self.commands)}"
            if args[0] in pipelines:
                hint = f", but a source: embedline run {args[0]}"
            raise click.UsageError(f"{args[0]!r} is no command{hint}", ctx)
        return super().resolve_command(ctx, args)


@click.group(name="embedline", cls=Commands)
def cli() -> None:
    """Train, compare and serve neural networks on tables, texts, ratings and pictures."""


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


def _with_sources(command: click.Command) -> click.Command:
    """``run`` with names of sources, or other pipelines, in place of ``--pipelines``."""
    changed = copy.copy(command)
    changed.params = [click.Argument(["sources"], nargs=-1), *command.params]
    changed.help = "Run SOURCES, such as adult, or all of the demos: only what changed since the last run."
    callback: Callable[..., Any] = command.callback  # type: ignore[assignment]

    @functools.wraps(callback)
    def call(*, sources: tuple[str, ...], **options: Any) -> Any:
        if sources and (options["pipelines"] or options["pipeline"]):
            raise click.UsageError("give the names of sources, or --pipelines, not both")
        return callback(**options | ({"pipelines": list(sources)} if sources else {}))

    changed.callback = call
    return changed


run = _in_one_line(_with_sources(incremental(kedro_run)))
_FORWARDED: Any = {"ignore_unknown_options": True}


@click.command(context_settings=_FORWARDED)
@click.argument("options", nargs=-1, type=click.UNPROCESSED)
def report(options: tuple[str, ...]) -> None:
    """Write one HTML page of what is stored of all sources; OPTIONS are those of `run`, such as --env base."""
    run.main(["report", *options], prog_name="embedline run", standalone_mode=False)


@click.command(context_settings=_FORWARDED)
@click.argument("source")
@click.argument("options", nargs=-1, type=click.UNPROCESSED)
def publish(source: str, options: tuple[str, ...]) -> None:
    """Run SOURCE, and register its model, as the champion if it is the best; OPTIONS are those of `run`."""
    run.main([f"{source}_publish", *options], prog_name="embedline run", standalone_mode=False)


for _command in (
    run,
    report,
    publish,
    *map(_in_one_line, (init, why, prune, predict, generate, recommend, serve, export)),
):
    cli.add_command(_command)
