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
    assert [set(bundle.member(member)) for member in (0, 1)] == [{"weight", "steps"}, {"weight"}]
    assert torch.equal(bundle.member(1)["weight"], bundle.weights["1.weight"])  # and not those of member 10


def test_the_bytes_are_safetensors_without_pickle_and_gradients() -> None:
    content = _bundle().to_bytes()
    assert safetensors.torch.load(content)["0.steps"].item() == 7
    with pytest.raises(pickle.UnpicklingError):
        pickle.loads(content)
    weights = {"0.w": torch.nn.Parameter(torch.ones(2))}
    again = ModelBundle.from_bytes(ModelBundle("k", {}, {}, weights).to_bytes())
    assert not again.weights["0.w"].requires_grad


def _tensors(metadata: dict[str, str] | None) -> bytes:
    return bytes(safetensors.torch.save({"a": torch.ones(2)}, metadata=metadata))


CONTENT = _bundle().to_bytes()
NO_BUNDLES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "not a readable"),
    "text": (b"not a model at all" * 10, "not a readable"),
    "cut short": (CONTENT[:-5], "not a readable"),
    "header only": (CONTENT[:40], "not a readable"),
    "pickle": (pickle.dumps({"weights": [1.0]}), "not a readable"),
    "no format": (_tensors(None), "format None.*'embedline-bundle-1'"),
    "other format": (_tensors({"format": "pt"}), "format 'pt'"),
    "parts missing": (_tensors({"format": FORMAT, "kind": "tabular", "config": "{}"}), "encoder, metrics, versions"),
}


@pytest.mark.parametrize("name", NO_BUNDLES)
def test_what_is_no_bundle_is_refused_by_name(name: str) -> None:
    content, message = NO_BUNDLES[name]
    with pytest.raises(DataError, match=rf"^model\.safetensors .*{message}"):
        ModelBundle.from_bytes(content, name="model.safetensors")


@pytest.mark.parametrize("part", ["config", "encoder", "metrics"])
def test_what_json_cannot_hold_is_refused_when_it_is_written(part: str) -> None:
    parts: dict[str, Any] = {"config": {}, "encoder": {}, "metrics": {}, part: {"x": torch.ones(1)}}
    with pytest.raises(TypeError, match="not JSON serializable"):
        ModelBundle(kind="tabular", weights={}, **parts).to_bytes()
