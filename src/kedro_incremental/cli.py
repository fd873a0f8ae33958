"""Command line of the runner: Kedro's ``run`` with an incremental default, ``why`` and ``prune``."""

import copy
import functools
import logging
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click
from kedro.framework.cli.utils import _split_params, env_option
from kedro.framework.project import pipelines
from kedro.utils import load_obj

from .provenance import Removal, explain, find_removals, remove
from .report import make_console
from .runner import IncrementalRunner, manifest_of
from .session import IncrementalSession
from .terminal import LiveLine, log_levels

params_option = click.option(
    "--params",
    type=click.UNPROCESSED,
    default="",
    callback=_split_params,
    help="Runtime parameters of `kedro run`.",
)


def incremental(run: click.Command) -> click.Command:
    """Kedro's ``run`` command with the incremental runner as its default, and its options.

    A termination signal ends the run as Ctrl-C does, with what is finished kept.
    """
    changed = copy.copy(run)
    changed.params = [
        *run.params,
        click.Option(["--force"], is_flag=True, help="Run every node, also the unchanged ones."),
        click.Option(["--dry-run"], is_flag=True, help="Show what would run and why, and run nothing."),
        click.Option(["--touch"], help="Record that what changed of these nodes does not matter, and run nothing."),
        click.Option(["--verbose"], is_flag=True, help="Show each load, save and message, and why each node ran."),
        click.Option(["--quiet"], is_flag=True, help="Show only warnings, errors, and in one line what ran."),
    ]
    kedro_run: Callable[..., Any] = run.callback  # type: ignore[assignment]

    @functools.wraps(kedro_run)
    def callback(*, runner: str | None, runner_params: dict[str, Any], **options: Any) -> Any:
        verbosity = {name: options.pop(name) for name in ("verbose", "quiet")}
        if all(verbosity.values()):
            raise click.UsageError("--verbose and --quiet exclude each other")
        if verbosity["verbose"]:
            log_levels(logging.INFO)
        own = {name: options.pop(name) for name in ("force", "dry_run", "touch")}
        given = {name: value for name, value in own.items() if value}
        if given and runner:
            option = next(iter(given)).replace("_", "-")
            raise click.UsageError(f"--{option} is an option of the incremental runner, not of {runner}")
        if runner:
            try:
                load_obj(runner, "kedro.runner")
            except (AttributeError, ImportError, ValueError) as error:
                raise click.UsageError(f"--runner {runner}: {error}; such as SequentialRunner") from error
        else:
            runner = f"{IncrementalRunner.__module__}.{IncrementalRunner.__qualname__}"
            given["verbosity"] = next((name for name, is_given in verbosity.items() if is_given), "normal")
        live = LiveLine(make_console())
        if not any(verbosity.values()):
            live.show("reading the project ...")
        try:
            with _terminated_as_interrupted():
                return kedro_run(runner=runner, runner_params={**runner_params, **given}, **options)
        finally:
            live.clear()

    changed.callback = callback
    return changed


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():  # only the main thread may handle signals
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@click.command()
@click.argument("dataset")
@click.option("--version", help="Version to explain; the current one unless given.")
@env_option
@params_option
def why(dataset: str, version: str | None, env: str | None, params: dict[str, Any]) -> None:
    """Show what made DATASET: node, reason, code, parameters and inputs."""
    with _session(env, params) as session:
        known = {name for pipeline in pipelines.values() for name in pipeline.all_outputs()}
        tree = explain(manifest_of(session.load_context().catalog), dataset, version, known)
        make_console().print(tree, soft_wrap=True)


@click.command()
@click.option("--keep", type=click.IntRange(min=1), required=True, help="Newest versions of each dataset to keep.")
@click.option("--yes", is_flag=True, help="Delete without asking.")
@env_option
@params_option
def prune(keep: int, yes: bool, env: str | None, params: dict[str, Any]) -> None:
    """Delete old versions that nothing kept was made from; says which, and asks first."""
    with _session(env, params) as session:
        catalog = session.load_context().catalog
        manifest = manifest_of(catalog)
        with manifest.locked(session.session_id, wait=False):
            removals = find_removals(catalog, pipelines.values(), manifest, keep)
            _show_removals(removals)
            if removals and (yes or click.confirm("Delete them?")):
                remove(removals, manifest)
                click.echo(f"Deleted {len(removals)} versions.")


def _session(env: str | None, params: dict[str, Any]) -> Any:
    return IncrementalSession.create(env=env, runtime_params=params)


def _show_removals(removals: list[Removal]) -> None:
    for dataset in sorted({removal.dataset for removal in removals}):
        found = [removal for removal in removals if removal.dataset == dataset]
        size = sum(removal.size for removal in found)
        click.echo(f"{dataset}: {len(found)} versions, {size / 1e6:,.1f} MB: {', '.join(r.version for r in found)}")
    total = sum(removal.size for removal in removals)
    click.echo(f"{len(removals)} versions to delete, {total / 1e6:,.1f} MB")
