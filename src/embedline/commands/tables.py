"""Stored models of tables at the command line: ``predict --rows`` answers a file, ``export`` writes an ONNX file."""

import json
from pathlib import Path
from typing import Any

import click
import narwhals as nw
from kedro.framework.cli.utils import env_option

from embedline.commands.artifacts import (
    load_bundle,
    load_champion,
    load_stored,
    open_catalog,
    separator_hint,
    version_option,
)
from embedline.errors import DataError, one_line
from kedro_incremental.cli import params_option

CHECKED_ROWS = 1_000  # of the encoded rows, by which an exported model is compared


def predict_rows(
    source: str,
    path: Path,
    output: Path | None,
    *,
    packed: bool,
    alias: str | None,
    version: str | None,
    env: str | None,
    params: dict[str, Any],
) -> None:
    """Predict the rows of a file by a model of SOURCE, and write the keys and the predictions, or show the first ones.

    Args:
        packed: by the packed service, whose rows are raw, in place of the stored model.
        alias: by the service that has it in MLflow's registry.

    Raises:
        DataError: naming the file, or column and row of a value that the model does not take.
    """
    import polars as pl

    from embedline.commands.display import show_frame
    from embedline.commands.text_files import check_output, read_rows, write
    from embedline.pipelines.publish.nodes import typed_request
    from embedline.serving.tables import pack_model

    if output is not None:
        check_output(output)
    catalog = open_catalog(env, params)
    rows = None if packed or alias is not None else read_as_table(path, catalog.get(f"{source}.table"))
    rows = read_rows(path) if rows is None else rows
    if alias is not None:
        service, name = load_champion(source, alias, env, params)
    else:
        loaded, name = load_bundle(source, "service" if packed else "model", version, env, params)
        # An older model has other intervals than those that are stored.
        bounds = load_stored(catalog, f"{source}.intervals") if version is None else None
    try:
        if alias is None:
            service = loaded if packed else pack_model(loaded, bounds)
        found = pl.from_pandas(service.open().predict(typed_request(rows, service).to_pandas()))
    except DataError as error:
        raise DataError(f"{path}, by {name}: {error}") from error
    if output is None:
        show_frame(found.head(20), name)
        click.echo(f"{len(found):,} rows in all: --output writes them into a file")
    else:
        write(found, output)
        click.echo(f"Wrote {len(found):,} rows to {output}, by {name}")


def read_as_table(path: Path, dataset: Any) -> Any:
    """Rows of a CSV file, read as the catalog reads the table: dates, separators and the like; None where it does not.

    Raises:
        DataError: naming the file, if it cannot be read so.
    """
    import pandas as pd
    import polars as pl

    options = getattr(dataset, "_load_args", None)
    if path.suffix != ".csv" or type(dataset).__name__ != "CSVDataset" or not options:
        return None
    try:
        frame = pd.read_csv(path, **options)
    except (OSError, ValueError) as error:
        reason = f"{one_line(error)}{separator_hint(path)}"
        raise DataError(f"{path} cannot be read as the table of the catalog: {reason}") from error
    if frame.empty:
        raise DataError(f"{path} has no rows")
    return pl.from_pandas(frame)


@click.command()
@click.argument("source")
@click.option(
    "--output",
    required=True,
    type=click.Path(path_type=Path),
    help="ONNX file to write, model.onnx; it and model.encoder.json must not exist yet.",
)
@version_option
@env_option
@params_option
def export(source: str, output: Path, version: str | None, env: str | None, params: dict[str, Any]) -> None:
    """Write the newest model of the table SOURCE, such as adult, as an ONNX file, and its encoder beside it.

    All networks and their mean are one graph, with the inputs codes and values, as SOURCE.encoded has them. It is
    compared with the model on rows of SOURCE.encoded, and written only if it predicts the same.
    """
    from embedline.commands.text_files import check_output, write_bytes

    described = output.with_suffix(".encoder.json")
    check_output(output, (".onnx",))
    check_output(described, (".json",))
    bundle, name = load_bundle(source, "model", version, env, params)
    from embedline.pipelines.tabular.model import load_model
    from embedline.pipelines.tabular.onnx_export import export_onnx, rows_to_compare

    try:
        model = load_model(bundle)
        encoded = load_stored(open_catalog(env, params), f"{source}.encoded")
        if encoded is None:
            raise DataError(f"there is no {source}.encoded, on whose rows an export is checked: run {source} again")
        rows = rows_to_compare(nw.from_native(encoded, eager_only=True).head(CHECKED_ROWS), model.encoder)
        graph, difference = export_onnx(model, rows)
    except DataError as error:
        raise DataError(f"{name}: {error}") from error
    write_bytes(json.dumps(bundle.encoder, indent=2).encode(), described)
    write_bytes(graph, output)
    click.echo(
        f"Wrote {output} ({len(graph) / 1e6:.1f} MB) and {described}, of {name}: on {len(rows.codes):,} rows at most "
        f"{difference:.1e} of a prediction from the model's own"
    )
