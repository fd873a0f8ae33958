"""The contestants of bench_language_model.py: steps of one training each, in a process of its own.

    python tests/benchmarks/language_contestants.py '{"contestant": "fastai", "threads": 2, ...}'

The last line of standard output is a JSON object; see :func:`work`. The tokens are random: their values make no
difference to the time, and both sides read the same ones.
"""

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from contests import contest, peak_megabytes

# Sizes of the notebook lesson4-imdb (DL1, 2017) and of the environment `laptop`, with the notebook's settings.
MODELS = {"lesson": (34_945, 200, 500, 3), "laptop": (20_000, 200, 400, 2)}
STREAMS, TOKENS = 64, 70
RATES = {"input": 0.05, "embedding": 0.02, "weight": 0.1, "hidden": 0.05, "output": 0.05}
LR, CLIP, WEIGHT_DECAY, ALPHA, BETA = 3e-3, 0.3, 1e-6, 2.0, 1.0
WARM_STEPS = 3
LONG_TRAINING = 300  # steps of the training that these stand for: the fewest for which the precision is measured


def make_tokens(n_steps: int, vocabulary: int) -> np.ndarray:
    """Ids int64 [N] below ``vocabulary`` that fill ``n_steps`` batches, common words more often, as in a text."""
    rng = np.random.default_rng(0)
    n_tokens = STREAMS * TOKENS * n_steps + STREAMS + 1
    return np.minimum(rng.zipf(1.2, n_tokens), vocabulary) - 1


def train_embedline(job: dict[str, Any]) -> dict[str, Any]:
    """Steps of embedline's own training."""
    from embedline.pipelines.text.language_model import LanguageModel
    from embedline.pipelines.text.lm_batches import Corpus, LanguageModelBatches
    from embedline.pipelines.text.options import LanguageModelOptions, LanguageModelTraining
    from embedline.training.device import choose_precision, make_accelerator
    from embedline.training.optimizer import make_optimizer, set_rates
    from embedline.training.train import training_step

    vocabulary, embedding, hidden, layers = MODELS[job["model"]]
    sizes = {"embedding_size": embedding, "hidden_size": hidden, "n_layers": layers}
    options = LanguageModelOptions(preset="dl1", dropout=RATES, **sizes)
    settings = {"lr": LR, "clip_norm": CLIP, "weight_decay": WEIGHT_DECAY, "alpha": ALPHA, "beta": BETA}
    settings |= {"device": "cpu", "precision": job["precision"], "softmax": job["softmax"]}
    training = LanguageModelTraining(epochs=1, batch_size=STREAMS, bptt=TOKENS, **settings)
    tokens = make_tokens(job["steps"] + WARM_STEPS, vocabulary)
    corpus = Corpus(tokens.astype(np.int32), np.array([0, len(tokens)]))
    accelerator = make_accelerator(training)
    network = LanguageModel(vocabulary, options.encoder(), decoder_bias=False).train()
    optimizer = make_optimizer(network, training)
    set_rates(optimizer, LR, training.betas[0])
    batches = LanguageModelBatches(corpus, training, device=accelerator.device)
    accelerator = choose_precision(accelerator, network, batches, LONG_TRAINING)
    batches.begin_epoch(torch.Generator())

    def step(index: int) -> float:
        (nats,) = training_step(batches, range(index, index + 1), network, optimizer, accelerator, CLIP)
        return float(nats)

    return {**_timed(step, job["steps"]), "parameters": sum(p.numel() for p in network.parameters())}


def train_fastai(job: dict[str, Any]) -> dict[str, Any]:
    """Steps of fastai's training: its model, its Adam, its regularisation, gradient clipping as in the notebook."""
    from fastai.losses import CrossEntropyLossFlat
    from fastai.optimizer import Adam
    from fastai.text.models.awdlstm import AWD_LSTM, awd_lstm_lm_config
    from fastai.text.models.core import get_language_model

    names = {"input_p": "input", "embed_p": "embedding", "weight_p": "weight", "hidden_p": "hidden"}
    rates = {name: RATES[ours] for name, ours in {**names, "output_p": "output"}.items()}
    vocabulary, embedding, hidden, layers = MODELS[job["model"]]
    sizes = {"emb_sz": embedding, "n_hid": hidden, "n_layers": layers, "out_bias": False}
    network = get_language_model(AWD_LSTM, vocabulary, config={**awd_lstm_lm_config, **sizes, **rates}).train()
    optimizer = Adam(list(network.parameters()), lr=LR, mom=0.7, sqr_mom=0.99, wd=WEIGHT_DECAY)
    criterion = CrossEntropyLossFlat()
    tokens = make_tokens(job["steps"] + WARM_STEPS, vocabulary)
    length = (len(tokens) - 1) // STREAMS
    inputs = torch.from_numpy(tokens[: STREAMS * length].reshape(STREAMS, length))
    targets = torch.from_numpy(tokens[1 : STREAMS * length + 1].reshape(STREAMS, length))
    network.reset()

    def step(index: int) -> float:
        columns = slice(index * TOKENS, (index + 1) * TOKENS)
        logits, raw, dropped = network(inputs[:, columns])
        nats = criterion(logits, targets[:, columns].contiguous())
        value = nats + ALPHA * dropped[-1].float().pow(2).mean()
        value = value + BETA * (raw[-1][:, 1:] - raw[-1][:, :-1]).float().pow(2).mean()
        value.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad()
        return float(nats.detach())

    return {**_timed(step, job["steps"]), "parameters": sum(p.numel() for p in network.parameters())}


def train_to_the_end(job: dict[str, Any]) -> dict[str, Any]:
    """The laptop's training on the documents of a frame; metrics of its validation documents, with the full softmax."""
    import polars as pl

    from embedline.pipelines.text.language_model import train_language_model
    from embedline.pipelines.text.options import LanguageModelOptions, LanguageModelTraining
    from embedline.pipelines.text.tokenizer import TokenOptions
    from embedline.pipelines.text.vocabulary import Vocabulary

    words = Vocabulary.model_validate_json(Path(job["vocabulary"]).read_text())
    settings = {**job["training"], "softmax": job["softmax"], "precision": job["precision"], "threads": job["threads"]}
    network, training = (
        LanguageModelOptions.model_validate(job["network"]),
        LanguageModelTraining.model_validate(settings),
    )
    bundle, _ = train_language_model(pl.read_ipc(job["ids"]), words, TokenOptions(rules=words.rules), network, training)
    return {name: bundle.metrics[name] for name in ("perplexity", "seconds", "tokens_per_second", "precision")}


def _timed(step: Any, n_steps: int) -> dict[str, Any]:
    for index in range(WARM_STEPS):
        step(index)
    began, used = time.perf_counter(), time.process_time()
    for index in range(WARM_STEPS, WARM_STEPS + n_steps):
        nats = step(index)
    seconds = time.perf_counter() - began
    return {
        "tokens_per_second": n_steps * STREAMS * TOKENS / seconds,
        "seconds_per_step": seconds / n_steps,
        "cpu_seconds_per_step": (time.process_time() - used) / n_steps,
        "nats": nats,
    }


def work(job: dict[str, Any]) -> dict[str, Any]:
    """Train the job's contestant for ``steps`` steps after the first ones.

    Returns:
        ``tokens_per_second``, ``seconds_per_step``, ``cpu_seconds_per_step`` (of all threads), ``nats`` of the last
        step, ``parameters`` and ``peak_mb``.
    """
    torch.manual_seed(0)
    torch.set_num_threads(job["threads"])
    kinds = {"embedline": train_embedline, "fastai": train_fastai, "to_the_end": train_to_the_end}
    train = kinds[job["contestant"]]
    return {**train(job), "peak_mb": peak_megabytes()}


if __name__ == "__main__":
    contest(work)
