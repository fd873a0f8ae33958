"""Language models to start from: fastai's archives, our own bundles, hostile files, words, sizes, and stages."""

import os
import pickle
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from fastai_archives import SPECIALS, logits, named, network, stored, write_archive
from small_corpus import words_of
from small_networks import (
    IDS,
    LANGUAGE,
    TOKENS,
    VOCABULARY,
    Resume,
    assert_same,
    classifier,
    different,
    language_model,
    language_training,
    train_language,
)
from torch import Tensor

from embedline.errors import DataError
from embedline.pipelines.text import pretrained
from embedline.pipelines.text.language_model import (
    build_language_model,
    find_language_model_rate,
    language_config,
    train_language_model,
)
from embedline.pipelines.text.options import LanguageModelOptions, PretrainedOptions
from embedline.pipelines.text.pretrained import initial_weights
from embedline.pipelines.text.pretrained_files import read_pretrained
from embedline.pipelines.text.pretrained_nodes import acquire_pretrained
from embedline.pipelines.text.vocabulary import Vocabulary
from embedline.training import optimizer as schedules
from embedline.training.model_file import ModelBundle
from embedline.training.options import FinderOptions

WORDS = [*SPECIALS, "the", "film", "was", "good", "xxfake", "xxfake"]
ROWS = torch.tensor([WORDS.index(word) for word in words_of("the", "film", "was", "good").tokens])


def build(bundle: ModelBundle, vocabulary: Vocabulary, options: LanguageModelOptions = LANGUAGE) -> Any:
    """The network that a training would start from."""
    config = language_config(vocabulary, options)
    return build_language_model(config, initial_weights(bundle, vocabulary, config)["forward"]).eval()


def read(address: str | Path, direction: str = "forward") -> ModelBundle:
    return ModelBundle.from_bytes(read_pretrained({direction: str(address)}).to_bytes())


@pytest.mark.parametrize(
    "form", ["v1", "v2", "no prefix", "with an optimiser", "legacy file", "float16", "no decoder", "a folder"]
)
def test_an_archive_of_fastai_has_the_logits_of_plain_lstms(form: str, tmp_path: Path) -> None:
    embedding, bias, layers = network(len(WORDS))
    if form == "float16":
        embedding, bias = embedding.half().float(), bias.half().float()
        layers = [layer.half().float() for layer in layers]
    state: Any = named(embedding, bias, layers, noisy=form == "v1")
    if form == "no prefix":
        state = {name[2:]: tensor for name, tensor in state.items()}
    if form == "no decoder":
        del state["1.decoder.weight"], state["0.encoder_dp.emb.weight"]
    if form == "float16":
        state = {name: tensor.half() for name, tensor in state.items()}
    if form == "with an optimiser":
        state = {"model": state, "opt": {"state": [], "hypers": [{"lr": 0.1}]}}
    weights = stored(state, _use_new_zipfile_serialization=form != "legacy file")
    address = write_archive(tmp_path / "wt103.tgz", weights, tuple(WORDS) if form == "v1" else WORDS)
    if form == "a folder":
        shutil.unpack_archive(address, tmp_path / "unpacked")
        address = str(tmp_path / "unpacked")
    vocabulary, bundle = words_of("the", "film", "was", "good"), read(address)
    assert {tensor.dtype for tensor in bundle.weights.values()} == {torch.float32}
    model = build(bundle, vocabulary)
    ids = torch.randint(len(vocabulary), (3, 7))
    with torch.no_grad():
        hidden, _ = model(ids, model.start(3))
        expected = logits(embedding, bias, layers, ROWS[ids])[..., ROWS]
        torch.testing.assert_close(model.logits(hidden), expected, rtol=0.0, atol=1e-5)
    assert model.decoder.weight is model.encoder.embedding.weight


def test_words_go_by_spelling_and_unknown_ones_get_the_mean_row_and_the_mean_bias(tmp_path: Path) -> None:
    embedding, bias, layers = network(len(WORDS))
    words = [word if word != "xxeos" else "film's" for word in WORDS]  # the archive has no xxeos
    bundle = read(write_archive(tmp_path / "a.tgz", named(embedding, bias, layers), words))
    vocabulary = words_of("was", "new", "the")
    model = build(bundle, vocabulary)
    place = {word: row for row, word in enumerate(words)}
    known = [row for row, word in enumerate(words) if word != "xxfake"]
    for row, token in enumerate(vocabulary.tokens):
        if token in place:
            assert torch.equal(model.encoder.embedding.weight[row], embedding[place[token]])
            assert model.decoder.bias[row] == bias[place[token]]
    torch.testing.assert_close(model.encoder.embedding.weight[3], embedding.mean(0))  # xxeos: the archive's own mean
    new = vocabulary.tokens.index("new")
    rows, biases = [*embedding[known], embedding.mean(0)], [*bias[known], bias.mean()]  # of what was read
    torch.testing.assert_close(model.encoder.embedding.weight[new], torch.stack(rows).mean(0))
    torch.testing.assert_close(model.decoder.bias[new], torch.stack(biases).mean())
    without = build(bundle, vocabulary, LANGUAGE.model_copy(update={"decoder_bias": False}))
    assert without.decoder.bias is None


def test_a_model_without_a_bias_starts_with_zeros(tmp_path: Path) -> None:
    embedding, bias, layers = network(len(WORDS))
    state = named(embedding, bias, layers)
    del state["1.decoder.bias"]
    model = build(read(write_archive(tmp_path / "a.tgz", state, WORDS)), words_of("the", "film"))
    assert torch.equal(model.decoder.bias, torch.zeros(11))


class Hostile:
    """Makes a file when it is unpickled by :mod:`pickle` itself."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_hostile_pickle_is_refused_and_not_run(tmp_path: Path, protocol: int) -> None:
    made, (embedding, bias, layers) = tmp_path / "made", network(len(WORDS))
    state = named(embedding, bias, layers)
    hostile = pickle.dumps([*WORDS, Hostile(made)], protocol)
    for weights, words, file in (
        (state, hostile, "itos_wt103.pkl"),
        ({**state, "x": Hostile(made)}, WORDS, "lstm_wt103.pth"),
        (pickle.dumps(Hostile(made), protocol), WORDS, "lstm_wt103.pth"),
    ):
        address = write_archive(tmp_path / "a.tgz", weights, words)
        with pytest.raises(DataError) as caught:
            read(address)
        assert file in str(caught.value) and address in str(caught.value)
        if file.endswith(".pkl") or isinstance(weights, dict):
            assert "posix.system" in str(caught.value)
    assert not made.exists()
    pickle.loads(hostile)  # it is dangerous
    assert made.exists()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_words_of_every_protocol_are_read(tmp_path: Path, protocol: int) -> None:
    embedding, bias, layers = network(len(WORDS) + 1)
    words = [*WORDS, "café"]
    bundle = read(write_archive(tmp_path / "a.tgz", named(embedding, bias, layers), pickle.dumps(words, protocol)))
    assert bundle.encoder["forward"]["tokens"][-5:] == ["the", "film", "was", "good", "café"]


OLD_STRINGS = b"(lp0\n" + b"".join(b"S'%s'\naS'%s'\na" % (w.encode(), w.encode()) for w in ("a",)) + b"."


def faults() -> dict[str, tuple[Any, Any, list[str]]]:
    """Weights and words with one fault, and what the error names."""
    embedding, bias, layers = network(len(WORDS))
    state = named(embedding, bias, layers)
    matrix, words, weights = "0.rnns.1.module.weight_ih_l0", "itos_wt103.pkl", "lstm_wt103.pth"
    return {
        "dict": (state, dict.fromkeys(WORDS, 0), [words, "dict"]),
        "number": (state, [*WORDS[:-1], 3], [words, "3", "14"]),
        "list in a list": (state, [*WORDS[:-1], ["a"]], [words, "['a']"]),
        "bytes": (state, [*WORDS[:-1], b"a"], [words, "b'a'"]),
        "cut words": (state, pickle.dumps(WORDS)[:-9], [words]),
        "no pickle": (state, b"the\nfilm\n", [words]),
        "old strings": (state, OLD_STRINGS, [words, "2 words", "15 rows"]),
        "twice": (state, [*WORDS[:-2], "film", "the"], [words, "'film'"]),
        "too few words": (state, WORDS[:-1], [words, "14 words", "15 rows"]),
        "no specials": (state, [f"word{k}" for k in range(len(WORDS))], [words, "'xxunk'"]),
        "cut weights": (stored(state)[:-200], WORDS, [weights]),
        "no weights": (b"PK", WORDS, [weights]),
        "list of weights": ([embedding], WORDS, [weights, "list"]),
        "missing": (
            {name: tensor for name, tensor in state.items() if name != matrix},
            WORDS,
            [weights, "layers.1.weight_ih_l0"],
        ),
        "no embedding": (
            {name: tensor for name, tensor in state.items() if "encoder" not in name},
            WORDS,
            [weights, "encoder.embedding.weight"],
        ),
        "unknown": (
            state | {"0.rnns.0.layers.0.linear.weight": embedding},
            WORDS,
            [weights, "0.rnns.0.layers.0.linear.weight"],
        ),
        "shape": (
            state | {matrix: torch.zeros(24, 10)},
            WORDS,
            [weights, "layers.1.weight_ih_l0", "[24, 10]", "[24, 9]"],
        ),
        "untied": (state | {"1.decoder.weight": embedding + 1}, WORDS, [weights, "decoder.weight"]),
        "not finite": (state | {"1.decoder.bias": bias / 0}, WORDS, [weights, "1.decoder.bias"]),
        "integers": (state | {"1.decoder.bias": bias.long()}, WORDS, [weights, "1.decoder.bias"]),
    }


@pytest.mark.parametrize("fault", faults())
def test_a_file_that_cannot_be_used_is_named_with_the_object(fault: str, tmp_path: Path) -> None:
    *content, things = faults()[fault]
    address = write_archive(tmp_path / "a.tgz", *content)
    with pytest.raises(DataError) as caught:
        read(address)
    for thing in [address, *things]:
        assert thing in str(caught.value)


def test_an_archive_that_is_cut_or_holds_other_files_is_named(tmp_path: Path) -> None:
    embedding, bias, layers = network(len(WORDS))
    state = named(embedding, bias, layers)
    whole = Path(write_archive(tmp_path / "whole.tgz", state, WORDS)).read_bytes()
    (tmp_path / "cut.tgz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.tgz").write_text("no archive, but some text")
    write_archive(tmp_path / "two.tgz", state, WORDS, **{"wt103-fwd/other.pkl": b""})
    write_archive(tmp_path / "hidden.tgz", state, WORDS, **{"wt103-fwd/._itos.pkl": b"", "README.md": b""})
    for name, things in (
        ("cut.tgz", []),
        ("text.tgz", [".safetensors"]),
        ("two.tgz", ["itos_wt103.pkl", "other.pkl"]),
        ("none.tgz", []),
    ):
        with pytest.raises(DataError) as caught:
            read(tmp_path / name)
        for thing in [name, *things]:
            assert thing in str(caught.value)
    assert read(tmp_path / "hidden.tgz").config == {"forward": {"embedding_size": 6, "hidden_size": 9, "n_layers": 2}}


def store(bundle: ModelBundle, folder: Path, version: str = "") -> Path:
    path = folder / version / folder.name if version else folder
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bundle.to_bytes())
    return folder


def test_a_language_model_of_ours_starts_another_one_as_it_is(tmp_path: Path) -> None:
    bundle = language_model()
    for address in (
        store(bundle, tmp_path / "language_model.safetensors"),
        f"file://{tmp_path}/language_model.safetensors",
    ):
        start = initial_weights(read(address), VOCABULARY, bundle.config)["forward"]
        assert different(start, bundle.weights) == []


def test_of_several_versions_the_newest_is_read(tmp_path: Path) -> None:
    old = language_model()
    new = replace(old, weights={name: tensor + 1 for name, tensor in old.weights.items()})
    folder = tmp_path / "language_model.safetensors"
    store(new, folder, "2026-11-30T10.00.00.000Z")
    store(old, folder, "2026-11-29T10.00.00.000Z")
    assert different(initial_weights(read(folder), VOCABULARY, old.config)["forward"], new.weights) == []
    (tmp_path / "empty.safetensors").mkdir()
    with pytest.raises(DataError) as caught:
        read(tmp_path / "empty.safetensors")
    assert "<version>/empty.safetensors" in str(caught.value)


def test_a_model_of_another_kind_or_direction_is_refused(tmp_path: Path) -> None:
    for bundle, direction, things in (
        (classifier()[0], "forward", ["text_classifier"]),
        (language_model(), "backward", ["pretrained.backward", "forward only"]),
        (replace(language_model(), weights=both()["backward"]), "forward", ["pretrained.forward", "backward only"]),
    ):
        address = store(bundle, tmp_path / "model.safetensors")
        with pytest.raises(DataError) as caught:
            read(address, direction)
        for thing in [str(address), *things]:
            assert thing in str(caught.value)


def both() -> dict[str, dict[str, Tensor]]:
    """Weights of a model that reads forward, and of one that reads backward, as in one bundle."""
    forward = language_model().weights
    return {"forward": forward, "backward": {f"backward.{name}": tensor + 1 for name, tensor in forward.items()}}


def test_each_direction_has_its_own_model(tmp_path: Path) -> None:
    bundle, weights = language_model(), both()
    address = str(store(replace(bundle, weights=weights["forward"] | weights["backward"]), tmp_path / "m.safetensors"))
    found = initial_weights(
        read_pretrained({"forward": address, "backward": address}), VOCABULARY, bundle.config, ["forward", "backward"]
    )
    assert different(found["forward"], bundle.weights) == []
    assert different(found["backward"], {name: tensor + 1 for name, tensor in bundle.weights.items()}) == []
    with pytest.raises(DataError) as caught:
        train(read(address, "backward"))
    assert "pretrained.backward" in str(caught.value)


def train(bundle: ModelBundle | None, network: LanguageModelOptions = LANGUAGE, **changes: Any) -> Any:
    vocabulary = changes.pop("vocabulary", VOCABULARY)
    return train_language_model(IDS, vocabulary, TOKENS, network, language_training(**changes), pretrained=bundle)


@pytest.mark.parametrize(
    ("changes", "things"),
    [
        ({"embedding_size": 5}, ["language_model.embedding_size", "5", "6"]),
        ({"hidden_size": 10}, ["language_model.hidden_size", "10", "9"]),
        ({"n_layers": 3}, ["language_model.n_layers", "3", "2"]),
    ],
)
def test_other_sizes_are_refused_with_the_key(changes: dict[str, int], things: list[str], tmp_path: Path) -> None:
    bundle = read(store(language_model(), tmp_path / "m.safetensors"))
    with pytest.raises(DataError) as caught:
        train(bundle, LANGUAGE.model_copy(update=changes))
    for thing in things:
        assert thing in str(caught.value)


def test_words_of_another_corpus_are_refused(tmp_path: Path) -> None:
    embedding, bias, layers = network(len(WORDS))
    bundle = read(write_archive(tmp_path / "a.tgz", named(embedding, bias, layers), WORDS))
    with pytest.raises(DataError) as caught:
        train(bundle)
    assert "pretrained.forward" in str(caught.value) and "20 words" in str(caught.value)
    dl1 = words_of("the", "film", rules="dl1")
    with pytest.raises(DataError) as caught:
        initial_weights(bundle, dl1, language_config(dl1, LANGUAGE))
    assert "pretrained.forward" in str(caught.value) and "tokens.rules" in str(caught.value)


def test_without_a_pretrained_model_the_training_is_the_same_to_the_last_bit() -> None:
    nothing = acquire_pretrained(None)
    assert (nothing.config, nothing.weights) == ({}, {})
    assert_same(train(ModelBundle.from_bytes(nothing.to_bytes())), train_language())
    assert_same(train(acquire_pretrained(PretrainedOptions())), train_language())


def test_a_training_starts_from_the_pretrained_model(tmp_path: Path) -> None:
    before = train_language(epochs=8, lr=0.03)[0]
    bundle = read(store(before, tmp_path / "m.safetensors"))
    still, _ = train(bundle, lr=1e-12, epochs=1)
    for name, tensor in before.weights.items():
        torch.testing.assert_close(still.weights[name], tensor, rtol=0.0, atol=1e-6)
    assert still.metrics["validation_loss"] == pytest.approx(before.metrics["validation_loss"], rel=1e-5)
    rates = find_language_model_rate(
        IDS, VOCABULARY, LANGUAGE, language_training(), FinderOptions(low=1e-4, high=10.0, steps=40), bundle
    )
    assert rates.losses[0] == pytest.approx(train(bundle)[1][0]["train_loss"])  # the same first batch
    assert rates.losses[0] < train_language()[1][0]["train_loss"] - 0.2


ALONE, ALL = {"unfrozen": 1, "epochs": 1, "lr": 0.01}, {"unfrozen": None, "epochs": 2, "lr": 0.004}


def test_the_first_stage_trains_embedding_and_decoder_alone(tmp_path: Path) -> None:
    bundle = read(store(language_model(), tmp_path / "m.safetensors"))
    start, names = language_model().weights, ("encoder.embedding.weight", "decoder.bias")
    assert sorted(different(train(bundle, stages=[ALONE])[0].weights, start)) == sorted(names)
    two = different(train(bundle, stages=[{**ALONE, "unfrozen": 2}])[0].weights, start)
    assert {name.split(".")[2] for name in two if "layers" in name} == {"1"}
    assert different(train(bundle, stages=[ALONE, ALL])[0].weights, start) == list(start)


def test_stages_have_schedules_of_their_own_and_rates_by_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    real = pretrained.train

    def spy(*arguments: Any, **settings: Any) -> Any:
        rates = [group.rate for group in settings["groups"]]
        seen.append((arguments[2].lr, arguments[2].epochs, settings["seed"], rates))
        return real(*arguments, **settings)

    monkeypatch.setattr(pretrained, "train", spy)
    bundle, history = train(None, stages=[ALONE, ALL], rate_decay=2.0, seed=7)
    rates = [0.25, 0.5, 1.0]  # two layers; embedding and decoder
    assert seen == [(0.01, 1, 7, rates), (0.004, 2, 8, rates)]
    n_steps = len(history) // 3  # a record a step
    assert [record["step"] for record in history] == list(range(1, 3 * n_steps + 1))
    assert [record["stage"] for record in history] == [0] * n_steps + [1] * 2 * n_steps
    assert [r["epoch"] for r in history if "perplexity" in r] == [1.0, 2.0, 3.0]
    for stage, length in ((ALONE, n_steps), (ALL, 2 * n_steps)):
        options = language_training(epochs=stage["epochs"], lr=stage["lr"])
        expected = [schedules.learning_rate(options, step / length) for step in range(length)]
        found = [record["lr"] for record in history if record["stage"] == (stage is ALL)]
        assert found == pytest.approx(expected)
    assert bundle.metrics["epochs"] == 3
    assert bundle.metrics["perplexity"] == history[-1]["perplexity"]
    assert "stage" not in bundle.metrics


@pytest.mark.parametrize(("reports", "begun"), [(2, 1), (5, 1), (7, 2)])
def test_killed_and_resumed_in_a_stage_it_ends_in_the_same_bits(reports: int, begun: int, resume: Resume) -> None:
    states, _, _ = resume(lambda: train(None, stages=[ALONE, ALL], averaging={"decay": 0.9}), reports)
    assert [*states] == ["language_model.stage0", "language_model.stage1"][:begun]


def test_one_address_is_that_of_the_forward_model() -> None:
    assert PretrainedOptions.model_validate("a.tgz").addresses() == {"forward": "a.tgz"}
    pair = {"forward": "a.tgz", "backward": "b.tgz"}
    assert PretrainedOptions.model_validate(pair).addresses() == pair
    with pytest.raises(ValueError, match="both"):
        PretrainedOptions.model_validate({"both": "a.tgz"})


def test_a_path_that_leads_nowhere_is_named_with_its_key() -> None:
    with pytest.raises(DataError) as caught:
        acquire_pretrained(PretrainedOptions(forward="no/such.tgz"))
    assert "pretrained.forward" in str(caught.value) and "no/such.tgz" in str(caught.value)
