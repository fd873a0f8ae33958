"""Nodes of the image learner. Their inputs and outputs are frames, arrays, settings, model bundles and plots.

PyTorch, Pillow, scikit-learn and Plotly are imported inside the functions: each Kedro command imports this module.
"""

import logging
from typing import Any

import numpy as np
import polars as pl

from embedline.errors import DataError, about_frame
from embedline.pipelines.images.examples import ID, TEST, TRAIN, VALIDATION, SplitOptions, assign_splits, fit_classes
from embedline.pipelines.images.examples import read_images as read
from embedline.pipelines.images.options import (
    AugmentationOptions,
    BaselineOptions,
    ImageTraining,
    NetworkOptions,
    PreparationOptions,
    ReportOptions,
    Targets,
    TestTimeOptions,
)

logger = logging.getLogger(__name__)

Frame = Any  # polars.DataFrame or pandas.DataFrame
Plot = Any  # plotly.graph_objects.Figure
Bundle = Any  # embedline.training.model_file.ModelBundle
Arrays = dict[str, Any]  # NumPy arrays by name
Json = dict[str, Any]


def prepare(
    raw: pl.DataFrame,
    images: Frame,
    targets: Targets,
    network: NetworkOptions,
    preparation: PreparationOptions,
    split: SplitOptions,
) -> tuple[Arrays, pl.DataFrame, Json]:
    """Decode the pictures in the shapes that the networks need.

    Args:
        raw: the files, ``path`` and ``content``.
        images: ``image_id``, ``path``, ``split`` and the targets.

    Returns:
        The arrays uint8 [N, H, W, 3] by shape; ``examples``, a row a picture in their order, with the split
        ``validation`` drawn; and the encoder: ``classes`` of each target and the ids of ``skipped`` pictures.

    Raises:
        DataError: the images are invalid, a class is in the test split alone, a file is missing or no picture.
    """
    from embedline.pipelines.images.preparation import prepare as decode

    with about_frame("images"):
        rows = read(images, list(targets))
        fit_classes(rows, list(targets))
    if len(absent := rows.join(raw, on="path", how="anti")):
        raise DataError(
            f"the picture {absent[ID][0]!r} has no file {absent['path'][0]!r} among the files that were read"
        )
    contents = rows.select("path").join(raw, on="path", how="left", maintain_order="left")["content"]
    files = zip(rows[ID], contents, strict=True)
    arrays, bad = decode(files, len(rows), network.architectures(), preparation)
    skipped = [rows[ID][place] for place in bad]
    examples = assign_splits(rows.filter(~pl.col(ID).is_in(skipped)).drop("path"), split, next(iter(targets)))
    counts = ", ".join(f"{name} {(examples['split'] == name).sum():,}" for name in (TRAIN, VALIDATION, TEST))
    logger.info("Prepared %s pictures as %s: %s", f"{len(examples):,}", ", ".join(arrays), counts)
    return arrays, examples, {"classes": fit_classes(examples, list(targets)), "skipped": skipped}


def compute_activations(
    pictures: Arrays, examples: pl.DataFrame, network: NetworkOptions, training: ImageTraining
) -> Arrays:
    """Features of the frozen body of each architecture with weights, float32 [N, 2 F] by its place."""
    from embedline.pipelines.images.learner import compute_activations as compute

    return dict(compute(pictures, examples, network, training))


def train(
    pictures: Arrays,
    examples: pl.DataFrame,
    encoder: Json,
    activations: Arrays,
    network: NetworkOptions,
    augmentation: AugmentationOptions,
    training: ImageTraining,
) -> tuple[Bundle, pl.DataFrame]:
    """Train a network for each architecture and seed; return the bundle and the history."""
    from embedline.pipelines.images.learner import train_networks
    from embedline.training.ensemble import history_frame

    bundle, history = train_networks(
        pictures, examples, encoder["classes"], network, augmentation, training, activations
    )
    bundle.metrics["skipped"] = len(encoder["skipped"])
    return bundle, history_frame(history)


def combine(classifier: Bundle, tta: TestTimeOptions, augmentation: AugmentationOptions) -> Bundle:
    """The model of the trained networks: their weighted mean over views of each picture (test-time augmentation)."""
    from embedline.pipelines.images.predictions import with_views

    return with_views(classifier, tta, augmentation)


def predict(pictures: Arrays, examples: pl.DataFrame, model: Bundle) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Predict each test picture; return the predictions of the model, and those of each of its networks."""
    from embedline.pipelines.images.predictions import predict_split

    return predict_split(pictures, examples, model)


def predict_baselines(
    pictures: Arrays,
    examples: pl.DataFrame,
    encoder: Json,
    activations: Arrays,
    network: NetworkOptions,
    baseline: BaselineOptions,
) -> pl.DataFrame:
    """Fit the baselines on the training pictures and predict each test picture, with a column ``member``."""
    from embedline.pipelines.images.baseline import predict_baselines as fit

    return fit(pictures, examples, encoder["classes"], network, activations, baseline)


def evaluate(
    predictions: pl.DataFrame,
    member_predictions: pl.DataFrame,
    baseline_predictions: pl.DataFrame,
    model: Bundle,
    report: ReportOptions,
    ceiling: dict[str, float] | None = None,
) -> Json:
    """Metrics of the model, its networks and the baselines on the test pictures; see :func:`.evaluation.evaluate`."""
    from embedline.pipelines.images.evaluation import evaluate as measure

    classes, training = model.encoder["classes"], model.metrics
    return measure(predictions, member_predictions, baseline_predictions, classes, training, report, ceiling)


def list_mistakes(predictions: pl.DataFrame, model: Bundle, report: ReportOptions) -> pl.DataFrame:
    """List the most confident mistakes on the test pictures."""
    from embedline.pipelines.images.evaluation import mistakes

    return mistakes(predictions, model.encoder["classes"], report)


def find_neighbours(
    pictures: Arrays, examples: pl.DataFrame, model: Bundle, report: ReportOptions
) -> tuple[pl.DataFrame, Arrays]:
    """Nearest training pictures of each test picture by the first network's features; and the features."""
    from embedline.pipelines.images.evaluation import neighbour_frame
    from embedline.pipelines.images.predictions import ImageModel, picture_features

    features = picture_features(ImageModel.from_bundle(model), pictures)
    rows, among = (np.flatnonzero(examples["split"].to_numpy() == split) for split in (TEST, TRAIN))
    ids = examples[ID].to_list()
    return neighbour_frame(ids, features, rows, among, report.neighbours), {"features": features}


def plot_training(history: pl.DataFrame) -> Plot:
    """Plot the losses, the held-out accuracy and the learning rate of the training."""
    from embedline.pipelines.images.plots import plot_training as plot

    return plot(history)


def plot_confusion(predictions: pl.DataFrame, model: Bundle) -> Plot:
    """Plot actual against predicted classes of each target."""
    from embedline.pipelines.images.plots import plot_confusion as plot

    return plot(predictions, model.encoder["classes"])


def plot_calibration(
    predictions: pl.DataFrame, baseline_predictions: pl.DataFrame, model: Bundle, report: ReportOptions
) -> Plot:
    """Plot the accuracy at each confidence."""
    from embedline.pipelines.images.plots import plot_calibration as plot

    return plot(predictions, baseline_predictions, model.encoder["classes"], report.calibration_bins)


def plot_mistakes(
    pictures: Arrays, examples: pl.DataFrame, mistakes: pl.DataFrame, model: Bundle, report: ReportOptions
) -> tuple[Plot, Plot]:
    """Draw the pictures of the surest mistakes, and where the first network looked for the class (Grad-CAM)."""
    from embedline.pipelines.images.plots import overlay, plot_grid
    from embedline.pipelines.images.predictions import ImageModel, explain_pictures, image_row

    loaded = ImageModel.from_bundle(model)
    target = next(iter(loaded.classes))
    shown = mistakes.filter(target=target).head(report.pictures)
    rows = image_row(examples, shown[ID].to_list())
    drawn, maps = explain_pictures(loaded, pictures, rows, target, shown["predicted"].to_list())
    captions = [f"{predicted}\nnot {label}" for predicted, label in shown.select("predicted", "label").iter_rows()]
    title = "The surest mistakes" + (f" of {target}" if len(loaded.classes) > 1 else "")
    note = "what the first network takes for the predicted class (Grad-CAM)"
    return plot_grid(drawn, captions, title), plot_grid(overlay(drawn, maps), captions, "Where it looks", note)


def plot_batch(
    pictures: Arrays,
    examples: pl.DataFrame,
    encoder: Json,
    network: NetworkOptions,
    augmentation: AugmentationOptions,
    report: ReportOptions,
) -> Plot:
    """Draw training pictures as the first network sees them: augmented."""
    import torch

    from embedline.pipelines.images.batches import ImageBatches, Pictures
    from embedline.pipelines.images.examples import class_codes
    from embedline.pipelines.images.plots import plot_grid

    architecture, classes = network.architectures()[0], encoder["classes"]
    rows = np.flatnonzero(examples["split"].to_numpy() == TRAIN)
    rows = np.sort(np.random.default_rng(0).permutation(rows)[: report.pictures])
    codes, sizes = class_codes(examples, classes), [len(names) for names in classes.values()]
    given = Pictures.of(pictures[architecture.key], rows, codes, sizes)
    batches = ImageBatches(
        given, architecture.size, augmentation, batch_size=report.pictures, device=torch.device("cpu")
    )
    batches.begin_epoch(torch.Generator().manual_seed(0))
    views, targets = batches.views(0)
    target = next(iter(classes))
    captions = [classes[target][int(row[: sizes[0]].argmax())] for row in targets]
    drawn = views.round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()
    return plot_grid(drawn, captions, "A batch, as the network sees it")


def predict_pictures(folder: dict[str, Any], model: Bundle) -> pl.DataFrame:
    """Predict the pictures of a folder, by name: ``image`` and the columns of the predictions.

    Raises:
        DataError: there is no picture, or one cannot be read.
    """
    from embedline.pipelines.images.predictions import ImageModel

    files = [(name, load()) for name, load in sorted(folder.items())]
    if not files:
        raise DataError("the folder holds no picture")
    found = ImageModel.from_bundle(model).predict_files(files)
    return found.insert_column(0, pl.Series("image", [name for name, _ in files], dtype=pl.String))
