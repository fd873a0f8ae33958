"""``predict`` and ``generate``: stored models at the command line, without a run and without MLflow."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from kedro.framework.cli.utils import env_option

from embedline.commands.artifacts import SUFFIXES, load_bundle, version_option
from embedline.commands.display import printable, show_frame
from embedline.errors import DataError
from kedro_incremental.cli import params_option

if TYPE_CHECKING:
    import polars as pl
    from rich.text import Text

    from embedline.pipelines.text.predict import Predictor

INSTEAD = {  # of a model that predicts no texts, by its kind
    "tabular": "predicts the rows of a file: `embedline predict {source} FILE`",
    "ratings": "predicts ratings: `embedline recommend {source} USER`",
}
SHOWN_ROWS = 20  # of a file's predictions in the table; all of them go to --output
SHOWN_WORDS = 5  # that moved a decision
SHOWN_CHARACTERS = 600  # of a text in the table


@click.command()
@click.argument("source")
@click.argument("texts", nargs=-1)
@click.option("--file", "path", type=click.Path(path_type=Path), help="CSV or Parquet file with a text a row.")
@click.option("--column", default="text", show_default=True, help="Column of FILE that holds the texts.")
@click.option("--rows", type=click.Path(path_type=Path), help="CSV, Parquet or Feather file with a table's rows.")
@click.option("--packed", is_flag=True, help="Predict ROWS by the packed service, which takes raw rows.")
@click.option("--alias", help="Predict ROWS by the registered service with this alias, such as champion.")
@click.option("--output", type=click.Path(path_type=Path), help="File to write (.csv, .parquet, .feather), a new one.")
@click.option(
    "--explain/--no-explain",
    default=None,
    help="Say which words moved each decision; on unless the texts come from a file or from standard input.",
)
@version_option
@env_option
@params_option
def predict(
    source: str,
    texts: tuple[str, ...],
    path: Path | None,
    column: str,
    rows: Path | None,
    packed: bool,
    alias: str | None,
    output: Path | None,
    explain: bool | None,
    version: str | None,
    env: str | None,
    params: dict[str, Any],
) -> None:
    """Classify TEXTS with the newest model of SOURCE, such as imdb; `-` reads a text a line from standard input.

    Of a source of pictures, such as pets, these are the paths of pictures, or of folders with pictures.

    With --rows the newest model of a table, such as adult, predicts the rows of a file: the output has the columns that
    identify a row (columns.id, columns.time), and the predictions. The target need not be there. One FILE in place of
    TEXTS is read as --rows of a table, or as --file of texts: `embedline predict adult new.csv`.

    Needs nothing but the stored model of the environment.
    """
    if rows is None and path is None and len(texts) == 1 and names_file(texts[0]):
        kind = load_bundle(source, "model", version, env, params)[0].kind
        if kind != "images":
            path, rows = (None, Path(texts[0])) if kind == "tabular" else (Path(texts[0]), None)
            texts = ()
    if rows is None and (packed or alias is not None):
        raise click.UsageError("--packed and --alias choose what predicts the rows of --rows FILE")
    if rows is not None:
        if texts or path is not None or (packed and alias is not None):
            raise click.UsageError("give --rows FILE alone, and one of --packed and --alias")
        from embedline.commands.tables import predict_rows

        stored: dict[str, Any] = {"version": version, "env": env, "params": params}
        predict_rows(source, rows, output, packed=packed, alias=alias, **stored)
        return
    if (path is None) == (not texts):
        raise click.UsageError("give texts, or --file FILE" if path is None else "give texts or --file, not both")
    from embedline.commands.text_files import check_output, read_file, texts_frame, write

    if output is not None:
        check_output(output)
    frame = read_file(path, column) if path is not None else texts_frame(texts, column)
    bundle, name = load_bundle(source, "model", version, env, params)
    if bundle.kind == "images":
        from embedline.commands.pictures import predict_pictures

        predict_pictures(bundle, frame[column].to_list(), output, name)
        return
    if explain is None:
        explain = path is None and "-" not in texts

    from embedline.pipelines.text.options import PredictionOptions
    from embedline.pipelines.text.predict import Predictor

    if bundle.kind in INSTEAD:
        raise DataError(f"{name} {INSTEAD[bundle.kind].format(source=source)}")
    with _named(name):
        predictor = Predictor.from_bundle(bundle)
    if output is not None:
        options = PredictionOptions(column=column, words=SHOWN_WORDS if explain else 0)
        found = predictor.predict_frame(frame, options)
        write(found, output)
        _show_counts(found, output)
    else:
        _show_predictions(predictor, frame[column].fill_null("").to_list(), explain, name)


@click.command()
@click.argument("source")
@click.argument("prompt", default="")
@click.option("--tokens", type=click.IntRange(min=1), default=50, show_default=True, help="Tokens to add.")
@click.option("--samples", type=click.IntRange(min=1), help="Texts to show; 1, or every beam, unless given.")
@click.option(
    "--temperature",
    type=click.FloatRange(min=0.0),
    help="Below 1 safer, above 1 bolder, 0 the likeliest.  [default: 1]",
)
@click.option("--top-k", type=click.IntRange(min=1), help="Draw from this many likeliest tokens only.")
@click.option(
    "--min-p", type=click.FloatRange(0.0, 1.0), help="Draw from tokens of at least P times the largest p only."
)
@click.option("--beams", type=click.IntRange(min=1), help="Search with this many beams instead of drawing at random.")
@click.option("--length-penalty", type=click.FloatRange(min=0.0), help="Above 0, beams that end late gain.")
@click.option("--next", "next_k", type=click.IntRange(min=1), help="Show the K likeliest next words instead of texts.")
@click.option("--stop", is_flag=True, help="End a text where the model ends the document.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="The same seed, the same text.")
@version_option
@env_option
@params_option
def generate(
    source: str,
    prompt: str,
    next_k: int | None,
    version: str | None,
    env: str | None,
    params: dict[str, Any],
    **given: Any,
) -> None:
    """Go on from PROMPT with the newest language model of SOURCE, such as imdb.

    Special tokens in the prompt are taken as such: "xxfld 1 cs xxfld 2" asks a model of two fields for the second one.
    """
    from pydantic import ValidationError

    from embedline.commands.text_files import typed
    from embedline.pipelines.text.generation import generate as go_on
    from embedline.pipelines.text.generation import load_generator, next_words, prompt_ids
    from embedline.pipelines.text.options import GenerationOptions

    values = {name: value for name, value in given.items() if value is not None}
    values["n_tokens"] = values.pop("tokens")
    values["n_samples"] = values.pop("samples", values.get("beams", 1))
    try:
        options = GenerationOptions(**values)
    except ValidationError as error:
        raise click.UsageError(error.errors()[0]["msg"].removeprefix("Value error, ")) from error
    bundle, name = load_bundle(source, "language_model", version, env, params)
    with _named(name):
        model, vocabulary, tokens = load_generator(bundle)
    ids = prompt_ids(typed(prompt), vocabulary, tokens)
    if next_k is not None:
        show_frame(next_words(model, vocabulary, ids, next_k), name)
    else:
        show_frame(go_on(model, vocabulary, ids, options), name)


def names_file(text: str) -> bool:
    """Whether an argument names a file, which may not be there, rather than being a text."""
    return Path(text).suffix in SUFFIXES or os.path.isfile(text)  # unlike Path's, of a text of any length


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Start the message of a DataError with the model's name."""
    try:
        yield
    except DataError as error:
        raise DataError(f"{name}: {error}") from error


def _show_predictions(predictor: "Predictor", texts: list[str], explain: bool, name: str) -> None:
    from rich.table import Table
    from rich.text import Text

    from embedline.pipelines.text.predict import strongest_words
    from kedro_incremental.report import make_console

    found = predictor.predict(texts)
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("text", overflow="fold", ratio=3)
    table.add_column("class", no_wrap=True)
    table.add_column("probability", justify="right")
    if explain:
        table.add_column("moved by (+ for the class, - against it)", overflow="fold", ratio=2)
    for text, row in zip(texts[:SHOWN_ROWS], found.rows(named=True), strict=False):
        explanation = predictor.explain(text) if explain else None
        reasons = [] if explanation is None else [strongest_words(explanation, SHOWN_WORDS)]
        cells = [_highlighted(text, explanation), row["predicted"], f"{row['confidence']:.4f}", *reasons]
        table.add_row(*(cell if isinstance(cell, Text) else Text(printable(cell)) for cell in cells))
    console = make_console()
    console.print(table)
    if len(texts) > SHOWN_ROWS:
        console.print(f"… and {len(texts) - SHOWN_ROWS:,} more texts: --output writes them all", style="dim")
    console.print(name, style="dim", highlight=False, markup=False)


def _highlighted(text: str, explanation: "pl.DataFrame | None") -> "Text":
    """The text with the words that speak for the class in green, those against it in red, the strongest in bold."""
    from rich.text import Text

    from embedline.pipelines.text.predict import locate_words

    shown = Text(printable(text[:SHOWN_CHARACTERS]))
    if explanation is not None and len(explanation):
        strongest = max(abs(value) for value in explanation["influence"])
        places = locate_words(text, explanation["word"].to_list())
        for place, influence in zip(places, explanation["influence"], strict=True):
            if place is not None and abs(influence) > strongest / 10:
                style = "green" if influence > 0 else "red"
                shown.stylize(f"bold {style}" if abs(influence) > strongest / 2 else style, *place)
    if len(text) > SHOWN_CHARACTERS:
        shown.append("…")
    return shown


def _show_counts(found: "pl.DataFrame", output: Path) -> None:
    counts = found["predicted"].value_counts(sort=True).rows()
    click.echo(f"Wrote {len(found):,} rows to {output}: {', '.join(f'{label} {count:,}' for label, count in counts)}")
