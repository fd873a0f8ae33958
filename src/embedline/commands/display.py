"""Frames as tables in the terminal."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import polars as pl


def show_frame(frame: "pl.DataFrame", name: str) -> None:
    """Print a frame as a table: text to the left, numbers to the right with four digits."""
    from rich.table import Table
    from rich.text import Text

    from kedro_incremental.report import make_console

    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for column, dtype in frame.schema.items():
        header = Text(printable(column.replace("_", " ")))
        table.add_column(header, justify="right" if dtype.is_numeric() else "left", overflow="fold")
    for row in frame.rows():
        table.add_row(*(Text(f"{cell:.4f}" if isinstance(cell, float) else printable(str(cell))) for cell in row))
    console = make_console()
    console.print(table)
    console.print(name, style="dim", highlight=False, markup=False)


def printable(text: str) -> str:
    """The text, character by character, without those that would steer the terminal."""
    return "".join(letter if letter.isprintable() or letter == "\n" else " " for letter in text)
