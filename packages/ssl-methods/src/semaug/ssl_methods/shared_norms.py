"""Batch norm over the rows of all processes, on a CPU, where torch's SyncBatchNorm is not to be had."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from semaug.ssl_methods.gathering import gather_rows, world


class SharedBatchNorm(_BatchNorm):
    """Batch norm whose statistics in training are those of everyone's rows, with as many rows on each process.

    Input (B, C) or (B, C, ...), output of the same shape and dtype; the statistics of half precision are float32.
    Loss and gradients are those of one process with the whole batch; in one process and in evaluation it is torch's.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"batch norm got an input of shape {tuple(input.shape)}; give (B, C) or (B, C, ...)")

    def forward(self, input: Tensor) -> Tensor:
        """The input, normalised by column or channel."""
        ranks = world()[1]
        if not self.training or ranks == 1:
            return super().forward(input)
        self._check_input_dim(input)
        x = input if input.dtype in (torch.float32, torch.float64) else input.float()
        variance, mean = _everyones(x, ranks)
        self._follow(mean.detach(), variance.detach(), ranks * x.numel() // x.shape[1])
        scale = torch.rsqrt(variance + self.eps)
        if self.affine:
            scale = scale * self.weight
        shift = -mean * scale if not self.affine else self.bias - mean * scale
        columns = (1, -1, *[1] * (x.dim() - 2))
        return torch.addcmul(shift.view(columns), x, scale.view(columns)).to(input.dtype)

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor, count: int) -> None:
        """Move the running statistics as torch does: by the unbiased variance of ``count`` values."""
        if not self.track_running_stats:
            return
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        share = self.momentum if self.momentum is not None else 1 / float(self.num_batches_tracked)
        for running, found in ((self.running_mean, mean), (self.running_var, variance * (count / max(1, count - 1)))):
            assert running is not None
            running.lerp_(found.to(running.dtype), share)


def _everyones(x: Tensor, ranks: int) -> tuple[Tensor, Tensor]:
    """Variance (biased) and mean (C,) of all processes' rows, from each one's own (Chan et al. 1979, equal counts)."""
    own = torch.stack(torch.var_mean(x, [0, *range(2, x.dim())], correction=0))
    variances, means = gather_rows(own[None]).unbind(1)
    mean = means.sum(0) / ranks
    return (variances + (means - mean).square()).sum(0) / ranks, mean


def share_batch_norm(module: nn.Module) -> None:
    """Replace every batch norm below ``module`` by one that is shared, with the same parameters and buffers."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
            setattr(module, name, _shared(child))
        else:
            share_batch_norm(child)


def _shared(norm: _BatchNorm) -> SharedBatchNorm:
    shared = SharedBatchNorm(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
    for name, parameter in norm.named_parameters(recurse=False):
        setattr(shared, name, parameter)
    for name, buffer in norm.named_buffers(recurse=False):
        setattr(shared, name, buffer)
    return shared.train(norm.training)
