"""``serve``: a published or a packed model behind HTTP, by MLflow's scoring protocol."""

import tempfile
from pathlib import Path
from typing import Any

import click
from kedro.framework.cli.utils import env_option

from embedline.commands.artifacts import (
    how_to_make,
    load_bundle,
    load_champion,
    load_stored,
    open_catalog,
    version_option,
)
from embedline.errors import DataError
from embedline.sources import read_sources
from kedro_incremental.cli import params_option


@click.command()
@click.argument("source")
@click.option("--alias", default="champion", show_default=True, help="Of the registered model.")
@click.option("--packed", is_flag=True, help="Serve the packed file of the environment's last run instead.")
@version_option
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0 for all.")
@click.option("--port", type=click.IntRange(0, 65535), default=5001, show_default=True, help="0 takes a free one.")
@click.option("--workers", type=click.IntRange(min=1), default=1, show_default=True, help="Processes that answer.")
@click.option("--max-rows", "rows", type=click.IntRange(min=1), help="Of a request; more are refused (413).")
@click.option("--max-bytes", "body", type=click.IntRange(min=1), help="Of a request's body; more are refused (413).")
@click.option("--ignore-unknown", is_flag=True, help="Leave out columns that the model does not have, as MLflow does.")
@env_option
@params_option
def serve(
    source: str,
    alias: str,
    packed: bool,
    version: str | None,
    host: str,
    port: int,
    workers: int,
    ignore_unknown: bool,
    env: str | None,
    params: dict[str, Any],
    **limits: int | None,
) -> None:
    """Answer requests with the champion of SOURCE, such as rossmann; --packed or --version: with a stored service.

    A source of conf/base/sources.yml that was not published is answered for by its newest stored model.

    POST rows to /invocations; /ping, /health and /version are as MLflow has them. Ctrl-C and SIGTERM let the requests
    that are under way end.
    """
    from embedline.serving.server import ServerOptions, run

    if packed or version is not None:
        service, name = load_bundle(source, "service", version, env, params)
    else:
        service, name = _champion_or_stored(source, alias, env, params)
    given: dict[str, float] = {key: value for key, value in limits.items() if value is not None}
    with tempfile.TemporaryDirectory(prefix="embedline-serve-") as folder:
        path = Path(folder, "service.zip")
        path.write_bytes(service.to_bytes())
        del service  # the processes that answer read it from the file
        run(
            ServerOptions(path=str(path), name=name, limits=given, strict=not ignore_unknown, workers=workers),
            host=host,
            port=port,
        )


def _champion_or_stored(source: str, alias: str, env: str | None, params: dict[str, Any]) -> tuple[Any, str]:
    """The service with the alias; for a declared source without one its stored model, packed as publishing packs it."""
    try:
        return load_champion(source, alias, env, params)
    except DataError as error:
        declared = read_sources().get(source)
        if alias != "champion":
            raise
        if declared is None:
            raise DataError(f"{error}: {how_to_make(f'{source}.service', env)}") from error
    from embedline.pipelines.publish import nodes

    bundle, name = load_bundle(source, "model", None, env, params)
    catalog = open_catalog(env, params)
    if declared.learner == "tabular":
        table = load_stored(catalog, declared.table or f"{source}.table")
        return nodes.pack_table(bundle, table, load_stored(catalog, f"{source}.intervals")), name
    if declared.learner == "ratings":
        ranker, encoded = (load_stored(catalog, f"{source}.{kind}") for kind in ("ranker", "encoded"))
        return nodes.pack_ratings(bundle, ranker, encoded), name
    return (nodes.pack_images if declared.learner == "images" else nodes.pack_texts)(bundle), name
