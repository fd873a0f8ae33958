"""The network against slow references: the table of sizes, one table for many, the start, the range of the output."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from embedline.errors import DataError
from embedline.pipelines.tabular.network import EmbeddingNetwork, EmbeddingTables, embedding_size, embedding_sizes
from embedline.pipelines.tabular.options import NetworkOptions

CARDINALITIES, SIZES = (4, 3, 9), (2, 5, 1)


def _network(**changes: Any) -> EmbeddingNetwork:
    arguments: dict[str, Any] = {
        "cardinalities": CARDINALITIES,
        "sizes": SIZES,
        "n_continuous": 2,
        "layers": (16, 8),
        "dropouts": (0.1, 0.0),
        "embedding_dropout": 0.2,
        "batch_norm": False,
        "continuous_batch_norm": True,
        "output_means": [8.5],
        "output_scales": [0.5],
        "y_ranges": [None],
    }
    torch.manual_seed(0)
    return EmbeddingNetwork(**{**arguments, **changes})


def _inputs(n_rows: int = 64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    codes = torch.stack([torch.randint(size, (n_rows,), generator=generator) for size in CARDINALITIES], dim=1)
    return codes.int(), torch.randn(n_rows, 2, generator=generator)


@pytest.mark.parametrize(
    ("cardinality", "dl1", "v2"), [(8, 4, 5), (13, 7, 7), (53, 27, 15), (1116, 50, 81), (3, 2, 3), (10**6, 50, 600)]
)
def test_embedding_sizes_of_both_courses(cardinality: int, dl1: int, v2: int) -> None:
    assert embedding_size(cardinality, "dl1") == dl1
    assert embedding_size(cardinality, "v2") == v2


def test_a_size_of_ones_own_wins_over_the_rule() -> None:
    options = NetworkOptions(layers=(4,), embedding_rule="v2", embedding_sizes={"b": 3})
    assert embedding_sizes(["a", "b"], [53, 53], options) == (15, 3)


def test_a_size_for_a_variable_that_is_not_categorical_is_refused() -> None:
    options = NetworkOptions(layers=(4,), embedding_sizes={"heat": 3, "a": 1})
    with pytest.raises(DataError, match=r"network.embedding_sizes names \['heat'\], which are not categorical"):
        embedding_sizes(["a", "b"], [5, 5], options)


def test_one_table_equals_a_list_of_embeddings_forward_and_backward() -> None:
    torch.manual_seed(0)
    tables = EmbeddingTables(cardinalities=CARDINALITIES, sizes=SIZES)
    references = [nn.Embedding(n, size) for n, size in zip(CARDINALITIES, SIZES, strict=True)]
    with torch.no_grad():
        for index, reference in enumerate(references):
            reference.weight.copy_(tables.table(index))
    codes, _ = _inputs()
    output = tables(codes)
    expected = torch.cat([reference(codes[:, index]) for index, reference in enumerate(references)], dim=1)
    assert output.shape == (64, sum(SIZES))
    assert torch.equal(output, expected)
    weights = torch.randn(64, sum(SIZES))
    (output * weights).sum().backward()
    (expected * weights).sum().backward()
    gradient = tables.weight.grad
    assert gradient is not None
    first = 0
    for reference, n, size in zip(references, CARDINALITIES, SIZES, strict=True):
        assert reference.weight.grad is not None
        torch.testing.assert_close(gradient[first : first + n, :size], reference.weight.grad)
        assert not gradient[first : first + n, size:].any()
        first += n


def test_embeddings_start_uniform_and_what_no_variable_uses_is_zero() -> None:
    torch.manual_seed(0)
    tables = EmbeddingTables(cardinalities=(400, 5), sizes=(3, 9))
    assert tables.weight.shape == (405, 9)
    bound = 2 / (3 + 1)
    assert tables.table(0).abs().max().item() <= bound
    assert tables.table(0).std().item() == pytest.approx(bound / 3**0.5, rel=0.05)
    assert not tables.weight[:400, 3:].any()


def test_tables_are_views_of_the_one_weight() -> None:
    tables = EmbeddingTables(cardinalities=CARDINALITIES, sizes=SIZES)
    with torch.no_grad():
        tables.table(1).fill_(7.0)
    assert tables(torch.tensor([[0, 2, 0]]))[0, 2:7].tolist() == [7.0] * 5
    assert set(tables.state_dict()) == {"weight"}


@pytest.mark.parametrize("batch_norm", [False, True])
def test_an_untrained_network_predicts_near_the_training_mean(batch_norm: bool) -> None:
    output = _network(batch_norm=batch_norm).eval()(*_inputs())
    assert output.shape == (64,)
    assert output.dtype == torch.float32
    assert (output - 8.5).abs().max().item() < 0.5
    assert output.std().item() > 0.0


def test_the_output_is_scaled_to_the_target() -> None:
    plain = _network(output_means=[0.0], output_scales=[1.0]).eval()(*_inputs())
    scaled = _network(output_means=[3.0], output_scales=[10.0]).eval()(*_inputs())
    torch.testing.assert_close(scaled, 3.0 + 10.0 * plain)


def test_the_range_of_the_output_is_kept_whatever_comes() -> None:
    network = _network(y_ranges=[(2.0, 5.0)]).eval()
    codes, values = _inputs()
    plain = _network(output_means=[0.0], output_scales=[1.0]).eval()(codes, values)
    torch.testing.assert_close(network(codes, values), 2.0 + 3.0 * torch.sigmoid(plain))
    with torch.no_grad():
        network.output.weight.mul_(1e4)
    extremes = network(codes, values)
    assert 2.0 <= extremes.min().item() < 2.001
    assert 4.999 < extremes.max().item() <= 5.0


def test_a_dropout_for_each_layer_and_none_where_it_is_zero() -> None:
    network = _network(layers=(16, 8, 4), dropouts=(0.3, 0.0, 0.5), batch_norm=True)
    assert [name for name, _ in network.hidden.named_children()] == [
        *("linear0", "relu0", "norm0", "dropout0"),
        *("linear1", "relu1", "norm1"),
        *("linear2", "relu2", "norm2", "dropout2"),
    ]
    assert [module.p for module in network.hidden if isinstance(module, nn.Dropout)] == [0.3, 0.5]
    assert [tuple(m.weight.shape) for m in network.hidden if isinstance(m, nn.Linear)] == [(16, 10), (8, 16), (4, 8)]
    assert network.embedding_dropout.p == 0.2


def test_continuous_inputs_are_normalised_by_batch() -> None:
    codes, values = _inputs()
    network = _network(dropouts=(0.0, 0.0), embedding_dropout=0.0).train()
    torch.testing.assert_close(network(codes, values), network(codes, 5.0 * values + 3.0), rtol=1e-3, atol=1e-4)
    assert not torch.allclose(network.eval()(codes, values), network(codes, 5.0 * values + 3.0))


def test_without_batch_norm_continuous_inputs_pass_as_they_are() -> None:
    codes, values = _inputs()
    network = _network(continuous_batch_norm=False).eval()
    assert network.embeddings is not None
    features = torch.cat([network.embeddings(codes), values], dim=1)
    expected = 8.5 + 0.5 * network.output(network.hidden(features)).squeeze(-1)
    torch.testing.assert_close(network(codes, values), expected)


def test_dropout_acts_in_training_alone() -> None:
    network = _network()
    assert not torch.equal(network.train()(*_inputs()), network(*_inputs()))
    assert torch.equal(network.eval()(*_inputs()), network(*_inputs()))


def test_numbers_alone() -> None:
    network = _network(cardinalities=(), sizes=()).eval()
    empty, values = torch.empty(64, 0, dtype=torch.int32), _inputs()[1]
    assert network.embeddings is None
    assert network(empty, values).std().item() > 0.0
    assert network.hidden.linear0.weight.shape == (16, 2)


def test_categories_alone() -> None:
    network = _network(n_continuous=0).eval()
    codes, _ = _inputs()
    assert isinstance(network.normalise, nn.Identity)
    output = network(codes, torch.empty(64, 0))
    assert output.std().item() > 0.0
    same = (codes == codes[0]).all(dim=1)
    assert torch.allclose(output[same], output[0].expand(int(same.sum())))


def test_every_parameter_learns() -> None:
    network = _network(batch_norm=True)
    network(*_inputs()).square().mean().backward()
    without = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    # A bias in front of a batch-norm has the gradient zero by construction; rounding leaves next to nothing of it.
    assert [name for name in without if "linear" not in name] == []
