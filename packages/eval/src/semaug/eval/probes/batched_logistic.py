"""Many small multinomial logistic regressions solved at once, each to its exact optimum.

Newton's method with conjugate gradients and a backtracking line search (Nocedal and Wright 2006, "Numerical
Optimization", algorithm 7.1). Every step is a batched matrix product over all problems. With fewer rows than columns
a problem is solved in the span of its rows, which holds the optimum (the representer theorem).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from semaug.eval.errors import EvaluationError

_ARMIJO = 1e-4
_HALVINGS = 30


def fit_logistic_batch(
    x: torch.Tensor, y: torch.Tensor, classes: int, cost: float = 1.0, *, tolerance: float = 1e-8, iterations: int = 100
) -> tuple[torch.Tensor, torch.Tensor]:
    """The minima of cost * sum of cross-entropies + |W|^2 / 2 (the bias is free), as scikit-learn's C is defined.

    ``x`` is float64 (problems, rows, d), ``y`` int64 (problems, rows) in [0, classes). Returns weight (problems, d,
    classes) and bias (problems, classes), whose classes sum to zero; logits are ``x @ weight + bias``. Stops where
    no slope of the objective divided by cost * rows exceeds ``tolerance``. (For two classes scikit-learn has one weight
    vector and so penalises twice as much at the same C.) Raises ``EvaluationError`` where a
    problem does not get there.
    """
    if x.shape[1] < x.shape[2]:
        basis, triangle = torch.linalg.qr(x.mT)
        weight, bias = fit_logistic_batch(triangle.mT, y, classes, cost, tolerance=tolerance, iterations=iterations)
        return basis @ weight, bias
    problem = _Problem(torch.cat([x, x.new_ones(*x.shape[:2], 1)], 2), y, 1 / (cost * x.shape[1]))
    parameters = x.new_zeros(len(x), x.shape[2] + 1, classes)
    for _ in range(iterations):
        at = problem.at(parameters)
        going = at.gradient.abs().amax((1, 2)) > tolerance
        if not going.any():
            return parameters[:, :-1], parameters[:, -1]
        direction = _conjugate_gradients(problem, at, going)
        parameters = parameters + _steps(problem, at, parameters, direction, going) * direction
    raise EvaluationError(
        f"{int(going.sum())} of {len(x)} logistic regressions did not converge in {iterations} steps at C = {cost:g}; "
        "give a smaller cost"
    )


@dataclass(frozen=True, slots=True)
class _Point:
    """Objective (problems,), gradient (problems, d + 1, classes) and probabilities (problems, rows, classes)."""

    value: torch.Tensor
    gradient: torch.Tensor
    probabilities: torch.Tensor


class _Problem:
    """Mean cross-entropy + penalty / 2 |W|^2 of each problem; the last row of the parameters is the bias."""

    def __init__(self, x: torch.Tensor, y: torch.Tensor, penalty: float) -> None:
        self.x, self.y = x, y[:, :, None]
        self.penalty = x.new_full((x.shape[2], 1), penalty)
        self.penalty[-1] = 0

    def value(self, parameters: torch.Tensor) -> torch.Tensor:
        log_p = torch.log_softmax(self.x @ parameters, 2)
        return self._value(log_p, parameters)

    def _value(self, log_p: torch.Tensor, parameters: torch.Tensor) -> torch.Tensor:
        loss = -log_p.gather(2, self.y).mean((1, 2))
        return loss + (self.penalty * parameters.square()).sum((1, 2)) / 2

    def at(self, parameters: torch.Tensor) -> _Point:
        log_p = torch.log_softmax(self.x @ parameters, 2)
        value, p = self._value(log_p, parameters), log_p.exp()
        residual = p.scatter_add(2, self.y, -torch.ones_like(p[:, :, :1]))
        return _Point(value, self.x.mT @ residual / self.x.shape[1] + self.penalty * parameters, p)

    def curvature(self, at: _Point, direction: torch.Tensor) -> torch.Tensor:
        """The Hessian times a direction."""
        change = self.x @ direction
        change = at.probabilities * (change - (at.probabilities * change).sum(2, keepdim=True))
        return self.x.mT @ change / self.x.shape[1] + self.penalty * direction


def _conjugate_gradients(problem: _Problem, at: _Point, going: torch.Tensor) -> torch.Tensor:
    """Newton directions of the problems still going, as exact as the distance to the optimum asks for."""
    residual = torch.where(going[:, None, None], -at.gradient, 0)
    direction, search = torch.zeros_like(residual), residual
    square = residual.square().sum((1, 2))
    norm = square.sqrt()
    goal = norm * norm.sqrt().clamp(max=0.1)  # superlinear convergence (Nocedal and Wright, theorem 7.2)
    for _ in range(2 * residual[0].numel()):
        active = square.sqrt() > goal
        if not active.any():
            break
        curved = problem.curvature(at, search)
        length = torch.where(active, square / (search * curved).sum((1, 2)).clamp_min(1e-300), 0)[:, None, None]
        direction = direction + length * search
        residual = residual - length * curved
        ahead = residual.square().sum((1, 2))
        search = residual + torch.where(active, ahead / square.clamp_min(1e-300), 0)[:, None, None] * search
        square = ahead
    return direction


def _steps(
    problem: _Problem, at: _Point, parameters: torch.Tensor, direction: torch.Tensor, going: torch.Tensor
) -> torch.Tensor:
    """For each problem the largest of 1, 1/2, 1/4, ... that lowers the objective enough: (problems, 1, 1)."""
    slope = (at.gradient * direction).sum((1, 2))
    step = going.to(slope.dtype)
    rounding = 1e-14 * at.value.abs()  # at the optimum the objective no longer tells better from worse
    for _ in range(_HALVINGS):
        value = problem.value(parameters + step[:, None, None] * direction)
        short = value > at.value + _ARMIJO * step * slope + rounding
        if not short.any():
            break
        step = torch.where(short, step / 2, step)
    return step[:, None, None]
