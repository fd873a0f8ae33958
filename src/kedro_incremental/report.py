"""What a run did, or would do: as a line and a table for its user, as values for hooks."""

from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Literal

from kedro.framework.hooks.markers import hook_spec
from kedro.pipeline.node import Node
from rich.console import Console
from rich.table import Table
from rich.text import Text

Verdict = Literal["run", "skip", "depends"]

# By verdict of a plan, or by state once it has run.
_LABELS = {"run": "would run", "skip": "would skip", "depends": "would run if", "planned": "not reached"}


@dataclass
class Step:
    """One node of a plan, and of the run that follows it; ``seconds`` are 0 for a node that did not run."""

    node: str
    verdict: Verdict  # "depends" if an input is about to be made anew, and may come out as it was
    reasons: list[str]  # the most important first
    state: Literal["planned", "ran", "skipped", "touched", "failed", "interrupted"] = "planned"
    seconds: float = 0.0

    @property
    def why(self) -> str:
        """The first reason, and the number of others."""
        others = len(self.reasons) - 1
        return self.reasons[0] + (f" (and {others} more)" if others > 0 else "")


@dataclass
class RunReport:
    """What a run did."""

    run_id: str  # the version of all that it wrote: Kedro's id of the run, unless a newer version was there
    steps: list[Step] = field(default_factory=list)  # the nodes in order
    read: dict[str, str | None] = field(default_factory=dict)  # version by dataset that was loaded from an earlier run
    written: dict[str, str | None] = field(default_factory=dict)  # version by dataset that was stored
    killed: list[str] = field(default_factory=list)  # the runs just before this one that were killed
    bookkeeping: float = 0.0  # seconds spent on detecting changes, hashing and recording
    since: str = ""  # when the last of the nodes that were skipped had run, in ISO 8601
    verbosity: str = "normal"  # or "quiet", "verbose"

    def nodes(self, state: str) -> list[str]:
        """Names of the nodes in a state, in order."""
        return [step.node for step in self.steps if step.state == state]

    @property
    def succeeded(self) -> bool:
        """Whether each node ran or was skipped."""
        return all(step.state in ("ran", "skipped", "touched") for step in self.steps)


class IncrementalSpecs:
    """Hooks of the incremental runner, beside those of Kedro; implement them with Kedro's ``hook_impl``."""

    @hook_spec
    def before_node_work(self, node: Node, scratch: Path) -> None:
        """A node is about to run.

        Args:
            node: the node.
            scratch: folder for what should survive a kill. It belongs to exactly this code, parameters and inputs,
                need not exist yet, and is removed once the node has succeeded.
        """

    @hook_spec
    def after_incremental_run(self, report: RunReport) -> None:
        """A run has ended, also by an error or an interruption; before Kedro's own hooks for its end."""


def make_console() -> Console:
    """Standard output; as wide as tables need where it is no terminal, instead of rich's 80 characters."""
    console = Console()
    return console if console.is_terminal else Console(width=160)


def as_text(text: str, style: str = "") -> Text:
    """Text to print as it is: brackets are no markup, and what would control the terminal is escaped."""
    return Text("".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text), style)


def show(steps: list[Step], bookkeeping: float | None = None) -> None:
    """Print the steps as a table: of a plan with what would happen, of a run with the seconds of bookkeeping."""
    is_plan = all(step.state == "planned" for step in steps)
    console = make_console()
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("node", no_wrap=True)
    table.add_column("")
    table.add_column("why", overflow="fold")
    if not is_plan:
        table.add_column("seconds", justify="right")
    for step in steps:
        state = step.verdict if is_plan else step.state
        seconds = [] if is_plan else [f"{step.seconds:.1f}" if step.seconds else ""]
        style = "dim" if state in {"skip", "skipped"} else ""
        table.add_row(as_text(step.node), _LABELS.get(state, state), as_text(step.why), *seconds, style=style)
    console.print()
    console.print(table)
    if bookkeeping is not None:
        console.print(f"bookkeeping: {bookkeeping:.1f} s", highlight=False)
    if is_plan:
        counts = Counter[str](step.verdict for step in steps)
        said = f"{counts['run']} of {len(steps)} nodes would run, {counts['depends']} would run if their inputs change"
        console.print(f"{said}, {counts['skip']} would be skipped", highlight=False)


def summarize(report: RunReport) -> str:
    """What a run did, in one line."""
    steps, counts = report.steps, Counter[str](step.state for step in report.steps)
    if steps and counts["skipped"] == len(steps):
        since = f" (since {datetime.fromisoformat(report.since).astimezone():%Y-%m-%d %H:%M})" if report.since else ""
        return f"all {len(steps)} nodes up to date{since}"
    unfinished = [state for state in ("failed", "interrupted", "planned") if counts[state]]
    rest = ""
    for state in ["touched"] * bool(counts["touched"]) + unfinished:
        names = f" ({', '.join(report.nodes(state))})" if state in ("failed", "interrupted") else ""
        rest += f", {counts[state]} {_LABELS.get(state, state)}{names}"
    again = "; the same command goes on from what is finished" if unfinished else ""
    seconds = f" in {format_seconds(sum(step.seconds for step in steps))}" if counts["ran"] else ""
    return f"{counts['ran']} of {len(steps)} nodes ran{seconds}, {counts['skipped']} were up to date{rest}{again}"


def format_seconds(seconds: float) -> str:
    """A duration as text.

    >>> [format_seconds(seconds) for seconds in (0.26, 41.6, 133.0, 7530.0)]
    ['0.3 s', '42 s', '2 min 13 s', '2 h 05 min']
    """
    if seconds < 59.5:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
