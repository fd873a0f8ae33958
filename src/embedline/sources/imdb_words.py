"""The words and sentence templates of the simulated reviews; none of them depends on the sentiment.

A template is a list of tokens. ``{opinion}`` stands for an opinion (`imdb_law`), ``{an_opinion}`` for one with its
article; ``{noun}``, ``{person}``, ``{place}``, ``{deed}`` come from the genre of the review, the slots of `COMMON` from
one list for all reviews. This module has no opinion words, negators or intensifiers.
"""

from __future__ import annotations

COMMON: dict[str, list[str]] = {
    "{film}": "film movie picture story flick feature".split(),
    "{craft}": (
        "plot acting script music ending dialogue photography direction editing cast soundtrack scenery pacing "
        "opening lighting makeup narration camerawork"
    ).split(),
    "{see}": "saw watched rented caught borrowed found".split(),
    "{when}": "yesterday recently twice again tonight once lately".split(),
    "{with}": "friends family brother sister wife husband neighbour cousin class kids".split(),
    "{think}": "think say guess believe feel suppose".split(),
    "{where}": "television video cinema cable DVD festival theatre".split(),
    "{move}": "starts ends opens continues moves slows".split(),
    "{link}": "is was seems feels remains".split(),
    "{who}": "director writer producer actor actress star composer editor".split(),
    "{time}": "minutes hours days weeks years".split(),
}

ENTITIES = ["Q&amp;A", "R&amp;B", "&quot;classic&quot;", "&quot;cult&quot;", "&#39;80s", "rock &amp; roll"]

_GENRES = {
    "horror": (
        "ghost blood knife grave curse scream shadow mask candle cellar fog mirror",
        "killer witch vampire doctor priest widow zombie monster",
        "house forest graveyard castle attic asylum swamp",
        "haunts kills hunts chases bites buries",
    ),
    "war": (
        "battle gun bomb order medal letter tank uniform trench flag rifle map",
        "soldier general nurse spy pilot prisoner sergeant colonel",
        "front desert bridge camp village harbour bunker",
        "attacks rescues commands betrays shoots guards",
    ),
    "romance": (
        "wedding kiss letter dance ring summer secret promise rose dress photograph dinner",
        "bride poet teacher dancer painter waiter stranger florist",
        "beach garden café ballroom balcony church island",
        "loves marries leaves kisses meets forgives",
    ),
    "space": (
        "ship laser planet robot signal comet engine capsule orbit antenna shuttle reactor",
        "captain alien astronaut android scientist commander navigator mutant",
        "moon station galaxy colony crater laboratory airlock",
        "repairs explores destroys lands decodes abandons",
    ),
    "crime": (
        "murder robbery clue money alibi evidence case diamond bribe trial warrant ransom",
        "detective thief lawyer gangster witness banker inspector smuggler",
        "bank court alley casino prison warehouse dock",
        "steals arrests follows blackmails questions escapes",
    ),
    "western": (
        "horse duel saloon gold train bullet cattle wagon saddle whiskey spur stagecoach",
        "sheriff cowboy outlaw rancher bandit barber gambler deputy",
        "canyon town ranch railway prairie mine fort",
        "rides ambushes hangs challenges tracks outruns",
    ),
}

GENRES: list[dict[str, list[str]]] = [
    dict(zip(("{noun}", "{person}", "{place}", "{deed}"), map(str.split, lists), strict=True))
    for lists in _GENRES.values()
]

_OPINION_SENTENCES = """
the {craft} {link} {opinion}
the {craft} {link} {opinion} and the {craft} {link} {opinion}
I {think} the {film} {link} {opinion}
it is {an_opinion} {film} about a {person} and the {noun}
this is {an_opinion} {film} from the {who} of {name}
{name} is {opinion} as the {person}
the {person} in the {place} {link} {opinion} but the {craft} {link} {opinion}
we {see} it on {where} and it was {opinion}
for {number} {time} the {film} {link} {opinion}
my {with} said it was {opinion} , and the {noun} was {opinion}
the scene with the {noun} in the {place} {link} {opinion}
{name} and {name} have {an_opinion} scene near the {place}
"""

_PLAIN_SENTENCES = """
I {see} this {film} on {where} {when}
I {see} it with my {with} in {year}
the {film} {move} with a {noun} in the {place}
a {person} {deed} the {person} in the {place}
{name} plays the {person} who {deed} the {person}
then the {person} {deed} the {person} and takes the {noun}
the {who} {name} made it in {year} after {number} {time}
it {move} when the {noun} falls into the {place}
there is a {noun} , a {person} and a {place}
after {number} {time} the {person} finds the {noun} near the {place}
people call it {entity} on {where}
the {who} said in {year} that the {place} was real
{name} wrote the {craft} for {name}
"""

OPINION_SENTENCES, PLAIN_SENTENCES = (
    [line.split() for line in lines.strip().splitlines()] for lines in (_OPINION_SENTENCES, _PLAIN_SENTENCES)
)


def rare_names() -> list[str]:
    """Return 160 invented surnames, the most frequent first."""
    starts = "Bar Cor Del Fen Gar Hol Jor Kel Lin Mar Nor Pel Ros Sté Tor Vin".split()
    ends = "dale vik mond ston win berg bière ley nik sson".split()
    return [start + ends[(place + turn) % len(ends)] for turn in range(len(ends)) for place, start in enumerate(starts)]
