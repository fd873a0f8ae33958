"""`recommend` at the command line, on a stored model with random weights; each value is computed anew."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from command_line import NEW, OLD, invoke, store
from copies import PROJECT
from embedline.commands.recommend import find_item
from embedline.errors import DataError

N_USERS, N_ITEMS = 5, 9
TITLES = [*(f"Film {k} (19{50 + k})" for k in range(N_ITEMS - 2)), "Long Night, A (1990)", "Long Day (1991)"]
RATINGS = pl.DataFrame(
    {
        "user": [user for user in range(1, N_USERS + 1) for _ in range(4)],
        "item": [100 + (3 * user + k) % N_ITEMS for user in range(1, N_USERS + 1) for k in range(4)],
        "rating": [1.0 + k for _ in range(N_USERS) for k in range(4)],
    }
)


def make_bundle(seed: int) -> Any:
    """A model of two members with random weights."""
    import torch

    from embedline.pipelines.ratings.contract import RatingColumns
    from embedline.pipelines.ratings.encoder import fit_encoder
    from embedline.pipelines.ratings.network import build_network, feature_codes, network_config
    from embedline.pipelines.ratings.options import RatingNetwork
    from embedline.training.model_file import ModelBundle

    encoder = fit_encoder(RATINGS, RatingColumns(), (1.0, 5.0))
    config, random = network_config(encoder, RatingNetwork(factors=3)), torch.Generator().manual_seed(seed)
    weights = {}
    for member in range(2):
        network = build_network(config, feature_codes(encoder), seed=member)
        for name, value in network.state_dict().items():
            weights[f"{member}.{name}"] = 0.7 * torch.randn(value.shape, generator=random)
            weights[f"{member}.{name}"][0] = 0.0
    metrics = {"members": 2, "member_weights": [0.75, 0.25]}
    return ModelBundle("ratings", config, encoder.model_dump(mode="json"), weights, metrics)


def make_ranker(seed: int, **config: Any) -> Any:
    """EASE with random weights, or the ranker of the ``config``."""
    import torch

    from embedline.training.model_file import ModelBundle

    encoder = make_bundle(seed).encoder
    size, random = len(encoder["items"]), torch.Generator().manual_seed(100 + seed)
    weights = {"ranker.matrix": torch.randn(size, size, generator=random), "popularity.counts": torch.zeros(size)}
    return ModelBundle("ranker", {"ranker": "ease", "settings": {}, "candidates": {}, **config}, encoder, weights)


def ease_scores(seed: int, rated: dict[int, float]) -> np.ndarray:
    """Scores of all items by the items that somebody has rated."""
    row = np.zeros(N_ITEMS)
    for item, rating in rated.items():
        row[item - 100] = rating / 5
    return row @ make_ranker(seed).weights["ranker.matrix"].numpy()


@pytest.fixture(scope="module")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two versions of movielens' model and ranker, its encoded ratings and its items; a table's model as a ranker."""
    import torch

    from embedline.pipelines.ratings.encoder import RatingsEncoder, encode
    from embedline.training.model_file import ModelBundle

    root = tmp_path_factory.mktemp("data")
    for version, seed in ((OLD, 1), (NEW, 2)):
        bundle = make_bundle(seed)
        store(root, "06_models/movielens/model.safetensors", version).write_bytes(bundle.to_bytes())
        store(root, "06_models/movielens/ranker.safetensors", version).write_bytes(make_ranker(seed).to_bytes())
        encoded = encode(RATINGS, RatingsEncoder.model_validate(bundle.encoder))
        encoded.write_ipc(store(root, "05_model_input/movielens/encoded.feather", version))
        items = pl.DataFrame({"item": range(100, 100 + N_ITEMS), "title": TITLES})
        items.write_ipc(store(root, "03_primary/movielens/items.feather", version))
    table = ModelBundle("tabular", {}, {}, {"0.weight": torch.zeros(1)})
    store(root, "06_models/adult/ranker.safetensors", NEW).write_bytes(table.to_bytes())
    return root


@pytest.fixture
def run(data_root: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run the command on these artifacts; its result."""
    monkeypatch.chdir(PROJECT)
    return lambda *given, **more: invoke("recommend", *given, "--params", f"data_root={data_root}", **more)


Row = tuple[int, int, str, float, float]


def rows_of(printed: str) -> list[Row]:
    """Rank, item, title, score and predicted rating of each line of the table."""
    lines = [line.split() for line in printed.splitlines()]
    return [
        (int(words[0]), int(words[1]), " ".join(words[2:-2]), float(words[-2]), float(words[-1]))
        for words in lines
        if len(words) > 4 and words[0].isdigit()
    ]


def best(scores: np.ndarray, predicted: np.ndarray, rated: set[int], k: int) -> list[Row]:
    order = [place for place in np.argsort(-scores) if 100 + place not in rated][:k]
    return [
        (rank, 100 + p, TITLES[p], float(scores[p]), float(np.clip(predicted[p], 1, 5)))
        for rank, p in enumerate(order, start=1)
    ]


def as_printed(rows: list[Row]) -> list[Any]:
    return [(*row[:3], pytest.approx(row[3], abs=1.01e-4), pytest.approx(row[4], abs=1.01e-4)) for row in rows]


def test_a_known_user_gets_the_best_of_what_is_not_rated(run: Any) -> None:
    from embedline.pipelines.ratings.learner import load_model

    for version, seed in ((NEW, 2), (OLD, 1)):
        printed = run("movielens", "4", "--k", "3", "--version", version).output
        rated = dict(RATINGS.filter(pl.col("user") == 4).select("item", "rating").iter_rows())
        predicted = load_model(make_bundle(seed)).scores(np.array([4]))[0]  # of the model of the same version
        assert rows_of(printed) == as_printed(best(ease_scores(seed, rated), predicted, set(rated), 3))
        assert f"movielens.ranker of sample, version {version}" in printed
    assert run("movielens", "4").output == run("movielens", "4", "--version", NEW).output
    assert len(rows_of(run("movielens", "4").output)) == N_ITEMS - 4


def test_a_new_user_is_folded_in_by_ids_and_titles(run: Any) -> None:
    from kedro.config import OmegaConfigLoader

    from embedline.pipelines.ratings.fold_in import KnownRatings, fold_in
    from embedline.pipelines.ratings.learner import load_model
    from embedline.pipelines.ratings.options import FoldInOptions, Penalty

    printed = run("movielens", "--rated", "102=5", "--rated", "long day=1.5", "--rated", "Film 3 (1953)=2").output
    loader = OmegaConfigLoader(
        str(PROJECT / "conf"), base_env="base", env="sample", merge_strategy={"parameters": "soft"}
    )
    parameters = loader["parameters"]["movielens"]
    options = FoldInOptions.model_validate(parameters["fold_in"])
    penalty = Penalty.model_validate(parameters["training"]["penalty"])
    given = KnownRatings.by_user([0] * 3, np.array([3, 9, 4]), np.array([5.0, 1.5, 2.0]), 1)
    model, predicted = load_model(make_bundle(2)), np.zeros(N_ITEMS)
    for network, weight in zip(model.networks, model.weights, strict=True):
        own = fold_in(network, given, network.user_vectors(np.array([0])), options, penalty)
        items = network.items.own.detach().numpy()[1:]
        predicted += weight * (network.mean + items[:, :-1] @ own.factors[0].numpy() + own.biases.item() + items[:, -1])
    rated = {102: 5.0, 108: 1.5, 103: 2.0}
    assert rows_of(printed) == as_printed(best(ease_scores(2, rated), predicted, set(rated), 10))


def test_predicted_ratings_rank_where_the_ranker_says_so(run: Any, data_root: Path, tmp_path: Path) -> None:
    from embedline.pipelines.ratings.learner import load_model

    shutil.copytree(data_root, tmp_path / "rated")
    file = tmp_path / "rated/06_models/movielens/ranker.safetensors" / NEW / "ranker.safetensors"
    file.write_bytes(make_ranker(2, ranker="rating").to_bytes())
    given = ("recommend", "movielens", "4", "--params", f"data_root={tmp_path / 'rated'}")
    scores = load_model(make_bundle(2)).scores(np.array([4]))[0]
    rated = set(RATINGS.filter(pl.col("user") == 4)["item"])
    assert rows_of(invoke(*given).output) == as_printed(best(scores, scores, rated, 10))
    shutil.rmtree(tmp_path / "rated/06_models/movielens/model.safetensors")
    message = invoke(*given, status=1).output
    assert "movielens.model" in message and f"version {NEW}" in message


def test_the_old_name_of_the_block_is_answered_with_the_new_one(run: Any, data_root: Path) -> None:
    params = f"data_root={data_root},movielens.folding.factors=1"
    message = invoke("recommend", "movielens", "--rated", "102=5", "--params", params, status=1).output
    assert "movielens.folding" in message and "movielens.fold_in" in message


def test_wrong_calls(run: Any) -> None:
    assert "give USER, or --rated ITEM=RATING" in run("movielens", status=2).output
    assert "not both" in run("movielens", "4", "--rated", "102=5", status=2).output


@pytest.mark.parametrize(
    ("rated", "message"),
    [
        (["102"], "--rated '102' must be ITEM=RATING"),
        (["5"], "--rated '5' must be ITEM=RATING"),
        (["102=great"], "--rated '102=great' must be ITEM=RATING, with a rating from 1 to 5"),
        (["102=6"], "with a rating from 1 to 5"),
        (["Jaws=4"], "--rated 'Jaws' fits no item that the model knows"),
        (["long=4"], "fits several items: 'Long Night, A (1990)' (107), 'Long Day (1991)' (108); give one's"),
        (["film=4"], "and 4 more; give one's whole title or id"),
        (["102=4", "Film 2 (1952)=3"], "--rated 'Film 2 (1952)=3': this item is rated already, as '102=4'"),
    ],
)
def test_ratings_that_cannot_be_read(run: Any, rated: list[str], message: str) -> None:
    options = [part for one in rated for part in ("--rated", one)]
    printed = run("movielens", *options, status=1).output
    assert printed.startswith("Error: ") and message in printed
    assert len(printed.splitlines()) == 1


def test_users_and_models_that_are_not_there(run: Any) -> None:
    for user in ("77", "anna"):
        message = run("movielens", user, status=1).output
        assert f"version {NEW} does not know user '{user}'; a new user needs --rated ITEM=RATING" in message
    message = run("adult", "4", status=1).output
    assert "adult.ranker of sample" in message and "is of the kind 'tabular', not 'ranker'" in message


def test_titles_are_the_ids_where_there_are_no_items(run: Any, data_root: Path, tmp_path: Path) -> None:
    given = ("recommend", "movielens", "4", "--k", "1", "--params", f"data_root={tmp_path / 'bare'}")
    shutil.copytree(data_root, tmp_path / "bare")
    shutil.rmtree(tmp_path / "bare/03_primary")
    ((_, item, title, *_),) = rows_of(invoke(*given).output)
    assert title == str(item)
    shutil.rmtree(tmp_path / "bare/05_model_input")
    message = invoke(*given, status=1).output
    assert message.startswith("Error: movielens.ranker") and len(message.splitlines()) == 1
    assert "no movielens.encoded" in message and "'4'" in message


def test_without_a_rating_model_the_items_have_a_score_alone(data_root: Path, tmp_path: Path) -> None:
    shutil.copytree(data_root, tmp_path / "events")
    shutil.rmtree(tmp_path / "events/06_models/movielens/model.safetensors")
    for given in (("4",), ("--rated", "102=5")):
        printed = invoke("recommend", "movielens", *given, "--params", f"data_root={tmp_path / 'events'}").output
        assert "score" in printed and "predicted" not in printed


def test_with_an_old_version_stands_what_stood_then(data_root: Path, tmp_path: Path) -> None:
    shutil.copytree(data_root, tmp_path / "then")
    shutil.rmtree(tmp_path / "then/06_models/movielens/model.safetensors" / OLD)
    given = ("recommend", "movielens", "4", "--params", f"data_root={tmp_path / 'then'}")
    assert "predicted" not in invoke(*given, "--version", OLD).output  # there was no model yet
    assert "predicted" in invoke(*given, "--version", NEW).output


def test_titles_with_mistakes_are_answered_with_the_nearest() -> None:
    titles = [
        "Terminator, The (1984)",
        "Twelve Monkeys (1995)",
        "Godfather, The (1972)",
        "Godfather: Part II, The (1974)",
    ]
    ids = list(range(4))
    for text, near in (("Terminater", titles[0]), ("the terminater (1984)", titles[0]), ("Twelve Monkies", titles[1])):
        with pytest.raises(DataError) as error:
            find_item(text, ids, titles)
        assert repr(text) in str(error.value) and repr(near) in str(error.value)
    with pytest.raises(DataError) as error:
        find_item("Zzyzx", ids, titles)
    assert not any(title in str(error.value) for title in titles)
    assert find_item("The Godfather (1972)", ids, titles) == 3
    assert find_item("the terminator", ids, titles) == 1


def test_an_id_goes_before_a_title_and_a_whole_title_before_a_part() -> None:
    ids, titles = ["12", "7", "8"], ["7", "Alien", "Aliens"]
    assert find_item("7", ids, titles) == 2
    assert find_item("ALIEN", ids, titles) == 2
    assert find_item("iens", ids, titles) == 3
    with pytest.raises(DataError, match="fits several"):
        find_item("alie", ids, titles)
    with pytest.raises(DataError, match="fits no item"):
        find_item("", ids, titles)
