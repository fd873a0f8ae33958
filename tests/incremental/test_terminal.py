"""What a run prints: lines in a pipe, one live line in a terminal, warnings once at the end, and a log."""

import io
import logging
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from kedro.pipeline import Node
from rich.console import Console
from rich.logging import RichHandler
from shop import Shop
from tqdm import tqdm

from kedro_incremental import redaction, terminal
from kedro_incremental.report import RunReport, Step, summarize
from kedro_incremental.terminal import LOG, LiveLine, Output

NAMES = ("first", "second", "third")


def identity(value: object) -> object:
    return value


def nodes(*spaces: str, each: int = 1) -> list[Node]:
    """So many nodes of each namespace, in turns, as Kedro orders them."""
    return [
        Node(identity, f"{space}.in{number}", f"{space}.out{number}", name=f"node{number}", namespace=space)
        for number in range(each)
        for space in spaces
    ]


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """What the console and its log handler print, in 80 columns and without a terminal."""
    file = io.StringIO()
    monkeypatch.setattr(terminal, "make_console", lambda: Console(file=file, width=80))
    handler = RichHandler(console=Console(file=file, width=80), show_time=False, show_path=False)
    logging.getLogger().addHandler(handler)
    yield file
    logging.getLogger().removeHandler(handler)


def run(output: Output, todo: list[Node], ran: bool = True) -> None:
    output.begin(todo, 20)
    for node in todo:
        with output.at_work(node):
            pass
        output.finished(node, 2.0 if ran else None)
    output.rest()


def test_few_nodes_have_a_line_each_and_of_many_each_namespace_has_one(screen: io.StringIO) -> None:
    with Output("normal") as output:
        run(output, nodes("sales", "films"))
    assert screen.getvalue().splitlines() == [
        "2 of 20 nodes to run",
        "[1/2] sales.node0  2.0 s",
        "[2/2] films.node0  2.0 s",
    ]
    screen.truncate(screen.seek(0))
    with Output("normal") as output:
        run(output, nodes("sales", "films", each=7))
    assert screen.getvalue().splitlines() == [
        "14 of 20 nodes to run",
        "[13/14] sales  7 nodes  14 s",
        "[14/14] films  7 nodes  14 s",
    ]


def test_nothing_is_said_of_nodes_that_are_up_to_date(screen: io.StringIO) -> None:
    with Output("normal") as output:
        output.begin([], 20)
        output.rest()
    assert screen.getvalue() == ""
    with Output("normal") as output:  # they could have had other inputs
        run(output, nodes("sales", "films", each=7), ran=False)
    assert screen.getvalue().splitlines() == ["14 of 20 nodes to run"]


def test_a_node_that_runs_long_is_named_where_there_is_no_terminal(screen, monkeypatch) -> None:
    monkeypatch.setattr(terminal, "PATIENCE", 0.0)
    monkeypatch.setattr(terminal, "TICK", 0.001)
    (node,) = nodes("sales")
    with Output("normal") as output:
        output.begin([node], 1)
        with output.at_work(node):
            while "sales.node0 has been running" not in screen.getvalue():
                time.sleep(0.001)


@pytest.mark.parametrize("verbosity", ["normal", "quiet", "verbose"])
def test_warnings_come_once_at_the_end_with_their_node_and_number(verbosity, screen: io.StringIO) -> None:
    sales, films = nodes("sales", "films")
    with Output(verbosity) as output:
        output.begin([sales, films], 2)
        with output.at_work(sales):
            for _ in range(3):
                logging.getLogger("shop.nodes").warning("The model loses to %s", "[popularity]")
        with output.at_work(films):
            logging.getLogger("shop.nodes").warning("The model loses to %s", "[popularity]")
            warnings.formatwarning("x", UserWarning, "a.py", 1)
            logging.getLogger("py.warnings").warning("%s", "/lib/a.py:12: FutureWarning: old\n  old()\n")
            before = screen.getvalue()
        output.rest()
        output.show_warnings()
    assert before.count("loses to") == (4 if verbosity == "verbose" else 0)
    end = screen.getvalue()[len(before) :]
    assert end.splitlines() == [
        "3 warnings:",
        "- sales.node0: The model loses to [popularity] (3 times)",
        "- films.node0: The model loses to [popularity]",
        "- films.node0: old",
    ]


def test_many_warnings_are_shown_in_part(screen: io.StringIO, tmp_path: Path) -> None:
    with Output("normal", tmp_path) as output:
        for number in range(terminal.MOST_WARNINGS + 2):
            logging.getLogger("shop").warning("number %d", number)
        output.show_warnings()
    lines = screen.getvalue().splitlines()
    assert len(lines) == terminal.MOST_WARNINGS + 2
    assert "2 more" in lines[-1] and str(tmp_path / LOG) in lines[-1]


def test_a_log_has_all_and_no_secret_and_the_levels_are_as_before(screen, tmp_path: Path, monkeypatch) -> None:
    kedro, project = logging.getLogger("kedro"), logging.getLogger("kedro.io")
    monkeypatch.setattr(kedro, "level", logging.WARNING)
    kedro.manager._clear_cache()
    monkeypatch.setattr(redaction, "_redact", [lambda value, _: value.replace("hunter2", "***")])
    with Output("normal", tmp_path) as output:
        output.begin(nodes("sales"), 1)
        project.info("Loading data from hunter2")
        logging.getLogger("kedro.pipeline.node").error("it failed: the exception says so, too")
        project.error("something else")
    assert "Loading" not in screen.getvalue() and "it failed" not in screen.getvalue()
    assert "something else" in screen.getvalue()
    log = (tmp_path / LOG).read_text()
    assert "INFO    kedro.io: Loading data from ***" in log and "it failed" in log
    assert kedro.level == logging.WARNING and not project.isEnabledFor(logging.INFO)
    project.error("after the run")
    assert (tmp_path / LOG).read_text() == log
    with Output("normal", tmp_path) as output:
        output.begin([], 1)
    assert (tmp_path / LOG).read_text() == log  # a run without a node keeps the log of the last


def test_what_the_configuration_shows_below_a_warning_is_shown(screen: io.StringIO, tmp_path: Path) -> None:
    results = logging.getLogger("kedro.results")
    results.setLevel(logging.INFO)
    try:
        with Output("normal", tmp_path) as output:
            output.begin(nodes("sales"), 1)
            results.info("version 3 is the champion")
    finally:
        results.setLevel(logging.NOTSET)
    assert "version 3 is the champion" in screen.getvalue()


class Terminal:
    """The screen of a terminal: lines that are finished, and the one that is written over."""

    def __init__(self, text: str) -> None:
        *self.lines, self.last = (self._seen(line) for line in text.split("\n"))

    @staticmethod
    def _seen(line: str) -> str:
        cells: list[str] = []
        for piece in line.split("\r"):
            cells[: len(piece)] = piece
        return "".join(cells).rstrip()


def live(file: io.StringIO, width: int = 30) -> LiveLine:
    return LiveLine(Console(file=file, width=width, force_terminal=True, _environ={"TERM": "xterm"}))


def test_the_live_line_is_written_over_and_leaves_nothing() -> None:
    file = io.StringIO()
    line = live(file)
    line.show("[1/9] rossmann.build_calendar of all stores")
    assert Terminal(file.getvalue()).last == "[1/9] rossmann.build_calendar"  # one less than the width
    line.show("[2/9] x\x1b[2J")
    assert Terminal(file.getvalue()).last == r"[2/9] x\x1b[2J"
    line.clear()
    file.write("a line\n")
    assert Terminal(file.getvalue()).lines == ["a line"] and Terminal(file.getvalue()).last == ""
    before = file.getvalue()
    line.clear()
    assert file.getvalue() == before


def test_a_progress_bar_has_the_line_while_it_is_there() -> None:
    file = io.StringIO()
    line = live(file, 80)
    line.show("[1/9] sales.train  3.0 s")
    with tqdm(total=4, desc="training", file=file, ncols=80, leave=False) as bar:
        bar.update(2)
        line.show("[1/9] sales.train  4.0 s")
        assert Terminal(file.getvalue()).last.startswith("training:  ")
    line.show("[1/9] sales.train  5.0 s")
    assert Terminal(file.getvalue()).last == "[1/9] sales.train  5.0 s"


def test_no_live_line_in_a_pipe_and_in_a_dumb_terminal() -> None:
    assert not LiveLine(Console(file=io.StringIO())).is_on
    assert not LiveLine(Console(file=io.StringIO(), force_terminal=True, _environ={"TERM": "dumb"})).is_on


@pytest.mark.parametrize(
    ("states", "said"),
    [
        (("skipped",) * 3, "all 3 nodes up to date (since 2026-1"),
        (("ran", "skipped", "skipped"), "1 of 3 nodes ran in 61 s, 2 were up to date".replace("61 s", "1 min 01 s")),
        (
            ("ran", "failed", "planned"),
            "1 of 3 nodes ran in 1 min 02 s, 0 were up to date, 1 failed (second), 1 not reached; "
            "the same command goes on from what is finished",
        ),
        (("skipped", "interrupted", "planned"), "1 interrupted (second), 1 not reached; the same command"),
    ],
)
def test_a_run_in_one_line(states, said: str) -> None:
    seconds = {"ran": 61.0, "failed": 1.0}
    steps = [
        Step(name, "run", ["first run"], state, seconds.get(state, 0.0))
        for name, state in zip(NAMES, states, strict=True)
    ]
    assert said in summarize(RunReport("v1", steps, since="2026-12-01T03:04:05+00:00"))


def test_a_run_of_the_shop_says_what_it_did_and_nothing_twice(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    shop.ran()
    first = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in first[:4]] == [
        "3 of 3 nodes to run",
        "[1/3] clean",
        "[2/3] add",
        "[3/3] describe",
    ]
    assert first[4].startswith("3 of 3 nodes ran in") and len(first) == 5
    shop.ran()
    (second,) = capsys.readouterr().out.splitlines()
    assert second.startswith("all 3 nodes up to date (since ")
    shop.edit("nodes", "def add(cleaned):\n", "def add(cleaned):\n    raise ValueError('no sum')\n")
    assert shop.run()["add"][0] == "failed"
    last = capsys.readouterr().out.splitlines()[-1]
    assert "1 failed (add), 1 not reached; the same command goes on" in last
    shop.ran(shop.pipeline().only_nodes("clean"), verbosity="quiet", force=True)
    (only,) = capsys.readouterr().out.splitlines()
    assert only.startswith("1 of 1 nodes ran")
