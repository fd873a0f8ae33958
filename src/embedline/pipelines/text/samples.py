"""Texts that a language model writes, to see what it has learned."""

from typing import Any

import polars as pl
from pydantic import BaseModel, ConfigDict, Field

from embedline.pipelines.text.generation import GenerationOptions, generate, load, next_words, prompt_ids


class SampleOptions(BaseModel):
    """What to have a language model write.

    Attributes:
        prompts: openings to go on from, the start of a document where empty; field markers (``xxfld 1 …``) are taken as
            such.
        next_words: how many of the most probable next words to list for each.
        options: how to go on; see :class:`GenerationOptions`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    prompts: tuple[str, ...] = Field(default=("",), min_length=1)
    next_words: int = Field(default=10, ge=1)
    options: GenerationOptions = GenerationOptions()


def write_samples(bundle: Any, samples: SampleOptions) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Texts and next words for each prompt: frames of :func:`generate` and :func:`next_words` behind the prompt."""
    model, vocabulary, tokens = load(bundle)
    texts, words = [], []
    for prompt in samples.prompts:
        ids = prompt_ids(prompt, vocabulary, tokens)
        shown = pl.lit(prompt).alias("prompt")
        texts.append(generate(model, vocabulary, ids, samples.options).select(shown, pl.all()))
        words.append(next_words(model, vocabulary, ids, samples.next_words).select(shown, pl.all()))
    return pl.concat(texts), pl.concat(words)
