"""Archives as fastai stores its language models, written without fastai."""

import io
import pickle
import tarfile
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

# The order of fastai v1: xxmaj, xxup, xxrep and xxwrep stand in another order than ours.
SPECIALS = ["xxunk", "xxpad", "xxbos", "xxeos", "xxfld", "xxmaj", "xxup", "xxrep", "xxwrep"]
WIDTH, HIDDEN = 6, 9
LSTM = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")

Names = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]


def network(n_words: int, n_layers: int = 2, width: int = WIDTH, hidden: int = HIDDEN) -> tuple[Tensor, Tensor, Any]:
    """An embedding [V, E], a bias [V] and LSTM layers with random weights."""
    sizes = [width, *[hidden] * (n_layers - 1), width]
    layers = [nn.LSTM(before, after, batch_first=True) for before, after in pairwise(sizes)]
    return torch.randn(n_words, width), torch.randn(n_words), layers


def logits(embedding: Tensor, bias: Tensor, layers: Any, ids: Tensor) -> Tensor:
    """Scores [B, T, V] of the next word, for ids [B, T]: plain nn.LSTM layers, and the embedding as the decoder."""
    hidden = embedding[ids]
    for layer in layers:
        hidden, _ = layer(hidden)
    return hidden @ embedding.T + bias


def named(embedding: Tensor, bias: Tensor, layers: Any, *, raw: bool = True, noisy: bool = False) -> dict[str, Tensor]:
    """The names of fastai: ``weight_hh_l0_raw`` is the learned matrix; v1 stored beside it a dropped one."""
    state = {"0.encoder.weight": embedding, "0.encoder_dp.emb.weight": embedding}
    for depth, layer in enumerate(layers):
        for name in LSTM:
            kept = getattr(layer, name).detach()
            if name == "weight_hh_l0" and raw:
                state[f"0.rnns.{depth}.weight_hh_l0_raw"] = kept
                if noisy:
                    state[f"0.rnns.{depth}.module.weight_hh_l0"] = kept * 0.5
            else:
                state[f"0.rnns.{depth}.module.{name}"] = kept
    return state | {"1.decoder.weight": embedding, "1.decoder.bias": bias}


def stored(value: Any, **settings: Any) -> bytes:
    file = io.BytesIO()
    torch.save(value, file, **settings)
    return file.getvalue()


def write_archive(path: Path, weights: Any, words: Any, *, folder: str = "wt103-fwd/", **others: bytes) -> str:
    """Write the weights (bytes, or what ``torch.save`` takes) and the words (bytes, or what is pickled)."""
    members = {
        f"{folder}lstm_wt103.pth": weights if isinstance(weights, bytes) else stored(weights),
        f"{folder}itos_wt103.pkl": words if isinstance(words, bytes) else pickle.dumps(words),
        **others,
    }
    with tarfile.open(path, "w:gz") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return str(path)
