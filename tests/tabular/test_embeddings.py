"""The embedding frame has each level once with its vector, and the picture keeps distances."""

import polars as pl
import torch

from embedline.pipelines.tabular.encoder import Encoder, Scaler
from embedline.pipelines.tabular.model import embedding_frame
from embedline.pipelines.tabular.network import build_network, network_config
from embedline.pipelines.tabular.options import NetworkOptions
from embedline.pipelines.tabular.targets import UNKNOWN, CategoryMap, NumericTarget
from embedline.training.model_file import ModelBundle

ENCODER = Encoder(
    categorical={
        "shop": CategoryMap(kind="integer", levels=(3, 7, 12)),
        "open": CategoryMap(kind="boolean", levels=(False, True)),
    },
    continuous={"gap": Scaler(fill=0.0, mean=0.0, std=1.0)},
    flags=("gap",),
    keys=(),
    targets=(NumericTarget(column="y", transform="none", mean=0.0, std=1.0, maximum=1.0),),
)


def _bundle(encoder: Encoder = ENCODER) -> ModelBundle:
    config = network_config(encoder, NetworkOptions(layers=(4,), embedding_sizes={"shop": 3} if encoder.flags else {}))
    states = [build_network(config, seed=seed).state_dict() for seed in (1, 2)]
    weights = {f"{member}.{name}": tensor for member, state in enumerate(states) for name, tensor in state.items()}
    return ModelBundle("tabular", config, encoder.model_dump(mode="json"), weights, {"members": 2})


def test_every_level_comes_once_with_the_vector_of_the_first_member() -> None:
    bundle = _bundle()
    frame = embedding_frame(bundle)
    assert frame.schema == {
        "variable": pl.String,
        "value": pl.String,
        "code": pl.Int32,
        "embedding": pl.List(pl.Float32),
    }
    assert frame.select("variable", "value", "code").rows() == [
        *[("shop", value, code) for code, value in enumerate([UNKNOWN, "3", "7", "12"])],
        *[("open", value, code) for code, value in enumerate([UNKNOWN, "False", "True"])],
        *[("gap_na", value, code) for code, value in enumerate([UNKNOWN, "False", "True"])],
    ]
    weight = bundle.weights["0.embeddings.weight"]
    assert weight.shape == (10, 3)
    expected = [*weight[:4, :3].tolist(), *weight[4:, :2].tolist()]
    assert frame["embedding"].to_list() == expected


def test_the_vectors_are_what_the_network_looks_up() -> None:
    bundle = _bundle()
    network = build_network(bundle.config, seed=0)
    network.load_state_dict(bundle.member(0))
    assert network.embeddings is not None
    output = network.embeddings(torch.tensor([[2, 1, 0]]))[0].tolist()
    frame = embedding_frame(bundle)
    found = [
        frame.filter(variable=variable, value=value)["embedding"][0].to_list()
        for variable, value in (("shop", "7"), ("open", "False"), ("gap_na", UNKNOWN))
    ]
    assert output == [*found[0], *found[1], *found[2]]


def test_a_network_of_numbers_alone_has_an_empty_frame() -> None:
    encoder = ENCODER.model_copy(update={"categorical": {}, "flags": ()})
    frame = embedding_frame(_bundle(encoder))
    assert frame.shape == (0, 4)
    assert frame.schema["embedding"] == pl.List(pl.Float32)
