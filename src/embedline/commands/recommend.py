"""``recommend``: the stored ratings models at the command line, without a run and without MLflow."""

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

    from embedline.pipelines.ratings.learner import RatingModel

SHOWN_MATCHES = 3  # titles that a text fits, in a message


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
    """Show the best items for USER with the newest model of SOURCE, such as movielens; none that the user has rated.

    A new user is known by --rated alone: `embedline recommend movielens --rated "Star Wars=5" --rated "Fargo=2"`.
    """
    if (user is None) == (not rated):
        raise click.UsageError(
            "give USER, or --rated ITEM=RATING" if user is None else "give USER or --rated, not both"
        )
    from embedline.commands.text_files import typed

    user, rated = None if user is None else typed(user), tuple(map(typed, rated))
    bundle, name = load_bundle(source, "model", version, env, params)
    from embedline.pipelines.ratings.learner import load_model

    try:
        model = load_model(bundle)
    except DataError as error:
        raise DataError(f"{name}: {error}") from error
    catalog = open_catalog(env, params)
    items = load_stored(catalog, f"{source}.items")
    if user is not None:
        found = _for_known(model, catalog, source, user, k, items, name)
    else:
        found = _for_new(model, rated, k, items, read_parameters(source, env, params))
    show_frame(found, name)


def _for_known(
    model: "RatingModel", catalog: Any, source: str, user: str, k: int, items: Any, name: str
) -> "pl.DataFrame":
    """Best items of a user that the model knows, by the vector of the user."""
    from embedline.pipelines.ratings.options import RecommendationOptions
    from embedline.pipelines.ratings.recommend import recommend as best_items

    known: Any = user
    if isinstance(model.encoder.users[0], int):
        known = int(user) if user.lstrip("-").isdigit() else None
    if known not in set(model.encoder.users):
        raise DataError(f"{name} does not know user {user!r}; a new user needs --rated ITEM=RATING")
    encoded = load_stored(catalog, f"{source}.encoded")  # for what the user has rated
    if encoded is None:
        raise DataError(f"there is no {source}.encoded, which holds the ratings of user {user!r}: run {source} again")
    if encoded["user_row"].max() > len(model.encoder.users) or encoded["item_row"].max() > len(model.encoder.items):
        raise DataError(f"{source}.encoded was not made for {name}: leave --version out, or run {source} again")
    return best_items(encoded, model, RecommendationOptions(k=k, users=(known,)), items).drop("user")


def _for_new(
    model: "RatingModel", rated: Sequence[str], k: int, items: Any, parameters: dict[str, Any]
) -> "pl.DataFrame":
    """Best items of a new user, folded in from the ratings of ``--rated``."""
    import numpy as np

    from embedline.pipelines.ratings.encoder import named_items
    from embedline.pipelines.ratings.options import FoldInOptions, Penalty
    from embedline.pipelines.ratings.recommend import recommend_for_ratings

    titles = named_items(model.encoder, items)["title"].to_list()
    rows, ratings = [], []
    for one in rated:
        text, _, value = one.rpartition("=")
        ratings.append(_rating(value if text else "", one, model.encoder.rating_range))
        rows.append(find_item(text.strip(), model.encoder.items, titles))
    if twice := [one for one, row in zip(rated, rows, strict=True) if rows.count(row) > 1]:
        raise DataError(f"--rated {twice[1]!r}: this item is rated already, as {twice[0]!r}")
    return recommend_for_ratings(
        model,
        np.array(rows),
        np.array(ratings),
        k,
        options=FoldInOptions.model_validate(parameters.get("fold_in", {})),
        penalty=Penalty.model_validate(parameters.get("training", {}).get("penalty", {})),
        items=items,
    )


def find_item(text: str, ids: Sequence[int | str], titles: Sequence[str]) -> int:
    """Row (place + 1) of the item with this id or title, or of the only one whose title has ``text`` in it.

    Raises:
        DataError: if there is none, or more than one.
    """
    folded = text.casefold()
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
    raise DataError(f"--rated {text!r} fits no item that the model knows, neither an id nor a title")


def _rating(value: str, given: str, rating_range: tuple[float, float]) -> float:
    low, high = rating_range
    try:
        rating = float(value)
    except ValueError:
        rating = float("nan")
    if not low <= rating <= high:
        raise DataError(f"--rated {given!r} must be ITEM=RATING, with a rating from {low:g} to {high:g}")
    return rating
