"""Training: what is learned, stages, precomputed activations, resuming, ensembles, and predictions of the bundle."""

import base64
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
import torch.nn.functional as F
from small_pictures import CLASSES, encoded, network, tinted, training

from embedline.errors import DataError
from embedline.pipelines.images import nodes
from embedline.pipelines.images.batches import ImageBatches
from embedline.pipelines.images.evaluation import neighbour_frame
from embedline.pipelines.images.learner import KIND, compute_activations, member_names, train_networks
from embedline.pipelines.images.network import build_network
from embedline.pipelines.images.options import (
    Architecture,
    AugmentationOptions,
    BaselineOptions,
    ImageTraining,
    NetworkOptions,
    ReportOptions,
    TestTimeOptions,
)
from embedline.pipelines.images.predictions import (
    ImageModel,
    class_activations,
    explain_pictures,
    picture_features,
    predict_split,
    with_views,
)
from embedline.pipelines.images.preparation import BadImage
from embedline.serving.app import RequestHandler
from embedline.serving.contract import RefusedError
from embedline.serving.images import hold_out_images, pack_images
from embedline.training.batches import Stopped
from embedline.training.checkpoint import checkpointing
from embedline.training.model_file import ModelBundle

PIXELS, EXAMPLES = tinted(120)
KEY = "squish_12x12"
ARRAYS = {KEY: PIXELS}
LABEL = {"label": CLASSES["label"]}
PLAIN = AugmentationOptions(flip="random", shift=1)


def trained(
    classes: dict[str, list[str]] | None = None,
    options: NetworkOptions | None = None,
    settings: ImageTraining | None = None,
    **more: Any,
) -> tuple[ModelBundle, list[dict[str, Any]]]:
    return train_networks(
        more.pop("arrays", ARRAYS),
        EXAMPLES,
        classes or CLASSES,
        options or network(),
        PLAIN,
        settings or training(),
        **more,
    )


@pytest.fixture(scope="module")
def both() -> tuple[ModelBundle, list[dict[str, Any]]]:
    """One network with two targets."""
    return trained(settings=training(epochs=6))


def accuracies(bundle: ModelBundle) -> dict[str, float]:
    predictions, _ = predict_split(ARRAYS, EXAMPLES, bundle)
    names = bundle.encoder["classes"]
    columns = {target: "predicted" if len(names) == 1 else f"predicted_{target}" for target in names}
    return {target: float((predictions[target] == predictions[name]).mean()) for target, name in columns.items()}


def test_both_targets_are_learned_by_one_network(both: tuple[ModelBundle, list[dict[str, Any]]]) -> None:
    bundle, history = both
    assert min(accuracies(bundle).values()) > 0.85
    assert bundle.kind == KIND and bundle.metrics["members"] == 1 and bundle.metrics["rows"] == 72
    last = [record for record in history if record["epoch"] == 6][-1]
    assert last["accuracy"] > 0.85 and last["validation_loss"] < 0.8


def test_a_stored_bundle_predicts_the_same(both: tuple[ModelBundle, list[dict[str, Any]]]) -> None:
    again = ModelBundle.from_bytes(both[0].to_bytes())
    found, members = predict_split(ARRAYS, EXAMPLES, again)
    expected, _ = predict_split(ARRAYS, EXAMPLES, both[0])
    assert found.equals(expected)
    assert members["member"].unique().to_list() == ["resnet9"]
    sums = found.select(pl.sum_horizontal(f"p_tint_{name}" for name in CLASSES["tint"])).to_series()
    assert sums.to_list() == pytest.approx([1.0] * len(found))


def test_the_same_seed_gives_the_same_network() -> None:
    one, two = (trained(LABEL)[0] for _ in range(2))
    assert all(torch.equal(one.weights[name], two.weights[name]) for name in one.weights)
    other = trained(LABEL, settings=training(seeds=[1]))[0]
    assert not torch.equal(one.weights["0.head.0.weight"], other.weights["0.head.0.weight"])


@pytest.mark.parametrize("stages", [None, [{"epochs": 2, "lr": 0.01, "unfrozen": 1}, {"epochs": 2, "lr": 0.01}]])
def test_a_training_that_was_cut_off_ends_as_one_that_was_not(tmp_path: Path, stages: Any) -> None:
    settings = training(stages=stages, epochs=4, averaging={"decay": 0.9})
    whole = trained(LABEL, settings=settings)[0]
    steps: list[int] = []
    loss = ImageBatches.loss

    def counted(self: ImageBatches, *arguments: Any) -> Any:
        steps.append(0)
        if len(steps) == 13:  # within an epoch, of the second stage if there is one
            raise KeyboardInterrupt
        return loss(self, *arguments)

    with pytest.MonkeyPatch.context() as patch, pytest.raises((KeyboardInterrupt, Stopped)):
        patch.setattr(ImageBatches, "loss", counted)
        with checkpointing(tmp_path, every=0.0):
            trained(LABEL, settings=settings)
    assert list(tmp_path.glob("*.pt"))
    steps.clear()
    with checkpointing(tmp_path, every=0.0), pytest.MonkeyPatch.context() as patch:
        patch.setattr(ImageBatches, "loss", counted)
        resumed = trained(LABEL, settings=settings)[0]
    assert 0 < len(steps) < 13
    assert all(torch.equal(whole.weights[name], resumed.weights[name]) for name in whole.weights)


def weights_file(tmp_path: Path) -> str:
    torch.manual_seed(3)
    path = tmp_path / "body.pt"
    torch.save(build_network(network().architectures()[0], [2]).body.state_dict(), path)
    return str(path)


def test_precomputed_activations_are_those_of_the_whole_network(tmp_path: Path) -> None:
    options = network(weights=weights_file(tmp_path), layers=[8])
    head = [{"epochs": 3, "lr": 0.01, "unfrozen": 1}]
    settings = training(stages=head, precompute=True)
    stored = compute_activations(ARRAYS, EXAMPLES, options, settings)
    bundle, history = trained(LABEL, options, settings, activations=stored)
    model = ImageModel.from_bundle(bundle)
    member = model.networks[0][0]
    pictures = torch.from_numpy(PIXELS).permute(0, 3, 1, 2).float()
    with torch.no_grad():
        logits = member(pictures)
        from_stored = member.head(torch.from_numpy(stored["0"]))
    assert torch.allclose(logits, from_stored, atol=1e-4)
    computed = trained(LABEL, options, settings)[0]  # without the artifact
    assert all(torch.allclose(bundle.weights[n], computed.weights[n], atol=1e-4) for n in bundle.weights)
    assert {record["member"] for record in history} == {0}
    body = {name: tensor for name, tensor in bundle.weights.items() if ".body." in name}
    before = torch.load(options.weights)  # type: ignore[arg-type]
    assert all(torch.equal(tensor, before[name.split(".body.")[1]]) for name, tensor in body.items())


def test_unfreezing_goes_on_from_the_head(tmp_path: Path) -> None:
    options = network(weights=weights_file(tmp_path))
    stages = [{"epochs": 2, "lr": 0.01, "unfrozen": 1}, {"epochs": 6, "lr": 0.01}]
    bundle, history = trained(LABEL, options, training(stages=stages, precompute=True, rate_decay=2.6))
    assert {record["stage"] for record in history} == {0, 1}
    assert bundle.metrics["epochs"] == 8
    before = torch.load(options.weights)  # type: ignore[arg-type]
    assert not torch.equal(bundle.weights["0.body.stem.0.0.weight"], before["stem.0.0.weight"])
    assert accuracies(bundle)["label"] > 0.8


def test_settings_that_cannot_be() -> None:
    with pytest.raises(ValueError, match="precompute"):
        training(precompute=True)
    with pytest.raises(DataError, match=r"network\.weights"):
        stages = [{"epochs": 1, "lr": 1, "unfrozen": 1}]
        compute_activations(ARRAYS, EXAMPLES, network(), training(precompute=True, stages=stages))
    with pytest.raises(DataError, match=r"split\.validation"):
        train_networks(
            ARRAYS,
            EXAMPLES.with_columns(split=pl.col("split").replace("validation", "train")),
            LABEL,
            network(),
            PLAIN,
            training(early_stopping={"patience": 1}),
        )


def test_options_of_the_training_reach_it() -> None:
    tint = {"tint": CLASSES["tint"]}
    seen = [trained(tint)[0].weights["0.head.0.weight"]]
    for settings in (
        {"label_smoothing": 0.2},
        {"class_weights": True},
        {"optimizer": "sgd"},
        {"optimizer": "sgd", "weight_decay": 0.1},
        {"optimizer": "sgd", "weight_decay": 0.1, "decay": "l2"},
        {"accumulate": 2},
    ):
        found = trained(tint, settings=training(**settings))[0].weights["0.head.0.weight"]
        assert not any(torch.equal(found, other) for other in seen)
        seen.append(found)
    stopped = trained(tint, settings=training(epochs=6, early_stopping={"patience": 1}))
    losses = [record["validation_loss"] for record in stopped[1] if "validation_loss" in record]
    assert stopped[0].metrics["best_epochs"] == [int(np.argmin(losses)) + 1]


def test_airbench_learns_without_moving_its_whitening() -> None:
    options = network(arch="airbench", width=8)
    bundle, _ = trained(LABEL, options, training(epochs=6, optimizer="sgd", lr=0.05))
    assert accuracies(bundle)["label"] > 0.85
    weight = bundle.weights["0.body.whitening.weight"]
    assert torch.equal(weight[:12], -weight[12:])


class TestEnsemble:
    @pytest.fixture(scope="class")
    def bundle(self) -> ModelBundle:
        small, _ = tinted(120, 16)
        options = network(members=[{"weight": 3.0}, {"size": 16, "arch": "airbench", "resize": "pad"}])
        arrays = {**ARRAYS, "pad_16x16": small}
        return trained(LABEL, options, training(epochs=1, seeds=[0, 1], weights=[1.0, 2.0]), arrays=arrays)[0]

    def test_members_are_weighted_by_hand(self, bundle: ModelBundle) -> None:
        assert bundle.metrics["member_weights"] == pytest.approx([3 / 12, 6 / 12, 1 / 12, 2 / 12])
        assert bundle.metrics["names"] == ["resnet9_seed0", "resnet9_seed1", "airbench_seed0", "airbench_seed1"]
        small, _ = tinted(120, 16)
        predictions, members = predict_split({**ARRAYS, "pad_16x16": small}, EXAMPLES, bundle)
        shares = dict(zip(bundle.metrics["names"], bundle.metrics["member_weights"], strict=True))
        by_hand = sum(members.filter(member=name)["p_dark"].to_numpy() * share for name, share in shares.items())
        assert predictions["p_dark"].to_list() == pytest.approx(by_hand.tolist())
        each = [members.filter(member=name)["p_dark"].to_list() for name in shares]
        assert each[0] != each[1] != each[2]

    def test_names(self) -> None:
        first = Architecture()
        others = [first.model_copy(update={"size": (48, 48)}), first.model_copy(update={"resize": "pad"})]
        assert member_names([first, others[0]], [1]) == ["resnet9_32x32", "resnet9_48x48"]
        assert member_names([first, others[1]], [1]) == ["resnet9_32x32_squish", "resnet9_32x32_pad"]
        assert member_names([first, first], [1]) == ["resnet9_32x32_squish_0", "resnet9_32x32_squish_1"]


class TestViews:
    def probabilities(self, bundle: ModelBundle, pixels: np.ndarray, **views: Any) -> np.ndarray:
        model = ImageModel.from_bundle(with_views(bundle, TestTimeOptions(**views), PLAIN))
        return model.probabilities({KEY: pixels})

    def test_the_mirror_image_by_hand(self, both: tuple[ModelBundle, Any]) -> None:
        few = PIXELS[:6]
        plain = self.probabilities(both[0], few)
        mirrored = self.probabilities(both[0], np.ascontiguousarray(few[:, :, ::-1]))
        assert np.allclose(self.probabilities(both[0], few, flip=True), (plain + mirrored) / 2, atol=1e-6)
        weighted = self.probabilities(both[0], few, flip=True, weight=0.75)
        assert np.allclose(weighted, 0.75 * plain + 0.25 * mirrored, atol=1e-6)
        assert np.allclose(self.probabilities(both[0], few, flip=True, weight=1.0), plain)

    def test_random_views_do_not_depend_on_the_batch(self, both: tuple[ModelBundle, Any]) -> None:
        whole = self.probabilities(both[0], PIXELS[:8], n=3)
        assert np.allclose(whole[2:4], self.probabilities(both[0], PIXELS[2:4], n=3), atol=1e-5)
        assert not np.allclose(whole, self.probabilities(both[0], PIXELS[:8]), atol=1e-5)
        assert not np.allclose(whole, self.probabilities(both[0], PIXELS[:8], n=3, seed=1), atol=1e-6)


class TestExplanations:
    def test_grad_cam_by_hand(self, both: tuple[ModelBundle, Any]) -> None:
        member = ImageModel.from_bundle(both[0]).networks[0][0]
        pictures = torch.from_numpy(PIXELS[:3]).permute(0, 3, 1, 2).float()
        found = class_activations(member, pictures, np.array([0, 1, 3]))
        # A linear head on averages and maxima: the gradient of a logit by a map is known.
        maps = member.body((pictures - member.mean) / member.std).detach()
        n, area = maps.shape[1], maps.shape[2] * maps.shape[3]
        for row, k in enumerate((0, 1, 3)):
            weight = member.head[0].weight[k].detach()
            alpha = weight[:n] / area + weight[n:] / area  # a maximum has its gradient at one place
            cam = F.relu((alpha[:, None, None] * maps[row]).sum(0))
            assert np.allclose(found[row], (cam / cam.max().clamp(min=1e-12)).numpy(), atol=1e-4)

    def test_pictures_and_maps_of_a_target(self, both: tuple[ModelBundle, Any]) -> None:
        drawn, maps = explain_pictures(ImageModel.from_bundle(both[0]), ARRAYS, [4, 7], "tint", ["red", "blue"])
        assert (drawn == PIXELS[[4, 7]]).all() and maps.shape == (2, 1, 1)

    def test_neighbours_look_alike(self, both: tuple[ModelBundle, Any]) -> None:
        features = picture_features(ImageModel.from_bundle(both[0]), ARRAYS)
        unit = features / np.linalg.norm(features, axis=1, keepdims=True)
        found = neighbour_frame(EXAMPLES["image_id"].to_list(), features, np.array([0, 5]), np.arange(10, 120), 3)
        for item, rank, neighbour, cosine in found.rows():
            cosines = unit[int(item[:3])] @ unit[10:].T
            assert cosine == pytest.approx(np.sort(cosines)[-rank], abs=1e-5)
            assert cosines[int(neighbour[:3]) - 10] == pytest.approx(cosine, abs=1e-5)
        tints = dict(EXAMPLES.select("image_id", "tint").rows())
        assert np.mean([tints[item] == tints[near] for item, near in found.select("item", "neighbour").rows()]) > 0.6


class TestNodes:
    def test_metrics_plots_and_baselines(self, both: tuple[ModelBundle, list[dict[str, Any]]]) -> None:
        encoder = {"classes": CLASSES, "skipped": ["x"]}
        bundle, frame = nodes.train(ARRAYS, EXAMPLES, encoder, {}, network(), PLAIN, training())
        model = nodes.combine(bundle, TestTimeOptions(), PLAIN)
        predictions, members = nodes.predict(ARRAYS, EXAMPLES, model)
        baselines = nodes.predict_baselines(ARRAYS, EXAMPLES, encoder, {}, network(), BaselineOptions(size=2))
        report = ReportOptions(pictures=4, neighbours=2)
        metrics = nodes.evaluate(predictions, members, baselines, model, report, {"accuracy": 0.99})
        assert metrics["skipped_pictures"] == 1 and metrics["train_rows"] == 72 and metrics["test_rows"] == 24
        label = metrics["targets"]["label"]
        assert label["baselines"]["pixels"]["accuracy"] > 0.9  # brightness is easy for a regression on pixels
        assert label["networks"]["resnet9"]["accuracy"] == label["accuracy"] and label["ceiling"] == {"accuracy": 0.99}
        assert set(label["baselines"]["pixels"]["differences"]) == {"accuracy", "log_loss"}
        listed = nodes.list_mistakes(predictions, model, report)
        wrong = sum(int((predictions[t] != predictions[f"predicted_{t}"]).sum()) for t in CLASSES)
        assert len(listed) == min(50, wrong) and (listed["label"] != listed["predicted"]).all()
        plots = [
            nodes.plot_training(frame),
            nodes.plot_confusion(predictions, model),
            nodes.plot_calibration(predictions, baselines, model, report),
            *nodes.plot_mistakes(ARRAYS, EXAMPLES, listed, model, report),
            nodes.plot_batch(ARRAYS, EXAMPLES, encoder, network(), PLAIN, report),
        ]
        assert all(plot.to_json() for plot in plots)
        assert len(plots[-1].layout.images) == 1 and len(plots[-1].layout.annotations) == 4
        near, features = nodes.find_neighbours(ARRAYS, EXAMPLES, model, report)
        assert len(near) == 2 * 24 and features["features"].shape == (120, 64)

    def test_a_folder_is_predicted(self, both: tuple[ModelBundle, Any]) -> None:
        folder = {f"{k}.png": lambda k=k: encoded(PIXELS[k]) for k in (7, 3)}
        found = nodes.predict_pictures(folder, both[0])
        assert found["image"].to_list() == ["3.png", "7.png"]
        expected = ImageModel.from_bundle(both[0]).probabilities({KEY: PIXELS[[3, 7]]})
        assert found["p_label_dark"].to_list() == pytest.approx(expected[:, 0].tolist(), abs=1e-6)
        with pytest.raises(BadImage, match=r"3\.png"):
            nodes.predict_pictures({"3.png": lambda: b"text"}, both[0])
        with pytest.raises(DataError, match="no picture"):
            nodes.predict_pictures({}, both[0])


class TestService:
    def test_pictures_in_base64(self, both: tuple[ModelBundle, Any]) -> None:
        service = pack_images(both[0])
        again = type(service).from_bytes(service.to_bytes())
        texts = [base64.b64encode(encoded(PIXELS[k])).decode() for k in (3, 7)]
        found = again.open().predict(pd.DataFrame({"image": [texts[0], f"data:image/png;base64,{texts[1]}"]}))
        expected = ImageModel.from_bundle(both[0]).probabilities({KEY: PIXELS[[3, 7]]})
        assert found["p_label_dark"].tolist() == pytest.approx(expected[:, 0].tolist(), abs=1e-6)
        assert list(again.open().predict(pd.DataFrame(again.example)))[:2] == ["predicted_label", "confidence_label"]

    @pytest.mark.parametrize("text", ["no base64!", base64.b64encode(b"no picture").decode(), "", None])
    def test_what_is_no_picture_is_named_by_its_row(self, both: tuple[ModelBundle, Any], text: Any) -> None:
        good = base64.b64encode(encoded(PIXELS[0])).decode()
        with pytest.raises(DataError, match="row 2"):
            pack_images(both[0]).open().predict(pd.DataFrame({"image": [good, text]}))

    def test_requests_in_json_and_csv(self, both: tuple[ModelBundle, Any]) -> None:
        handler = RequestHandler(pack_images(both[0]), {})
        texts = [base64.b64encode(encoded(PIXELS[k])).decode() for k in (3, 7)]
        records = json.dumps({"dataframe_records": [{"image": text} for text in texts]}).encode()
        answers = json.loads(handler.answer(records, "application/json"))["predictions"]
        assert [row["predicted_label"] for row in answers] == EXAMPLES["label"].gather([3, 7]).to_list()
        as_csv = "\n".join(["image", *texts]).encode()
        assert json.loads(handler.answer(as_csv, "text/csv"))["predictions"] == answers
        huge = base64.b64encode(encoded(np.zeros((5_100, 5_000), np.uint8))).decode()
        for bad in ("AAAA", huge):
            with pytest.raises(RefusedError) as raised:
                handler.answer(json.dumps({"inputs": [texts[0], bad]}).encode(), "application/json")
            assert raised.value.status == 400 and "row 2" in str(raised.value)

    def test_held_out_pictures_measure_as_the_metrics(self, both: tuple[ModelBundle, Any]) -> None:
        raw = pl.DataFrame({"path": EXAMPLES["image_id"], "content": [encoded(pixels) for pixels in PIXELS]})
        images = EXAMPLES.with_columns(path="image_id", split=pl.col("split").replace("validation", "train"))
        held_out = hold_out_images(images, raw, ["005.png"], "label")
        assert len(held_out) == 23
        scorer = pack_images(both[0]).open()
        answers = scorer.predict(held_out.select("image").to_pandas())
        score = scorer.measure(answers, held_out["actual"].to_pandas())
        expected, _ = predict_split(ARRAYS, EXAMPLES, both[0])
        expected = expected.filter(pl.col("image_id") != "005.png")
        assert score.path == ("targets", "label", "accuracy")
        assert score.value == pytest.approx((expected["label"] == expected["predicted_label"]).mean())

    def test_another_kind_of_bundle(self, both: tuple[ModelBundle, Any]) -> None:
        with pytest.raises(DataError, match="tabular"):
            ImageModel.from_bundle(replace(both[0], kind="tabular"))
