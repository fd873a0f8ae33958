"""The sampled softmax: the law of its samples, and its loss and gradients against the full softmax."""

import pytest
import torch

from embedline.pipelines.text.chunked_loss import cross_entropy
from embedline.pipelines.text.language_model import LanguageModel
from embedline.pipelines.text.lm_batches import Corpus, LanguageModelBatches
from embedline.pipelines.text.options import EncoderOptions, LanguageModelTraining, Rates
from embedline.pipelines.text.sampled_softmax import WordSampler, sampled_cross_entropy

CPU = torch.device("cpu")
N, E, V = 12, 5, 40


def scored(seed: int = 0, *, bias: bool = True) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None, torch.Tensor]:
    numbers = torch.Generator().manual_seed(seed)
    hidden = torch.randn(N, E, generator=numbers, requires_grad=True)
    weight = torch.randn(V, E, generator=numbers, requires_grad=True)
    offsets = torch.randn(V, generator=numbers, requires_grad=True) if bias else None
    return hidden, weight, offsets, torch.randint(0, V, (N,), generator=numbers)


def test_a_sample_has_distinct_words_and_always_the_most_frequent_ones() -> None:
    torch.manual_seed(0)
    sampler = WordSampler(1000, 100, CPU)
    drawn = [sample for _ in range(50) for sample in sampler.draw(4)]
    assert {len(words) for words, _ in drawn} == {100}
    assert all(len(set(words.tolist())) == 100 for words, _ in drawn)
    certain = min(int((corrections == 0).sum()) for _, corrections in drawn)
    assert certain >= 20
    assert all(words[:certain].tolist() == list(range(certain)) for words, _ in drawn)


def test_a_sample_must_be_smaller_than_the_vocabulary() -> None:
    with pytest.raises(ValueError, match="40"):
        WordSampler(40, 40, CPU)


@pytest.mark.parametrize("bias", [False, True])
def test_with_every_word_it_is_the_full_softmax(bias: bool) -> None:
    everything = [(torch.arange(V), torch.zeros(V))] * 3
    found, wanted = scored(bias=bias), scored(bias=bias)
    loss, full = sampled_cross_entropy(*found, everything), cross_entropy(*wanted)
    torch.testing.assert_close(loss, full)
    (3 * loss).backward()
    (3 * full).backward()
    for ours, theirs in zip(found[:3], wanted[:3], strict=True):
        if ours is not None and theirs is not None:
            torch.testing.assert_close(ours.grad, theirs.grad)


def test_loss_and_gradients_are_those_of_the_formula() -> None:
    samples = [
        (torch.tensor([0, 3, 7, 20]), torch.tensor([0.0, 0.2, 0.7, 1.9])),
        (torch.tensor([0, 3, 5, 30]), torch.tensor([0.0, 0.2, 0.4, 2.5])),
    ]
    found = hidden, weight, bias, targets = scored()
    assert bias is not None
    targets[:3] = torch.tensor([3, 20, 5])  # drawn, drawn, not drawn
    sampled_cross_entropy(*found, samples).backward()
    grads = [each.grad.clone() for each in (hidden, weight, bias) if each.grad is not None]
    for each in (hidden, weight, bias):
        each.grad = None
    logits = hidden @ weight.t() + bias
    own = logits.gather(1, targets[:, None])
    rows = torch.arange(N)[:, None] * len(samples) // N  # the first half has the first sample
    words, corrections = (torch.stack(each)[rows.squeeze(1)] for each in zip(*samples, strict=True))
    others = (logits.gather(1, words) + corrections).masked_fill(words == targets[:, None], -torch.inf)
    formula = (torch.cat([own, others], 1).logsumexp(1) - own.squeeze(1)).mean()
    formula.backward()
    torch.testing.assert_close(sampled_cross_entropy(*found, samples), formula)
    for ours, each in zip(grads, (hidden, weight, bias), strict=True):
        torch.testing.assert_close(ours, each.grad)


def test_the_denominator_is_estimated_without_bias() -> None:
    torch.manual_seed(0)
    hidden, weight, bias, _ = scored()
    with torch.no_grad():
        assert bias is not None
        sampler, sums = WordSampler(V, 12, CPU), torch.zeros(N, dtype=torch.float64)
        n = 4000
        spread = torch.zeros(N, dtype=torch.float64)
        for _ in range(n):
            ((words, corrections),) = sampler.draw()
            found = (hidden @ weight[words].t() + bias[words] + corrections).double().exp().sum(1)
            sums, spread = sums + found, spread + found.square()
        mean = sums / n
        error = ((spread / n - mean.square()) / n).sqrt()
        exact = (hidden @ weight.t() + bias).double().exp().sum(1)
    assert bool(((mean - exact).abs() < 4.5 * error).all())


def test_a_language_model_trains_on_samples_and_a_small_vocabulary_in_full() -> None:
    rates = Rates(input=0.0, embedding=0.0, weight=0.0, hidden=0.0, output=0.0)
    network = LanguageModel(
        V, EncoderOptions(embedding_size=E, hidden_size=6, n_layers=1, rates=rates), decoder_bias=True
    )
    network.train()
    ids = torch.randint(0, V, (200,), generator=torch.Generator().manual_seed(1)).numpy()
    corpus = Corpus(ids, torch.tensor([0, 200]).numpy())

    def loss(**softmax: object) -> float:
        options = LanguageModelTraining.model_validate({"epochs": 1, "batch_size": 4, "bptt": 9, "lr": 0.1, **softmax})
        batches = LanguageModelBatches(corpus, options, device=CPU)
        batches.begin_epoch(torch.Generator().manual_seed(2))
        torch.manual_seed(3)
        return float(batches.loss(network, 0, torch.enable_grad).data_term)

    full = loss()
    assert loss(softmax="sampled", sampled_words=V) == full
    sampled = loss(softmax="sampled", sampled_words=20)
    assert sampled != full
    assert sampled == pytest.approx(full, rel=0.1)
