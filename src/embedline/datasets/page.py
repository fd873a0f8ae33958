"""A text file, such as an HTML page, saved atomically."""

from kedro_datasets.text import TextDataset

from embedline.datasets.atomic import AtomicSave


class Page(AtomicSave, TextDataset):
    """Text in UTF-8, whatever the locale says."""

    DEFAULT_FS_ARGS = {  # noqa: RUF012  # as the base class declares it
        "open_args_save": {"mode": "w", "encoding": "utf-8"},
        "open_args_load": {"mode": "r", "encoding": "utf-8"},
    }
