"""From the two Adult files to one table: a row a person."""

import polars as pl

from embedline.paths import GENERATED, find_source
from embedline.pipelines.adult import files
from embedline.pipelines.adult.simulator import GeneratorOptions, bayes_accuracy, bayes_log_loss, generate_files


def acquire(source: str, verify: bool, generator: GeneratorOptions) -> dict[str, bytes]:
    """Fetch adult.data and adult.test from the address ``source``, or simulate them; as they are, by name."""
    if source == GENERATED:
        return generate_files(generator)
    return files.read_files(find_source(source), verify=verify)


def measure_ceiling(source: str, generator: GeneratorOptions) -> dict[str, dict[str, float]]:
    """The best ``accuracy`` and ``log_loss`` (nats) that a model of generated incomes can expect, by target.

    Exact for the rows of adult.test and a model of all columns; of some of the columns, none can expect as much. For
    other rows of the same law it is an estimate, with a standard error of 0.15 / sqrt(n_test) in accuracy. Empty for
    real incomes.
    """
    if source != GENERATED:
        return {}
    return {"income": {"accuracy": bayes_accuracy(generator), "log_loss": bayes_log_loss(generator)}}


def read_table(data: bytes, test: bytes) -> pl.DataFrame:
    """Read adult.data and adult.test into one table: ``Id``, the columns of the files, ``file``: "data" or "test"."""
    return files.read_table({"adult.data": data, "adult.test": test})
