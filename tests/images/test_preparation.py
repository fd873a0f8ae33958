"""Decoding and resizing: every mode, upright, sizes side by side, and files that are no picture."""

import io
import struct
import zlib
from typing import Any

import numpy as np
import polars as pl
import pytest
import safetensors.numpy
from PIL import Image
from small_pictures import encoded

from embedline.datasets import Arrays
from embedline.errors import DataError
from embedline.pipelines.images import nodes
from embedline.pipelines.images.examples import SplitOptions, assign_splits, fit_classes, read_images
from embedline.pipelines.images.options import ImageShape, NetworkOptions, PreparationOptions, Targets
from embedline.pipelines.images.preparation import FEW, BadImage, open_picture, prepare, resize

LIMIT = 1_000_000
GRADIENT = np.stack([np.tile(np.arange(16, dtype=np.uint8) * 16, (8, 1))] * 3, axis=2)  # 8 high, 16 wide


def opened(content: bytes) -> np.ndarray:
    return np.asarray(open_picture(content, "a.png", LIMIT))


def huge_png(width: int, height: int) -> bytes:
    """The header of a picture of this size, with hardly any content."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )


class TestModes:
    def test_rgb_is_read_as_it_is(self) -> None:
        assert (opened(encoded(GRADIENT)) == GRADIENT).all()

    def test_grey_and_16_bit_grey(self) -> None:
        grey = GRADIENT[:, :, 0]
        assert (opened(encoded(grey)) == GRADIENT).all()
        content = io.BytesIO()
        Image.fromarray(grey.astype(np.uint16) * 257).save(content, "PNG")
        assert (opened(content.getvalue()) == GRADIENT).all()

    def test_palette_cmyk_and_transparency(self) -> None:
        for kind, mode in (("PNG", "P"), ("JPEG", "CMYK"), ("GIF", "P")):
            content = io.BytesIO()
            picture = Image.fromarray(GRADIENT)
            (picture.quantize() if mode == "P" else picture.convert(mode)).save(content, kind)
            found = opened(content.getvalue()).astype(int)
            assert found.shape == GRADIENT.shape and np.abs(found - GRADIENT).mean() < 6
        see_through = np.dstack([GRADIENT, np.zeros((8, 16), np.uint8)])
        assert (opened(encoded(see_through)) == 255).all()

    def test_the_first_frame_of_an_animation(self) -> None:
        content = io.BytesIO()
        frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
        frames[0].save(content, "GIF", save_all=True, append_images=frames[1:])
        assert opened(content.getvalue())[0, 0].tolist() == [255, 0, 0]

    def test_exif_turns_it_upright(self) -> None:
        exif = Image.Exif()
        exif[0x0112] = 6  # turned by 90 degrees clockwise for display
        found = opened(encoded(GRADIENT, exif=exif))
        assert found.shape == (16, 8, 3)
        assert (found == np.rot90(GRADIENT, -1)).all()


class TestBadFiles:
    @pytest.mark.parametrize(
        ("content", "reason"),
        [
            (b"", "empty"),
            (b"this is text, whatever its name says", "cannot identify"),
            (
                encoded(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8), "JPEG")[:900],
                "truncated",
            ),
            (encoded(GRADIENT)[:50], "a.png"),
            (huge_png(20_000, 20_000), "a.png"),
            (huge_png(2_000, 1_000), "2,000 x 1,000"),
        ],
        ids=["empty", "text", "truncated JPEG", "truncated PNG", "bomb", "over the limit"],
    )
    def test_is_named_with_its_fault(self, content: bytes, reason: str) -> None:
        with pytest.raises(BadImage, match=reason) as raised:
            open_picture(content, "a.png", LIMIT)
        assert "a.png" in str(raised.value)

    def test_all_are_counted_or_left_out(self, caplog: pytest.LogCaptureFixture) -> None:
        files = [("a.png", encoded(GRADIENT)), ("b.png", b""), ("c.png", encoded(GRADIENT + 1)), ("d.png", b"text")]
        shapes = [ImageShape(size=(8, 16))]
        with pytest.raises(BadImage) as raised:
            prepare(files, 4, shapes, PreparationOptions())
        assert "2 of 4" in str(raised.value) and "b.png" in str(raised.value) and "d.png" in str(raised.value)
        arrays, bad = prepare(files, 4, shapes, PreparationOptions(on_bad_image="skip"))
        assert bad == [1, 3]
        assert (arrays["squish_8x16"] == np.stack([GRADIENT, GRADIENT + 1])).all()
        assert "b.png" in caplog.text
        with pytest.raises(BadImage):
            prepare(files[1:2], 1, shapes, PreparationOptions(on_bad_image="skip"))


class TestSizes:
    def test_each_way_of_resizing(self) -> None:
        wide = np.zeros((10, 20, 3), np.uint8)
        wide[:, 5:15] = 200  # what a crop of the middle keeps
        picture = Image.fromarray(wide)
        assert resize(picture, (10, 10), "crop").min() == 200
        padded = resize(picture, (20, 20), "pad")
        assert (padded[:5] == 0).all() and (padded[15:] == 0).all() and (padded[6:14, 7:13] == 200).all()
        squished = resize(picture, (10, 10), "squish")
        assert squished[:, 0].max() < 20 and squished[:, 5].min() == 200

    def test_large_photographs_are_decoded_at_a_fraction(self) -> None:
        random = np.random.default_rng(0)
        smooth = np.asarray(Image.fromarray(random.integers(0, 255, (6, 6, 3), dtype=np.uint8)).resize((640, 640)))
        content = encoded(smooth, "JPEG", quality=95)
        small = open_picture(content, "a.jpg", LIMIT, (32, 32))
        assert small.size[0] < 640
        whole = resize(open_picture(content, "a.jpg", LIMIT), (32, 32), "squish").astype(int)
        assert np.abs(resize(small, (32, 32), "squish") - whole).mean() < 3

    def test_shapes_side_by_side_and_in_several_processes(self) -> None:
        shapes = [ImageShape(size=4), ImageShape(size=(6, 8), resize="pad"), ImageShape(size=4)]
        files = [(f"{k}.png", encoded(np.full((8, 8, 3), k % 256, np.uint8))) for k in range(FEW + 30)]
        arrays, bad = prepare(iter(files), len(files), shapes, PreparationOptions(processes=2))
        assert not bad and {key: array.shape for key, array in arrays.items()} == {
            "squish_4x4": (FEW + 30, 4, 4, 3),
            "pad_6x8": (FEW + 30, 6, 8, 3),
        }
        assert (arrays["squish_4x4"][:, 0, 0, 0] == np.arange(FEW + 30) % 256).all()

    def test_items_are_not_smaller_than_the_input(self) -> None:
        with pytest.raises(ValueError, match="item_size"):
            ImageShape(size=32, item_size=24)


class TestExamples:
    images = pl.DataFrame(
        {
            "image_id": ["a", "b", "c", "d", "e"],
            "path": ["a.png", "b.png", "c.png", "d.png", "e.png"],
            "split": ["train", "train", "test", "train", "unlabelled"],
            "label": ["x", "y", "x", "y", None],
        }
    )

    def prepared(self, images: pl.DataFrame, **options: Any) -> Any:
        raw = pl.DataFrame({"path": list(images["path"]), "content": [encoded(GRADIENT)] * (len(images) - 1) + [b""]})
        settings = NetworkOptions(size=8), PreparationOptions(**options), SplitOptions(validation=0.0)
        return nodes.prepare(raw, images, Targets(("label",)), *settings)

    def test_rows_of_skipped_files_go(self) -> None:
        arrays, examples, encoder = self.prepared(self.images)  # the empty file is unlabelled: nobody reads it
        assert examples["image_id"].to_list() == ["a", "b", "c", "d"] and arrays["squish_8x8"].shape == (4, 8, 8, 3)
        assert encoder == {"classes": {"label": ["x", "y"]}, "skipped": []}
        bad = self.images.with_columns(label=pl.lit("x"), split=pl.lit("train")).with_columns(
            label=pl.Series(["x", "y", "x", "y", "x"]), split=pl.Series(["train", "train", "test", "train", "train"])
        )
        arrays, examples, encoder = self.prepared(bad, on_bad_image="skip")
        assert examples["image_id"].to_list() == ["a", "b", "c", "d"] and encoder["skipped"] == ["e"]

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"label": ["x", "y", "z", "y", None]}, "'z'"),
            ({"label": ["x", None, "x", "y", None]}, "'b'"),
            ({"image_id": ["a", "a", "c", "d", "e"]}, "'a'"),
            ({"split": ["train", "valid", "test", "train", "unlabelled"]}, "'b'"),
            ({"split": ["train", "train", "train", "train", "unlabelled"]}, "split test"),
            ({"label": ["x", "x", "x", "x", None]}, "'x'"),
        ],
    )
    def test_faults_are_named(self, change: dict[str, Any], message: str) -> None:
        with pytest.raises(DataError) as raised:
            self.prepared(self.images.with_columns(**{name: pl.Series(values) for name, values in change.items()}))
        assert message in str(raised.value)

    def test_columns_are_there(self) -> None:
        with pytest.raises(DataError, match="'variety'"):
            read_images(self.images, ["variety"])

    def test_validation_is_drawn_from_each_class(self) -> None:
        images = pl.DataFrame(
            {
                "image_id": [f"{k:02}" for k in range(31)],
                "split": ["train"] * 31,
                "label": ["x"] * 20 + ["y"] * 10 + ["z"],
            }
        )
        found = assign_splits(images, SplitOptions(validation=0.2), "label")
        assert dict(found.filter(split="validation").group_by("label").len().rows()) == {"x": 4, "y": 2}
        shuffled = assign_splits(
            images.sample(fraction=1.0, shuffle=True, seed=1), SplitOptions(validation=0.2), "label"
        )
        assert shuffled.sort("image_id").equals(found)
        test = images.with_columns(split=pl.Series(["test"] + ["train"] * 30))
        assert fit_classes(test, ["label"]) == {"label": ["x", "y", "z"]}


def test_arrays_are_stored_and_mapped(tmp_path: Any) -> None:
    from kedro.io.core import Version

    arrays = {
        "a": np.arange(15, dtype=np.uint8).reshape(5, 1, 3),
        "b": np.linspace(0, 1, 9000, dtype=np.float32).reshape(-1, 1)[::2],
        "c": np.zeros((0, 3), np.float32),
    }
    dataset = Arrays(filepath=str(tmp_path / "pictures"), version=Version(None, "2026-01-01T00.00.00.000Z"))
    dataset.save(arrays)
    found = Arrays(filepath=str(tmp_path / "pictures"), version=Version(None, None)).load()
    assert {name: array.tolist() for name, array in found.items()} == {k: v.tolist() for k, v in arrays.items()}
    assert isinstance(found["a"], np.memmap) and found["b"].dtype == np.float32
    (path,) = (tmp_path / "pictures").glob("*/pictures")
    assert safetensors.numpy.load_file(path)["b"].tolist() == arrays["b"].tolist()
    found["a"][0] = 9
    assert Arrays(filepath=str(tmp_path / "pictures"), version=Version(None, None)).load()["a"][0, 0, 0] == 0
    Arrays(filepath=str(tmp_path / "none"), version=Version(None, "2026-01-01T00.00.00.000Z")).save({})
    assert Arrays(filepath=str(tmp_path / "none"), version=Version(None, None)).load() == {}
