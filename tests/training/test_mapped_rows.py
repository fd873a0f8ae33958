"""Rows in a mapped file: the same training to the last bit, with little of the table in memory."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import narwhals as nw
import numpy as np
import polars as pl
import pytest
import small_trainings as small
import torch

from embedline.errors import DataError
from embedline.pipelines.tabular import arrays, learner
from embedline.pipelines.tabular.arrays import blocks_of, record_dtype, rows_of, subset, to_arrays, write_rows
from embedline.pipelines.tabular.columns import Columns
from embedline.pipelines.tabular.encoder import fit_encoder
from embedline.pipelines.tabular.options import EncodingOptions, NetworkOptions, TableTraining
from embedline.training import checkpoint as checkpoints
from embedline.training.options import FinderOptions

ROOT = Path(__file__).resolve().parents[2]


def make_training(**changes: Any) -> TableTraining:
    return TableTraining.model_validate({**small.SETTINGS, "epochs": 1, "batch_size": 64, **changes})


def two_targets() -> tuple[nw.DataFrame[Any], Any]:
    """A table with a number and a class to learn."""
    level = pl.when(pl.col("heat") > 0).then(pl.lit("a")).otherwise(pl.lit("b"))
    plain = small.table(classes=True)[0].to_native().select("split", heat="value:heat")
    plain = plain.with_columns(sales=pl.col("heat").exp(), shop=pl.lit("s"), level=level)
    columns = Columns(categorical=("shop",), continuous=("heat",), target=("sales", "level"))
    return small.encode_table(nw.from_native(plain, eager_only=True), columns, "none")


@pytest.mark.parametrize("kind", ["number", "class", "both"])
@pytest.mark.parametrize("block", [7, 65_536])
def test_a_file_holds_the_rows_of_a_split(kind, block, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(arrays, "BLOCK_ROWS", block)
    encoded, encoder = two_targets() if kind == "both" else small.table(classes=kind == "class")
    written = write_rows(encoded, encoder, "train", tmp_path / "train")
    expected = to_arrays(subset(encoded, "train"), encoder).labelled(encoder)
    assert written.path.stat().st_size == written.n_rows * written.dtype.itemsize
    assert written.dtype.isalignedstruct and set(written.dtype.names or ()) == {"target", "codes", "values"}
    rows = torch.randint(len(expected[-1]), (50,), generator=torch.Generator().manual_seed(0))
    found, chosen = written.arrays().labelled(encoder), written.reader()(rows)
    for whole, some, theirs in zip(found, chosen, expected, strict=True):
        assert whole.dtype == some.dtype == theirs.dtype and some.is_contiguous()
        assert torch.equal(whole, theirs) and torch.equal(whole[rows], theirs[rows])
        assert torch.equal(some, theirs[rows])
    bare = write_rows(encoded, encoder, "test", tmp_path / "test", labelled=False).arrays()
    assert bare.target is None
    assert torch.equal(bare.codes, to_arrays(subset(encoded, "test"), encoder).codes)
    assert sum(len(each) for each in blocks_of(encoded, "train")) == written.n_rows


def test_rows_without_a_target_are_refused(tmp_path: Path) -> None:
    encoded, encoder = small.table()
    holes = nw.from_native(encoded.to_native().with_columns(sales=pl.lit(None, pl.Float64)), eager_only=True)
    with pytest.raises(DataError, match="the training rows have no target 'sales'"):
        write_rows(holes, encoder, "train", tmp_path / "train")


@pytest.mark.parametrize(
    "settings",
    [
        *({}, {"classes": True, "seeds": (1,)}, {"dropout": 0.2, "averaging": {"decay": 0.9}}),
        {"early_stopping": {"patience": 1}, "epochs": 4, "seeds": (1,)},
    ],
    ids=str,
)
def test_a_mapped_training_gives_the_same_bits(settings: dict[str, Any]) -> None:
    small.assert_same(*(small.train_table(memory=kind, **settings) for kind in ("mapped", "device")))


def test_a_range_test_and_bins_of_mapped_rows_are_the_same() -> None:
    network = NetworkOptions(layers=(8,), numeric_embedding={"kind": "piecewise_linear", "bins": 5, "size": 3})  # type: ignore[arg-type]
    finder = FinderOptions(steps=12)
    kinds = (make_training(memory=kind) for kind in ("mapped", "device"))
    ours, theirs = (learner.range_test(*small.table(), network, training, finder) for training in kinds)
    assert ours == theirs and len(ours.losses) > 5


def test_auto_maps_rows_that_would_fill_half_of_the_free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    encoded, encoder = small.table()
    needed = len(encoded) * record_dtype(encoder).itemsize
    for free, mapped in ((2 * needed, False), (2 * needed - 1, True)):
        monkeypatch.setattr(arrays, "available_memory", lambda _, free=free: free)
        with rows_of(encoded, encoder, make_training()) as store:
            assert (store.folder is not None) is mapped
        with rows_of(encoded, encoder, make_training(memory="device")) as store:
            assert store.folder is None


def test_the_file_lies_in_the_scratch_folder_and_does_not_stay(tmp_path: Path) -> None:
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "train").write_bytes(b"of a killed process")
    with checkpoints.checkpointing(tmp_path, 3600.0):
        with rows_of(*small.table(), make_training(memory="mapped")) as store:
            assert store.folder == tmp_path / "rows" and not list(store.folder.iterdir())
            assert store.rows("train").arrays().codes.shape[0] == 400
        assert not (tmp_path / "rows").exists()


def test_a_container_s_limit_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrays, "CGROUP", tmp_path)
    monkeypatch.setattr(arrays.psutil, "virtual_memory", lambda: SimpleNamespace(available=5_000_000))
    limited = {"memory.max": "4000000\n", "memory.current": "3000000\n", "memory.stat": "anon 1\nfile 500000\n"}
    for files, free in (({}, 5_000_000), ({**limited, "memory.max": "max\n"}, 5_000_000), (limited, 1_500_000)):
        for name, text in files.items():
            (tmp_path / name).write_text(text)
        assert arrays.available_memory(torch.device("cpu")) == free


# Memory is measured in a process of its own: this one has what other tests have left.
MEASURED = """
import json, sys, threading, time
import narwhals as nw, polars as pl, torch
from embedline.datasets import PolarsFrame
from embedline.pipelines.tabular.encoder import Encoder
from embedline.pipelines.tabular.learner import train_network
from embedline.pipelines.tabular.options import NetworkOptions, TableTraining

def anonymous():
    fields = dict(line.split(":", 1) for line in open("/proc/self/status") if ":" in line)
    return int(fields["RssAnon"].split()[0]) * 1024

torch.set_num_threads(1)
encoder = Encoder.model_validate(json.load(open(sys.argv[2])))
def train(frame, memory):
    training = TableTraining(epochs=1, batch_size=4096, lr=0.001, precision="fp32", device="cpu", memory=memory)
    return train_network(nw.from_native(frame, eager_only=True), encoder, NetworkOptions(layers=(4,)), training)

frame = PolarsFrame(filepath=sys.argv[1], file_format="ipc").load()
train(frame.head(10_000), sys.argv[3])
before, peak, over = anonymous(), [0], threading.Event()

def watch():
    while not over.wait(0.01):
        peak[0] = max(peak[0], anonymous())

watcher = threading.Thread(target=watch)
watcher.start()
train(frame, sys.argv[3])
over.set()
watcher.join()
print(before, peak[0])
"""


@pytest.mark.slow
def test_little_of_a_mapped_table_is_in_memory(tmp_path: Path) -> None:
    numbers, n_rows, names = np.random.default_rng(0), 400_000, [f"x{place}" for place in range(60)]
    few = pl.DataFrame({name: numbers.normal(size=1000) for name in names}).with_columns(y=pl.col("x0").exp())
    columns = Columns(categorical=(), continuous=tuple(names), target="y")
    encoder = fit_encoder(nw.from_native(few, eager_only=True), columns, EncodingOptions(target_transform="log"))
    (tmp_path / "encoder.json").write_text(json.dumps(encoder.model_dump(mode="json")))
    values = {f"value:{name}": numbers.normal(size=n_rows).astype(np.float32) for name in names}
    encoded = pl.DataFrame({"split": ["train"] * n_rows, "y": np.full(n_rows, 2.0), **values})
    encoded.write_ipc(tmp_path / "encoded.feather")
    size = n_rows * 60 * 4
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1", "POLARS_MAX_THREADS": "1"}
    found = {}
    for kind in ("mapped", "device"):
        arguments = [str(tmp_path / "encoded.feather"), str(tmp_path / "encoder.json"), kind]
        command = [sys.executable, "-c", MEASURED, *arguments]
        shown = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
        before, peak = map(int, shown.split())
        found[kind] = peak - before
        assert before < 0.5e9 + 0.2 * size
    assert found["mapped"] < 0.4 * size < size < found["device"], found
