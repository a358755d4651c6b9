"""Newton's method as an optimizer of small problems: plain, and kept away from saddle points."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch._compile import _disable_dynamo  # see optimizer.py

from trimtab.optim.optimizer import USER
from trimtab.values import as_number

GROUP = "optimization"
NONFINITE = ("skip", "raise")
BLOCK = 64  # rows of the Hessian that one backward computes


@dataclass(frozen=True)
class NewtonStep:
    """What one step of :class:`Newton` found and did.

    loss: before the step. gradient_norm: before the step. eigenvalues: of the Hessian before the step, ascending, in float64.
    flat: how many directions the step left out, since they have no curvature to divide by. negative: how many of the others curve
    downwards. step_norm: the length of the step. capped: whether ``max_step`` shortened it.
    """

    loss: float
    gradient_norm: float
    eigenvalues: torch.Tensor
    flat: int
    negative: int
    step_norm: float
    capped: bool


class Newton(torch.optim.Optimizer):
    r"""Newton's method: steps to where the quadratic approximation of the loss is stationary. For small problems.

    .. math:: \theta \leftarrow \theta - \eta \, (H + \delta I)^{+} g, \qquad
              H = V \operatorname{diag}(\lambda) V^{T}, \qquad
              (H + \delta I)^{+} g = \sum_{\lambda_i + \delta \ne 0} \frac{v_i^{T} g}{\lambda_i + \delta} \, v_i

    with the gradient g and the whole Hessian H of the loss at theta, computed row by row. A quadratic is solved in one step,
    however ill-conditioned. Nothing is random, and no state is kept between steps.

    ``step(closure)`` needs the loss *with its graph*: ``closure()`` computes and returns it and does not call backward (or does so with
    ``retain_graph=True``, by which ``trimtab watch`` sees the loss too). The gradient is left in ``.grad``, and there is nothing to set to zero. What decays weights stands in the
    loss. Parameters that the loss does not depend on stay as they are.

    Directions in which H has no curvature (:math:`|\lambda_i + \delta|` at most ``tolerance`` times the largest :math:`|\lambda|`) take
    no part in the step: the pseudo-inverse. A network with ReLU has many of them. :attr:`last` tells how many they
    were, and all eigenvalues; a loss without any curvature is warned about.

    A method for small problems only, and for that reason no technique: with n parameters, a step costs n backward passes, memory for
    some 5 n² float64 numbers, and an eigendecomposition (0.3 s for n = 1000, 5 s for 2500, a minute or two for 5000, on
    one core). For larger ones see ``torch.optim.LBFGS``.

    Args:
        params: parameters in one group. Their types may be mixed; the step itself is computed in float64.
        lr: eta; 1 is Newton's own.
        damping: delta, added to every eigenvalue, in units of the curvature (Levenberg).
        max_parameters: refuse more than that.
        max_step: longest step, as the norm over all parameters; longer ones are shortened. ``None`` for no limit.
        tolerance: relative size below which curvature counts as none; n times the machine epsilon of the parameters if ``None``.
        nonfinite: what becomes of a loss, gradient or Hessian that is not finite: "skip" leaves out the step with a
            warning, "raise" raises.

    Attributes:
        last: a :class:`NewtonStep` of the last step that was made, or ``None``.

    Raises:
        ValueError: for numbers out of range, more than one group, complex parameters, or too many of them.

    When it helps: ill-conditioned problems of up to a few thousand parameters near their minimum: logistic regression, physics,
    calibration, the exact optimum to compare others with. When it hurts: it looks for a gradient of zero, not for a minimum:
    where curvature is negative it climbs, into saddle points and maxima (:class:`SaddleFreeNewton` does not). Far from the
    minimum it may diverge: give ``max_step`` or ``damping``. Mini-batches: their Hessian is too noisy to be inverted.

    Source: Newton; Levenberg, "A method for the solution of certain non-linear problems in least squares", 1944 (damping); Nocedal
    and Wright, "Numerical Optimization", 2006.

    >>> theta = torch.tensor([3.0, -4.0], requires_grad=True)
    >>> optimizer = Newton([theta])
    >>> optimizer.step(lambda: 500 * (theta[0] - 1) ** 2 + (theta[1] - 2) ** 2 / 2)
    tensor(2018.)
    >>> theta, optimizer.last.eigenvalues
    (tensor([1., 2.], requires_grad=True), tensor([   1., 1000.], dtype=torch.float64))
    """

    last: NewtonStep | None = None
    _batched = True  # several rows of the Hessian in one backward, until an operation turns out not to be up to it

    def __init__(
        self,
        params: Any,
        lr: float = 1.0,
        damping: float = 0.0,
        max_parameters: int = 5000,
        *,
        max_step: float | None = None,
        tolerance: float | None = None,
        nonfinite: str = "skip",
    ) -> None:
        name = type(self).__name__
        for key, value in (("lr", lr), ("damping", damping), ("tolerance", 0.0 if tolerance is None else tolerance)):
            if not as_number(value) >= 0:
                raise ValueError(f"{name}: {key}={value} must be 0 or more.")
        if max_step is not None and not as_number(max_step) > 0:
            raise ValueError(f"{name}: max_step={max_step} must be more than 0, or None for no limit.")
        if not as_number(max_parameters) >= 1:
            raise ValueError(f"{name}: max_parameters={max_parameters} must be at least 1.")
        if nonfinite not in NONFINITE:
            raise ValueError(
                f"{name}: nonfinite={nonfinite!r} must be one of {', '.join(map(repr, NONFINITE))}. "
                "There is no 'mask' here: one bad entry spoils the whole step."
            )
        super().__init__(
            params,
            {
                "lr": lr, "damping": damping, "max_parameters": max_parameters, "max_step": max_step,
                "tolerance": tolerance, "nonfinite": nonfinite,
            },
        )  # fmt: skip

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Takes the one group of the constructor.

        Raises:
            ValueError: for a second group, complex parameters, or too many parameters.
        """
        if self.param_groups:
            raise ValueError(
                f"{type(self).__name__} takes one group of parameters, since its step is one for all of them; got another one. "
                "Give all parameters in one list."
            )
        super().add_param_group(param_group)
        self._parameters()

    @_disable_dynamo
    @torch.no_grad()
    def step(self, closure: Callable[[], torch.Tensor] | None = None) -> torch.Tensor | None:  # type: ignore[override]
        """One step.

        Args:
            closure: computes the loss and returns it with its graph, without calling backward. It is called once.

        Returns:
            The loss before the step, without its graph.

        Raises:
            ValueError: without a closure, for a loss that is no number or has no graph, or whose graph was freed by a backward.
            FloatingPointError: for what is not finite, with ``nonfinite="raise"``; nothing has moved then.
        """
        name, group = type(self).__name__, self.param_groups[0]
        if closure is None:
            raise ValueError(
                f"{name} takes second derivatives, so it needs the loss with its graph: call optimizer.step(closure), where closure() "
                "computes the loss and returns it, without calling backward."
            )
        with torch.enable_grad():
            loss = closure()
            params, gradient = self._gradient(loss)
        loss = loss.detach()
        bad = "loss" if not _finite(loss) else "gradient" if not _finite(gradient) else ""
        if not bad:
            hessian = self._hessian(gradient, params)
            bad = "" if _finite(hessian) else "Hessian"
        if bad:
            said = f"{name}: the {bad} is not finite"
            if group["nonfinite"] == "raise":
                raise FloatingPointError(f"{said}; no parameter has moved.")
            warnings.warn(f"{said}; the step was left out.", RuntimeWarning, stacklevel=USER)
            return loss

        step, self.last = self._solve(hessian, gradient.detach(), float(loss), params)
        for p, change in zip(params, step.split([p.numel() for p in params]), strict=True):
            p.sub_(change.view(p.shape).to(p))
        return loss

    def curvature(self, eigenvalues: torch.Tensor) -> torch.Tensor:
        """What the gradient along each eigenvector is divided by, before damping."""
        return eigenvalues

    def _parameters(self) -> list[torch.Tensor]:
        """Those that learn, if they are not too many."""
        group = self.param_groups[0]
        params = [p for p in group["params"] if p.requires_grad]
        name, n = type(self).__name__, sum(p.numel() for p in params)
        if any(p.is_complex() for p in params):
            raise ValueError(f"{name} takes real parameters; got complex ones. Give torch.view_as_real of them.")
        if n > group["max_parameters"]:
            raise ValueError(
                f"{name}: {n} parameters are more than max_parameters={group['max_parameters']}. The Hessian alone would take "
                f"{8 * n * n / 2**30:.2g} GiB, its decomposition five times that, and a step {n} backward passes. Use "
                f"torch.optim.LBFGS, or give {name}(..., max_parameters={n}) if you can afford it."
            )
        return params

    def _gradient(self, loss: Any) -> tuple[list[torch.Tensor], torch.Tensor]:
        """The parameters that the loss depends on, and the gradient as one vector in float64, with its graph."""
        name, params = type(self).__name__, self._parameters()
        if not isinstance(loss, torch.Tensor) or loss.numel() != 1 or not loss.requires_grad:
            got = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, torch.Tensor) else type(loss).__name__
            raise ValueError(
                f"{name}: closure() must return the loss, one number with its graph; got {got}"
                f"{' without a graph' if isinstance(loss, torch.Tensor) and not loss.requires_grad else ''}. "
                "Return the loss itself, not loss.item() or loss.detach()."
            )
        try:
            grads = torch.autograd.grad(loss.sum(), params, create_graph=True, allow_unused=True)
        except RuntimeError as error:
            if "second time" not in str(error):
                raise
            raise ValueError(
                f"{name}: the graph of the loss is gone, since closure() called backward. Return the loss without calling backward, "
                "or call loss.backward(retain_graph=True)."
            ) from error
        reached = [(p, g) for p, g in zip(params, grads, strict=True) if g is not None]
        if not reached:
            raise ValueError(f"{name}: the loss depends on none of the parameters that the optimizer was given.")
        for p, g in reached:
            if g.is_sparse:
                raise ValueError(
                    f"{name} got a sparse gradient for a parameter of shape {tuple(p.shape)}. Make its layer without sparse=True."
                )
            p.grad = g.detach()
        where = reached[0][0].device
        where = where if where.type in ("cpu", "cuda") else torch.device("cpu")  # not all others have float64
        flat = torch.cat([g.reshape(-1).to(where, torch.float64) for _, g in reached])
        return [p for p, _ in reached], flat

    def _hessian(self, gradient: torch.Tensor, params: list[torch.Tensor]) -> torch.Tensor:
        """The Hessian in float64; many rows in one backward, or one by one where an operation cannot be batched."""
        if not gradient.requires_grad:  # the loss is linear
            return gradient.new_zeros(len(gradient), len(gradient))
        try:
            if _ends_in_an_error(gradient):
                raise RuntimeError("trying to differentiate twice a function that was marked with @once_differentiable")
            if self._batched:
                try:
                    return _rows(gradient, params, BLOCK)
                except RuntimeError:  # of vmap; if it is another one, it comes again
                    pass
            hessian = _rows(gradient, params, 1)
        except RuntimeError as error:
            error.add_note(
                f"{type(self).__name__} needs second derivatives of every operation in the loss. Attention has them with "
                "torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH)."
            )
            raise
        self._batched = False
        return hessian

    def _solve(
        self, hessian: torch.Tensor, gradient: torch.Tensor, loss: float, params: list[torch.Tensor]
    ) -> tuple[torch.Tensor, NewtonStep]:
        """The step, and what is to be told of it."""
        name, group = type(self).__name__, self.param_groups[0]
        transposed = hessian.mT.contiguous()
        if float((hessian - transposed).norm()) > 0.01 * float(hessian.norm()):
            warnings.warn(
                f"{name}: the matrix of second derivatives is not symmetric, so an operation of the loss has wrong ones: look "
                "for a custom autograd.Function whose backward cannot be differentiated.",
                RuntimeWarning,
                stacklevel=USER + 1,
            )
        hessian.add_(transposed).div_(2)
        del transposed  # memory, at the peak
        eigenvalues, vectors = torch.linalg.eigh(hessian)
        divisors = self.curvature(eigenvalues) + group["damping"]
        tolerance = group["tolerance"]
        if tolerance is None:
            tolerance = len(gradient) * max(torch.finfo(p.dtype).eps for p in params)
        least = tolerance * float(eigenvalues.abs().max())
        curved = divisors.abs() > least
        if not bool(curved.any()) and bool(gradient.any()):
            warnings.warn(
                f"{name}: the loss has a gradient but no curvature, so there is no step to make. Give damping, or train with SGD.",
                RuntimeWarning,
                stacklevel=USER + 1,
            )
        along = torch.where(curved, (vectors.mT @ gradient) / torch.where(curved, divisors, 1.0), 0.0)
        step = float(group["lr"]) * (vectors @ along)
        length, limit = float(step.norm()), group["max_step"]
        capped = limit is not None and length > limit
        if capped:
            step *= limit / length
        return step, NewtonStep(
            loss=loss,
            gradient_norm=float(gradient.norm()),
            eigenvalues=eigenvalues,
            flat=int((~curved).sum()),
            negative=int((curved & (eigenvalues < -least)).sum()),
            step_norm=limit if capped else length,
            capped=capped,
        )


class SaddleFreeNewton(Newton):
    r"""Newton's method with the absolute values of the curvature, so that saddle points repel it. For small problems.

    .. math:: \theta \leftarrow \theta - \eta \, (|H| + \delta I)^{+} g, \qquad
              |H| = V \operatorname{diag}(|\lambda|) V^{T}

    It rescales the gradient by the curvature as :class:`Newton` does, and goes down in every direction: near a saddle point, along the
    directions of negative curvature, away from it. (On it the gradient is 0, and there it stays.) Where all curvature is positive it
    *is* Newton's method, damped. Closure, limits, cost, and what is told of a step are those of :class:`Newton`; no technique either.

    Args:
        params: parameters in one group.
        lr: eta.
        damping: delta; it limits the step where curvature is small, at gradient / delta. In units of the curvature: 1e-3 suits losses
            with curvatures around 1.
        max_parameters: refuse more than that.
        max_step: longest step, as the norm over all parameters; ``None`` for no limit.
        tolerance: relative size below which curvature counts as none, see :class:`Newton`.
        nonfinite: "skip" or "raise", see :class:`Newton`.

    Raises:
        ValueError: as :class:`Newton`.

    When it helps: small problems with saddle points and plateaus: two-layer networks, matrix factorization. When it hurts: large
    networks (n² memory, n³ time) and mini-batches; flat regions with little damping, where steps get long: give ``max_step``.

    Source: Dauphin et al., "Identifying and attacking the saddle point problem in high-dimensional non-convex optimization",
    NeurIPS 2014.

    >>> theta = torch.tensor([0.5, 0.1], requires_grad=True)  # beside the saddle of x² / 2 - y² / 2 + y⁴ / 4 at 0
    >>> optimizer = SaddleFreeNewton([theta])
    >>> for _ in range(10):
    ...     _ = optimizer.step(lambda: theta[0] ** 2 / 2 - theta[1] ** 2 / 2 + theta[1] ** 4 / 4)
    >>> [round(x, 4) for x in theta.tolist()], optimizer.last.negative  # a minimum; Newton would be at [0, 0]
    ([0.0, 1.0], 0)
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1.0,
        damping: float = 1e-3,
        max_parameters: int = 5000,
        *,
        max_step: float | None = None,
        tolerance: float | None = None,
        nonfinite: str = "skip",
    ) -> None:
        super().__init__(
            params, lr, damping, max_parameters, max_step=max_step, tolerance=tolerance, nonfinite=nonfinite
        )

    def curvature(self, eigenvalues: torch.Tensor) -> torch.Tensor:
        """The sizes of the eigenvalues."""
        return eigenvalues.abs()


def _rows(gradient: torch.Tensor, params: list[torch.Tensor], block: int) -> torch.Tensor:
    """Derivatives of every entry of the gradient, ``block`` rows in one backward."""
    n = len(gradient)
    hessian = gradient.new_zeros(n, n)
    for start in range(0, n, block):
        stop = min(start + block, n)
        chosen = torch.zeros(stop - start, n, dtype=gradient.dtype, device=gradient.device)
        chosen[:, start:stop].fill_diagonal_(1.0)
        found = torch.autograd.grad(
            gradient, params, chosen if block > 1 else chosen[0], retain_graph=True, allow_unused=True,
            is_grads_batched=block > 1,
        )  # fmt: skip
        offset = 0
        for p, rows in zip(params, found, strict=True):
            if rows is not None:  # else this parameter enters linearly
                hessian[start:stop, offset : offset + p.numel()] = rows.detach().reshape(stop - start, -1)
            offset += p.numel()
    return hessian


def _ends_in_an_error(gradient: torch.Tensor) -> bool:
    """Whether the gradient comes out of a function that can be derived only once.

    Such a gradient has no way back to the parameters, so that asking for its derivatives would say "none" in the place of raising.
    """
    waiting, seen = [gradient.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        if node.name().endswith("::Error"):
            return True
        seen.add(node)
        waiting.extend(following for following, _ in node.next_functions)
    return False


def _finite(tensor: torch.Tensor) -> bool:
    return bool(torch.isfinite(tensor.detach()).all())
