"""The Spark session: its settings, and its start when the first dataset needs it."""

import functools
import logging
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from embedline.errors import DataError

logger = logging.getLogger(__name__)

MASTER = "spark.master"
FIXED = {
    "spark.sql.ansi.enabled": "true",  # a text that is no number is an error, not a missing value
    "spark.sql.session.timeZone": "UTC",
}


@functools.cache  # a cached function, not a value of the module: no result depends on where Spark runs
def _settings() -> dict[str, str]:
    return {}


def configure(settings: Mapping[str, Any]) -> None:
    """Set the settings of the next session; a running session keeps its own.

    They are Spark's own keys, perhaps nested: ``{"spark": {"executor": {"memory": "2g"}}}``. Another key, a value that
    is no text, number or boolean, and another value of a key of :data:`FIXED` are a DataError.
    """
    flat = flatten(settings)
    for key, value in flat.items():
        if not key.startswith("spark."):
            raise DataError(f"settings of Spark: {key!r} does not start with 'spark.'")
        if FIXED.get(key, value) != value:
            raise DataError(f"settings of Spark: {key} has to be {FIXED[key]}, not {value}")
    _settings().clear()
    _settings().update(flat)


def flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested settings as ``{"spark.a.b": text}``, booleans as Java writes them."""
    flat: dict[str, str] = {}
    for key, value in settings.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            flat |= flatten(value, prefix=f"{name}.")
        elif isinstance(value, bool):
            flat[name] = str(value).lower()
        elif isinstance(value, str | int | float):
            flat[name] = str(value)
        else:
            raise DataError(f"settings of Spark: {name} has to be a text, a number, true or false, not {value!r}")
    return flat


def require_spark() -> None:
    """Raise a DataError that says what is missing, PySpark or Java, where Spark cannot run on this machine."""
    try:
        import pyspark  # noqa: F401
    except ModuleNotFoundError as error:
        raise DataError('the frames of this environment need PySpark: pip install "embedline[spark]"') from error
    home = os.environ.get("JAVA_HOME")
    java = Path(home, "bin", "java") if home else None
    if java is not None and not java.is_file():
        raise DataError(f"Spark needs Java 17 or newer: JAVA_HOME is {home}, which has no bin/java")
    if java is None and shutil.which("java") is None:
        raise DataError("Spark needs Java 17 or newer: there is no java in the PATH, and JAVA_HOME is not set")


def spark_session() -> Any:
    """The running ``SparkSession``, or a new one with the settings of :func:`configure`.

    A DataError says that PySpark or Java is missing, or that the master does not answer.
    """
    require_spark()
    from py4j.protocol import Py4JError
    from pyspark.errors import PySparkException
    from pyspark.sql import SparkSession

    session = SparkSession.getActiveSession()
    if session is None:
        master = _settings().get(MASTER, "local[*]")
        os.environ.setdefault("PYSPARK_PYTHON", sys.executable)  # the path of the executors' Python, too
        builder = SparkSession.builder.appName("embedline").config(MASTER, master)
        try:
            session = builder.config(map=dict(_settings())).getOrCreate()
        except (PySparkException, Py4JError) as error:
            raise DataError(f"Spark does not start with the master {master}: {spark_reason(error)}") from error
        page = session.sparkContext.uiWebUrl
        logger.info("Spark %s on %s%s", session.version, session.sparkContext.master, f", {page}" if page else "")
    for key, value in FIXED.items():
        session.conf.set(key, value)
    return session


def spark_reason(error: Exception) -> str:
    """The reason of a Spark error in one line, without the traces of Java."""
    cause = getattr(error, "java_exception", None)
    while cause is not None and cause.getCause() is not None:
        cause = cause.getCause()
    text = cause.toString() if cause is not None else str(error)
    return str(text).strip().splitlines()[0]
