"""Archives that fastai itself writes: the logits of its language model and of ours. Needs the extra ``benchmark``."""

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from fastai_archives import SPECIALS, write_archive

from embedline.errors import DataError
from embedline.pipelines.text.language_model import build_language_model, language_config
from embedline.pipelines.text.options import LanguageModelOptions
from embedline.pipelines.text.pretrained import initial_weights
from embedline.pipelines.text.pretrained_files import read_pretrained
from embedline.pipelines.text.vocabulary import load_vocabulary

fastai = pytest.importorskip("fastai.text.all", reason="fastai is not installed: pip install -e '.[benchmark]'")

WORDS = [*SPECIALS, *(f"word{number}" for number in range(40)), *["xxfake"] * 3]
SIZES = {"emb_sz": 12, "n_hid": 20, "n_layers": 3}
OURS = LanguageModelOptions(embedding_size=12, hidden_size=20, n_layers=3)


def their_model(sizes: dict[str, int] = SIZES) -> Any:
    """fastai's AWD-LSTM with random weights, the bias of the decoder too."""
    model = fastai.get_language_model(fastai.AWD_LSTM, len(WORDS), config={**fastai.awd_lstm_lm_config, **sizes})
    torch.nn.init.normal_(model[1].decoder.bias)
    return model.eval()


def save(model: Any, folder: Path, *, with_opt: bool = False) -> bytes:
    optimizer = fastai.Adam(model.parameters(), lr=0.1) if with_opt else None
    fastai.save_model(folder / "weights.pth", model, optimizer, with_opt=with_opt)
    return (folder / "weights.pth").read_bytes()


def our_model(address: str, direction: str = "forward") -> tuple[Any, list[str]]:
    bundle = read_pretrained({direction: address})
    vocabulary = load_vocabulary(bundle.encoder[direction])
    config = language_config(vocabulary, OURS)
    start = initial_weights(bundle, vocabulary, config, [direction])[direction]
    return build_language_model(config, start).eval(), list(vocabulary.tokens)


@pytest.mark.parametrize("direction", ["forward", "backward"])
@pytest.mark.parametrize("with_opt", [False, True])
def test_a_model_that_fastai_saved_has_the_same_logits(tmp_path: Path, direction: str, with_opt: bool) -> None:
    theirs = their_model()
    (tmp_path / "words.pkl").write_bytes(b"")
    fastai.save_pickle(tmp_path / "words.pkl", WORDS)
    weights, words = save(theirs, tmp_path, with_opt=with_opt), (tmp_path / "words.pkl").read_bytes()
    ours, tokens = our_model(write_archive(tmp_path / "model.tgz", weights, words), direction)
    ids = torch.randint(len(tokens), (4, 30))
    places = torch.tensor([WORDS.index(token) for token in tokens])
    theirs.reset()
    with torch.no_grad():
        expected = theirs(places[ids])[0][..., places]
        hidden, _ = ours(ids, ours.start(4))
        found = ours.logits(hidden)
    assert expected.abs().max() > 0.5  # random weights, no zeros
    torch.testing.assert_close(found, expected, rtol=0.0, atol=1e-5)


def test_unknown_words_start_as_in_fastai(tmp_path: Path) -> None:
    """``match_embeds``: the mean row and the mean bias."""
    theirs = their_model()
    words = [word if word != "xxfake" else f"xxfake{place}" for place, word in enumerate(WORDS)]
    wanted = [*SPECIALS, "word7", "new", "word3"]
    matched = fastai.match_embeds({name: t.clone() for name, t in theirs.state_dict().items()}, words, wanted)
    bundle = read_pretrained({"forward": write_archive(tmp_path / "a.tgz", save(theirs, tmp_path), words)})
    vocabulary = load_vocabulary(bundle.encoder["forward"])
    own = [*vocabulary.specials, "word7", "new", "word3"]
    smaller = vocabulary.model_copy(update={"tokens": tuple(own)})
    start = initial_weights(bundle, smaller, language_config(smaller, OURS))["forward"]
    order = torch.tensor([wanted.index(word) for word in own])
    torch.testing.assert_close(start["encoder.embedding.weight"], matched["0.encoder.weight"][order])
    torch.testing.assert_close(start["decoder.bias"], matched["1.decoder.bias"][order])


def test_a_whole_learner_is_refused(tmp_path: Path) -> None:
    """``learn.export`` writes a pickle of code."""
    torch.save(their_model(), tmp_path / "export.pth")
    address = write_archive(tmp_path / "a.tgz", (tmp_path / "export.pth").read_bytes(), pickle.dumps(WORDS))
    with pytest.raises(DataError) as caught:
        read_pretrained({"forward": address})
    assert "fastai" in str(caught.value) and "lstm_wt103.pth" in str(caught.value)
