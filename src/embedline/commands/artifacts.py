"""Stored models and their configuration for commands that need no run: no hook is called, MLflow is not imported."""

import os
from pathlib import Path
from typing import Any

import click

from embedline.errors import DataError, did_you_mean

SUFFIXES = (".csv", ".parquet", ".feather")  # of files with rows or texts
version_option = click.option("--version", help="Version of the model; the newest one unless given.")


def load_bundle(
    source: str, kind: str, version: str | None, env: str | None, params: dict[str, Any]
) -> tuple[Any, str]:
    """Bundle ``<source>.<kind>`` and its name for messages; nothing of a run is set up, no hook is called."""
    from kedro.framework.project import settings
    from kedro.io import AbstractVersionedDataset, Version

    name = f"{source}.{kind}"
    env = env or os.environ.get("KEDRO_ENV") or None
    where = env or settings.CONFIG_LOADER_ARGS["default_run_env"]
    catalog = open_catalog(env, params)
    dataset = catalog.get(name)
    if dataset is None:
        raise DataError(f"the catalog of {where} has no {name}")
    if not isinstance(dataset, AbstractVersionedDataset):
        raise DataError(f"{name} in the catalog of {where} is no versioned model")
    if not dataset.exists():
        raise DataError(f"there is no {name} in {where} yet: {how_to_make(name, where)}")
    if version is not None:
        newest = dataset.resolve_load_version()
        dataset = catalog.get(name, version=Version(version, None))
        if not dataset.exists():
            raise DataError(f"{name} has no version {version!r} in {where}; the newest is {newest}")
    return _load(dataset), f"{name} of {where}, version {dataset.resolve_load_version()}"


def load_champion(source: str, alias: str, env: str | None, params: dict[str, Any]) -> tuple[Any, str]:
    """The service of SOURCE that has the alias in MLflow's registry, and its name for messages."""
    dataset = open_catalog(env, params).get(f"{source}.champion")
    dataset.alias = alias
    return _load(dataset), dataset.uri


def load_stored(catalog: Any, name: str, until: str | None = None) -> Any:
    """The newest version of a dataset, None where there is none; not through the catalog, which would log it.

    Args:
        until: none that is newer than this version: what stood when something else was made.
    """
    from kedro.io import Version

    from kedro_incremental.storage import storage_of

    dataset = catalog.get(name)
    storage = storage_of(dataset) if until is not None and dataset is not None else None
    if until is not None and storage is not None and storage.versioned:
        version = next((one for one in storage.versions() if one <= until), None)
        return None if version is None else catalog.get(name, version=Version(version, None)).load()
    return dataset.load() if dataset is not None and dataset.exists() else None


def _load(dataset: Any) -> Any:
    from kedro.io import DatasetError

    try:
        return dataset.load()
    except DatasetError as error:
        if isinstance(error.__cause__, DataError):  # its own line is clear enough without Kedro's around it
            raise DataError(str(error.__cause__)) from error
        raise


def open_catalog(env: str | None, params: dict[str, Any]) -> Any:
    """The catalog of an environment as a session builds it, but no parameters and no hooks: MLflow takes seconds."""
    from kedro.config import MissingConfigException
    from kedro.framework.context.context import _convert_paths_to_absolute_posix
    from kedro.framework.project import settings

    project, loader = _configuration(env, params)
    try:
        credentials = loader["credentials"]
    except MissingConfigException:  # local models need none
        credentials = {}
    entries = _convert_paths_to_absolute_posix(project_path=project, conf_dictionary=loader["catalog"])
    return settings.DATA_CATALOG_CLASS.from_config(catalog=entries, credentials=credentials)


def read_parameters(source: str, env: str | None, params: dict[str, Any]) -> dict[str, Any]:
    """The block of ``source`` in the parameters of an environment; empty where there is none."""
    from embedline.hooks.parameters import require_new_names

    block = _configuration(env, params)[1]["parameters"].get(source, {})
    require_new_names(f"{source}.{name}" for name in block)
    return block if isinstance(block, dict) else {}


def _configuration(env: str | None, params: dict[str, Any]) -> tuple[Path, Any]:
    """The project's folder and its configuration loader for an environment."""
    from kedro.framework.project import settings
    from kedro.utils import find_kedro_project

    project = find_kedro_project(Path.cwd()) or Path.cwd()
    loader = settings.CONFIG_LOADER_CLASS(
        conf_source=str(project / settings.CONF_SOURCE),
        env=env or os.environ.get("KEDRO_ENV") or None,
        runtime_params=params,
        **settings.CONFIG_LOADER_ARGS,
    )
    return project, loader


def how_to_make(name: str, env: str | None) -> str:
    """The run that would make the model, or the sources with models of this kind."""
    from kedro.framework.project import pipelines

    source, kind = name.split(".")
    makers = [maker for maker, pipeline in pipelines.items() if name in pipeline.all_outputs()]
    if makers:
        maker, given = source if source in makers else makers[0], f" --env {env}" if env else ""
        return f"run `kedro run --pipelines {maker}{given}` first"
    known = {output for pipeline in pipelines.values() for output in pipeline.all_outputs()}
    models = [output for output in known if output.endswith(f".{kind}")]
    return f"no pipeline makes it{did_you_mean(source, {model.removesuffix(f'.{kind}') for model in models})}"


def separator_hint(path: str | Path) -> str:
    """The end of a message about a CSV file whose columns no comma separates; empty for any other file."""
    try:
        with Path(path).open(encoding="utf-8", errors="replace") as file:
            first = file.readline()
    except OSError:
        return ""
    mark = next((mark for mark in ";\t|" if mark in first and "," not in first), None)
    return f"; its columns are separated by {mark!r}, and load_args.sep in the catalog says otherwise" if mark else ""
