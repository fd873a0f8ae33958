"""Piecewise-linear and periodic encodings by hand, all variables at once against one at a time."""

import json
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from embedline.pipelines.tabular.network import EmbeddingNetwork
from embedline.pipelines.tabular.numeric_embeddings import (
    NumericEmbeddings,
    PeriodicEncoding,
    PiecewiseLinearEncoding,
    bin_edges,
    make_numeric_embeddings,
    numeric_config,
)
from embedline.pipelines.tabular.options import NetworkOptions
from embedline.training.optimizer import LayerGroup, optimizer_groups


def test_a_number_is_whole_in_the_bins_below_it_and_a_share_of_its_own() -> None:
    encoding = PiecewiseLinearEncoding([[0.0, 1.0, 3.0, 7.0]])
    encoded = encoding(torch.tensor([[0.0], [0.5], [1.0], [2.5], [5.0], [7.0]]))[:, 0]
    expected = [[0, 0, 0], [0.5, 0, 0], [1, 0, 0], [1, 0.75, 0], [1, 1, 0.5], [1, 1, 1]]
    torch.testing.assert_close(encoded, torch.tensor(expected, dtype=torch.float32))


def test_beyond_the_edges_the_outer_bins_go_on_as_lines() -> None:
    encoding = PiecewiseLinearEncoding([[0.0, 1.0, 3.0]])
    torch.testing.assert_close(encoding(torch.tensor([[-2.0], [7.0]]))[:, 0], torch.tensor([[-2.0, 0.0], [1.0, 3.0]]))


def test_a_variable_with_fewer_bins_has_zeros_behind_them() -> None:
    encoding = PiecewiseLinearEncoding([[0.0, 1.0, 2.0, 4.0], [5.0, 7.0]])
    encoded = encoding(torch.tensor([[3.0, 6.0], [-1.0, 11.0]]))
    expected = [[[1, 1, 0.5], [0.5, 0, 0]], [[-1, 0, 0], [3, 0, 0]]]
    torch.testing.assert_close(encoded, torch.tensor(expected, dtype=torch.float32))


def test_edges_are_quantiles_of_the_values_that_occur() -> None:
    heavy = np.concatenate([np.zeros(93), 10.0 * np.arange(1, 9)])  # nine values, of which the first fills the rows
    values = np.stack([np.arange(101.0), heavy, np.repeat([0.0, 9.0], [80, 21]), np.full(101, 2.5)], axis=1)
    edges = bin_edges(values.astype(np.float32), 4)
    assert edges == [[0.0, 25.0, 50.0, 75.0, 100.0], [0.0, 20.0, 40.0, 60.0, 80.0], [0.0, 9.0], [2.5, 3.5]]
    assert json.loads(json.dumps(edges)) == edges


def test_a_constant_passes_as_its_distance() -> None:
    encoding = PiecewiseLinearEncoding(bin_edges(np.full((5, 1), 2.5, dtype=np.float32), 8))
    assert encoding(torch.tensor([[2.5], [4.0]])).flatten().tolist() == [0.0, 1.5]


def test_periods_are_cosines_and_sines_of_learned_frequencies() -> None:
    encoding = PeriodicEncoding(2, 2, sigma=0.1)
    with torch.no_grad():
        encoding.coefficients.copy_(torch.tensor([1.0, 0.25, 0.5, 2.0]))
    encoded = encoding(torch.tensor([[1.0, 0.5]]))
    # 2 pi c x: 2 pi and pi / 2 of the first variable, pi / 2 and 2 pi of the second one
    expected = [[[1.0, 0.0, 0.0, 1.0], [0.0, 1.0, 1.0, 0.0]]]
    torch.testing.assert_close(encoded, torch.tensor(expected), atol=1e-6, rtol=0)


def test_frequencies_start_with_the_deviation_that_was_asked_for() -> None:
    torch.manual_seed(0)
    assert PeriodicEncoding(50, 40, sigma=0.3).coefficients.std().item() == pytest.approx(0.3, rel=0.05)


CONFIGS: dict[str, dict[str, Any]] = {
    "piecewise_linear": {
        "kind": "piecewise_linear",
        "edges": [[-1.0, 0.0, 1.0], [-1.0, 2.0], [0.0, 0.5, 1.0]],
        "size": 4,
    },
    "periodic": {"kind": "periodic", "frequencies": 5, "sigma": 0.5, "size": 4},
}


@pytest.mark.parametrize("kind", CONFIGS)
def test_all_variables_at_once_are_each_alone(kind: str) -> None:
    torch.manual_seed(0)
    module = make_numeric_embeddings(CONFIGS[kind], 3)
    values = torch.randn(20, 3)
    output = module(values)
    assert output.shape == (20, module.width) == (20, 12)
    encoded = module.encoding(values)
    for variable in range(3):
        layer = nn.Linear(encoded.shape[2], 4)
        with torch.no_grad():
            layer.weight.copy_(module.weight[variable].T)
            layer.bias.copy_(module.bias[4 * variable : 4 * variable + 4])
        expected = torch.relu(layer(encoded[:, variable]))
        torch.testing.assert_close(output[:, 4 * variable : 4 * variable + 4], expected)


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_variable_moves_its_own_units_alone(kind: str) -> None:
    torch.manual_seed(0)
    module = make_numeric_embeddings(CONFIGS[kind], 3)
    values = torch.zeros(1, 3)
    moved = values.clone()
    moved[0, 1] = 0.8
    changed = (module(values) != module(moved)).flatten().nonzero().flatten().tolist()
    assert changed
    assert set(changed) <= {4, 5, 6, 7}


def test_biases_and_frequencies_are_not_decayed() -> None:
    module = make_numeric_embeddings(CONFIGS["periodic"], 3)
    decayed, kept = optimizer_groups([LayerGroup([module])], weight_decay=0.1)
    assert [id(p) for p in decayed["params"]] == [id(module.weight)]
    assert (decayed["weight_decay"], kept["weight_decay"], len(kept["params"])) == (0.1, 0.0, 2)


def test_the_settings_become_json_values_with_the_edges() -> None:
    values = np.arange(9.0, dtype=np.float32)[:, None]
    options = NetworkOptions.model_validate({"layers": 4, "numeric_embedding": {"kind": "piecewise_linear", "bins": 2}})
    assert numeric_config(options.numeric_embedding, values) == {
        "kind": "piecewise_linear",
        "edges": [[0.0, 4.0, 8.0]],
        "size": 8,
    }
    with pytest.raises(ValueError, match="bins need the values of the training rows"):
        numeric_config(options.numeric_embedding, None)
    periodic = NetworkOptions.model_validate({"layers": 4, "numeric_embedding": {"kind": "periodic"}})
    assert numeric_config(periodic.numeric_embedding, None) == {
        "kind": "periodic",
        "frequencies": 16,
        "sigma": 0.1,
        "size": 8,
    }
    assert numeric_config(None, values) is None


@pytest.mark.parametrize("kind", CONFIGS)
def test_the_network_reads_numbers_through_their_embeddings(kind: str) -> None:
    torch.manual_seed(0)
    network = EmbeddingNetwork(
        cardinalities=(4,),
        sizes=(2,),
        n_continuous=3,
        layers=(5,),
        dropouts=(0.0,),
        embedding_dropout=0.0,
        batch_norm=False,
        continuous_batch_norm=False,
        output_means=[0.0],
        output_scales=[1.0],
        y_ranges=[None],
        numeric_embedding=CONFIGS[kind],
    ).eval()
    assert isinstance(network.numeric, NumericEmbeddings)
    assert network.embeddings is not None
    codes, values = torch.tensor([[1], [3]], dtype=torch.int32), torch.randn(2, 3)
    features = torch.cat([network.embeddings(codes), network.numeric(values)], dim=1)
    assert features.shape == (2, 2 + 12)
    torch.testing.assert_close(network(codes, values), network.output(network.hidden(features)).squeeze(-1))
    network.train()(codes, values).square().sum().backward()
    assert network.numeric.weight.grad is not None
    assert network.numeric.weight.grad.any()
