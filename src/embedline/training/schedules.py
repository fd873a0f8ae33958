"""Learning-rate and momentum schedules: pure functions of the progress through a training, from 0 to 1."""

import math

from embedline.training.options import FitOptions

WARMUP_DIVISOR = 25.0  # a one-cycle starts at lr / 25 and …
FINAL_DIVISOR = 1e5  # … ends at lr / 1e5: the defaults of fastai v2


def _cosine(start: float, end: float, progress: float) -> float:
    """Go from ``start`` to ``end`` along half a cosine as ``progress`` goes from 0 to 1."""
    return end + (start - end) * (1.0 + math.cos(math.pi * progress)) / 2.0


def one_cycle(progress: float, *, low: float, peak: float, final: float, warmup: float) -> float:
    """Rise from ``low`` to ``peak`` over the first ``warmup`` of the training, then fall to ``final``.

    Both legs follow a cosine (Smith 2018, "super-convergence", in the form of fastai v2). ``progress`` lies in [0, 1].
    """
    if progress < warmup:
        return _cosine(low, peak, progress / warmup)
    return _cosine(peak, final, (progress - warmup) / (1.0 - warmup))


def cosine_restarts(epoch: float, *, peak: float, cycle_epochs: int, cycle_growth: int) -> float:
    """Fall from ``peak`` to 0 along a cosine, again and again; each cycle is ``cycle_growth`` times longer.

    ``epoch`` is the position in epochs, a real number >= 0 (Loshchilov & Hutter 2017, SGDR).
    """
    length, start = float(cycle_epochs), 0.0
    while epoch >= start + length:
        start += length
        length *= cycle_growth
    return _cosine(peak, 0.0, (epoch - start) / length)


def learning_rate(options: FitOptions, progress: float) -> float:
    """Learning rate at ``progress`` in [0, 1] of the training that ``options`` describe."""
    if options.schedule == "one_cycle":
        return one_cycle(
            progress,
            low=options.lr / WARMUP_DIVISOR,
            peak=options.lr,
            final=options.lr / FINAL_DIVISOR,
            warmup=options.warmup,
        )
    if options.schedule == "cosine_restarts":
        # The very end belongs to the last cycle, not to the first step of a cycle that never runs.
        epoch = min(progress, 1.0 - 1e-9) * options.epochs
        return cosine_restarts(
            epoch, peak=options.lr, cycle_epochs=options.cycle_epochs, cycle_growth=options.cycle_growth
        )
    return options.lr


def momentum(options: FitOptions, progress: float) -> float:
    """Adam's first beta at ``progress``: it mirrors the learning rate in a one-cycle, else it stays."""
    if options.schedule != "one_cycle" or options.momentum is None:
        return options.betas[0]
    high, low = options.momentum
    return one_cycle(progress, low=high, peak=low, final=high, warmup=options.warmup)
