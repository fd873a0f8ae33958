"""Random views: each change on its own, reproducible, and mixed labels by hand."""

import numpy as np
import pytest
import torch
from torch import Tensor

from embedline.errors import DataError
from embedline.pipelines.images.augmentation import GREY, augment, centre, mix
from embedline.pipelines.images.batches import ImageBatches, Pictures, class_weights, one_hot, target_loss
from embedline.pipelines.images.options import AugmentationOptions

NONE = {"flip": "none", "shift": 0}
SIZE = (8, 8)


def drawn(n: int = 6, side: int = 8, seed: int = 0) -> Tensor:
    return torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(seed)) * 255.0


def views(pictures: Tensor, size: tuple[int, int] = SIZE, *, alike: bool = False, seed: int = 1, **options) -> Tensor:
    settings = AugmentationOptions(**{**NONE, **options})
    return augment(pictures, size, settings, torch.Generator().manual_seed(seed), alike=alike)


def test_without_any_change_a_view_is_the_picture() -> None:
    assert torch.equal(views(drawn()), drawn())
    assert torch.equal(centre(drawn(), SIZE), drawn())
    # An affine map by nothing interpolates at the pixels themselves.
    warped = augment(drawn(), SIZE, AugmentationOptions(**NONE, rotate=1e-9), torch.Generator().manual_seed(0))
    assert torch.allclose(warped, drawn(), atol=1e-3)


def test_flips() -> None:
    found = views(drawn(40), flip="random")
    flipped = [torch.equal(found[k], drawn(40)[k].flip(2)) for k in range(40)]
    assert all(torch.equal(found[k], drawn(40)[k]) or flipped[k] for k in range(40))
    assert 10 < sum(flipped) < 30
    chosen = torch.tensor([True, False, True, False, False, True])
    given = augment(drawn(), SIZE, AugmentationOptions(shift=0), torch.Generator(), chosen)
    assert [torch.equal(given[k], drawn()[k].flip(2)) for k in range(6)] == chosen.tolist()
    # The same mirror image where pixels are interpolated.
    warped = augment(drawn(), SIZE, AugmentationOptions(shift=0, rotate=1e-9), torch.Generator(), chosen)
    assert torch.allclose(warped, given, atol=1e-3)


def test_shifts_by_whole_pixels_mirror_what_enters() -> None:
    picture = drawn(1)
    padded = torch.nn.functional.pad(picture, (2, 2, 2, 2), mode="reflect")
    cuts = {tuple(padded[0, :, y : y + 8, x : x + 8].flatten().tolist()) for y in range(5) for x in range(5)}
    found = {tuple(view.flatten().tolist()) for view in views(picture.repeat(300, 1, 1, 1), shift=2)}
    assert found == cuts


def test_zooms_cut_a_part_and_turns_keep_the_middle() -> None:
    ramp = torch.arange(16.0).expand(64, 3, 16, 16)
    found = views(ramp, (16, 16), zoom=0.5)
    spread = found[:, 0, 8].diff(dim=1)[:, 4:-4].mean(dim=1)  # of neighbouring pixels: 1 in the picture
    assert spread.min() >= 0.5 and spread.max() <= 1.0 and spread.std() > 0.05
    spot = torch.zeros(8, 3, 9, 9)
    spot[:, :, 4, 4] = 1.0
    turned = views(spot, (9, 9), rotate=180.0)
    assert turned[:, :, 4, 4].min() > 0.9
    bar = torch.zeros(1, 3, 9, 9)
    bar[:, :, 4, :] = 1.0
    upright = [view for view in views(bar.repeat(400, 1, 1, 1), (9, 9), rotate=90.0) if view[0, 1:8, 4].min() > 0.9]
    assert upright and all(view[0, 4, 0] < 0.2 for view in upright)


def test_items_are_larger_than_the_input() -> None:
    found = views(drawn(4, 16), SIZE)
    assert found.shape == (4, 3, 8, 8)
    assert torch.allclose(centre(drawn(4, 16), SIZE).mean((2, 3)), drawn(4, 16).mean((2, 3)), atol=8.0)


def test_brightness_and_contrast_stay_in_range() -> None:
    found = views(drawn(50), brightness=0.5)
    factors = (found / drawn(50))[found < 255].view(-1)
    assert 0.5 <= factors.min() and factors.max() <= 1.5 and found.max() <= 255.0
    flat = torch.full((20, 3, 8, 8), 100.0)
    assert torch.allclose(views(flat, contrast=0.9), flat)
    assert views(drawn(20), contrast=0.9).std() != drawn(20).std()


def test_cutout_greys_a_square() -> None:
    found = views(torch.zeros(30, 3, 8, 8), cutout=4)
    greyed = (found == GREY).sum((2, 3))[:, 0]
    assert greyed.max() == 16 and greyed.min() >= 4  # a square at the border is cut off
    assert set(found.unique().tolist()) == {0.0, GREY}


def test_views_depend_on_the_generator_alone() -> None:
    settings = {"flip": "random", "shift": 2, "rotate": 10.0, "zoom": 0.8, "brightness": 0.2, "contrast": 0.2}
    assert torch.equal(views(drawn(), **settings), views(drawn(), **settings))
    assert not torch.equal(views(drawn(), **settings), views(drawn(), seed=2, **settings))
    both = views(drawn(), alike=True, **settings)
    assert torch.allclose(both[:2], views(drawn()[:2], alike=True, **settings), atol=1e-3)
    assert torch.allclose(both[4:], views(drawn()[4:], alike=True, **settings), atol=1e-3)


class TestMixing:
    def test_mixup_mixes_pictures_as_their_labels(self) -> None:
        pictures = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 3, 8, 8)
        mixed, found = mix(pictures, torch.eye(4), AugmentationOptions(mixup=0.8), torch.Generator().manual_seed(3))
        assert torch.allclose(mixed[:, 0, 0, 0], found @ torch.arange(4.0))
        assert torch.allclose(found.sum(1), torch.ones(4))
        assert ((found > 0.01) & (found < 0.99)).sum(1).max() == 2

    def test_cutmix_shares_are_areas(self) -> None:
        pictures = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 3, 8, 8)
        labels = torch.eye(4)
        mixed, found = mix(pictures, labels, AugmentationOptions(cutmix=1.0), torch.Generator().manual_seed(5))
        for k in range(4):
            for other in range(4):
                assert found[k, other].item() == pytest.approx((mixed[k, 0] == other).float().mean().item())

    def test_not_both(self) -> None:
        with pytest.raises(ValueError, match="cutmix"):
            AugmentationOptions(mixup=0.1, cutmix=0.1)


class TestLoss:
    def test_two_targets_by_hand(self) -> None:
        logits = torch.tensor([[2.0, 0.0, 0.0, 1.0, 0.0]])
        targets = one_hot(torch.tensor([[0, 1]]), (2, 3))
        expected = -np.log(np.exp(2) / (np.exp(2) + 1)) - np.log(np.exp(1) / (np.exp(1) + 2))
        assert target_loss(logits, targets, (2, 3)).item() == pytest.approx(expected, rel=1e-6)

    def test_smoothing_is_that_of_torch(self) -> None:
        logits, codes = torch.randn(5, 4), torch.tensor([0, 3, 1, 1, 2])
        expected = torch.nn.functional.cross_entropy(logits, codes, label_smoothing=0.2)
        assert torch.allclose(target_loss(logits, one_hot(codes[:, None], (4,), 0.2), (4,)), expected)

    def test_weights_make_classes_count_alike(self) -> None:
        codes = torch.tensor([[0], [0], [0], [1]])
        weights = class_weights(codes, (2,))
        assert weights.tolist() == pytest.approx([4 / 6, 2.0])
        assert weights[codes[:, 0]].mean().item() == pytest.approx(1.0)


def batches(flip: str = "random", n: int = 20, batch_size: int = 8) -> ImageBatches:
    pixels = np.random.default_rng(0).integers(0, 255, (n, 8, 8, 3), dtype=np.uint8)
    pictures = Pictures.of(pixels, np.arange(n), np.arange(n)[:, None] % 2, (2,))
    settings = AugmentationOptions(flip=flip, shift=0)  # type: ignore[arg-type]
    return ImageBatches(pictures, SIZE, settings, batch_size=batch_size, device=torch.device("cpu"))


def test_every_picture_is_mirrored_in_every_other_epoch() -> None:
    one, seen = batches("alternate", n=20, batch_size=20), []
    for epoch in range(3):
        one.epoch = epoch
        one.begin_epoch(torch.Generator().manual_seed(epoch))
        order, (found, _) = one._batches[0], one.views(0)
        pictures = one._pictures.gather(order, torch.device("cpu"))
        mirrored = torch.tensor([torch.equal(found[k], pictures[k].flip(2)) for k in range(20)])
        seen.append(mirrored[order.argsort()])
    assert torch.equal(seen[0], ~seen[1]) and torch.equal(seen[0], seen[2])
    assert 3 < seen[0].sum() < 17


def test_a_batch_is_the_same_wherever_the_training_goes_on() -> None:
    one, other = batches(), batches()
    for each in (one, other):
        each.begin_epoch(torch.Generator().manual_seed(4))
    one.views(0), one.views(1)
    assert torch.equal(one.views(2)[0], other.views(2)[0])
    assert [len(one.views(k)[0]) for k in range(one.n_batches)] == [7, 7, 6]


def test_a_shift_out_of_the_picture_is_refused() -> None:
    pictures = Pictures.of(np.zeros((4, 8, 8, 3), np.uint8), np.arange(4), np.zeros((4, 1), np.int64), (2,))
    with pytest.raises(DataError, match="shift"):
        ImageBatches(pictures, SIZE, AugmentationOptions(shift=8), batch_size=2, device=torch.device("cpu"))


def test_a_cycle_of_epochs_draws_other_views() -> None:
    one, order = batches(n=8), torch.Generator().manual_seed(0)
    one.begin_epoch(order)
    first = one.views(0)[0][one._batches[0].argsort()]
    one.begin_epoch(order)
    assert not torch.equal(first, one.views(0)[0][one._batches[0].argsort()])
