"""Tokens from several processes: the same as from one process, and all processes end."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from embedline.errors import DataError
from embedline.pipelines.text import tokenizer as tokens_module
from embedline.pipelines.text.tokenizer import TokenOptions, tokenize, tokenize_texts

SRC = Path(__file__).resolve().parents[2] / "src"


def corpus(size: int) -> list[str]:
    generator = random.Random(3)
    words = [f"{'Ww'[number % 2]}ord{number}{'.,!'[number % 3]}" for number in range(900)]
    return [" ".join(generator.choices(words, k=30)) + ("!!!" if n % 7 == 0 else "") for n in range(size)]


def test_processes_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [*corpus(600), "", "fun (really): yes :) ( :)", "no no no", "a\n\n!!!", *corpus(200)]
    alone = tokenize(texts, TokenOptions(workers=1))
    monkeypatch.setattr(tokens_module, "IN_PROCESS", 0)
    monkeypatch.setattr(tokens_module, "BATCH", 9_000)
    shared = tokenize(texts, TokenOptions(workers=2))
    assert shared[1] == alone[1]
    assert np.array_equal(shared[0][0], alone[0][0]) and np.array_equal(shared[0][1], alone[0][1])


def test_an_error_in_a_process_names_the_document_and_ends_the_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens_module, "IN_PROCESS", 0)
    monkeypatch.setattr(tokens_module, "BATCH", 4_000)
    texts = corpus(100)
    # A lone surrogate cannot be sent as text to be pickled either way; spaCy refuses it in the process.
    texts[60] += " \ud800"
    with pytest.raises(DataError, match="document 'd60' cannot be tokenized"):
        tokenize(texts, TokenOptions(workers=2), [f"d{number}" for number in range(100)])
    assert not children_of(os.getpid())


def parent_of(process: Path) -> int | None:
    """Number of the parent of a process; None if the process has ended."""
    try:
        state, parent, *_ = (process / "stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return None
    return None if state == "Z" else int(parent)


def children_of(parent: int) -> list[Path]:
    """Child processes that still run work of a pool."""
    if not Path("/proc").exists():
        pytest.skip("processes are counted through /proc")
    found = [process for process in Path("/proc").glob("[0-9]*") if parent_of(process) == parent]
    return [process for process in found if "spawn_main" in (process / "cmdline").read_text()]


def wait_until(is_reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not is_reached() and time.monotonic() < deadline:
        time.sleep(0.05)


ENDLESS = """
import sys
from embedline.pipelines.text import tokenizer

if __name__ == "__main__":
    tokenizer.IN_PROCESS, tokenizer.BATCH = 0, 2000
    texts = ["some words to cut up"] * 5_000_000
    tokenizer.tokenize(texts, tokenizer.TokenOptions(workers=2))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize("blow", [signal.SIGINT, signal.SIGKILL])
def test_no_process_outlives_its_parent(tmp_path: Path, blow: signal.Signals) -> None:
    script = tmp_path / "endless.py"
    script.write_text(ENDLESS)
    environment = {**os.environ, "PYTHONPATH": str(SRC)}
    process = subprocess.Popen([sys.executable, str(script)], env=environment, stderr=subprocess.PIPE, text=True)
    wait_until(lambda: len(children_of(process.pid)) >= 2 or process.poll() is not None)
    workers = children_of(process.pid)
    assert len(workers) == 2
    time.sleep(3)  # until they work
    process.send_signal(blow)
    _, errors = process.communicate(timeout=60)
    wait_until(lambda: not any(map(parent_of, workers)))
    assert [worker for worker in workers if parent_of(worker)] == []
    assert process.returncode != 0
    if blow == signal.SIGINT:
        assert errors.rstrip().endswith("KeyboardInterrupt")
        assert errors.count("Traceback") == 1  # the processes of the pool say nothing


def test_threads_may_share_the_tokenizer() -> None:
    texts = corpus(300)
    expected = tokenize_texts(texts, TokenOptions(rules="dl1"))
    tokens_module._tokenizer.cache_clear()
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda text: tokenize_texts([text], TokenOptions(rules="dl1"))[0], texts))
    assert found == expected


def test_a_child_of_a_pool_works_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A daemonic process must not start processes: it tokenizes the texts itself."""
    monkeypatch.setattr(tokens_module, "IN_PROCESS", 0)
    monkeypatch.setattr(tokens_module, "map_in_processes", lambda *_: pytest.fail("a pool was asked for"))
    monkeypatch.setattr(tokens_module.multiprocessing.current_process(), "_config", {"daemon": True})
    (codes, _), lexicon = tokenize(["a b"], TokenOptions(rules="dl1", workers=2))
    assert [lexicon[code] for code in codes] == ["a", "b", "<eos>"]
