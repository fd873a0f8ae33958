"""The two contestants of bench_tokens.py: one preparation of the same texts each, in a process of its own.

    python tests/benchmarks/token_contestants.py '{"contestant": "fastai", "texts": "texts.parquet", "workers": 2}'

The last line of standard output is a JSON object; see :func:`work`. Reading the texts and importing the library is
outside the time; what the processes of the contestant do to get ready is inside.
"""

import time
from typing import Any

import polars as pl
from contests import contest

Result = dict[str, Any]


def prepare_embedline(job: Result) -> Result:
    """Tokens, vocabulary and ids by the functions that the project's nodes call."""
    from embedline.pipelines.text.documents import SplitOptions
    from embedline.pipelines.text.tokenizer import TokenOptions, tokenize_documents
    from embedline.pipelines.text.vocabulary import VocabularyOptions, fit_vocabulary, numericalize

    texts = pl.read_parquet(job["texts"])
    documents = texts.with_row_index("document_id").with_columns(
        pl.col("document_id").cast(pl.String), label=pl.lit("all"), split=pl.lit("train")
    )
    # fastai counts every text; one of ours has to validate.
    split = SplitOptions(validation=1 / len(texts))
    started = time.perf_counter()
    tokens, lexicon = tokenize_documents(documents, TokenOptions(rules="ulmfit", workers=job["workers"]))
    vocabulary = fit_vocabulary(tokens, lexicon, split, "ulmfit", VocabularyOptions())
    ids = numericalize(tokens, lexicon, vocabulary, split)
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "tokens": int(ids["ids"].list.len().sum()), "vocabulary": len(vocabulary)}


def prepare_fastai(job: Result) -> Result:
    """fastai's own way with texts in memory: ``parallel_tokenize``, then ``Numericalize``."""
    from fastai.text.core import parallel_tokenize
    from fastai.text.data import Numericalize
    from fastcore.foundation import L

    texts = pl.read_parquet(job["texts"])["text"].to_list()
    started = time.perf_counter()
    tokens = L(parallel_tokenize(texts, n_workers=job["workers"])).sorted().itemgot(1)
    numericalize = Numericalize(min_freq=3, max_vocab=60_000)
    numericalize.setup(tokens)
    ids = [numericalize(document) for document in tokens]
    seconds = time.perf_counter() - started
    real = [token for token in numericalize.vocab if token != "xxfake"]
    return {"seconds": seconds, "tokens": sum(map(len, ids)), "vocabulary": len(real)}


def work(job: Result) -> Result:
    """Prepare the job's texts.

    Returns:
        ``seconds`` from the texts in memory to their ids, ``tokens`` and size of the ``vocabulary``.
    """
    prepare = {"embedline": prepare_embedline, "fastai": prepare_fastai}[job["contestant"]]
    return prepare(job)


if __name__ == "__main__":
    contest(work)
