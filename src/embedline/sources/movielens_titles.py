"""Films of generated ratings: titles, years and genres. The titles are invented."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

GENRES = (
    *("Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama", "Fantasy"),
    *("Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western"),
)
"""The genres of ml-100k, in the order of its flags, without the first flag, ``unknown``."""

MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")

_GENRE_SHARES = np.array([15, 8, 3, 7, 30, 6, 3, 43, 1.5, 1.5, 5, 3, 4, 15, 6, 15, 4, 2])  # about ml-100k's
_FIRST = (
    "Silver Broken Quiet Burning Hidden Last Golden Midnight Paper Winter Distant Crooked Electric Velvet Hollow "
    "Scarlet Endless Little Wild Secret Blue Stolen Lonely Bitter Frozen Painted Sleeping Northern Borrowed Second"
).split()
_SECOND = (
    "Harbour Garden River Letters Train Summer Mirror Station Island Promise Orchard Shadow Bridge Circus Lantern "
    "Valley Witness Voyage Kingdom Window Thunder Waltz Detective Stranger Hotel Sparrow Alibi Carousel Comet Meadow "
    "Piano Fortune Border Puppet Desert Castle Engine Doctor Empire Ghost"
).split()
_SPECIAL = (
    "unknown",  # as ml-100k's film 267: no date, no address, no genre
    '"Hush", She Said',  # a comma and quotes, which CSV has to quote
    "Été sans fin, L'",
    "Caf\u00e9 M\u00fcller",
    "Señor Otoño",
    "À bient\u00f4t, Zo\u00eb (See You Soon, Zoe)",
)


@dataclass(frozen=True)
class Films:
    """I films, numbered from 1 in the files and from 0 here."""

    titles: list[str]  # with the year in parentheses but for "unknown"
    dates: list[str]  # day of release such as 01-Jan-1995, "" where unknown
    genres: NDArray[np.bool_]  # [I, G] in the order of `GENRES`


def draw_films(n_films: int, rng: np.random.Generator) -> Films:
    """Draw films: no title comes twice, the first six are special ones (`_SPECIAL`), one to three genres each.

    The first, ``unknown``, has no genre; every other has one at least.
    """
    years = 1998 - np.minimum(rng.exponential(8.0, n_films), 75.0).astype(int)
    months, days = rng.integers(0, 12, n_films), rng.integers(1, 29, n_films)
    combinations = len(_FIRST) * len(_SECOND)
    order = rng.permutation(combinations)
    titles, dates = [], []
    for film in range(n_films):
        name = _SPECIAL[film] if film < len(_SPECIAL) else _name(int(order[film % combinations]), film // combinations)
        is_known = name != _SPECIAL[0]
        titles.append(f"{name} ({years[film]})" if is_known else name)
        dates.append(f"{days[film]:02d}-{MONTHS[months[film]]}-{years[film]}" if is_known else "")
    return Films(titles, dates, _draw_genres(n_films, rng))


def _name(combination: int, sequel: int) -> str:
    first, second = divmod(combination, len(_SECOND))
    article = ("", ", The", ", A")[combination % 3]
    return f"{_FIRST[first]} {_SECOND[second]}{f' {sequel + 1}' if sequel else ''}{article}"


def _draw_genres(n_films: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Draw one genre, or two or three different ones, for each film but the first, which has none."""
    # The largest of log share + Gumbel noise are a draw without replacement (Gumbel top-k).
    scores = np.log(_GENRE_SHARES / _GENRE_SHARES.sum()) + rng.gumbel(size=(n_films, len(GENRES)))
    ranks = np.argsort(np.argsort(-scores, axis=1), axis=1)
    counts = rng.choice([1, 2, 3], size=n_films, p=[0.5, 0.33, 0.17])
    counts[0] = 0
    return ranks < counts[:, None]
