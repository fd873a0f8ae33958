"""Kill real runs at random moments and fill their disk: all that is there loads, the next run makes what it should.

    python tests/faults/kill_runs.py --kills 60 --seed 0      about 15 minutes on two cores; exit status 1 on a failure

1. An undisturbed run is the reference.
2. SIGKILL hits the process group of run after run. Each run goes on where the last one was stopped, so that the kills
   move through all nodes: at a random part of a node's time, at a random moment while it saves, just after it, and
   anywhere, start-up included. Trainings are hit more than once. After every kill each version of each artifact is
   loaded; at the end a run completes, and what it makes is compared with the reference.
3. A small disk (tmpfs, which needs root) fills up during the work of several nodes. The run ends with a message, all
   that is there loads, and on a larger disk the next run completes and is compared as well.

The runs start in a copy of the project, so that nobody's edits disturb them.
"""

import argparse
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from fault_outputs import Artifacts, Reference, broken_tracking
from full_disks import fill_disks, no_small_disks
from kedro_runs import PROJECT, Run, Settings, Site

from copies import copy_files

ATTEMPTS = 5  # at one node, each earlier than the last: one of some milliseconds may be over before the kill
SAVE_SECONDS = 0.004  # within which a kill follows the first trace of a save
RESUMED = "Going on at "  # what a training logs that found its checkpoint


@dataclass(frozen=True)
class Aim:
    """A moment to kill at.

    Attributes:
        kind: ``start-up``; ``node``, at work; ``save``, while it saves; ``between``, just after it; ``any``.
        share: how late, from 0 to 1, in the span that the kind means.
        node: for the kinds that have one.
    """

    kind: str
    share: float
    node: str = ""


@dataclass
class Tally:
    """What happened so far."""

    kills: Counter[str] = field(default_factory=Counter)  # by node, "start-up" and "between nodes"
    scenes: Counter[str] = field(default_factory=Counter)  # what the kill interrupted, as the folder shows it
    loads: int = 0
    missed: int = 0  # runs that were quicker than the kill
    resumed: int = 0
    completed: int = 0
    disks: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def report(self, order: list[str]) -> str:
        """All counts."""
        spared = [node for node in order if node not in self.kills]
        others = {name: self.kills[name] for name in ("start-up", "between nodes")}
        at_nodes = self.kills.total() - sum(others.values())
        lines = [f"kills: {self.kills.total()}, of them {at_nodes} with a node at work, {others}"]
        lines += [f"  {node}: {self.kills[node]}" for node in order]
        lines += [f"nodes hit: {len(order) - len(spared)} of {len(order)}; spared: {', '.join(spared) or 'none'}"]
        lines += [f"kills that left {scene}: {count}" for scene, count in sorted(self.scenes.items())]
        lines += [f"runs that ended before the kill: {self.missed}", f"artifacts loaded after kills: {self.loads}"]
        lines += [f"networks that went on from a checkpoint: {self.resumed}"]
        lines += [f"runs completed after disturbances and compared: {self.completed}", *self.disks]
        return "\n".join([*lines, f"failures: {len(self.failures)}", *(f"  {failure}" for failure in self.failures)])


def plan(kills: int, order: list[str], rng: random.Random) -> tuple[list[Aim], list[Aim]]:
    """Aims of one long way through the nodes, and aims at any moments."""
    hit = sorted(rng.sample(order, min(len(order), max(1, kills * 2 // 3))), key=order.index)
    trainings = [node for node in order if node.endswith(".train")]
    ranked = [(order.index(node) + 0.0, Aim(rng.choice(["node", "node", "save"]), rng.random(), node)) for node in hit]
    scattered = []
    for number in range(kills - len(hit)):
        kind = ("start-up", "training", "between", "any")[number % 4]
        if kind == "training":
            node = trainings[number // 4 % len(trainings)]
            ranked.append((order.index(node) + 0.1, Aim("node", rng.uniform(0.2, 0.6), node)))
        elif kind == "between":
            node = rng.choice(order[:-1])
            ranked.append((order.index(node) + 0.5, Aim(kind, rng.random(), node)))
        elif kind == "start-up":  # the first ones on an empty folder
            ranked.append((rng.randrange(len(order)) - 0.5 if number > 4 else -1, Aim(kind, rng.random())))
        else:
            scattered.append(Aim(kind, rng.random()))
    return [aim for _, aim in sorted(ranked, key=lambda pair: pair[0])], scattered


class Killer:
    """Kill runs at one site, and look at what each kill leaves."""

    def __init__(self, site: Site, reference: Reference, tally: Tally) -> None:
        self._site, self._reference, self._tally = site, reference, tally
        self._artifacts = Artifacts(site.project, site.data)

    def hit(self, aim: Aim) -> bool:
        """Kill a run at the aim, again if it was missed; False if there was nothing left to kill."""
        for _ in range(ATTEMPTS):
            if aim.node and aim.kind != "between":
                self._force(aim.node)
            records = self._site.records()
            before, seen = set(records), {record["run_id"] for record in records.values()}
            run = self._site.start()
            _sleep_until_moment(self._site, run, aim, self._reference)
            if not run.kill():
                self._tally.missed += 1
                if status := run.wait():
                    self._fail(f"a run ended with {status} before the kill", run.log)
                if status or not aim.node:
                    return False
                aim = replace(aim, share=aim.share / 2)
                continue
            where = self._look(run, seen, before)
            if where == aim.node or not aim.node or aim.kind == "between":
                break
            aim = replace(aim, kind="node", share=aim.share / 2)
        return True

    def complete(self) -> None:
        """Run to the end, and compare."""
        status, _ = self._site.finish()
        log = self._site.logs()[-1]
        if status:
            self._fail(f"the next run ended with {status}", log)
            return
        self._tally.completed += 1
        self._tally.resumed += sum(path.read_text().count(RESUMED) for path in self._site.logs())
        _, wrong = self._artifacts.load()
        wrong += [*self._reference.differences(self._site), *self._site.leftovers()]
        for what in wrong:
            self._fail(what, log)

    def _force(self, node: str) -> None:
        """Make a node run again that has finished, as somebody does who deletes its output."""
        record = self._site.records().get(node)
        path = Path(next(iter(record["outputs"].values()))["path"]) if record else None
        if path and path.exists():
            path.unlink()
            path.parent.rmdir()

    def _look(self, run: Run, seen: set[str], before: set[str]) -> str:
        """Where the kill hit; what is there must load."""
        wrong: list[str] = []
        self._count("a half-written manifest", any(self._site.runs.glob("manifest.db-*")))
        site, note = self._site, self._site.note()
        records = site.records()
        where = "between nodes" if {record["run_id"] for record in records.values()} - seen else "start-up"
        if note.get("pid") == run.pid:
            done = records.get(note["node"], {}).get("run_id") == note["run_id"]
            where = "between nodes" if done else note["node"]
            folders = [Path(folder) for folder in note["folders"]]
            files = [path for folder in folders for path in folder.glob("*")]
            hidden = [path for path in files if path.name.startswith(".")]
            saving = not done and any(folder.exists() for folder in folders)
            self._count("a partial file", bool(hidden))
            self._count("versions without a record (during or after a save)", saving)
            self._count("some outputs of a node without the others", 0 < len(files) - len(hidden) < len(folders))
            self._count("a record beside the note of its node", done)
        self._count("a checkpoint", any(site.runs.glob("scratch/*/*/*.pt")))
        self._tally.kills[where] += 1
        loaded, unloadable = self._artifacts.load()
        self._tally.loads += loaded
        wrong += [*unloadable, *self._reference.torn(site)]
        if lost := before - records.keys():
            wrong.append(f"records are lost: {', '.join(sorted(lost))}")
        for what in [*wrong, *filter(None, [broken_tracking(site.folder)])]:
            self._fail(f"killed at {where}: {what}", run.log)
        return where

    def _count(self, scene: str, happened: bool) -> None:
        self._tally.scenes[scene] += happened

    def _fail(self, what: str, log: Path) -> None:
        said = [line for line in log.read_text().splitlines() if "Error" in line][-1:]
        self._tally.failures.append(f"{what} ({log.parent.name}/{log.name}) {' '.join(said)[:300]}".rstrip())


def _sleep_until_moment(site: Site, run: Run, aim: Aim, reference: Reference) -> None:
    """Return when it is time to kill, or when the run has ended."""
    if aim.kind in {"start-up", "any"}:
        moment = run.began + aim.share * (reference.start_up if aim.kind == "start-up" else reference.whole)
        _wait(run, lambda: time.monotonic() >= moment)
        return
    rank = reference.order.index(aim.node)

    def at_work() -> str:
        note = site.note()
        return str(note["node"]) if note.get("pid") == run.pid else ""

    _wait(run, lambda: (node := at_work()) != "" and reference.order.index(node) >= rank)
    if aim.kind == "node":
        moment = time.monotonic() + aim.share * reference.seconds[aim.node]
        _wait(run, lambda: time.monotonic() >= moment or at_work() != aim.node)
    elif aim.kind == "between":
        _wait(run, lambda: at_work() != aim.node)
    elif folders := site.note().get("folders"):
        folder = folders[int(aim.share * len(folders))]
        _wait(run, lambda: os.path.exists(folder) or at_work() != aim.node, every=0.0002)
        time.sleep(aim.share * SAVE_SECONDS)


def _wait(run: Run, condition: Callable[[], bool], every: float = 0.001) -> None:
    while not condition() and not run.ended():
        time.sleep(every)


def kill_runs(root: Path, reference: Reference, template: Site, kills: int, seed: int, tally: Tally) -> None:
    """Hit all aims of a plan: those along the nodes at one site, those at any moments at as many as they need."""
    rng = random.Random(seed)
    along, scattered = plan(kills, reference.order, rng)

    def killer(number: int) -> Killer:
        site = Site.make(template.project, template.settings, root / f"killed-{number}")
        return Killer(site, reference, tally)

    at = killer(0)
    for aim in along:
        at.hit(aim)
        _progress(tally, f"{aim.kind} {aim.node}")
    at.complete()
    for number in range(1, 1 + 2 * len(scattered)):
        at = killer(number)
        while scattered and at.hit(scattered[0]):
            scattered = scattered[1:]
            _progress(tally, "any")
        at.complete()
        if not scattered:
            break
        scattered = [replace(aim, share=rng.random()) for aim in scattered]  # all is done here: start over elsewhere


def _progress(tally: Tally, what: str) -> None:
    sys.stdout.write(f"{tally.kills.total()} kills, {len(tally.failures)} failures: {what}\n")
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description="kill runs, fill their disk, and compare what the next run makes")
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--disks", type=int, default=8, help="small disks to fill")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--stores", type=int, default=Settings.stores)
    parser.add_argument("--epochs", type=int, default=Settings.epochs)
    parser.add_argument("--project", type=Path, default=PROJECT, help="checkout to test; this one unless given")
    parser.add_argument(
        "--folder", type=Path, help="empty or new; kept. A temporary one unless given, kept on a failure"
    )
    options = parser.parse_args()
    root = options.folder or Path(tempfile.mkdtemp(prefix="faults-"))
    tally, settings = Tally(), Settings(stores=options.stores, epochs=options.epochs)
    template = Site.make(copy_files(root / "project", options.project), settings, root / "reference")
    sys.path.insert(0, str(template.project / "src"))
    reference = Reference.make(template)
    _progress(
        tally, f"the undisturbed run took {reference.whole:.0f} s, {reference.start_up:.0f} s of it to the first node"
    )
    kill_runs(root, reference, template, options.kills, options.seed, tally)
    if reason := no_small_disks():
        tally.disks.append(f"full disks: skipped, {reason}")
    else:
        for disk in fill_disks(root, reference, template, options.disks):
            tally.disks.append(str(disk))
            tally.completed += disk.completed
            tally.failures += [f"{disk.name}: {what}" for what in disk.failures]
            _progress(tally, str(disk))
    sys.stdout.write(f"{tally.report(reference.order)}\n")
    if tally.failures:
        sys.exit(f"the folder is kept: {root}")
    if not options.folder:
        shutil.rmtree(root)


if __name__ == "__main__":
    main()
