"""An exported graph predicts what the model does, for every kind of network and target, and for any number of rows."""

from dataclasses import replace
from typing import Any

import narwhals as nw
import numpy as np
import pytest
from law import grade_table

from embedline.errors import DataError
from embedline.pipelines.tabular import model as models
from embedline.pipelines.tabular import nodes, onnx_export
from embedline.pipelines.tabular.arrays import subset, to_arrays
from embedline.pipelines.tabular.columns import TEST, Columns, Split
from embedline.pipelines.tabular.onnx_export import export_onnx, rows_to_compare, run_onnx
from embedline.pipelines.tabular.options import EncodingOptions, NetworkOptions, TableTraining

SPLIT = Split(kind="column", column="held_out", value=True)
BOTH = Columns(categorical=("shop", "colour"), continuous=("heat", "noise"), target=("grade", "passed", "price"))


def _model(columns: Columns, network: dict[str, Any], **training: Any) -> tuple[Any, Any, Any]:
    table = grade_table(400)
    transform: Any = {"price": "log"} if "price" in columns.targets else "none"
    encoder = nodes.fit_encoder(table, columns, SPLIT, EncodingOptions(target_transform=transform))
    encoded = nodes.encode(table, encoder, columns, SPLIT)
    small = {"epochs": 3, "batch_size": 64, "lr": 0.02, "device": "cpu", "precision": "fp32", **training}
    options = NetworkOptions.model_validate({"layers": [8], **network})
    bundle, _ = nodes.train(encoded, encoder, options, TableTraining.model_validate(small))
    model, encoded = models.load_model(bundle), nw.from_native(encoded, eager_only=True)
    return model, to_arrays(subset(encoded, TEST), model.encoder), encoded


@pytest.mark.parametrize(
    ("columns", "network", "training", "outputs"),
    [
        (
            BOTH,
            {"members": 3, "numeric_embedding": {"kind": "piecewise_linear"}, "y_range": "auto"},
            {"seeds": (1, 2), "weights": (1.0, 3.0), "loss": "quantile"},
            {"grade.probabilities": (3,), "passed.probabilities": (2,), "price.quantiles": (3,)},
        ),
        (
            Columns(continuous=("heat",), target="price"),
            {"batch_norm": True, "continuous_batch_norm": True, "dropout": 0.1},
            {"seeds": (1, 2)},
            {"predicted": ()},
        ),
        (Columns(categorical=("shop",), target="grade"), {"embedding_dropout": 0.1}, {}, {"probabilities": (3,)}),
        (
            BOTH,
            {"members": 3, "linear": True},
            {"seeds": (1, 2), "early_stopping": {"fraction": 0.2}, "loss": "quantile"},
            {"grade.probabilities": (3,), "passed.probabilities": (2,), "price.quantiles": (3,)},
        ),
        (
            BOTH,
            {},
            {"blend": {"share": 0.6, "without": ["noise"], "lightgbm": {"n_estimators": 30, "early_stopping": None}}},
            {"grade.probabilities": (3,), "passed.probabilities": (2,), "price.predicted": ()},
        ),
    ],
    ids=["several targets", "numbers alone", "categories alone", "with a linear model", "with trees"],
)
def test_the_graph_predicts_what_the_model_does(columns: Any, network: Any, training: Any, outputs: Any) -> None:
    model, rows, _ = _model(columns, network, **training)
    graph, difference = export_onnx(model, rows)
    assert difference < 1e-5
    codes, values = rows.codes.long().numpy(), rows.continuous.numpy()
    for n_rows in (1, 7, len(codes)):
        found = run_onnx(graph, codes[:n_rows], values[:n_rows])
        assert {name: output.shape for name, output in found.items()} == {
            name: (n_rows, *shape) for name, shape in outputs.items()
        }
        part = replace(rows, codes=rows.codes[:n_rows], continuous=rows.continuous[:n_rows], target=None)
        for theirs, output in zip(model.predict(part).values(), found.values(), strict=True):
            np.testing.assert_allclose(output, theirs, rtol=1e-4, atol=1e-6)


def test_what_cannot_be_exported_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model, rows, encoded = _model(Columns(categorical=("shop",), target="grade"), {})
    with pytest.raises(DataError, match="no encoded rows"):
        export_onnx(model, replace(rows, codes=rows.codes[:0], continuous=rows.continuous[:0]))
    assert len(rows_to_compare(encoded, model.encoder).codes) == 400
    for other in (encoded.drop("code:shop"), encoded.with_columns(nw.lit(9).alias("code:shop"))):
        with pytest.raises(DataError, match="were not made for this model"):
            rows_to_compare(other, model.encoder)
    with monkeypatch.context() as patch:
        patch.setattr(onnx_export, "TOLERANCE", -1.0)
        with pytest.raises(DataError, match="nothing was written"):
            export_onnx(model, rows)
    monkeypatch.setattr(onnx_export, "find_spec", lambda name: None if name == "onnxruntime" else name)
    with pytest.raises(DataError, match=r"needs onnxruntime: pip install 'embedline\[onnx\]'"):
        export_onnx(model, rows)


def test_a_difference_is_relative_and_one_that_is_no_number_is_infinite() -> None:
    expected = np.array([100.0, 1.0, 0.0])
    assert onnx_export._largest_difference(expected, np.float32([100.0, 1.01, 0.0])) == pytest.approx(0.01, rel=1e-3)
    assert onnx_export._largest_difference(expected, np.float32([np.nan, 1.0, 0.0])) == np.inf
    assert onnx_export._largest_difference(expected * 0, np.float32([0.0, 0.0, 0.0])) == 0.0


def test_a_service_does_not_need_it() -> None:
    import subprocess
    import sys

    code = (
        "import sys, embedline.serving.tables, embedline.serving.app, embedline.cli\n"
        "print(sorted({'onnx', 'onnxscript', 'onnxruntime'} & set(sys.modules)))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.splitlines()[-1] == "[]"
