"""Pictures at the command line: the paths of files and folders in, their classes out."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from embedline.commands.display import show_frame
from embedline.errors import DataError
from embedline.pipelines.pictures.files import PICTURES

SHOWN_CLASSES = 3  # of a picture in the table


def predict_pictures(bundle: Any, paths: Sequence[str], output: Path | None, name: str) -> None:
    """Predict the pictures at ``paths`` by a bundle, and show or write a row each; ``name`` is the model's.

    Raises:
        DataError: naming a path at which there is nothing, a folder without a picture, or a file that is none.
    """
    from embedline.commands.text_files import write
    from embedline.pipelines.images.predictions import ImageModel

    model, files = ImageModel.from_bundle(bundle), _read(paths)
    found = model.predict_files(files).insert_column(0, pl.Series("image", [path for path, _ in files]))
    if output is not None:
        write(found, output)
        return
    several = len(model.classes) > 1
    shown: dict[str, Any] = {"image": found["image"]}
    for target, classes in model.classes.items():
        prefix = f"p_{target}_" if several else "p_"
        rows = found.select(f"{prefix}{label}" for label in classes).iter_rows()
        best = [sorted(zip(row, classes, strict=True), key=lambda pair: -pair[0])[:SHOWN_CLASSES] for row in rows]
        shown[target] = [", ".join(f"{label} {share:.3f}" for share, label in pairs) for pairs in best]
    show_frame(pl.DataFrame(shown), name)


def _read(paths: Sequence[str]) -> list[tuple[str, bytes]]:
    found: list[Path] = []
    for given in map(Path, paths):
        if given.is_dir():
            inside = [path for path in sorted(given.rglob("*")) if path.suffix.lower() in PICTURES]
            if not inside:
                raise DataError(f"{given} holds no picture ({', '.join(PICTURES)})")
            found += inside
        elif given.is_file():
            found.append(given)
        else:
            raise DataError(f"there is no picture {given}")
    return [(str(path), path.read_bytes()) for path in found]
