"""Frames in parts on Spark: a folder of Parquet files, which gets its name when it is complete."""

from copy import deepcopy
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import fsspec
from kedro.io.core import AbstractVersionedDataset, DatasetError, Version, get_filepath_str, get_protocol_and_path

from embedline.datasets.atomic import AtomicSave
from embedline.errors import DataError
from embedline.frames.parts import Parts, Plan
from embedline.spark import spark_reason, spark_session

WRITTEN = "part-*"  # the files of a folder, in the order of the rows


class SparkFrame(AtomicSave, AbstractVersionedDataset[Any, Any]):
    """A frame in parts (:mod:`.frames.parts`), or a raw CSV file, which is read as a DataFrame of Spark.

    All machines of the cluster have to see the folder under the same path (the driver alone is one such machine).

    Args:
        filepath: folder of this machine or a shared one; always versioned, as a folder cannot be replaced in one step
        load_as: ``parts``, or ``polars`` for readers that work on one machine: the rows in the order of the files
        load_args: options of Spark's reader of CSV
    """

    _SINGLE_PROCESS = True  # a session belongs to one process

    def __init__(
        self,
        *,
        filepath: str,
        file_format: Literal["parquet", "csv"] = "parquet",
        load_as: Literal["parts", "polars"] = "parts",
        load_args: dict[str, Any] | None = None,
        version: Version | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        protocol, path = get_protocol_and_path(filepath, version)
        if protocol != "file":
            raise DataError(f"{filepath}: frames of Spark lie in a folder that all machines see, not at {protocol}://")
        if version is None:
            raise DataError(f"{filepath}: frames of Spark have to be `versioned: true`")
        self._protocol, self._fs = protocol, fsspec.filesystem("file")
        self._file_format, self._load_as = file_format, load_as
        self._load_args = deepcopy(load_args or {})
        self.metadata = metadata
        super().__init__(PurePosixPath(path), version, exists_function=self._fs.exists, glob_function=self._fs.glob)

    def load(self) -> Any:
        """The newest version, or the one asked for: its parts, of which nothing is read yet, or a Polars frame."""
        path = get_filepath_str(self._get_load_path(), self._protocol)
        if self._file_format == "csv":
            return spark_session().read.format("csv").options(**self._load_args).load(f"file://{path}")
        parts = Parts(tuple(str(file) for file in sorted(Path(path).glob(WRITTEN))))
        return parts.scan().collect() if self._load_as == "polars" else parts

    def save(self, data: Any) -> None:
        """Make the parts of ``data``, a :class:`.frames.parts.Plan`, as the version of this run."""
        if self._file_format != "parquet":
            raise DataError(f"{self._filepath}: frames of Spark are saved as parquet, not {self._file_format}")
        if not isinstance(data, Plan):
            raise DataError(f"{self._filepath}: expected a frame in parts, got {type(data).__name__}")
        from py4j.protocol import Py4JError
        from pyspark.errors import PySparkException

        path = Path(get_filepath_str(self._get_save_path(), self._protocol))
        try:
            n_rows = data.write(path)
            _tidy(path, spark_session().sparkContext.master)
            if not n_rows:
                raise DataError(f"{self._filepath} has no rows")
        except (PySparkException, Py4JError) as error:
            raise DatasetError(f"Spark cannot write {self._filepath}: {spark_reason(error)}") from error
        except DataError as error:  # as it is: Kedro would put words of its own before it
            raise DatasetError(str(error)) from error

    def _exists(self) -> bool:
        return bool(self._fs.exists(get_filepath_str(self._get_load_path(), self._protocol)))

    def _describe(self) -> dict[str, Any]:
        return {"filepath": self._filepath, "file_format": self._file_format, "version": self._version}


def _tidy(folder: Path, master: str) -> None:
    """Number the files one by one, where a range of keys had no rows, and remove what a task left that was tried again.

    Raises:
        DataError: there is no file: the executors write elsewhere.
    """
    files = sorted(folder.glob(WRITTEN))
    if not files:
        raise DataError(f"the workers of {master} have written nothing to {folder}: they do not see this folder")
    for other in folder.iterdir():
        if other not in files:
            other.unlink()
    for number, file in enumerate(files):
        file.rename(folder / f"part-{number:05}.parquet")
