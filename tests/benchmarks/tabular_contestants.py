"""The two contestants of bench_training.py: one training each, in a process of its own, measured from inside.

    python tests/benchmarks/tabular_contestants.py '{"contestant": "fastai", "table": "table.parquet", ...}'

The last line of standard output is a JSON object; see :func:`work`. Reading and encoding the table is outside the times
and inside the memory. fastai is imported module by module: ``fastai.tabular.all`` also imports torchvision, whose
wheels for CUDA do not load beside a PyTorch for the CPU, and the tabular learner needs none of it.
"""

import time
from datetime import date
from typing import Any

import narwhals as nw
import numpy as np
import polars as pl
import torch
from contests import contest, peak_megabytes

from embedline.pipelines.tabular.arrays import subset
from embedline.pipelines.tabular.columns import SPLIT_COLUMN, TEST, TRAIN, Columns, Split
from embedline.pipelines.tabular.splits import assign_splits
from embedline.training.batches import UNTIMED_STEPS
from embedline.training.metrics import rmspe

# The lessons' own variables and fast.ai v3's split, whatever the project's parameters have come to since.
COLUMNS = Columns(
    categorical=tuple(
        "Store DayOfWeek Year Month Day StateHoliday CompetitionMonthsOpen Promo2Weeks StoreType Assortment "
        "PromoInterval CompetitionOpenSinceYear Promo2SinceYear State Week Events Promo_fw Promo_bw StateHoliday_fw "
        "StateHoliday_bw SchoolHoliday_fw SchoolHoliday_bw".split()
    ),
    continuous=tuple(
        "CompetitionDistance Max_TemperatureC Mean_TemperatureC Min_TemperatureC Max_Humidity Mean_Humidity "
        "Min_Humidity Max_Wind_SpeedKm_h Mean_Wind_SpeedKm_h CloudCover trend trend_DE AfterStateHoliday "
        "BeforeStateHoliday Promo SchoolHoliday".split()
    ),
    target="Sales",
    id=("Store",),
    time="Date",
)
SPLIT = Split(kind="window", column="Date", start=date(2015, 6, 19), end=date(2015, 7, 31), train="before")
LAYERS = [1000, 500]
DROPOUTS = [0.001, 0.01]
EMBEDDING_DROPOUT = 0.04
Y_RANGE_MARGIN = 1.2

# The lessons' settings of fastai v1 and v2 for this table: Adam, one cycle, weight decay 0.2.
FASTAI = {"epochs": 1, "batch_size": 128, "lr": 5e-3, "weight_decay": 0.2}
# The same network in embedline's words: v2's embedding rule, batch-norm on the hidden layers, a sigmoid output.
NETWORK: dict[str, Any] = {"layers": LAYERS, "dropout": DROPOUTS, "embedding_dropout": EMBEDDING_DROPOUT}
NETWORK |= {"embedding_rule": "v2", "batch_norm": True, "continuous_batch_norm": True, "y_range": "auto"}


def load_parts(job: dict[str, Any]) -> pl.DataFrame:
    """The table of the job with its column ``split``; the same ``rows`` of the part ``train`` for every contestant."""
    table = pl.read_parquet(job["table"])
    parts: pl.DataFrame = assign_splits(nw.from_native(table, eager_only=True), COLUMNS, SPLIT).to_native()
    parts = parts.filter(pl.col(SPLIT_COLUMN).is_in([TRAIN, TEST]))
    if job.get("rows"):
        train = parts.filter(pl.col(SPLIT_COLUMN) == TRAIN)
        sample = train.sample(min(job["rows"], len(train)), seed=0).sort(COLUMNS.keys)
        parts = pl.concat([sample, parts.filter(pl.col(SPLIT_COLUMN) == TEST)])
    return parts


def train_embedline(job: dict[str, Any]) -> dict[str, Any]:
    """Train embedline's network with the job's ``training`` options through the functions that its nodes call."""
    from embedline.pipelines.tabular.encoder import encode, fit_encoder
    from embedline.pipelines.tabular.learner import train_network
    from embedline.pipelines.tabular.model import predict
    from embedline.pipelines.tabular.options import EncodingOptions, NetworkOptions, TableTraining

    native = load_parts(job)
    parts = nw.from_native(native, eager_only=True)
    encoder = fit_encoder(subset(parts, TRAIN), COLUMNS, EncodingOptions(target_transform="log"))
    encoded = encode(parts, encoder)
    training = TableTraining(**{"device": "cpu", "threads": job["threads"], **job["training"]})
    # Only the training rows go in: evaluating while it trains is no part of the race.
    used = time.process_time()
    bundle, _ = train_network(subset(encoded, TRAIN), encoder, NetworkOptions(**NETWORK), training)
    result = {name: bundle.metrics[name] for name in ("rows", "rows_per_second", "seconds", "precision")}
    result["cpu_seconds"] = time.process_time() - used
    result["embeddings"] = list(zip(bundle.config["cardinalities"], bundle.config["sizes"], strict=True))
    if job["evaluate"]:
        held_out = subset(encoded, TEST)
        result["exp_rmspe"] = rmspe(held_out.get_column(COLUMNS.target).to_numpy(), predict(held_out, bundle))
    return result


def train_fastai(job: dict[str, Any]) -> dict[str, Any]:
    """Train fastai's tabular learner as its lessons do, with its own data loader and without its progress bar."""
    import fastai.callback.schedule  # noqa: F401  adds fit_one_cycle to the learner
    from fastai.callback.core import Callback
    from fastai.losses import MSELossFlat
    from fastai.tabular.core import Categorify, FillMissing, Normalize, TabularPandas
    from fastai.tabular.learner import tabular_learner

    class Throughput(Callback):
        """The times that embedline's loop takes of itself: the training, and its steps without the first ones."""

        steps = 0

        def before_fit(self) -> None:
            self.began, self.used = time.perf_counter(), time.process_time()

        def after_batch(self) -> None:
            if self.training:
                self.steps += 1
                if self.steps == UNTIMED_STEPS:
                    self.warm = time.perf_counter()

        def after_train(self) -> None:
            now = time.perf_counter()
            self.seconds, self.timed, self.cpu = now - self.began, now - self.warm, time.process_time() - self.used

    native = load_parts(job)
    training = np.flatnonzero(native[SPLIT_COLUMN] == TRAIN)
    held_out = np.flatnonzero(native[SPLIT_COLUMN] == TEST)
    target = native[COLUMNS.target].log()
    # FillMissing refuses a column whose gaps are all in the evaluated rows; embedline takes the training median there.
    complete = [name for name in COLUMNS.continuous if not native[name].gather(training).null_count()]
    medians = native[training].select(pl.col(complete).median())
    filled = [pl.col(name).fill_null(medians[name][0]) if name in complete else name for name in COLUMNS.continuous]
    frame = native.select(*COLUMNS.categorical, *filled, target.cast(pl.Float32)).to_pandas()
    names = {"cat_names": list(COLUMNS.categorical), "cont_names": list(COLUMNS.continuous), "y_names": COLUMNS.target}
    splits = (training.tolist(), held_out.tolist())
    tables = TabularPandas(frame, procs=[FillMissing, Categorify, Normalize], **names, splits=splits)
    settings = job["training"]
    torch.manual_seed(job["seed"])
    learner = tabular_learner(
        tables.dataloaders(bs=settings["batch_size"], val_bs=4096, device=torch.device("cpu")),
        layers=LAYERS,
        config={"ps": list(DROPOUTS), "embed_p": EMBEDDING_DROPOUT},
        y_range=(0.0, Y_RANGE_MARGIN * target.to_numpy()[training].max()),
        loss_func=MSELossFlat(),
    )
    stopwatch = Throughput()
    with learner.no_bar(), learner.no_logging():
        learner.fit_one_cycle(settings["epochs"], settings["lr"], wd=settings["weight_decay"], cbs=stopwatch)
    steps = stopwatch.steps - UNTIMED_STEPS
    result = {
        "rows": len(training),
        "rows_per_second": steps * settings["batch_size"] / stopwatch.timed,
        "seconds": stopwatch.seconds,
        "cpu_seconds": stopwatch.cpu,
        "precision": "fp32",
        "embeddings": [(table.num_embeddings, table.embedding_dim) for table in learner.model.embeds],
    }
    if job["evaluate"]:
        with learner.no_bar():
            predicted = np.exp(learner.get_preds(ds_idx=1)[0].squeeze(1).numpy().astype(np.float64))
        result["exp_rmspe"] = rmspe(native[COLUMNS.target].to_numpy()[held_out], predicted)
    return result


def work(job: dict[str, Any]) -> dict[str, Any]:
    """Train the job's contestant.

    Returns:
        ``rows`` trained on, ``rows_per_second`` of the steps after the first ones, ``seconds`` and
        ``cpu_seconds`` (of all threads) of the whole training, ``precision``, ``embeddings`` (pairs of rows and width),
        ``peak_mb`` and, if asked for, ``exp_rmspe``.
    """
    torch.set_num_threads(job["threads"])
    train = {"embedline": train_embedline, "fastai": train_fastai}[job["contestant"]]
    return {**train(job), "peak_mb": peak_megabytes()}


if __name__ == "__main__":
    contest(work)
