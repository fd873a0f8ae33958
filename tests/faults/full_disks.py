"""Small disks that fill up while a run saves: the run says so, and the next one goes on with more space."""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from fault_outputs import Artifacts, Reference
from kedro_runs import Site

NOTES = 12_000  # bytes by which the runner's own files grow with each node
LARGE = "1g"


@dataclass(frozen=True)
class FullDisk:
    """What a small disk did to a run.

    Attributes:
        size: bytes of the disk.
        node: at work when it was full; empty if it was full before the first node.
        message: last words of the run.
        loaded: artifacts that were there, and loaded.
        completed: whether the next run, with more space, did.
        failures: all that went wrong.
    """

    size: int
    node: str
    message: str
    loaded: int
    completed: bool
    failures: list[str]

    @property
    def name(self) -> str:
        """For a list of failures."""
        return f"disk of {self.size / 1e6:.2f} MB"

    def __str__(self) -> str:
        where = self.node or "before the first node"
        return f"{self.name}: full at {where}, {self.loaded} artifacts load; {self.message!r}"


def fill_disks(root: Path, reference: Reference, template: Site, count: int) -> Iterator[FullDisk]:
    """Let the disk fill up while ``count`` different nodes save something large, and go on with a larger one."""
    heavy = sorted(reference.order, key=lambda node: -reference.sizes[node])[: max(count, 12)]
    nodes = sorted(heavy, key=reference.order.index)
    for number in range(count):
        node = nodes[number * len(nodes) // count]
        rank = reference.order.index(node)
        before = sum(reference.sizes[other] for other in reference.order[:rank])
        size = before + rank * NOTES + reference.sizes[node] // 2
        site = Site.make(template.project, template.settings, root / f"full-{number}")
        with small_disk(site.folder / "disk", size) as disk:
            yield _fill(replace(site, data=disk / "data"), size, reference)


def _fill(site: Site, size: int, reference: Reference) -> FullDisk:
    artifacts = Artifacts(site.project, site.data)
    status, said = site.finish()
    failed = re.findall(r" 1 failed \((\S+)\)", " ".join(said.split()))
    message = said[said.rfind("\nError: ") :].strip() if "\nError: " in said else said.strip()[-600:]
    failures = [] if status == 1 else [f"exit status {status}"]
    if "Error: " not in message or "\n" in message or "No space left on device" not in message:
        failures.append(f"its last words are not one line about the disk: {message!r}")
    if "Traceback" in said:
        failures.append("it ended with a traceback")
    failures += [f"a partial file is left: {path.name}" for path in site.data.rglob(".*.*") if path.is_file()]
    loaded, unloadable = artifacts.load()
    failures += [*unloadable, *reference.torn(site)]
    subprocess.run(["mount", "-o", f"remount,size={LARGE}", site.data.parent], check=True)
    status, said = site.finish()
    if status:
        failures.append(f"with more space the run ended with {status}: {said.strip()[-600:]!r}")
    else:
        failures += [*reference.differences(site), *site.leftovers()]
    return FullDisk(size, next(iter(failed), ""), message, loaded, not status, failures)


def no_small_disks() -> str:
    """Why small disks cannot be tried here; empty if they can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "mounting a small tmpfs needs Linux and root"
    with tempfile.TemporaryDirectory() as folder:
        try:
            with small_disk(Path(folder, "disk"), 1 << 20):
                return ""
        except subprocess.CalledProcessError as error:
            return f"a tmpfs cannot be mounted here: {error}"


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[Path]:
    """A file system of ``size`` bytes."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)
