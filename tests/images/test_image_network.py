"""Networks: shapes, heads, the whitening, frozen batch-norm, and weights from files."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from embedline.errors import DataError
from embedline.pipelines.images.network import AirBench, ImageClassifier, build_network, load_body
from embedline.pipelines.images.options import Architecture, NetworkOptions
from embedline.training.optimizer import unfreeze


def built(sizes: tuple[int, ...] = (3, 2), **settings) -> ImageClassifier:
    torch.manual_seed(0)
    return build_network(Architecture(**{"width": 4, "size": 16, **settings}), sizes)


@pytest.mark.parametrize("arch", ["resnet9", "airbench"])
def test_logits_of_all_targets_stand_side_by_side(arch: str) -> None:
    network = built(arch=arch).eval()
    pictures = torch.rand(5, 3, 16, 24) * 255
    logits = network(pictures)
    assert logits.shape == (5, 5)
    assert [part.shape[1] for part in network.split(logits)] == [3, 2]
    assert torch.allclose(network(pictures[:2]), logits[:2], atol=1e-5)
    assert len(network.groups()) == 4
    grouped = {id(p) for group in network.groups() for module in group for p in module.parameters()}
    others = [name for name, p in network.named_parameters() if id(p) not in grouped]
    assert others == (["body.whitening.weight", "body.whitening.bias"] if arch == "airbench" else [])


def test_pixels_are_normalised_by_mean_and_deviation() -> None:
    network = built(mean=(0.5, 0.4, 0.3), std=(0.2, 0.1, 0.4)).eval()
    seen = []
    network.body.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    network(torch.full((1, 3, 16, 16), 255.0))
    assert seen[0][0, :, 0, 0].tolist() == pytest.approx([2.5, 6.0, 1.75])


def test_heads() -> None:
    minimal = built()
    assert [type(layer) for layer in minimal.head] == [nn.Linear]
    assert minimal.head[0].in_features == 2 * 32
    deep = built(layers=[16], dropout=[0.2, 0.5])
    names = [type(layer).__name__ for layer in deep.head]
    assert names == ["BatchNorm1d", "Dropout", "Linear", "ReLU", "BatchNorm1d", "Dropout", "Linear"]
    assert [layer.p for layer in deep.head if hasattr(layer, "p")] == [0.2, 0.5]
    for wrong in ({"layers": [8], "dropout": [0.1]}, {"dropout": 1.0}):
        with pytest.raises(ValueError, match="dropout"):
            Architecture(**wrong)


def test_members_change_some_keys() -> None:
    options = NetworkOptions(width=8, members=[{"size": 24, "weight": 2.0}, {"arch": "airbench"}])
    first, second = options.architectures()
    assert (first.width, first.size, first.weight, first.key) == (8, (24, 24), 2.0, "squish_24x24")
    assert (second.arch, second.size) == ("airbench", (32, 32))
    with pytest.raises(ValueError, match="archh"):
        NetworkOptions(members=[{"archh": "airbench"}])


def test_the_whitening_whitens() -> None:
    body = AirBench(4)
    random = torch.Generator().manual_seed(0)
    smooth = nn.functional.avg_pool2d(torch.randn(200, 3, 20, 20, generator=random), 5, stride=1)
    body.whiten(smooth)
    found = body.whitening(smooth).detach().transpose(0, 1).flatten(1)
    half = len(found) // 2
    assert torch.equal(found[:half], -found[half:])
    covariance = (found[:half] @ found[:half].T / found.shape[1]).numpy()
    expected = np.diag(np.diag(covariance))
    assert np.abs(covariance - expected).max() < 0.02  # uncorrelated
    assert 0.9 < np.diag(covariance)[0] <= 1.0 or 0.9 < np.diag(covariance)[-1] <= 1.0
    assert not body.whitening.weight.requires_grad


def test_frozen_batch_norm_keeps_its_statistics() -> None:
    network = built()
    unfreeze(network, network.groups(), 1)
    network.train()
    before = {name: tensor.clone() for name, tensor in network.body.state_dict().items()}
    network(torch.rand(8, 3, 16, 16) * 255)
    assert all(torch.equal(before[name], tensor) for name, tensor in network.body.state_dict().items())
    unfreeze(network, network.groups(), None)
    network.train()
    network(torch.rand(8, 3, 16, 16) * 255)
    assert not torch.equal(before["stem.0.1.running_mean"], network.body.stem[0][1].running_mean)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": 7}, "7 x 7"),
        ({"arch": "airbench", "size": (8, 20)}, "8 x 20"),
        ({"weights": "pretrained"}, "pretrained"),
        ({"weights": "nowhere.pt"}, "nowhere.pt"),
    ],
)
def test_what_cannot_be_is_named(settings: dict, message: str) -> None:
    with pytest.raises(DataError) as raised:
        built(**settings)
    assert message in str(raised.value)


class TestWeights:
    def test_by_name_in_both_formats(self, tmp_path: Path) -> None:
        source, tensors = built(), built().body.state_dict()
        for parameter in source.body.parameters():
            nn.init.constant_(parameter, 0.25)
        state = source.body.state_dict()
        torch.save({"state_dict": {**state, "fc.weight": torch.zeros(2, 2)}}, tmp_path / "a.pt")
        safetensors.torch.save_file({k: v.contiguous() for k, v in state.items()}, tmp_path / "a.safetensors")
        for name in ("a.pt", "a.safetensors"):
            found = built(weights=str(tmp_path / name)).body.state_dict()
            assert all(torch.equal(found[key], state[key]) for key in tensors)

    def test_in_order_where_the_names_differ(self, tmp_path: Path) -> None:
        state = {f"layer{k}": tensor for k, tensor in enumerate(built().body.state_dict().values()) if tensor.ndim}
        state |= {"classifier.weight": torch.zeros(10, 32)}
        torch.save({name: tensor + 1.0 for name, tensor in state.items()}, tmp_path / "b.pt")
        body = built().body
        before = {name: tensor.clone() for name, tensor in body.state_dict().items()}
        load_body(body, tmp_path / "b.pt")
        assert all(torch.equal(tensor, before[name] + 1.0) for name, tensor in body.state_dict().items() if tensor.ndim)

    def test_of_another_architecture(self, tmp_path: Path) -> None:
        torch.save(built(width=5).body.state_dict(), tmp_path / "c.pt")
        torch.save({"a": torch.zeros(2)}, tmp_path / "few.pt")
        torch.save([1, 2], tmp_path / "list.pt")
        (tmp_path / "text.pt").write_text("no weights")
        (tmp_path / "text.safetensors").write_text("no weights")
        for name, message in (
            ("c.pt", "stem.0.0.weight"),
            ("few.pt", "1 tensors"),
            ("list.pt", "list.pt"),
            ("text.pt", "text.pt"),
            ("text.safetensors", "text.safetensors"),
        ):
            with pytest.raises(DataError) as raised, warnings.catch_warnings():
                warnings.simplefilter("ignore")
                load_body(built().body, tmp_path / name)
            assert message in str(raised.value)
