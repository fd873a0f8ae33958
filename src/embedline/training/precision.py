"""Precision ``auto`` on a CPU: time some batches of the training in fp32 and in bf16, and take the faster."""

import copy
import logging
import threading
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn

from embedline.training import distributed
from embedline.training.batches import Batches, Stopped
from embedline.training.checkpoint import Checkpoint
from embedline.training.device import AUTO, Accelerator

ROUNDS = 3  # times that each batch is computed in each precision; the first warms caches and kernels up
BATCHES_PER_TIMED = 300  # batches of a training for each that is timed: 2 * ROUNDS of 300 are 2 %
MOST_TIMED = 4
MARGIN = 1.1  # bf16 must be this many times as fast: it rounds more, and a clock is not exact

logger = logging.getLogger(__name__)


def choose_precision(
    accelerator: Accelerator,
    network: nn.Module,
    batches: Batches,
    n_batches: int,
    *,
    checkpoints: Sequence[Checkpoint | None] = (),
    stop: threading.Event | None = None,
) -> Accelerator:
    """The accelerator with ``fp32`` or ``bf16`` in the place of ``auto``; any other comes back as it is.

    A training that goes on from a checkpoint keeps its precision. Otherwise bf16 is chosen where the processor has
    instructions for it and forward and backward passes of the training's own batches are at least :data:`MARGIN` times
    as fast. They run on a copy of the network and leave all random numbers as they were: the training is, to the last
    bit, that of a given precision. Call this in a thread with as many PyTorch threads as the training has.

    Args:
        network: in the state of the training, frozen layers included.
        batches: of the training; must begin an epoch afterwards.
        n_batches: batches of all epochs. They bound what is measured, to 2 % of them; bf16 saves 9 % or more where it
            is chosen.
        checkpoints: of the trainings that share the choice.

    Raises:
        Stopped: if ``stop`` was set before the end.
    """
    if accelerator.precision == AUTO:

        def choose() -> tuple[str, str]:
            return _kept(checkpoints, accelerator) or _choose(accelerator, network, batches, n_batches, stop)

        several = accelerator.shard.size > 1
        precision, reason = distributed.on_rank_0(choose) if several else choose()
        accelerator = replace(accelerator, precision=precision, precision_reason=reason)
    if accelerator.shard.rank == 0:
        logger.info("Precision %s: %s", accelerator.precision, accelerator.precision_reason)
    return accelerator


def _kept(checkpoints: Sequence[Checkpoint | None], accelerator: Accelerator) -> tuple[str, str] | None:
    """Precision and reason of the first of the checkpoints that is of a training with ``auto`` on such a device."""
    for checkpoint in checkpoints:
        if checkpoint is None or not checkpoint.path.exists():
            continue
        try:
            identity = torch.load(checkpoint.path, map_location="cpu", weights_only=True, mmap=True)["identity"]
        except Exception as error:  # of any kind, from a damaged file: the training warns of it and starts over
            logger.debug("No precision from %s: %s", checkpoint.path, error)
            continue
        found = [identity.get(name) for name in ("options.precision", "device", "precision", "precision_reason")]
        if found[:2] == [AUTO, accelerator.device.type] and found[2] and found[3]:
            return found[2], found[3]
    return None


def _choose(
    accelerator: Accelerator, network: nn.Module, batches: Batches, n_batches: int, stop: threading.Event | None
) -> tuple[str, str]:
    if not has_bf16_units():
        return "fp32", "the processor has no instructions for bfloat16 (AMX or AVX512-BF16), which would be slower"
    n_timed = min(MOST_TIMED, batches.n_batches, n_batches // BATCHES_PER_TIMED)
    if n_timed == 0:
        return "fp32", f"a training of {n_batches:,} batches is too short to measure whether bf16 is faster"
    seconds = time_precisions(accelerator, network, batches, n_timed, stop)
    if not seconds:
        return "fp32", "all that the network computes is in fp32"
    ratio, steps = seconds["fp32"] / seconds["bf16"], n_timed * (ROUNDS - 1)
    return "bf16" if ratio >= MARGIN else "fp32", f"bf16 is {ratio:.2f} times as fast as fp32 in {steps} steps"


def has_bf16_units() -> bool:
    """Whether the processor computes bfloat16 by AMX tiles or AVX512-BF16; PyTorch emulates it on others."""
    return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()


def time_precisions(
    accelerator: Accelerator, network: nn.Module, batches: Batches, n_timed: int, stop: threading.Event | None = None
) -> dict[str, float]:
    """Seconds of forward and backward passes of ``n_timed`` batches, spread over an epoch, in fp32 and in bf16.

    Of each batch and precision the quickest pass counts: other programs can only slow one down. Empty where the batches
    never enter the context that lowers the precision, as those of ratings without hidden layers.
    """
    trained = copy.deepcopy(network).to(accelerator.device).train()
    kinds = [replace(accelerator, precision=precision) for precision in ("fp32", "bf16")]
    seconds, lowered = {kind.precision: 0.0 for kind in kinds}, False

    def autocast(kind: Accelerator) -> AbstractContextManager[Any]:
        nonlocal lowered
        lowered = True
        return kind.autocast()

    with torch.random.fork_rng(devices=[]):
        batches.begin_epoch(torch.Generator(device=accelerator.device).manual_seed(0))
        for place in range(n_timed):
            index = (2 * place + 1) * batches.n_batches // (2 * n_timed)
            passes: dict[str, list[float]] = {kind.precision: [] for kind in kinds}
            for _ in range(ROUNDS):
                for kind in kinds:
                    if stop is not None and stop.is_set():
                        raise Stopped("before its first step")
                    began = time.perf_counter()
                    batches.loss(trained, index, partial(autocast, kind)).total.backward()
                    passes[kind.precision].append(time.perf_counter() - began)
                    trained.zero_grad(set_to_none=True)
                    if not lowered:
                        return {}
            for precision, times in passes.items():
                seconds[precision] += min(times[1:])
    return seconds
