"""Batch normalisation over a batch that several processes share out."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable

from embedline.training import processes


class _Summed(torch.autograd.Function):
    """Sum of a tensor over the processes; so is the gradient, since each process's loss depends on every term."""

    @staticmethod
    def forward(ctx: FunctionCtx, part: Tensor) -> Tensor:
        return _sum(part)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor) -> Tensor:
        return _sum(gradient)


def _sum(part: Tensor) -> Tensor:
    team, total = processes.current(), part.detach().clone().contiguous()
    assert team is not None, "only a training of several processes sums over them"
    team.sum(total)
    return total


class SharedBatchNorm(nn.BatchNorm1d):
    """``nn.BatchNorm1d`` whose mean and variance are those of all processes' rows, in training.

    PyTorch's own ``SyncBatchNorm`` refuses tensors on a CPU.

    **Shape**: [B, C] -> the same.
    """

    @classmethod
    def of(cls, plain: nn.BatchNorm1d) -> "SharedBatchNorm":
        """The same layer, with the same parameters and buffers."""
        shared = cls(plain.num_features, plain.eps, plain.momentum, plain.affine, plain.track_running_stats)
        shared._parameters, shared._buffers = plain._parameters, plain._buffers
        shared.training = plain.training
        return shared

    def forward(self, input: Tensor) -> Tensor:
        """Normalise each feature; by the running statistics in evaluation."""
        if not self.training or processes.current() is None:
            return super().forward(input)
        values = input.double()  # in which the variance may be a difference: one exchange is enough then
        parts = [values.sum(0), values.square().sum(0), values.new_full((1,), float(len(values)))]
        sums: Any = _Summed.apply(torch.cat(parts))
        total, squares, count = sums.split([self.num_features, self.num_features, 1])
        mean = total / count
        variance = (squares / count - mean.square()).clamp(min=0.0)
        self._remember(mean.detach().float(), (variance * count / (count - 1)).detach().float())
        normal = ((values - mean) * torch.rsqrt(variance + self.eps)).to(input.dtype)
        return normal * self.weight + self.bias if self.affine else normal

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor) -> None:
        """Take the statistics of a batch, the variance unbiased, into the running ones, as ``nn.BatchNorm1d`` does."""
        if not self.track_running_stats:
            return
        assert self.num_batches_tracked is not None and self.running_mean is not None and self.running_var is not None
        self.num_batches_tracked += 1
        momentum = self.momentum if self.momentum is not None else 1.0 / float(self.num_batches_tracked)
        self.running_mean.lerp_(mean, momentum)
        self.running_var.lerp_(variance, momentum)


def share_batch_norm(network: nn.Module) -> None:
    """Replace every ``nn.BatchNorm1d`` inside ``network`` by the shared one, in place."""
    for module in list(network.modules()):
        for name, child in module.named_children():
            if type(child) is nn.BatchNorm1d:
                setattr(module, name, SharedBatchNorm.of(child))
