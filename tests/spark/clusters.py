"""A standalone Spark cluster on the loopback interface: a master and two workers, each a process."""

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

START_SECONDS = 90
LOOPBACK = "127.0.0.1"


@contextmanager
def standalone_cluster(folder: Path, n_workers: int) -> Iterator[str]:
    """Start the cluster, yield its address ``spark://…``, and end it; each process writes its log in ``folder``."""
    with socket.socket() as free:
        free.bind((LOOPBACK, 0))
        port = str(free.getsockname()[1])
    address = f"spark://{LOOPBACK}:{port}"
    logs = [folder / f"worker{number}.log" for number in range(n_workers)]
    with ExitStack() as daemons:
        daemons.enter_context(_daemon("master.Master", folder / "master.log", "--port", port))
        _wait_for(folder / "master.log", "I have been elected leader")
        for log in logs:
            options = ("--cores", "1", "--memory", "1g", "--work-dir", str(log.with_suffix("")), address)
            daemons.enter_context(_daemon("worker.Worker", log, *options))
        for log in logs:
            _wait_for(log, "Successfully registered with master")
        yield address


@contextmanager
def _daemon(name: str, log: Path, *options: str) -> Iterator[None]:
    import pyspark

    home = Path(pyspark.__file__).parent
    command = [str(home / "bin" / "spark-class"), f"org.apache.spark.deploy.{name}", "--host", LOOPBACK]
    environment = {**os.environ, "SPARK_HOME": str(home), "SPARK_LOCAL_IP": LOOPBACK, "SPARK_DAEMON_MEMORY": "256m"}
    with log.open("w") as output:
        process = subprocess.Popen(
            [*command, "--webui-port", "0", *options], env=environment, stdout=output, stderr=subprocess.STDOUT
        )
        try:
            yield
        finally:
            process.terminate()
            process.wait(timeout=60)


def _wait_for(log: Path, text: str) -> None:
    end = time.monotonic() + START_SECONDS
    while text not in log.read_text():
        if time.monotonic() > end:
            raise TimeoutError(f"{log} does not say {text!r} after {START_SECONDS} s:\n{log.read_text()[-2000:]}")
        time.sleep(0.2)
