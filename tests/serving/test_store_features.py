"""The inputs of changed days equal those of the pipeline's nodes to the last bit, whatever the options."""

from dataclasses import replace

import narwhals as nw
import numpy as np
import polars as pl
import pytest
from small_rossmann import COLUMNS, Batch, raw_tables

from embedline.pipelines.rossmann import nodes
from embedline.pipelines.rossmann.options import FeatureOptions
from embedline.pipelines.rossmann.service import REQUEST, RossmannService
from embedline.pipelines.rossmann.store_features import DAY, Day, StoreFeatures
from embedline.pipelines.tabular.arrays import TableArrays, to_arrays
from embedline.pipelines.tabular.columns import PREDICT
from embedline.serving.service import Service

FURTHER = ("AfterPromo", "BeforePromo", "AfterSchoolHoliday", "BeforeSchoolHoliday", "ClosedBefore", "ClosedAfter")
EVERYTHING = COLUMNS.model_copy(update={"continuous": (*COLUMNS.continuous, *FURTHER, "ClosedDays91", "Open")})
OPTIONS = [
    FeatureOptions(),
    FeatureOptions(calendar="all", window=3),
    FeatureOptions(conditions="lagged", window=31, competition_months_cap=400, promo2_weeks_cap=300),
    FeatureOptions(calendar="all", conditions="lagged", weather=("Events",)),
]


def with_gaps() -> dict[str, pl.DataFrame]:
    """Raw tables in which days of the stores are missing, and a store that has none."""
    raw = raw_tables()
    chance = np.random.default_rng(5)
    for name in ("train", "test"):
        raw[name] = raw[name].filter(pl.Series(chance.random(len(raw[name])) < 0.95))
    first = raw["store"]["Store"][0]
    return {
        **raw,
        "test": raw["test"].filter(pl.col("Store") != first),
        "train": raw["train"].filter(pl.col("Store") != first),
    }


@pytest.fixture(scope="module", params=OPTIONS, ids=["window", "all", "lagged", "all-lagged"])
def packed(request: pytest.FixtureRequest) -> tuple[Batch, Service]:
    """What a run makes of the generated tables, and the service."""
    weather = set(FeatureOptions().weather) - set(request.param.weather)
    columns = EVERYTHING.model_copy(
        update={"continuous": tuple(name for name in EVERYTHING.continuous if name not in weather)}
    )
    batch = Batch(with_gaps(), features=request.param, columns=columns).fitted()
    return batch, batch.pack(batch.train())


@pytest.fixture(scope="module")
def batch(packed: tuple[Batch, Service]) -> Batch:
    return packed[0]


@pytest.fixture(scope="module")
def service(packed: tuple[Batch, Service]) -> RossmannService:
    opened = packed[1].open()
    assert isinstance(opened, RossmannService)
    return opened


def by_nodes(service: RossmannService, days: list[Day]) -> TableArrays:
    """The inputs that the nodes make of the days of a request."""
    typed = nodes.type_days(pl.DataFrame(days, schema=list(DAY), orient="row"), file=REQUEST)
    return to_arrays(nw.from_native(service._encode(typed), eager_only=True), service._model.encoder)


def assert_same(found: TableArrays, expected: TableArrays, service: RossmannService) -> None:
    encoder = service._model.encoder
    for names, ours, theirs in (
        (encoder.code_columns, found.codes, expected.codes),
        (encoder.value_columns, found.continuous, expected.continuous),
    ):
        assert ours.shape == theirs.shape and ours.dtype == theirs.dtype
        differ = [name for place, name in enumerate(names) if not ours[:, place].equal(theirs[:, place])]
        assert not differ


def random_days(chance: np.random.Generator, stores: list[str], n_days: int) -> list[Day]:
    """Different days of stores, with any events, in no order; some are a long closure, some are not in the calendar."""
    first = np.datetime64("2013-01-01") + chance.integers(0, 985)
    asked: dict[tuple[str, str], Day] = {}
    for offset in range(n_days):
        # In one half of the requests all over the calendar, in the other days that follow each other.
        date = first + offset if n_days % 2 else np.datetime64("2013-01-01") + chance.integers(0, 985)
        date = str(min(date, np.datetime64("2015-09-17")))
        flags = [str(int(chance.random() < share)) for share in (0.5 if n_days % 4 < 2 else 0.05, 0.5, 0.3)]
        kind = "0" if chance.random() < 0.8 else str(chance.choice(list("abcz")))
        store = str(chance.choice(stores))
        asked[store, date] = (store, date, str(chance.integers(1, 8)), flags[0], flags[1], kind, flags[2])
    return list(asked.values())


def test_random_days_have_the_inputs_of_the_nodes(service) -> None:
    chance = np.random.default_rng(11)
    stores = service._stores["Store"].cast(pl.String).to_list()
    for n_days in (1, 1, 1, 2, 5, 7, 40, 41, 43, 300, 303):
        own = stores if n_days < 200 else stores[:2]
        days = random_days(chance, own, n_days)
        found = service._inputs.inputs(days)
        assert found is not None
        arrays, places = found
        assert sorted(places.tolist()) == [*range(len(days))]
        assert_same(arrays, by_nodes(service, days), service)
        again = service._inputs.inputs([*days, days[0]])  # a row twice counts once
        assert again is not None and again[1][-1] == again[1][0] and again[0].codes.equal(arrays.codes)


def test_all_rows_of_the_file_changed_have_the_inputs_of_a_run(batch, service) -> None:
    """A run of the pipeline, not its nodes on the tables of the service."""
    other = {name: pl.when(pl.col(name) == "1").then(pl.lit("0")).otherwise(pl.lit("1")) for name in ("Promo", "Open")}
    test = batch.raw["test"].with_columns(**other)
    found = service._inputs.inputs(list(test.select(DAY).iter_rows()))
    assert found is not None
    run = replace(batch, raw={**batch.raw, "test": test})
    expected = to_arrays(nw.from_native(run.encoded.filter(split=PREDICT), eager_only=True), service._model.encoder)
    assert_same(found[0], expected, service)


def test_what_only_the_nodes_can_say_is_left_to_them(batch, service) -> None:
    day: Day = next(batch.raw["test"].select(DAY).iter_rows())
    assert service._inputs.inputs([day]) is not None
    for name, text in (("Store", "4711"), ("Date", "2015-8-1"), ("Date", "1999-01-01"), ("Promo", "+1"), ("Open", "")):
        assert (
            service._inputs.inputs(
                [tuple(text if column == name else value for column, value in zip(DAY, day, strict=True))]
            )
            is None
        )
    closed = tuple("0" if column == "Open" else value for column, value in zip(DAY, day, strict=True))
    assert service._inputs.inputs([day, closed]) is None  # two days that differ for one date


def test_an_encoder_with_other_inputs_is_left_to_the_nodes(packed, batch, service) -> None:
    encoder = service._model.encoder
    other = encoder.model_copy(update={"continuous": {**encoder.continuous, "Humour": encoder.continuous["Days"]}})
    inputs = StoreFeatures(other, packed[1].tables, service._features, service._split)
    assert not inputs.complete and inputs.inputs([next(batch.raw["test"].select(DAY).iter_rows())]) is None
