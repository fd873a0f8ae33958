"""The project's own commands: an incremental `kedro run`, whose errors are one line where the user can fix them."""

import copy
import functools
import io
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import click
from kedro.config import MissingConfigException
from kedro.framework.cli.project import run as kedro_run
from kedro.io import DatasetError
from kedro.utils import find_kedro_project
from kedro.validation.exceptions import DataValidationError, ParameterValidationError
from yaml import YAMLError

from embedline.commands import export, generate, init, predict, recommend, serve
from embedline.commands.artifacts import separator_hint
from embedline.errors import DataError, describe_outage, did_you_mean, one_line
from embedline.redaction import redacted
from kedro_incremental import RunInterrupted, RunnerError
from kedro_incremental.cli import incremental, prune, why

USER_ERRORS = (DataError, DataValidationError, ParameterValidationError, RunnerError, YAMLError)
# A dataset in Kedro's words: its class, all its settings, and behind them the cause.
DATASET = re.compile(r"Failed while (load|sav)ing data \w+ dataset \S+?\(.*?filepath=(?:\w+\()?'?([^',)]+).*?\)\. ")
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

            is_source, near = args[0] in pipelines, did_you_mean(args[0], self.commands)
            hint = f", but a source: embedline run {args[0]}" if is_source else near
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
        except DatasetError as error:
            raise click.ClickException(redacted(_about_dataset(error))) from error
        except USER_ERRORS as error:
            raise click.ClickException(redacted(one_line(error))) from error
        except MissingConfigException as error:
            raise click.ClickException(_missing_configuration(error, kwargs.get("env"))) from error
        except RunInterrupted as error:
            click.echo(f"Stopped: {error}", err=True)
            raise click.exceptions.Exit(INTERRUPTED) from error
        except Exception as error:
            line = describe_outage(error)
            if line is None and isinstance(error, ValueError) and _raised_in(error) in KEDRO_SELECTION:
                line = redacted(_misspelt(kwargs) or one_line(error))
            if line:
                raise click.ClickException(line) from error
            raise

    guarded.callback = call
    return guarded


def _about_dataset(error: DatasetError) -> str:
    """Kedro's message with the file in place of the dataset's settings; a cause such as a full disk stays its end."""
    text = one_line(error)
    if not (found := DATASET.search(text)):
        return text
    failed, hint = ("read", separator_hint(found[2])) if found[1] == "load" else ("saved", "")
    return f"{text[: found.start()]}{found[2]} cannot be {failed}: {text[found.end() :]}{hint}"


def _missing_configuration(error: MissingConfigException, env: str | None) -> str:
    """Say which environments there are, or that this is no project's folder."""
    conf = (find_kedro_project(Path.cwd()) or Path.cwd()) / "conf"
    if env is None or not conf.is_dir():
        where = "call it in the folder that has conf/, or unpack the packaged conf-embedline.tar.gz here"
        return f"{one_line(error)}: {where}"
    there = {path.name for path in conf.iterdir() if path.is_dir()} - {"local"}
    return f"--env {env}: {conf} has no such environment{did_you_mean(env, there)}"


def _misspelt(options: Mapping[str, Any]) -> str | None:
    """The first pipeline, node, tag, namespace or dataset of a run that is not there, with the nearest name."""
    from kedro.framework.project import pipelines

    pipelines.set_requested(None)  # all of them
    asked = options.get("sources") or options.get("pipelines") or [options.get("pipeline") or "__default__"]
    nodes = [node for name in asked if name in pipelines for node in pipelines[name].nodes]
    names = {node.name for node in nodes}
    datasets = {name for node in nodes for name in (*node.inputs, *node.outputs)}
    known: dict[str, tuple[str, Any]] = {
        "--nodes": ("node_names", names),
        "--from-nodes": ("from_nodes", names),
        "--to-nodes": ("to_nodes", names),
        "--tags": ("tags", {tag for node in nodes for tag in node.tags}),
        "--namespaces": ("namespaces", {name for node in nodes for name in node.namespace_prefixes}),
        "--from-inputs": ("from_inputs", datasets),
        "--to-outputs": ("to_outputs", datasets),
    }
    if strange := [name for name in asked if name not in pipelines]:
        return f"there is no source or pipeline {strange[0]!r}{did_you_mean(strange[0], set(pipelines))}"
    for option, (key, there) in known.items():
        if strange := [name for name in options.get(key) or () if name not in there]:
            return f"{option} {strange[0]}: {', '.join(asked)} has none of this name{did_you_mean(strange[0], there)}"
    return None


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
