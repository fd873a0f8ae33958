"""``recommend``: the stored rankers at the command line, without a run and without MLflow."""

import difflib
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click
from kedro.framework.cli.utils import env_option

from embedline.commands.artifacts import load_bundle, load_stored, open_catalog, read_parameters, version_option
from embedline.commands.display import show_frame
from embedline.errors import DataError
from kedro_incremental.cli import params_option

if TYPE_CHECKING:
    import polars as pl

    from embedline.pipelines.ratings.ranking import Recommender

SHOWN_MATCHES = 3  # titles that a text fits, or nearly, in a message
LEADING_ARTICLE = re.compile(r"^(the|an?) (.*?)( \(\d{4}\))?$")
YEAR_AND_ARTICLE = re.compile(r"(, (the|an?))?( \(\d{4}\))?$")


@click.command()
@click.argument("source")
@click.argument("user", required=False)
@click.option("--k", type=click.IntRange(min=1), default=10, show_default=True, help="Items to show.")
@click.option(
    "--rated",
    multiple=True,
    metavar="ITEM=RATING",
    help="A rating of a new user, by the item's id, title or a part of it; several times for several.",
)
@version_option
@env_option
@params_option
def recommend(
    source: str,
    user: str | None,
    k: int,
    rated: tuple[str, ...],
    version: str | None,
    env: str | None,
    params: dict[str, Any],
) -> None:
    """Show the best items for USER with the newest ranker of SOURCE, such as movielens; none that the user has rated.

    The score orders the items; beside it stands the rating that the user would give.

    A new user is known by --rated alone: `embedline recommend movielens --rated "Star Wars=5" --rated "Fargo=2"`.
    """
    if (user is None) == (not rated):
        raise click.UsageError(
            "give USER, or --rated ITEM=RATING" if user is None else "give USER or --rated, not both"
        )
    from embedline.commands.text_files import typed

    user, rated = None if user is None else typed(user), tuple(map(typed, rated))
    bundle, name = load_bundle(source, "ranker", version, env, params)
    catalog = open_catalog(env, params)
    recommender, encoded = _recommender(bundle, catalog, source, name, user, version)
    items = load_stored(catalog, f"{source}.items", version)
    if user is not None:
        found = _for_known(recommender, encoded, user, k, items, name)
    else:
        found = _for_new(recommender, rated, k, items, read_parameters(source, env, params))
    show_frame(found, name)


def _recommender(
    bundle: Any, catalog: Any, source: str, name: str, user: str | None, version: str | None
) -> tuple["Recommender", "pl.DataFrame | None"]:
    """The ranker, with the rating model where one is stored; for a known user also the ratings that it learned from.

    Of an older ``version`` both are those that stood then.
    """
    from embedline.pipelines.ratings.learner import load_model
    from embedline.pipelines.ratings.ranking import RATING_RANKER, load_ranker

    try:
        stored = load_stored(catalog, f"{source}.model", version)
        model = None if stored is None else load_model(stored)
        recommender = load_ranker(bundle, None, model)
        encoder = recommender.encoder
        if recommender.kind == RATING_RANKER and (model is None or model.encoder != encoder):
            raise DataError(f"it ranks by {source}.model, which was not made with it: run {source} again")
        if user is None:
            return recommender, None
        encoded = load_stored(catalog, f"{source}.encoded", version)
        if encoded is None:
            raise DataError(
                f"there is no {source}.encoded, which holds the ratings of user {user!r}: run {source} again"
            )
        if encoded["user_row"].max() > len(encoder.users) or encoded["item_row"].max() > len(encoder.items):
            raise DataError(f"{source}.encoded was not made for it: run {source} again")
        return load_ranker(bundle, encoded, model), encoded
    except DataError as error:
        raise DataError(f"{name}: {error}") from error


def _for_known(
    recommender: "Recommender", encoded: "pl.DataFrame | None", user: str, k: int, items: Any, name: str
) -> "pl.DataFrame":
    """Best items of a user that the ranker knows, by the user's training ratings."""
    from embedline.pipelines.ratings.options import RecommendationOptions
    from embedline.pipelines.ratings.recommend import recommend as best_items

    assert encoded is not None
    users = recommender.encoder.users
    known: Any = user
    if isinstance(users[0], int):
        known = int(user) if user.lstrip("-").isdigit() else None
    if known not in set(users):
        raise DataError(f"{name} does not know user {user!r}; a new user needs --rated ITEM=RATING")
    return best_items(encoded, recommender, RecommendationOptions(k=k, users=(known,)), items).drop("user")


def _for_new(
    recommender: "Recommender", rated: Sequence[str], k: int, items: Any, parameters: dict[str, Any]
) -> "pl.DataFrame":
    """Best items of a new user by the ratings of ``--rated``, without training."""
    import numpy as np

    from embedline.pipelines.ratings.encoder import named_items
    from embedline.pipelines.ratings.options import FoldInOptions, Penalty
    from embedline.pipelines.ratings.recommend import recommend_for_ratings

    encoder = recommender.encoder
    titles = named_items(encoder, items)["title"].to_list()
    rows, ratings = [], []
    for one in rated:
        text, _, value = one.rpartition("=")
        ratings.append(_rating(value if text else "", one, encoder.rating_range))
        rows.append(find_item(text.strip(), encoder.items, titles))
    if twice := [one for one, row in zip(rated, rows, strict=True) if rows.count(row) > 1]:
        raise DataError(f"--rated {twice[1]!r}: this item is rated already, as {twice[0]!r}")
    return recommend_for_ratings(
        recommender,
        np.array(rows),
        np.array(ratings),
        k,
        options=FoldInOptions.model_validate(parameters.get("fold_in", {})),
        penalty=Penalty.model_validate(parameters.get("training", {}).get("penalty", {})),
        items=items,
    )


def find_item(text: str, ids: Sequence[int | str], titles: Sequence[str]) -> int:
    """Row (place + 1) of the item with this id or title, or of the only one whose title has ``text`` in it.

    "The Godfather" is "Godfather, The", too, as MovieLens writes it.

    Raises:
        DataError: if there is none, with the nearest titles, or more than one.
    """
    folded = LEADING_ARTICLE.sub(r"\2, \1\3", text.casefold())
    for matches in (
        [place for place, one in enumerate(ids) if str(one) == text],
        [place for place, title in enumerate(titles) if title.casefold() == folded],
        [place for place, title in enumerate(titles) if folded and folded in title.casefold()],
    ):
        if len(matches) == 1:
            return matches[0] + 1
        if matches:
            shown = ", ".join(f"{titles[place]!r} ({ids[place]})" for place in matches[:SHOWN_MATCHES])
            more = f" and {len(matches) - SHOWN_MATCHES} more" if len(matches) > SHOWN_MATCHES else ""
            raise DataError(f"--rated {text!r} fits several items: {shown}{more}; give one's whole title or id")
    near = ", ".join(map(repr, nearest_titles(folded, titles)))
    hint = f"did you mean {near}?" if near else "give an id or a title"
    raise DataError(f"--rated {text!r} fits no item that the model knows, neither an id nor a title: {hint}")


def nearest_titles(text: str, titles: Sequence[str]) -> list[str]:
    """The titles that look most like ``text``, whatever the year and the article behind them; few, or none."""
    bare = {YEAR_AND_ARTICLE.sub("", title.casefold()): title for title in reversed(titles)}
    found = difflib.get_close_matches(YEAR_AND_ARTICLE.sub("", text.casefold()), bare, n=SHOWN_MATCHES)
    return [bare[one] for one in found]


def _rating(value: str, given: str, rating_range: tuple[float, float]) -> float:
    low, high = rating_range
    try:
        rating = float(value)
    except ValueError:
        rating = float("nan")
    if not low <= rating <= high:
        raise DataError(f"--rated {given!r} must be ITEM=RATING, with a rating from {low:g} to {high:g}")
    return rating
