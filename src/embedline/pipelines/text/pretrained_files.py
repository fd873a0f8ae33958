"""Read language models to start from: fastai's archives, and stored language models of ours.

An archive of fastai, such as ``wt103-fwd.tgz``, holds the weights (``.pth``) and the words (``.pkl``), both of them
pickles. PyTorch reads the weights with ``weights_only=True``; the unpickler of the words knows no class or function.
"""

import io
import pickle
import posixpath
import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from embedline.archive import NotAnArchive, select_members
from embedline.download import fetched
from embedline.errors import DataError, one_line
from embedline.pipelines.text.language_model import KIND as LANGUAGE_MODEL
from embedline.pipelines.text.preprocessing import RULES
from embedline.pipelines.text.pretrained import BIAS, EMBEDDING, KIND, take_rows
from embedline.pipelines.text.vocabulary import Vocabulary, load_vocabulary
from embedline.training.model_file import ModelBundle

STORED = ".safetensors"
WEIGHTS, WORDS = ".pth", ".pkl"
BACKWARD = "backward."  # prefix of a stored language model's tensors that read backward
FAKE = "xxfake"  # fills fastai's vocabularies up to a multiple of eight
_BROKEN_PICKLE = (
    *(pickle.UnpicklingError, EOFError, ValueError, IndexError, KeyError, TypeError, AttributeError),
    *(MemoryError, OverflowError, RuntimeError, AssertionError),
)
_LAYER = re.compile(r"rnns\.(\d+)\.(?:module\.)?((?:weight|bias)_(?:ih|hh)_l0|weight_hh_l0_raw)")


@dataclass(frozen=True)
class Source:
    """A language model to start from: ``weights`` by their names in a ``LanguageModel``, vocabulary, and sizes."""

    weights: dict[str, Tensor]
    vocabulary: Vocabulary
    sizes: dict[str, int]


def read_pretrained(addresses: Mapping[str, str]) -> ModelBundle:
    """Read the language models at ``addresses``, by direction of reading, into one bundle (see :mod:`.pretrained`).

    An address is that of an archive or folder of fastai's (:func:`read_archive`), or it ends in ``.safetensors``: a
    stored language model of ours (:func:`read_stored`). Their DataErrors name the file and what is wrong with it.
    """
    config: dict[str, Any] = {}
    encoder: dict[str, Any] = {}
    weights: dict[str, Tensor] = {}
    for direction, address in addresses.items():
        is_stored = address.partition("?")[0].rstrip("/").endswith(STORED)
        source = read_stored(address, direction) if is_stored else read_archive(address)
        config[direction], encoder[direction] = source.sizes, source.vocabulary.model_dump(mode="json")
        weights |= {f"{direction}.{name}": tensor for name, tensor in source.weights.items()}
    return ModelBundle(KIND, config, encoder, weights)


def read_stored(address: str, direction: str) -> Source:
    """Read a language model of ours: a file, or a folder with ``<version>/<name of the folder>`` inside.

    Another kind of model, and a language model that was not trained in this direction, are a DataError.
    """
    with fetched(address) as path:
        file = _newest_version(path, address) if path.is_dir() else path
        bundle = ModelBundle.from_bytes(file.read_bytes(), name=address)
    if bundle.kind != LANGUAGE_MODEL:
        raise DataError(f"{address} is a model of the kind {bundle.kind!r}, not {LANGUAGE_MODEL!r}")
    is_backward = direction == "backward"
    weights = {
        name.removeprefix(BACKWARD): tensor
        for name, tensor in bundle.weights.items()
        if name.startswith(BACKWARD) is is_backward
    }
    if not weights:
        other = "forward" if is_backward else "backward"
        raise DataError(f"{address} reads {other} only: pretrained.{direction} needs a model that reads {direction}")
    options = bundle.config["encoder"]
    sizes = {name: options[name] for name in ("embedding_size", "hidden_size", "n_layers")}
    return Source(weights, load_vocabulary(bundle.encoder["vocabulary"]), sizes)


def _newest_version(folder: Path, address: str) -> Path:
    name = posixpath.basename(address.partition("?")[0].rstrip("/"))
    versions = sorted(folder.glob(f"*/{name}"))
    if not versions:
        raise DataError(f"{address} is a folder without a version of a model: it has no <version>/{name}")
    return versions[-1]


def read_archive(address: str) -> Source:
    """Read an archive or a folder with a language model of fastai's (v1 or v2), an AWD-LSTM with tied weights.

    The words get the ids of our rules ``ulmfit``: the special tokens first, by their names, then the words in their
    order. A special token that the archive lacks gets the mean embedding and bias.

    Raises:
        DataError: names the file and the object: there is not one ``.pth`` and one ``.pkl``, one of them is damaged or
            holds other objects than tensors, and a list of words; a tensor is missing, unknown, not finite or has
            another shape; a word occurs twice; the number of words is not that of the embedding's rows.
    """
    try:
        files, held = select_members(address, _is_model_file)
    except NotAnArchive as error:
        hint = f"an archive with a {WEIGHTS} and a {WORDS}, or a stored language model ({STORED})"
        raise DataError(f"{error}; a pretrained language model is {hint}") from error
    tensors_file, words_file = (_only(files, suffix, address, held) for suffix in (WEIGHTS, WORDS))
    words = read_words(files[words_file], f"{words_file} of {address}")
    where = f"{tensors_file} of {address}"
    tensors = convert_names(read_tensors(files[tensors_file], where), where)
    sizes = _sizes_of(tensors, where)
    if len(words) != len(tensors[EMBEDDING]):
        n_rows = f"{len(tensors[EMBEDDING]):,} rows in the embedding of {where}"
        raise DataError(f"{words_file} lists {len(words):,} words, and there are {n_rows}: they belong to two models")
    vocabulary, rows = _as_vocabulary(words, f"{words_file} of {address}")
    by_word = {name: take_rows(tensors[name], rows) for name in (EMBEDDING, BIAS) if name in tensors}
    return Source({**tensors, **by_word}, vocabulary, sizes)


def _is_model_file(member: str) -> bool:
    return member.endswith((WEIGHTS, WORDS)) and not posixpath.basename(member).startswith(".")


def _only(files: Mapping[str, bytes], suffix: str, address: str, held: str) -> str:
    found = sorted(name for name in files if name.endswith(suffix))
    if len(found) != 1:
        there = f"it holds {' and '.join(found)}" if found else f"it holds none, but {held}"
        raise DataError(f"{address} must hold one {suffix} file, as an archive of a language model does: {there}")
    return found[0]


class _WordUnpickler(pickle.Unpickler):
    """Reads numbers, strings and containers of them; any class or function is refused before it is looked up."""

    def __init__(self, content: bytes, name: str) -> None:
        super().__init__(io.BytesIO(content), encoding="utf-8")
        self._name = name

    def find_class(self, module: str, name: str) -> NoReturn:
        raise DataError(f"{self._name} asks for {module}.{name}, which is not run: a list of words needs no object")

    def persistent_load(self, key: Any) -> NoReturn:
        raise DataError(f"{self._name} asks for the object {key!r} outside of it: a list of words needs no object")


def read_words(content: bytes, name: str) -> list[str]:
    """Unpickle a list or tuple of strings; anything else is a DataError that begins with ``name``."""
    try:
        words = _WordUnpickler(content, name).load()
    except DataError:
        raise
    except _BROKEN_PICKLE as error:
        raise DataError(f"{name} is no readable pickle: {one_line(error, 200)}") from error
    if not isinstance(words, list | tuple):
        raise DataError(f"{name} holds an object of the type {type(words).__name__}, not a list of words")
    for place, word in enumerate(words):
        if not isinstance(word, str):
            raise DataError(f"{name} lists {one_line(ValueError(repr(word)), 80)} at place {place}, which is no word")
    return list(words)


class _List:
    """Stands for a list of fastai's in the state of an optimiser, which is not used; it has no behaviour."""


def read_tensors(content: bytes, name: str) -> dict[str, Tensor]:
    """Read tensors by name as PyTorch stored them, as float32 on the CPU, without running what a pickle asks for.

    A file with an optimiser, ``{"model": …, "opt": …}``, is read without it. All errors are DataErrors.
    """
    try:
        with torch.serialization.safe_globals([(_List, "fastcore.foundation.L")]):
            state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except _BROKEN_PICKLE as error:
        if found := re.search(r"GLOBAL (\S+)", str(error)):
            hint = "store the weights alone: learn.save(…, with_opt=False)"
            raise DataError(f"{name} asks for {found[1]}, which is not run; {hint}") from error
        raise DataError(f"{name} is no readable file of weights: {one_line(error, 200)}") from error
    state = state["model"] if isinstance(state, Mapping) and "model" in state else state
    if not isinstance(state, Mapping) or not state:
        raise DataError(f"{name} holds an object of the type {type(state).__name__}, not tensors by their names")
    for key, tensor in state.items():
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
            raise DataError(f"{name} holds {key!r}, which is no tensor of floats")
        if not tensor.isfinite().all():
            raise DataError(f"{name} holds {key!r}, whose values are not all finite")
    return {str(key): tensor.detach().float() for key, tensor in state.items()}  # fastai stores some as float16


def convert_names(state: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """Convert fastai's names of an AWD-LSTM's tensors to ours, with or without ``0.`` and ``1.`` before them.

    Of a recurrent matrix that is there twice, ``weight_hh_l0_raw`` is the learned one, the other one was dropped out.
    """
    found: dict[str, Tensor] = {}
    for key in sorted(state, key=lambda key: key.endswith("_raw")):
        plain = re.sub(r"^[01]\.", "", key)
        if plain == "encoder.weight":
            found[EMBEDDING] = state[key]
        elif plain == BIAS:
            found[BIAS] = state[key]
        elif layer := _LAYER.fullmatch(plain):
            found[f"encoder.layers.{layer[1]}.{layer[2].removesuffix('_raw')}"] = state[key]
        elif plain not in ("encoder_dp.emb.weight", "decoder.weight"):  # the embedding again
            raise DataError(f"{name} holds {key!r}, which no AWD-LSTM language model has")
    decoder = next((state[key] for key in state if key.endswith("decoder.weight")), None)
    if decoder is not None and EMBEDDING in found and not torch.equal(decoder, found[EMBEDDING]):
        raise DataError(f"{name} holds a decoder.weight that is not its encoder.weight: only tied weights are read")
    return found


def _sizes_of(tensors: Mapping[str, Tensor], name: str) -> dict[str, int]:
    """Sizes of the network, once all tensors are there and have the shapes of these sizes."""
    layers = "encoder.layers."
    n_layers = len({key.removeprefix(layers).split(".")[0] for key in tensors if key.startswith(layers)})
    for key in (EMBEDDING, f"{layers}0.weight_hh_l0"):
        if key not in tensors or tensors[key].ndim != 2:
            raise DataError(f"{name} holds no matrix {key!r} (in our names) of an AWD-LSTM language model")
    n_words, width = tensors[EMBEDDING].shape
    hidden = tensors[f"{layers}0.weight_hh_l0"].shape[1]
    shapes: dict[str, tuple[int, ...]] = {EMBEDDING: (n_words, width)}
    for depth, (before, after) in enumerate(pairwise([width, *[hidden] * (n_layers - 1), width])):
        shapes[f"{layers}{depth}.weight_ih_l0"] = (4 * after, before)
        shapes[f"{layers}{depth}.weight_hh_l0"] = (4 * after, after)
        shapes |= {f"{layers}{depth}.{kind}_l0": (4 * after,) for kind in ("bias_ih", "bias_hh")}
    if BIAS in tensors:
        shapes[BIAS] = (n_words,)
    if missing := [key for key in shapes if key not in tensors]:
        raise DataError(f"{name} holds no {missing[0]!r} (in our names) of an AWD-LSTM of {n_layers} layers")
    for key, shape in shapes.items():
        if tensors[key].shape != shape:
            found = list(tensors[key].shape)
            raise DataError(f"{name} holds {key!r} (in our names) of the shape {found}, where {list(shape)} is due")
    return {"embedding_size": width, "hidden_size": hidden, "n_layers": n_layers}


def _as_vocabulary(words: list[str], name: str) -> tuple[Vocabulary, Tensor]:
    """A vocabulary of our rules ``ulmfit``, and the place int64 [V] of each of its tokens in ``words``, or -1."""
    rules = RULES["ulmfit"]
    places: dict[str, int] = {}
    for place, word in enumerate(words):
        if word in places:
            raise DataError(f"{name} lists the word {word!r} twice")
        if word != FAKE:
            places[word] = place
    if rules.unknown not in places:
        raise DataError(f"{name} lists no {rules.unknown!r}, as vocabularies of fastai v1 and v2 do")
    specials = set(rules.specials)
    tokens = (*rules.specials, *(word for word in places if word not in specials))
    vocabulary = Vocabulary(
        rules="ulmfit",
        tokens=tokens,
        specials=rules.specials,
        unknown=rules.specials.index(rules.unknown),
        padding=rules.specials.index(rules.padding),
        fitted_on=(),
        min_freq=1,
    )
    return vocabulary, torch.tensor([places.get(token, -1) for token in tokens])
