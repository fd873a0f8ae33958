"""Frames in parts: functions of Polars frames read and write the parts in Spark's executors, next to the data.

Spark spreads the rows once, by a key such as the store, and from then on shares out the parts and their functions among
machines; Polars does the work. What a function needs of all parts, such as a mean, is gathered first: a small frame.
"""

import os
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import unquote, urlparse

import polars as pl

from embedline.errors import DataError
from embedline.spark import spark_session

Check = Callable[[pl.DataFrame], Any]
_NAME = "part-{:05}.parquet"
_FRAME = "_frame"  # column: the place of a row's frame
_DONE = "part int, rows array<bigint>, fault string"


@dataclass(frozen=True)
class Parts:
    """A frame in Parquet files that all machines see, in the order of its rows, each with all rows of its keys.

    Frames that were made of one another have the same keys in the files of the same place.
    """

    files: tuple[str, ...]

    def scan(self) -> pl.LazyFrame:
        """All rows, of which nothing is read yet."""
        return pl.scan_parquet(list(self.files))

    def map(self, function: Callable[..., pl.DataFrame], *arguments: Any, **options: Any) -> "Plan":
        """The frame whose parts ``function`` makes of these ones, and of those of the ``arguments`` that have parts."""
        return PartsPlan(function=function, arguments=(self, *arguments), options=options)

    def gather(self, function: Callable[..., pl.DataFrame], *arguments: Any) -> pl.DataFrame:
        """What ``function`` makes of each part, in one frame of this process: a few rows of each."""
        plan = PartsPlan(function=function, arguments=(self, *arguments))
        return pl.concat(_in_executors(plan.part, len(self.files)))


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A frame that is made in the executors when it is saved; each part is checked there, too."""

    checks: tuple[Check, ...] = ()

    def checked(self, check: Check) -> "Plan":
        """The same, with a check of each part."""
        return replace(self, checks=(*self.checks, check))

    def write(self, folder: Path) -> int:
        """Make and write the parts; the number of rows.

        Raises:
            DataError: of the function or a check, in any part.
        """
        raise NotImplementedError

    def _write_part(self, part: pl.DataFrame, number: int, folder: Path) -> int:
        for check in self.checks:
            check(part)
        file = folder / _NAME.format(number)
        written = file.with_name(f".{uuid.uuid4().hex}")  # a task may be tried again while its first try still writes
        part.write_parquet(written)
        os.replace(written, file)
        return len(part)


@dataclass(frozen=True, kw_only=True)
class PartsPlan(Plan):
    """Parts that come from those of other frames, one by one."""

    function: Callable[..., pl.DataFrame]
    arguments: tuple[Any, ...]
    options: dict[str, Any] = field(default_factory=dict)

    def part(self, number: int) -> pl.DataFrame:
        """One of the parts."""
        own = (pl.read_parquet(each.files[number]) if isinstance(each, Parts) else each for each in self.arguments)
        return self.function(*own, **self.options)

    def write(self, folder: Path) -> int:
        folder.mkdir(parents=True)
        (n_parts,) = {len(each.files) for each in self.arguments if isinstance(each, Parts)}
        return sum(_in_executors(lambda number: self._write_part(self.part(number), number, folder), n_parts))


@dataclass(frozen=True, kw_only=True)
class SpreadPlan(Plan):
    """Parts of rows that Spark spreads by ranges of a key: the one shuffle.

    Attributes:
        frames: of Spark, all text; ``function`` takes a Polars frame of each, some of them without rows, in any order.
        key: column of whole numbers.
        recheck: the function for all rows of the files behind the frames, which names the row of a fault.
    """

    frames: Sequence[Any]
    key: str
    function: Callable[..., pl.DataFrame]
    recheck: Callable[..., Any]

    def write(self, folder: Path) -> int:
        from pyspark.sql import functions

        if not all(self.key in frame.columns for frame in self.frames):
            self._blame("there is no key")
        folder.mkdir(parents=True)
        columns = [frame.columns for frame in self.frames]
        numbered = [frame.withColumn(_FRAME, functions.lit(place)) for place, frame in enumerate(self.frames)]
        rows = reduce(lambda one, other: one.unionByName(other, allowMissingColumns=True), numbered)
        n_parts = int(rows.sparkSession.conf.get("spark.sql.shuffle.partitions"))
        rows = rows.repartitionByRange(n_parts, functions.expr(f"try_cast(`{self.key}` as bigint)"))
        local = replace(self, frames=())  # frames of Spark stay with the driver

        def make(batches: Iterator[Any]) -> Iterator[Any]:
            import pyarrow as pa
            from pyspark import TaskContext

            schema = pa.schema({"part": pa.int32(), "rows": pa.list_(pa.int64()), "fault": pa.string()})
            arrived = [batch for batch in batches if batch.num_rows]
            if not arrived:
                return
            number = TaskContext.get().partitionId()  # type: ignore[union-attr]
            table = pl.DataFrame(pa.Table.from_batches(arrived))
            own = [table.filter(pl.col(_FRAME) == place).select(names) for place, names in enumerate(columns)]
            fault = None
            try:
                local._write_part(local.function(*own), number, folder)
            except DataError as error:
                fault = str(error)
            yield from pa.Table.from_pylist(
                [{"part": number, "rows": [len(each) for each in own], "fault": fault}], schema
            ).to_batches()

        done = sorted(rows.mapInArrow(make, _DONE).collect(), key=lambda row: row.part)
        sizes = [sum(each) for each in zip(*(row.rows for row in done), strict=True)]
        if faults := [row.fault for row in done if row.fault]:
            self._blame(faults[0])
        if not sizes or not all(sizes):
            self._blame("there are no rows")
        return sum(sizes)

    def _blame(self, fault: str) -> NoReturn:
        """Raise the DataError that names the row of its file, rather than one of a part."""
        self.recheck(*(_scan_text(frame) for frame in self.frames))
        raise DataError(fault)


def _in_executors(task: Callable[[int], Any], n_parts: int) -> list[Any]:
    """The results of a task for each part, in their order."""

    def run(number: int) -> tuple[Any, str | None]:
        try:
            return task(number), None
        except DataError as error:  # told as it is, without the traces of Spark
            return None, str(error)

    context = spark_session().sparkContext
    results = context.parallelize(range(n_parts), n_parts).map(run).collect()
    for _, fault in results:
        if fault is not None:
            raise DataError(fault)
    return [found for found, _ in results]


def _scan_text(frame: Any) -> pl.LazyFrame:
    """The CSV files behind a frame of Spark."""
    return pl.scan_csv([unquote(urlparse(file).path) for file in frame.inputFiles()], infer_schema=False)
