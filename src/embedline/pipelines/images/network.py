"""Networks of pictures: a body, its pooled features and a head with the logits of all targets.

``resnet9`` (Page 2018, "How to train your ResNet") and ``airbench`` (Jordan 2024, "94 % on CIFAR-10 in 3.29 seconds",
arXiv:2404.00498) are for small pictures and trained from scratch. Any other name is an architecture of timm.
"""

import itertools
import logging
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, Self, cast

import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from embedline.errors import DataError, one_line
from embedline.paths import find_source
from embedline.pipelines.images.options import Architecture
from embedline.training.dropout import Dropout

logger = logging.getLogger(__name__)

PRETRAINED = "pretrained"
WHITENED_PATCHES = 5_000  # pictures of which the patches of a whitening convolution are taken
RESIDUAL, AIRBENCH = "resnet9", "airbench"


class Body(Protocol):
    """The layers before the pooling.

    Attributes:
        n_features: channels of its output.
    """

    n_features: int

    def __call__(self, pictures: Tensor) -> Tensor:
        """Features [B, n_features, h, w] of normalised pictures float [B, 3, H, W]."""

    def groups(self) -> list[list[nn.Module]]:
        """Its layer groups, from the input to the output."""


class ConvBlock(nn.Sequential):
    """Convolution 3 x 3, max pooling by two if ``pool``, batch-norm and the activation."""

    def __init__(self, before: int, after: int, *, pool: bool = False, activation: type[nn.Module] = nn.ReLU) -> None:
        layers: list[nn.Module] = [nn.Conv2d(before, after, 3, padding=1, bias=False)]
        # Pooled before it is normalised: batch-norm and the activation then have a quarter of the work.
        layers += [*([nn.MaxPool2d(2)] if pool else []), nn.BatchNorm2d(after), activation()]
        super().__init__(*layers)


class Residual(nn.Module):
    """``x + f(x)`` of two blocks [B, C, h, w]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.blocks = nn.Sequential(ConvBlock(channels, channels), ConvBlock(channels, channels))

    def forward(self, features: Tensor) -> Tensor:
        """The sum."""
        return cast(Tensor, features + self.blocks(features))


class ResNet9(nn.Module):
    """Eight convolutions, three poolings and two residual blocks: ``width`` to ``8 width`` channels."""

    least = 8  # pixels of a side

    def __init__(self, width: int) -> None:
        super().__init__()
        self.n_features = 8 * width
        self.stem = nn.Sequential(ConvBlock(3, width), ConvBlock(width, 2 * width, pool=True), Residual(2 * width))
        self.middle = ConvBlock(2 * width, 4 * width, pool=True)
        self.last = nn.Sequential(ConvBlock(4 * width, 8 * width, pool=True), Residual(8 * width))

    def forward(self, pictures: Tensor) -> Tensor:
        """Features [B, 8 width, H/8, W/8]."""
        return cast(Tensor, self.last(self.middle(self.stem(pictures))))

    def groups(self) -> list[list[nn.Module]]:
        """Stem, middle, last."""
        return [[self.stem], [self.middle], [self.last]]


class AirBench(nn.Module):
    """A fixed whitening convolution 2 x 2, then three pairs of blocks of ``width``, 2 and 4 times as many channels.

    The whitening has the eigenvectors of the patches of training pictures, scaled to unit variance, and their
    negatives; without pictures it is random. Its weights do not learn.
    """

    least = 9
    patch = 2

    def __init__(self, width: int) -> None:
        super().__init__()
        n_whitened, self.n_features = 2 * 3 * self.patch**2, 4 * width
        self.whitening = nn.Conv2d(3, n_whitened, self.patch)
        widths = (n_whitened, width, 2 * width, 4 * width)
        self.pairs = nn.ModuleList(
            nn.Sequential(
                ConvBlock(before, after, pool=True, activation=nn.SiLU),
                ConvBlock(after, after, activation=nn.SiLU),
            )
            for before, after in itertools.pairwise(widths)
        )
        for block in (block for pair in self.pairs for block in cast(nn.Sequential, pair)):
            convolution = cast(nn.Conv2d, cast(nn.Sequential, block)[0])
            nn.init.dirac_(convolution.weight[: convolution.in_channels])  # the first channels pass through

    @torch.no_grad()
    def whiten(self, pictures: Tensor) -> None:
        """Set the whitening by the patches of normalised pictures float [B, 3, H, W]; eigenvalues get 0.0005 more."""
        patches = F.unfold(pictures, self.patch).transpose(1, 2).reshape(-1, 3 * self.patch**2).double()
        values, vectors = torch.linalg.eigh(patches.T @ patches / len(patches))
        scaled = (vectors / (values + 5e-4).sqrt()).T.reshape(-1, 3, self.patch, self.patch).flip(0)
        self.whitening.weight.copy_(torch.cat([scaled, -scaled]))
        nn.init.zeros_(cast(Tensor, self.whitening.bias))
        self.whitening.weight.requires_grad_(False)

    def forward(self, pictures: Tensor) -> Tensor:
        """Features [B, 4 width, h, w] with h = (H - 1) / 8 rounded down."""
        features = F.silu(self.whitening(pictures))
        for pair in self.pairs:
            features = pair(features)
        return features

    def groups(self) -> list[list[nn.Module]]:
        """The pairs, without the whitening."""
        return [[pair] for pair in self.pairs]


class TimmBody(nn.Module):
    """The body of an architecture of timm, without its pooling and classifier."""

    least = 1

    def __init__(self, arch: str, *, pretrained: bool = False) -> None:
        super().__init__()
        timm = _timm()
        if arch not in timm.list_models():
            near = timm.list_models(f"*{arch}*")[:3]
            hint = f"; did you mean {', '.join(near)}?" if near else ""
            raise DataError(f"network.arch {arch!r} is none of {RESIDUAL}, {AIRBENCH} and timm's architectures{hint}")
        self.model = timm.create_model(arch, pretrained=pretrained, num_classes=0, global_pool="")
        self.n_features = int(self.model.num_features)

    def forward(self, pictures: Tensor) -> Tensor:
        """Features [B, n_features, h, w]; those of a transformer as a row of its tokens [B, n_features, 1, n]."""
        features: Tensor = self.model(pictures)
        return features.transpose(1, 2).unsqueeze(2) if features.ndim == 3 else features

    def groups(self) -> list[list[nn.Module]]:
        """Two groups of about as many layers; each layer that holds others counts as one."""
        layers = [layer for layer in self.model.children() if any(True for _ in layer.parameters())]
        blocks = [part for layer in layers for part in (layer if isinstance(layer, nn.Sequential) else [layer])]
        return [blocks[: len(blocks) // 2], blocks[len(blocks) // 2 :]]


def _timm() -> Any:
    try:
        import timm
    except ImportError as error:
        hint = "pip install 'embedline[images]'"
        raise DataError(f"architectures other than {RESIDUAL} and {AIRBENCH} need timm: {hint}") from error
    return timm


class Head(nn.Sequential):
    """Blocks of batch-norm, dropout, a linear layer and ReLU; the last block is a linear layer, after dropout.

    **Shape**: pooled features float [B, 2 F] -> logits float [B, C].
    """

    def __init__(self, sizes: Sequence[int], rates: Sequence[float]) -> None:
        layers: list[nn.Module] = []
        for place, (before, after, rate) in enumerate(zip(sizes, sizes[1:], rates, strict=False)):
            layers += [nn.BatchNorm1d(before)] if len(sizes) > 2 else []
            layers += [*([Dropout(rate)] if rate else []), nn.Linear(before, after)]
            if place < len(sizes) - 2:
                layers.append(nn.ReLU())
        super().__init__(*layers)


class ImageClassifier(nn.Module):
    """Body, average and maximum pooling together, and head.

    Attributes:
        mean, std: float [1, 3, 1, 1], of the pixels from 0 to 255.
        sizes: number of classes of each target; the logits of all targets stand side by side.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, body: nn.Module, architecture: Architecture, sizes: Sequence[int]) -> None:
        super().__init__()
        self.body, self.sizes = body, tuple(sizes)
        pooled = 2 * cast(Body, body).n_features
        self.head = Head((pooled, *architecture.layers, sum(sizes)), architecture.rates())
        for name, given in (("mean", architecture.mean), ("std", architecture.std)):
            values = torch.tensor(given or ((0.5,) * 3 if name == "mean" else (0.25,) * 3))
            self.register_buffer(name, (255.0 * values).view(1, 3, 1, 1))

    def features(self, pictures: Tensor) -> Tensor:
        """Pooled features [B, 2 F], the averages first, of pictures float [B, 3, H, W] from 0 to 255."""
        return self.pool(self.body((pictures - self.mean) / self.std))

    def pool(self, maps: Tensor) -> Tensor:
        """Averages and maxima [B, 2 F] of the body's output [B, F, h, w]."""
        return torch.cat([maps.mean((2, 3)), maps.amax((2, 3))], dim=1)

    def forward(self, pictures: Tensor) -> Tensor:
        """Logits [B, C] of pictures float [B, 3, H, W] from 0 to 255."""
        return cast(Tensor, self.head(self.features(pictures)))

    def train(self, mode: bool = True) -> Self:
        """As any module; frozen layers stay in evaluation mode, so that their batch-norm keeps its statistics."""
        super().train(mode)
        for module in (module for group in self.groups() for module in group):
            if mode and not any(parameter.requires_grad for parameter in module.parameters()):
                module.eval()
        return self

    def groups(self) -> list[list[nn.Module]]:
        """Layer groups from the input to the head."""
        return [*cast(Body, self.body).groups(), [self.head]]

    def split(self, values: Tensor) -> list[Tensor]:
        """The columns [B, C_t] of each target."""
        return list(values.split(self.sizes, dim=1))


def build_network(architecture: Architecture, sizes: Sequence[int], *, trained: bool = False) -> ImageClassifier:
    """The network of an architecture with ``sizes`` classes of each target, weights of its body included.

    Args:
        trained: the caller will load all weights: none are read or downloaded here.

    Raises:
        DataError: the architecture is unknown, its size is too small for it, or its weights do not fit.
    """
    body: nn.Module
    weights = None if trained else architecture.weights
    if architecture.arch == RESIDUAL:
        body = ResNet9(architecture.width)
    elif architecture.arch == AIRBENCH:
        body = AirBench(architecture.width)
    else:
        body = TimmBody(architecture.arch, pretrained=weights == PRETRAINED)
    if weights == PRETRAINED and not isinstance(body, TimmBody):
        raise DataError(f"there are no pretrained weights of {architecture.arch}: give the path of a file")
    if weights not in (None, PRETRAINED):
        load_body(body.model if isinstance(body, TimmBody) else body, Path(find_source(weights, "network.weights")))
    if isinstance(body, TimmBody) and architecture.mean is None:
        known = body.model.pretrained_cfg
        architecture = architecture.model_copy(update={"mean": tuple(known["mean"]), "std": tuple(known["std"])})
    network = ImageClassifier(body, architecture, sizes)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload] # three times as fast on a CPU
    _check_size(network, architecture)
    return network


def _check_size(network: ImageClassifier, architecture: Architecture) -> None:
    """Raise a DataError where the body makes nothing of a picture of this size."""
    height, width = architecture.size
    fault = f"below {network.body.least}" if min(height, width) < cast(int, network.body.least) else ""
    if not fault and isinstance(network.body, TimmBody):
        try:
            with torch.no_grad():
                network.eval().features(torch.zeros(1, 3, height, width))
        except (RuntimeError, AssertionError) as error:
            fault = one_line(error, 200)
        network.train()
    if fault:
        raise DataError(
            f"network.size {height} x {width} is too small for {architecture.arch}, or not its own: {fault}"
        )


def load_body(body: nn.Module, path: Path) -> None:
    """Load the weights of a body from a file: safetensors, or a PyTorch state dictionary.

    Tensors are matched by name; where no name is known, by their order, if shape after shape agrees. What the file has
    more, such as a classifier, is left out.

    Raises:
        DataError: the file cannot be read, or is of another architecture; names the first tensor that does not fit.
    """
    given, own = read_tensors(path), body.state_dict()
    counts = {name for name, tensor in own.items() if tensor.ndim == 0}  # num_batches_tracked, which a file may lack
    if own.keys() - counts <= given.keys():
        matched = {name: given[name] for name in own if name in given}
    else:
        wanted = [name for name in own if name not in counts]
        tensors = [tensor for tensor in given.values() if tensor.ndim]
        if len(tensors) < len(wanted):
            raise DataError(f"{path} has {len(tensors)} tensors, and the body needs {len(wanted)}: weights of another?")
        matched = dict(zip(wanted, tensors, strict=False))
    for name, tensor in matched.items():
        if tensor.shape != own[name].shape:
            shapes = f"{list(tensor.shape)} in the file and {list(own[name].shape)} in the network"
            raise DataError(f"{path} has the weights of another architecture: {name} has the shape {shapes}")
    body.load_state_dict(matched, strict=False)
    logger.info("Loaded %d tensors of the body from %s", len(matched), path.name)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file by name, in its order; what cannot be read without running its code is a DataError."""
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, safetensors.SafetensorError) as error:
        raise DataError(f"{path} is neither safetensors nor a state dictionary: {one_line(error, 200)}") from error
    found = found.get("state_dict", found) if isinstance(found, dict) else found
    if not isinstance(found, dict) or not all(isinstance(tensor, Tensor) for tensor in found.values()):
        raise DataError(f"{path} holds no state dictionary (tensors by name)")
    return found
