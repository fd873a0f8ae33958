"""A model bundle survives its bytes, and nothing else passes for one."""

import pickle
from typing import Any

import pytest
import safetensors.torch
import torch

from embedline.errors import DataError
from embedline.training.model_file import FORMAT, ModelBundle


def _bundle() -> ModelBundle:
    generator = torch.Generator().manual_seed(0)
    return ModelBundle(
        kind="tabular",
        config={"layers": [4, 2], "y_range": None, "rate": 0.1, "on": True},
        encoder={"levels": ["ä", "b"], "codes": {"x": [1, 2]}},
        weights={
            "0.weight": torch.randn(3, 2, generator=generator),
            "0.steps": torch.tensor(7),
            "1.weight": torch.randn(3, 2, generator=generator).T,  # not contiguous
            "10.weight": torch.randn(1, 1, generator=generator),
        },
        metrics={"rows": 12, "loss": 0.1 + 0.2},
        versions={"torch": "2"},
    )


def test_it_comes_back_from_its_bytes_exactly() -> None:
    bundle = _bundle()
    again = ModelBundle.from_bytes(bundle.to_bytes())
    for part in ("kind", "config", "encoder", "metrics", "versions"):
        assert getattr(again, part) == getattr(bundle, part)
    assert set(again.weights) == set(bundle.weights)
    for name, tensor in bundle.weights.items():
        assert torch.equal(again.weights[name], tensor)
        assert again.weights[name].dtype == tensor.dtype


def test_a_member_has_its_own_weights_under_plain_names() -> None:
    bundle = _bundle()
    assert set(bundle.member(0)) == {"weight", "steps"}
    assert torch.equal(bundle.member(1)["weight"], bundle.weights["1.weight"])  # and not those of member 10
    assert set(bundle.member(1)) == {"weight"}


def test_the_bytes_are_safetensors_and_no_pickle() -> None:
    content = _bundle().to_bytes()
    assert safetensors.torch.load(content)["0.steps"].item() == 7
    with pytest.raises(pickle.UnpicklingError):
        pickle.loads(content)


def test_parameters_are_stored_without_their_gradients() -> None:
    weights = {"0.w": torch.nn.Parameter(torch.ones(2))}
    again = ModelBundle.from_bytes(ModelBundle("k", {}, {}, weights).to_bytes())
    assert not again.weights["0.w"].requires_grad


def _tensors(metadata: dict[str, str] | None) -> bytes:
    return bytes(safetensors.torch.save({"a": torch.ones(2)}, metadata=metadata))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not a readable model bundle"),
        (b"not a model at all" * 10, "is not a readable model bundle"),
        (_bundle().to_bytes()[:-5], "is not a readable model bundle"),
        (_bundle().to_bytes()[:40], "is not a readable model bundle"),
        (pickle.dumps({"weights": [1.0]}), "is not a readable model bundle"),
        (_tensors(None), "has the format None; this version reads 'embedline-bundle-1'"),
        (_tensors({"format": "pt"}), "has the format 'pt'"),
        (_tensors({"format": FORMAT, "kind": "tabular", "config": "{}"}), "has no encoder, metrics, versions"),
    ],
    ids=["empty", "text", "cut short", "header only", "pickle", "no format", "other format", "parts missing"],
)
def test_what_is_no_bundle_is_refused_by_name(content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=rf"^model\.safetensors {message}"):
        ModelBundle.from_bytes(content, name="model.safetensors")


@pytest.mark.parametrize("part", ["config", "encoder", "metrics"])
def test_what_json_cannot_hold_is_refused_when_it_is_written(part: str) -> None:
    parts: dict[str, Any] = {"config": {}, "encoder": {}, "metrics": {}, part: {"x": torch.ones(1)}}
    with pytest.raises(TypeError, match="not JSON serializable"):
        ModelBundle(kind="tabular", weights={}, **parts).to_bytes()
