"""Generation with a model whose probabilities are a table: exact distributions, exhaustive searches."""

import itertools
import logging
import math
import types
from collections import Counter
from collections.abc import Sequence

import numpy as np
import polars as pl
import pytest
import torch
from numpy.typing import NDArray
from small_corpus import words_of
from small_networks import same_rates
from torch import Tensor

from embedline.errors import DataError
from embedline.pipelines.text import generation
from embedline.pipelines.text.generation import (
    Continuation,
    beam_score,
    beam_search,
    generate,
    next_words,
    prompt_ids,
    read_prompt,
    sample,
    sampling_probabilities,
)
from embedline.pipelines.text.language_model import LanguageModel
from embedline.pipelines.text.options import EncoderOptions, GenerationOptions
from embedline.pipelines.text.tokenizer import TokenOptions
from embedline.pipelines.text.vocabulary import Vocabulary

WORDS = words_of("the", "film", "is", "good")
TOKENS, N_SPECIALS = WORDS.tokens, len(WORDS.specials)
UNK, PAD, BOS, FLD, MAJ, THE, FILM, IS, GOOD = WORDS.ids(
    "xxunk xxpad xxbos xxfld xxmaj the film is good".split()
).tolist()
State = tuple[tuple[Tensor, Tensor], ...]


class Table:
    """A language model that is a table of transitions [V, V]; its state is the number and the sum of the ids so far.

    With ``drift`` the score of the last token changes with that sum, so that a mixed-up state changes probabilities.
    """

    def __init__(self, transitions: NDArray[np.float64], drift: float = 0.0) -> None:
        self.table = torch.from_numpy(transitions).log()
        self.drift = drift
        self.lengths: list[int] = []
        self.decoder = types.SimpleNamespace(out_features=len(TOKENS))

    def start(self, batch_size: int, /) -> State:
        return ((torch.zeros(batch_size, 1, dtype=torch.float64), torch.zeros(batch_size, 1, dtype=torch.float64)),)

    def __call__(self, ids: Tensor, state: State, /) -> tuple[Tensor, State]:
        self.lengths.append(ids.shape[1])
        ((before, last),) = state
        seen = before + torch.arange(1, ids.shape[1] + 1, dtype=torch.float64)  # [B, T]
        sums = last + ids.double().cumsum(-1)
        return torch.stack([ids.double(), seen, sums], dim=-1), ((seen[:, -1:], sums[:, -1:]),)

    def logits(self, hidden: Tensor, /) -> Tensor:
        scores = self.table[hidden[..., 0].long()].clone()
        scores[..., -1] += self.drift * torch.sin(hidden[..., 2])
        return scores


def transitions(seed: int = 0) -> NDArray[np.float64]:
    return scaled(np.random.default_rng(seed).dirichlet(np.full(len(TOKENS), 0.7), size=len(TOKENS)) + 1e-4)


def scaled(table: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(table / table.sum(axis=1, keepdims=True))


def rare(probability: float) -> NDArray[np.float64]:
    return np.full((len(TOKENS), len(TOKENS)), probability)


def log_probability(model: Table | LanguageModel, prompt: Sequence[int], ids: Sequence[int]) -> float:
    """Log-probability of ``ids`` after ``prompt``, by reading everything from the start."""
    with torch.no_grad():
        hidden, _ = model(torch.tensor([[*prompt, *ids]]), model.start(1))
        log_p = model.logits(hidden).double().log_softmax(-1)[0]
    return float(sum(log_p[len(prompt) - 1 + at, token] for at, token in enumerate(ids)))


def exhaustive(
    model: Table, prompt: Sequence[int], n_tokens: int, *, ends: Sequence[int], never: Sequence[int], penalty: float
) -> list[Continuation]:
    allowed = [token for token in range(len(TOKENS)) if token not in never]
    found = set()
    for ids in itertools.product(allowed, repeat=n_tokens):
        stop = next((at for at, token in enumerate(ids) if token in ends), n_tokens - 1)
        found.add(ids[: stop + 1])
    scored = [Continuation(ids, log_probability(model, prompt, ids)) for ids in found]
    return sorted(scored, key=lambda c: beam_score(c.log_probability, len(c.ids), penalty), reverse=True)


P = (0.5, 0.25, 0.15, 0.1)
ONE = (1.0, 0.0, 0.0, 0.0)
SQUARES = tuple(np.square(P) / np.square(P).sum())


@pytest.mark.parametrize(
    ("options", "never", "expected"),
    [
        (GenerationOptions(), (), P),
        (GenerationOptions(top_k=2), (), (2 / 3, 1 / 3, 0, 0)),
        (GenerationOptions(top_k=9), (), P),
        (GenerationOptions(min_p=0.3), (), (5 / 9, 2.5 / 9, 1.5 / 9, 0)),
        (GenerationOptions(min_p=0.2), (), P),  # 0.1 is exactly at the border
        (GenerationOptions(min_p=0.2001), (), (5 / 9, 2.5 / 9, 1.5 / 9, 0)),
        (GenerationOptions(min_p=1.0), (), ONE),
        (GenerationOptions(temperature=0.5), (), SQUARES),
        (GenerationOptions(temperature=0.0), (), ONE),
        (GenerationOptions(temperature=1e-300), (), ONE),
        # Squared and scaled: 0.25 / 0.5 becomes a quarter of the largest, so that 0.3 of it is too much.
        (GenerationOptions(temperature=0.5, min_p=0.3), (), ONE),
        (GenerationOptions(top_k=1), (0,), (0.0, 1.0, 0.0, 0.0)),  # never comes before the filters
        (GenerationOptions(min_p=0.5), (0,), (0, 0.625, 0.375, 0)),
    ],
)
def test_options_change_the_distribution(
    options: GenerationOptions, never: tuple[int, ...], expected: Sequence[float]
) -> None:
    found = sampling_probabilities(torch.tensor([P], dtype=torch.float64).log(), options, never)[0]
    assert found.tolist() == pytest.approx(expected, abs=1e-12)
    assert (found == 0.0).tolist() == [value == 0.0 for value in expected]


def test_top_k_keeps_exactly_k_also_among_equals() -> None:
    found = sampling_probabilities(torch.zeros(1, 4, dtype=torch.float64), GenerationOptions(top_k=2))[0]
    assert sorted(found.tolist()) == pytest.approx([0, 0, 0.5, 0.5], abs=1e-12)


def tempered(table: NDArray[np.float64]) -> NDArray[np.float64]:
    table = table ** (1 / 0.8)
    table[:, [UNK, PAD]] = 0.0
    return scaled(table)


class TestSample:
    def test_frequencies_follow_the_probabilities(self) -> None:
        table = transitions()
        options = GenerationOptions(temperature=0.8, n_tokens=2, n_samples=20_000)
        found = sample(Table(table), [BOS, THE], options, never=(UNK, PAD))
        expected = tempered(table)[THE][:, None] * tempered(table)
        frequencies = np.zeros_like(expected)
        for (first, second), count in Counter(continuation.ids for continuation in found).items():
            frequencies[first, second] = count / len(found)
        assert frequencies[expected == 0].sum() == 0
        deviation = np.abs(frequencies - expected) / np.sqrt(np.maximum(expected, 1e-12) / len(found))
        assert deviation[expected > 0].max() < 4.5  # standard errors; 81 cells

    def test_log_probability_is_the_models_own(self) -> None:
        model = Table(transitions(), drift=1.0)
        options = GenerationOptions(temperature=1.7, top_k=4, n_tokens=5, n_samples=7, seed=3)
        for found in sample(model, [BOS], options, never=(UNK,)):
            assert found.log_probability == pytest.approx(log_probability(model, [BOS], found.ids), abs=1e-9)

    def test_same_seed_same_text_whatever_else_ran(self) -> None:
        def draw(n_samples: int = 3, seed: int = 5) -> list[Continuation]:
            options = GenerationOptions(n_tokens=20, n_samples=n_samples, seed=seed)
            return sample(Table(transitions()), [BOS], options)

        first = draw()
        torch.manual_seed(1)
        np.random.default_rng(1).random(10)
        assert draw() == first
        assert draw(n_samples=8)[:3] == first
        assert draw(seed=6) != first
        assert len(set(first)) == 3

    def test_stops_at_an_end(self) -> None:
        table = transitions()
        found = sample(Table(table), [BOS], GenerationOptions(n_tokens=12, n_samples=200), ends=[IS])
        for continuation in found:
            assert IS not in continuation.ids[:-1]
            assert len(continuation.ids) == 12 or continuation.ids[-1] == IS
        assert {continuation.ids[-1] for continuation in found if len(continuation.ids) < 12} == {IS}
        short = sum(len(continuation.ids) == 1 for continuation in found) / len(found)
        assert short == pytest.approx(table[BOS, IS], abs=4 * math.sqrt(table[BOS, IS] / 200))

    def test_a_long_prompt_is_read_once_in_pieces(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(generation, "READ_TOKENS", 4)
        model = Table(transitions(), drift=2.0)
        prompt = [BOS, THE, FILM, IS, GOOD, THE, FILM, IS, THE]
        log_p, _ = read_prompt(model, prompt)
        assert model.lengths == [4, 4, 1]
        assert float(log_p[0, GOOD]) == pytest.approx(log_probability(model, prompt, [GOOD]), abs=1e-12)
        model.lengths.clear()
        sample(model, prompt, GenerationOptions(n_tokens=3))
        assert model.lengths == [4, 4, 1, 1, 1]

    def test_a_token_of_probability_zero_is_never_drawn_at_the_edges(self) -> None:
        probabilities = torch.tensor([[0.0, 0.3, 0.0, 0.7, 0.0]] * 3, dtype=torch.float64)
        uniform = torch.tensor([0.0, 0.3, 1.0 - 2**-53], dtype=torch.float64)
        assert generation._draw(probabilities, uniform).tolist() == [1, 3, 3]

    def test_a_diverged_model_is_named(self) -> None:
        table = transitions()
        table[BOS, 0] = np.nan
        with pytest.raises(DataError, match="diverged"):
            sample(Table(table), [BOS], GenerationOptions(n_tokens=1))


class TestBeamSearch:
    @pytest.mark.parametrize("penalty", [0.0, 1.0])
    @pytest.mark.parametrize("ends", [(), (BOS, IS)])
    def test_wide_beams_are_an_exhaustive_search(self, ends: tuple[int, ...], penalty: float) -> None:
        model = Table(transitions(1), drift=1.5)
        never = [token for token in range(N_SPECIALS) if token != BOS]
        options = GenerationOptions(n_tokens=3, beams=125, length_penalty=penalty)
        expected = exhaustive(model, [BOS, THE], 3, ends=ends, never=never, penalty=penalty)
        found = beam_search(model, [BOS, THE], options, ends=ends, never=never)
        assert len(expected) == len(found) == (125 if not ends else 2 + 3 * 2 + 3 * 3 * 5)
        assert [beam.ids for beam in found] == [beam.ids for beam in expected]
        assert [beam.log_probability for beam in found] == pytest.approx([e.log_probability for e in expected])

    def test_narrow_beams_carry_the_state_of_their_parents(self) -> None:
        model = Table(transitions(2), drift=3.0)
        found = beam_search(model, [BOS], GenerationOptions(n_tokens=6, beams=5), ends=[IS], never=[UNK])
        assert len({beam.ids for beam in found}) == len(found) == 5
        for beam in found:
            assert beam.log_probability == pytest.approx(log_probability(model, [BOS], beam.ids), abs=1e-9)

    def test_one_beam_is_the_greedy_choice_and_more_find_better(self) -> None:
        table = rare(1e-6)
        table[BOS, THE], table[BOS, FILM] = 0.6, 0.4  # the better start has only poor ends
        table[THE, [IS, GOOD, FILM]] = 0.34, 0.33, 0.33
        table[FILM, GOOD] = 1.0
        model = Table(scaled(table))
        (greedy,) = beam_search(model, [BOS], GenerationOptions(n_tokens=2, beams=1))
        (drawn,) = sample(model, [BOS], GenerationOptions(temperature=0.0, n_tokens=2))
        assert greedy.ids == drawn.ids == (THE, IS)
        best = beam_search(model, [BOS], GenerationOptions(n_tokens=2, beams=2))[0]
        assert best.ids == (FILM, GOOD)
        assert math.exp(best.log_probability) == pytest.approx(0.4, abs=1e-4)

    def test_stops_early_only_when_no_beam_can_win(self) -> None:
        table = rare(1e-3)
        table[:, IS] = 1.0
        model = Table(scaled(table))
        (best,) = beam_search(model, [BOS], GenerationOptions(n_tokens=50, beams=1), ends=[IS])
        assert best.ids == (IS,)
        assert len(model.lengths) == 1  # the prompt alone was read


def test_samples_and_beams_of_the_network_have_the_probabilities_of_texts_read_from_their_start() -> None:
    options = EncoderOptions(embedding_size=6, hidden_size=10, n_layers=3, rates=same_rates(0.3))
    network = LanguageModel(9, options, decoder_bias=True).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.7)
    prompt = (2, 5, 6)
    drawn = sample(network, prompt, GenerationOptions(temperature=1.2, n_tokens=15, n_samples=6), ends=[2])
    wide, narrow = (beam_search(network, prompt, GenerationOptions(n_tokens=3, beams=b)) for b in (9**3, 30))
    for found in (*drawn, *narrow):
        assert found.log_probability == pytest.approx(log_probability(network, prompt, found.ids), abs=1e-4)
    every = [log_probability(network, prompt, ids) for ids in itertools.product(range(9), repeat=3)]
    assert [found.log_probability for found in wide] == pytest.approx(sorted(every, reverse=True), abs=1e-4)
    assert narrow[0].ids == wide[0].ids


class TestGenerate:
    def test_frame(self) -> None:
        model = Table(transitions())
        options = GenerationOptions(n_tokens=4, n_samples=3, seed=1)
        frame = generate(model, WORDS, [BOS, THE], options)
        found = sample(model, [BOS, THE], options, never=(UNK, PAD))
        columns = {"sample": pl.Int64, "text": pl.String, "tokens": pl.Int64, "mean_log_probability": pl.Float64}
        assert frame.schema == columns
        assert frame["sample"].to_list() == [1, 2, 3]
        assert frame["text"].to_list() == [WORDS.detokenize([BOS, THE, *c.ids]) for c in found]
        assert frame["mean_log_probability"].to_list() == pytest.approx([c.log_probability / 4 for c in found])

    def test_an_end_is_counted_but_not_shown(self) -> None:
        table = rare(1e-9)
        table[THE, FILM] = table[FILM, BOS] = table[BOS, IS] = 1.0
        model = Table(scaled(table))
        stopped = generate(model, WORDS, [BOS, THE], GenerationOptions(n_tokens=9, stop=True))
        assert stopped.select("text", "tokens").rows() == [("the film", 2)]
        going_on = generate(model, WORDS, [BOS, THE], GenerationOptions(n_tokens=3))
        assert going_on.select("text", "tokens").rows() == [("the film is", 3)]

    @pytest.mark.parametrize(
        ("never", "drawn", "not_drawn"),
        [(None, set(), {UNK, PAD}), ((), {UNK, PAD}, set()), (("xxpad", "the"), {UNK}, {PAD, THE})],
    )
    def test_unknown_and_padding_are_drawn_only_if_allowed(
        self, never: tuple[str, ...] | None, drawn: set[int], not_drawn: set[int], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        table = rare(0.01)
        table[:, [UNK, PAD]] = 0.4
        monkeypatch.setattr(Vocabulary, "detokenize", lambda _, ids: " ".join(map(str, ids)))
        frame = generate(Table(scaled(table)), WORDS, [BOS], GenerationOptions(n_tokens=60, never=never))
        found = set(map(int, frame["text"][0].split()[1:]))
        assert drawn <= found and not found & not_drawn

    def test_beams_come_best_first(self) -> None:
        model = Table(transitions(4))
        frame = generate(model, WORDS, [BOS], GenerationOptions(n_tokens=3, beams=200, n_samples=4))
        expected = exhaustive(model, [BOS], 3, ends=(), never=(UNK, PAD), penalty=0.0)[:4]
        assert frame["mean_log_probability"].to_list() == pytest.approx([e.log_probability / 3 for e in expected])

    def test_a_vocabulary_of_another_model_is_refused(self) -> None:
        with pytest.raises(DataError, match=r"14 tokens .* 13"):
            generate(Table(transitions()), words_of("the", "film", "is", "good", "more"), [BOS], GenerationOptions())
        fewer = words_of("the", "film", "is")  # unused rows of the model are never drawn
        text = generate(Table(transitions(), drift=9.0), fewer, [BOS], GenerationOptions(n_tokens=80))["text"][0]
        assert "good" not in text

    @pytest.mark.parametrize(("never", "message"), [(("bad",), "never lists 'bad'"), (TOKENS, "none is left")])
    def test_never_must_be_tokens_and_leave_one(self, never: tuple[str, ...], message: str) -> None:
        with pytest.raises(DataError, match=message):
            generate(Table(transitions()), WORDS, [BOS], GenerationOptions(never=never))

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"beams": 2, "n_samples": 3}, "2 beams .* 3 samples"),
            ({"beams": 2, "temperature": 0.5, "min_p": 0.1}, "temperature, min_p"),
            ({"length_penalty": 1.0}, "beams"),
            ({"temperature": -1.0}, "temperature\n"),
            ({"temprature": 1.0}, "temprature\n"),
        ],
    )
    def test_settings_that_contradict(self, settings: dict[str, float], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            GenerationOptions(**settings)  # type: ignore[arg-type]


def test_next_words_have_the_probabilities_of_the_table() -> None:
    table = transitions(3)
    frame = next_words(Table(table), WORDS, [BOS, FILM], k=4)
    order = np.argsort(-table[FILM])[:4]
    assert frame["rank"].to_list() == [1, 2, 3, 4]
    assert frame["word"].to_list() == [TOKENS[index] for index in order]
    assert frame["probability"].to_list() == pytest.approx(table[FILM][order], abs=1e-12)
    every = next_words(Table(table), WORDS, [BOS], k=50)
    assert len(every) == len(TOKENS)
    assert every["probability"].sum() == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("prompt", "ids"),
    [
        ("xxfld The film xxfld is", [BOS, FLD, MAJ, THE, FILM, FLD, IS]),  # special tokens are taken as such
        ("xxbos good", [BOS, GOOD]),  # a start that is written is not doubled
        ("", [BOS]),
        (" ", [BOS]),
    ],
)
def test_a_prompt_starts_a_document(prompt: str, ids: list[int]) -> None:
    assert prompt_ids(prompt, WORDS, TokenOptions()) == ids


def test_a_prompt_of_fields_asks_for_the_next_one() -> None:
    words = words_of("1", "2", "cs.ni", "algorithms", "that")
    given = "xxfld 1 cs.NI xxfld 2 algorithms that"
    assert words.words(prompt_ids(given, words, TokenOptions())) == ["xxbos", *given.lower().split()]
    ordinary = words_of("xxfld", "1", "games", "2", rules="dl1")
    written = ordinary.words(prompt_ids("xxfld 1 games xxfld 2", ordinary, TokenOptions(rules="dl1")))
    assert written == "<eos> xxfld 1 games xxfld 2".split()


def test_a_prompt_of_dl1_follows_the_end_of_a_document_and_has_none() -> None:
    words = words_of("film", "good", rules="dl1")
    assert prompt_ids("", words, TokenOptions(rules="dl1")) == [2]
    assert prompt_ids("Good film", words, TokenOptions(rules="dl1")) == [2, 4, 3]


def test_unknown_words_of_a_prompt_are_named_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "embedline"):
        ids = prompt_ids("the zorgon film zorgon glib xxunk", WORDS, TokenOptions())
    assert ids == [BOS, THE, UNK, FILM, UNK, UNK, UNK]
    assert [record.getMessage() for record in caplog.records] == [
        "Unknown words of the prompt are read as xxunk: zorgon, glib"
    ]
