"""Spark for tests: a small session in this process, and a skip with its reason where Spark cannot run."""

from collections.abc import Iterator
from typing import Any

import pytest

from embedline import spark as session
from embedline.errors import DataError

# A small frame is done before Java's second compiler has begun to pay off.
SMALL = {
    "spark.master": "local[2]",
    "spark.sql.shuffle.partitions": "2",
    "spark.driver.extraJavaOptions": "-XX:TieredStopAtLevel=1",
    "spark.ui.enabled": "false",
    "spark.log.level": "FATAL",
}


@pytest.fixture(scope="session")
def spark_there() -> None:
    """Skip where PySpark or Java is missing, and say which."""
    try:
        session.require_spark()
    except DataError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def spark(spark_there: None) -> Iterator[Any]:
    """The project's session with small settings; its Java ends with the module's tests."""
    from pyspark import SparkContext

    session.configure(SMALL)
    made = session.spark_session()
    yield made
    made.stop()
    gateway = SparkContext._gateway
    gateway.shutdown()
    gateway.proc.stdin.close()
    gateway.proc.wait(timeout=60)
    SparkContext._gateway = SparkContext._jvm = None
    session.configure({})
