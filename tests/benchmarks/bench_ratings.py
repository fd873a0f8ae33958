"""Training of the ratings learner against fastai's own, and on as many ratings as MovieLens 25M has.

    pip install -e ".[benchmark]"
    python tests/benchmarks/bench_ratings.py --data FOLDER            all parts, about 10 minutes
    python tests/benchmarks/bench_ratings.py --data FOLDER --speed    the first part alone, about 2 minutes
    python tests/benchmarks/bench_ratings.py --rank     the rankers against lenskit's, one thread each
    python tests/benchmarks/bench_ratings.py --large                  the large file alone; needs no data, no fastai
    python -m pytest tests/benchmarks/bench_ratings.py                holds all targets

1. The model of fastai's ``collab_learner`` (50 factors, biases, ``y_range`` (0, 5.5)) at its batch size of 64 and with
   its settings for 5 epochs, on the same 80 % of MovieLens 100k: rounds, contestants in turn.
2. EASE and implicit ALS against lenskit's on the same 80 % of MovieLens 100k, every rating a choice, with the same
   settings: processor seconds of the fit, and NDCG@10 on the held-out ratings of 4 and 5.
3. An epoch on 25 million generated ratings (162,000 users, 59,000 films), read from a stored frame: memory of the whole
   process, and rows per second beside those of MovieLens 100k's size with the project's settings for it. On the same
   frame ALS of 32 factors: seconds of an iteration, the lists of all users, and memory.

Every training runs in a process of its own with the same number of threads, none beside another.
"""

import argparse
import tempfile
from pathlib import Path

import polars as pl
import pytest
from contests import CORES, DATA, Result, Rounds, end, median_ratio, race, require_fastai, run_contestant, say

from embedline.pipelines.movielens.files import read_ratings
from embedline.pipelines.movielens.nodes import acquire
from embedline.pipelines.movielens.simulator import GeneratorOptions, write_large

CONTESTANT = Path(__file__).with_name("ratings_contestants.py")
ROUNDS = 3


# The lesson's settings for this model: one cycle, weight decay 0.1 (decoupled in fastai v2).
TRAINING = {"epochs": 5, "batch_size": 64, "lr": 5e-3, "weight_decay": 0.1}
SIDES: dict[str, Result] = {
    "fastai": {"contestant": "fastai"},
    "embedline": {"contestant": "embedline", "network": {"factors": 50, "y_range": [0.0, 5.5], "init_std": 0.01}},
}
# The project's settings for MovieLens 100k, for one epoch; batches in proportion to the ratings for the large file.
PLAIN: Result = {"contestant": "embedline", "network": {"factors": 50}, "evaluate": False, "seed": 42}
PENALTY = {"factors": 0.09, "biases": 0.01}
SMALL_TRAINING = {"epochs": 1, "batch_size": 128, "lr": 3e-3, "penalty": PENALTY}
LARGE_TRAINING = {**SMALL_TRAINING, "batch_size": 16_384}
SMALL = {"n_users": 943, "n_items": 1_682, "n_ratings": 100_000}
LARGE = {"n_users": 162_000, "n_items": 59_000, "n_ratings": 25_000_000}
MOST_MEGABYTES = 4096
RANKERS: dict[str, Result] = {
    "ease": {"penalty": 300.0},
    "als": {"penalty": 10.0, "alpha": 1.0, "factors": 32, "iterations": 10},
}
RECOMMEND: Result = {"contestant": "recommend", "factors": 32, "iterations": 1}
MOST_LIST_SECONDS = 600


def test_fastais_model_trains_five_times_faster(real_data: Path, tmp_path: Path) -> None:
    require_fastai()
    rounds = compare_speed(store_real(real_data, tmp_path), CORES, ROUNDS)
    report_speed(rounds)
    assert speed_ratio(rounds) >= 5.0


def test_25_million_ratings_train_in_bounded_memory_at_half_the_speed_at_least(tmp_path: Path) -> None:
    small, large, lists = compare_sizes(tmp_path, CORES)
    report_sizes(small, large)
    report_lists(lists)
    assert not missed_sizes(small, large) + missed_lists(lists)


def test_rankers_are_as_fast_as_lenskits_and_as_good(real_data: Path, tmp_path: Path) -> None:
    pytest.importorskip("lenskit", reason='lenskit is not installed: pip install -e ".[benchmark]"')
    found = compare_rankers(store_real(real_data, tmp_path), ROUNDS)
    report_rankers(found)
    assert not missed_rankers(found)


def compare_rankers(ratings: Path, rounds: int) -> dict[str, Rounds]:
    """For each ranker rounds of a fit of each side, in turn, with one thread."""
    sides: dict[str, Result] = {side: {"side": side} for side in ("lenskit", "embedline")}
    job = {"contestant": "rank", "ratings": str(ratings), "threads": 1}
    same = ["rows", "users", "items"]
    return {
        name: race(CONTESTANT, sides, {**job, "ranker": name, **own}, rounds, same) for name, own in RANKERS.items()
    }


def report_rankers(found: dict[str, Rounds]) -> None:
    """Write the seconds of each round, and NDCG, to standard output."""
    lines = [f"{'':6}{'':12}{'processor s of each round':32}{'NDCG@10':>8}"]
    for name, rounds in found.items():
        for side in rounds[0]:
            seconds = " ".join(f"{one[side]['seconds']:7.2f}" for one in rounds)
            lines.append(f"{name:6}{side:12}{seconds:32}{rounds[0][side]['ndcg']:8.4f}")
    say(*lines)


def missed_rankers(found: dict[str, Rounds]) -> list[str]:
    """Rankers that are slower than lenskit's, or worse."""
    missed = [f"{name} as fast as lenskit's" for name, one in found.items() if ratio_of_seconds(one) > 1.0]
    worse = (name for name, one in found.items() if one[0]["embedline"]["ndcg"] < one[0]["lenskit"]["ndcg"] - 0.01)
    return [*missed, *(f"{name} as good as lenskit's" for name in worse)]


def ratio_of_seconds(rounds: Rounds) -> float:
    """Median over the rounds of embedline's seconds to lenskit's."""
    return median_ratio(rounds, "seconds", "embedline", "lenskit")


def missed_lists(lists: Result) -> list[str]:
    """The targets of the recommendations for everybody that were missed."""
    found = [f"{MOST_MEGABYTES} MB for ALS and the lists"] if lists["peak_mb"] > MOST_MEGABYTES else []
    return found + ([f"all lists in {MOST_LIST_SECONDS} s"] if lists["list_seconds"] > MOST_LIST_SECONDS else [])


def report_lists(lists: Result) -> None:
    """Write the seconds and the memory of the recommendations for everybody to standard output."""
    say(
        f"ALS, 32 factors, {lists['rows']:,} ratings: {lists['seconds']:.1f} s an iteration; lists of "
        f"{lists['lists']:,} users over {lists['items']:,} items: {lists['list_seconds']:.0f} s; "
        f"peak {lists['peak_mb']:,.0f} MB"
    )


def missed_sizes(small: Result, large: Result) -> list[str]:
    """The targets of the second part that were missed."""
    slow = large["rows_per_second"] * 2 < small["rows_per_second"]
    found = [f"{MOST_MEGABYTES} MB"] if large["peak_mb"] > MOST_MEGABYTES else []
    return found + (["half the small file's speed"] if slow else [])


def store_real(data: Path, folder: Path) -> Path:
    """MovieLens 100k's ratings as a Feather file, by the project's own reader."""
    raw = acquire(str(data / "ml-100k.zip"), verify=True, generator=GeneratorOptions())
    path = folder / "ratings.feather"
    read_ratings(raw).select("user", "item", "rating").write_ipc(path)
    return path


def store_generated(folder: Path, name: str, size: dict[str, int]) -> Path:
    """Generated ratings of a size as a Feather file."""
    table, path = folder / f"{name}.csv", folder / f"{name}.feather"
    write_large(table, seed=0, **size)
    types = {"userId": pl.Int32, "movieId": pl.Int32, "rating": pl.Float32}
    ratings = pl.scan_csv(table, schema_overrides=types).select(user="userId", item="movieId", rating="rating")
    ratings.sink_ipc(path)
    table.unlink()
    return path


def compare_speed(ratings: Path, threads: int, rounds: int) -> Rounds:
    """Rounds of one training of each side, in turn."""
    job = {"ratings": str(ratings), "threads": threads, "seed": 42, "evaluate": True, "training": TRAINING}
    return race(CONTESTANT, SIDES, job, rounds, same=["rows", "users", "items"])


def speed_ratio(rounds: Rounds) -> float:
    """Median over the rounds of embedline's rows per second to fastai's of the same round."""
    return median_ratio(rounds, "rows_per_second", "embedline", "fastai")


def compare_sizes(folder: Path, threads: int) -> tuple[Result, Result, Result]:
    """One epoch of MovieLens 100k's size and one of MovieLens 25M's, and ALS and all lists on the latter."""
    small, large = (str(store_generated(folder, name, size)) for name, size in (("small", SMALL), ("large", LARGE)))
    jobs = (
        {**PLAIN, "ratings": small, "training": SMALL_TRAINING},
        {**PLAIN, "ratings": large, "training": LARGE_TRAINING},
        {**RECOMMEND, "ratings": large},
    )
    first, second, third = (run_contestant(CONTESTANT, {**job, "threads": threads}) for job in jobs)
    return first, second, third


def report_speed(rounds: Rounds) -> None:
    """Write the first part to standard output."""
    lines = [
        f"{TRAINING}, {rounds[0]['fastai']['rows']:,} ratings, {len(rounds)} rounds in turn",
        f"{'':12}{'rows/s of each round':32}{'seconds':24}{'MSE':>8}",
    ]
    for side in SIDES:
        speeds = " ".join(f"{found[side]['rows_per_second']:9,.0f}" for found in rounds)
        seconds = " ".join(f"{found[side]['seconds']:6.1f}" for found in rounds)
        lines.append(f"{side:12}{speeds:32}{seconds:24}{rounds[0][side]['mse']:8.4f}")
    lines.append(f"embedline's rows/s are {speed_ratio(rounds):.1f} times fastai's")
    say(*lines)


def report_sizes(small: Result, large: Result) -> None:
    """Write the second part to standard output."""
    lines = [f"{'ratings':>12}{'users':>10}{'items':>10}{'batch':>8}{'rows/s':>12}{'seconds':>10}{'peak MB':>10}"]
    for result, training in ((small, SMALL_TRAINING), (large, LARGE_TRAINING)):
        cells = f"{result['rows']:12,}{result['users']:10,}{result['items']:10,}{training['batch_size']:8,}"
        lines.append(f"{cells}{result['rows_per_second']:12,.0f}{result['seconds']:10.1f}{result['peak_mb']:10,.0f}")
    ratio = large["rows_per_second"] / small["rows_per_second"]
    lines.append(f"rows/s of the large file: {ratio:.2f} of the small one's")
    say(*lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="time the ratings learner against fastai's, and at 25 million rows")
    parser.add_argument("--data", type=Path, default=DATA, help="folder that holds ml-100k.zip")
    parser.add_argument("--speed", action="store_true", help="the race with fastai alone")
    parser.add_argument("--rank", action="store_true", help="the rankers against lenskit's alone")
    parser.add_argument("--large", action="store_true", help="the large file alone")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="rounds of the race")
    parser.add_argument("--threads", type=int, default=CORES, help="threads of each contestant")
    options = parser.parse_args()
    missed = []
    everything = not (options.speed or options.rank or options.large)
    with tempfile.TemporaryDirectory() as folder:
        real = store_real(options.data, Path(folder)) if everything or options.speed or options.rank else Path()
        if everything or options.speed:
            rounds = compare_speed(real, options.threads, options.rounds)
            report_speed(rounds)
            missed += [] if speed_ratio(rounds) >= 5.0 else ["five times fastai's rows per second"]
        if everything or options.rank:
            found = compare_rankers(real, options.rounds)
            report_rankers(found)
            missed += missed_rankers(found)
        if everything or options.large:
            small, large, lists = compare_sizes(Path(folder), options.threads)
            report_sizes(small, large)
            report_lists(lists)
            missed += missed_sizes(small, large) + missed_lists(lists)
    end(missed)


if __name__ == "__main__":
    main()
