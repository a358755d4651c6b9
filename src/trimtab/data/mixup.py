"""Mixup and CutMix: batches mixed with a permutation of themselves, and their targets alike."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from trimtab.values import as_number, is_whole

GROUP = "augmentation"


@dataclass(frozen=True)
class Mix:
    """How a batch was mixed: each sample with the one at ``partner``, of itself it kept ``share``. See :class:`MixUp`.

    Args:
        partner: a permutation of the batch, of shape ``(N,)``.
        share: lambda, a number, or one for each sample ``(N,)``.
        cut: for CutMix, which pixels are the partner's: ``(1, 1, H, W)`` or ``(N, 1, H, W)``; ``None`` for mixup.
    """

    partner: torch.Tensor
    share: torch.Tensor
    cut: torch.Tensor | None = None

    def inputs(self, x: torch.Tensor) -> torch.Tensor:
        """The mixed inputs; also for a second input that belongs to the same samples."""
        if len(x) != len(self.partner):
            raise ValueError(f"this mix is of {len(self.partner)} samples; got inputs of shape {tuple(x.shape)}.")
        if self.cut is None:
            return self._mixed(x)
        if x.shape[-2:] != self.cut.shape[-2:]:
            raise ValueError(
                f"this mix cuts images of {' x '.join(map(str, self.cut.shape[-2:]))} pixels; got inputs of shape "
                f"{tuple(x.shape)}."
            )
        return torch.where(self.cut, x[self.partner], x)

    def targets(self, target: torch.Tensor, classes: int | None = None) -> torch.Tensor:
        """The mixed targets: probabilities ``(N, classes, ...)`` out of classes ``(N, ...)``; numbers are mixed as they are."""
        if not target.is_floating_point():
            if classes is None:
                raise ValueError(f"targets of type {target.dtype} are classes: say how many there are, classes=...")
            target = F.one_hot(target, classes).movedim(-1, 1).to(self.share.dtype)
        return self._mixed(target)

    def loss(
        self,
        loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
        output: torch.Tensor,
        target: torch.Tensor,
    ) -> torch.Tensor:
        """``share * loss(output, target) + (1 - share) * loss(output, target[partner])``.

        Means over class weights and over targets that are not ignored stay right: a permutation has the same ones. With a share
        for each sample the loss has to give one number (or more) for each, too: ``reduction="none"``.
        """
        own, other = loss(output, target), loss(output, target[self.partner.to(target.device)])
        if self.share.ndim and own.shape[:1] != self.share.shape:
            raise ValueError(
                f"each of the {len(self.share)} samples has a share of its own, so the loss must give one number for each; "
                f'got shape {tuple(own.shape)}. Compute it with reduction="none", or mix with per_sample=False.'
            )
        share = self._share(own)
        return share * own + (1 - share) * other

    def _mixed(self, x: torch.Tensor) -> torch.Tensor:
        share = self._share(x)  # float32, so that half-precision inputs are rounded once
        return (share * x + (1 - share) * x[self.partner.to(x.device)]).to(x.dtype)

    def _share(self, x: torch.Tensor) -> torch.Tensor:
        share = self.share.to(x.device)
        return share.reshape(-1, *[1] * (x.ndim - 1)) if x.ndim else share


def mixup(
    x: torch.Tensor, alpha: float = 0.2, *, per_sample: bool = False, generator: torch.Generator | None = None
) -> tuple[torch.Tensor, Mix]:
    """Mixed inputs, and how they were mixed: the :class:`Mix` mixes targets or losses. See :class:`MixUp`.

    >>> x, y = torch.randn(4, 3), torch.tensor([0, 1, 2, 1])
    >>> mixed, mix = mixup(x)
    >>> torch.allclose(mixed, mix.share * x + (1 - mix.share) * x[mix.partner])
    True
    >>> loss = mix.loss(F.cross_entropy, mixed, y)
    >>> torch.allclose(loss, F.cross_entropy(mixed, mix.targets(y, classes=3)))
    True
    """
    _check_alpha("mixup", alpha)
    if not x.is_floating_point():
        raise ValueError(f"mixup needs inputs of a floating-point type; got {x.dtype}. Scale images to 0..1 first.")
    share = _beta(alpha, len(x) if per_sample else 1, x.device, generator)
    mix = Mix(_permutation(x, generator), share if per_sample else share[0])
    return mix.inputs(x), mix


def cutmix(
    x: torch.Tensor, alpha: float = 1.0, *, per_sample: bool = False, generator: torch.Generator | None = None
) -> tuple[torch.Tensor, Mix]:
    """Images with a box of other images, and how they were mixed: the :class:`Mix` mixes targets or losses. See :class:`CutMix`.

    >>> x = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 1, 8, 8)
    >>> mixed, mix = cutmix(x)
    >>> torch.allclose(mixed.mean((1, 2, 3)), mix.share * torch.arange(4) + (1 - mix.share) * mix.partner)
    True
    """
    _check_alpha("cutmix", alpha)
    if x.ndim != 4:
        raise ValueError(
            f"cutmix takes images of shape (N, C, H, W); got shape {tuple(x.shape)}. mixup takes any shape."
        )
    boxes = len(x) if per_sample else 1
    half = (1 - _beta(alpha, boxes, x.device, generator)).sqrt() / 2

    def inside(size: int) -> torch.Tensor:
        centre = torch.randint(size, (boxes, 1), generator=generator, device=x.device)
        reach = (half[:, None] * size).long()
        place = torch.arange(size, device=x.device)
        return (place >= centre - reach) & (place < centre + reach)

    cut = inside(x.shape[2])[:, None, :, None] & inside(x.shape[3])[:, None, None, :]
    share = 1 - cut.float().mean((1, 2, 3))
    mix = Mix(_permutation(x, generator), share if per_sample else share[0], cut)
    return mix.inputs(x), mix


class MixUp:
    r"""Mixes a batch with a permutation of itself, inputs and targets alike: each sample becomes a point between two.

    .. math:: x'_i = \lambda x_i + (1 - \lambda) x_{\pi(i)}, \qquad y'_i = \lambda y_i + (1 - \lambda) y_{\pi(i)}, \qquad
              \lambda \sim \mathrm{Beta}(\alpha, \alpha)

    with ``x`` of shape ``(N, ...)``, targets ``y`` that are classes ``(N, ...)``, probabilities ``(N, K, ...)`` or numbers, and a random
    permutation pi. For loops of one's own, with a loss that takes probabilities (or numbers): ``x, y = MixUp(classes=10)(x, y)``.
    For other losses, :func:`mixup` gives x' and the :class:`Mix`, whose ``loss`` is
    :math:`\lambda \ell(f(x'), y) + (1 - \lambda) \ell(f(x'), y_\pi)`; for cross entropy both are the same, since it is linear in its
    target.

    Args:
        classes: how many classes there are, for targets that are class indices; they become probabilities ``(N, classes)``.
        alpha: how much is mixed, positive: small leaves most batches nearly as they are, 1 draws lambda evenly.
        per_sample: draw lambda for every sample instead of for the batch.
        generator: source of the random numbers, on the device of x; torch's global generator if ``None``.

    Raises:
        ValueError: for an alpha that is not positive, inputs that are no floating-point numbers, and classes without their number.

    When it helps: classifiers that fit their training set and generalize worse, noisy labels, calibration. When it hurts: short
    trainings and small networks, which under-fit; inputs whose mean has no meaning. Good first settings: alpha of 0.2 to 1.

    Source: Zhang, Cisse, Dauphin, Lopez-Paz, "mixup: Beyond Empirical Risk Minimization", ICLR 2018.

    >>> x, y = MixUp(classes=3)(torch.randn(4, 5), torch.tensor([0, 1, 2, 1]))
    >>> x.shape, y.shape
    (torch.Size([4, 5]), torch.Size([4, 3]))
    """

    _mix = staticmethod(mixup)

    def __init__(
        self,
        classes: int | None = None,
        alpha: float = 0.2,
        *,
        per_sample: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        _check_alpha(type(self).__name__, alpha)
        if classes is not None and not is_whole(classes, 1):
            raise ValueError(
                f"{type(self).__name__}(classes={classes}): classes must be a whole number: how many there are."
            )
        self.classes, self.alpha, self.per_sample, self.generator = classes, alpha, per_sample, generator

    def __call__(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mixed, mix = self._mix(x, self.alpha, per_sample=self.per_sample, generator=self.generator)
        return mixed, mix.targets(y, self.classes)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(classes={self.classes}, alpha={self.alpha}, per_sample={self.per_sample})"


class CutMix(MixUp):
    r"""Cuts a box out of each image, fills it with that of another image of the batch, and mixes their targets by the areas.

    .. math:: x'_i = (1 - M) \odot x_i + M \odot x_{\pi(i)}, \qquad y'_i = \lambda y_i + (1 - \lambda) y_{\pi(i)}, \qquad
              \lambda = 1 - \frac{1}{H W} \sum M

    with ``x`` of shape ``(N, C, H, W)``, a random permutation pi, and a mask M of shape ``(H, W)`` that is 1 in a box with sides
    :math:`\sqrt{1 - \lambda_0} H` and :math:`\sqrt{1 - \lambda_0} W`, :math:`\lambda_0 \sim \mathrm{Beta}(\alpha, \alpha)`, around
    a pixel drawn evenly. What of the box is outside the image is lost, so lambda is the area that is left. :func:`cutmix` gives x'
    and the :class:`Mix`, for other losses.

    Args:
        classes: how many classes there are, for targets that are class indices; they become probabilities ``(N, classes)``.
        alpha: how evenly sizes are drawn, positive: 1 draws the box's area evenly, before its edges are cut off.
        per_sample: draw a box for every image instead of for the batch.
        generator: source of the random numbers, on the device of x; torch's global generator if ``None``.

    Raises:
        ValueError: for an alpha that is not positive, inputs that are not ``(N, C, H, W)``, and classes without their number.

    When it helps: image classifiers that fit their training set and generalize worse; it keeps the textures that
    :class:`MixUp` blurs. When it hurts: small networks, which under-fit, and images whose classes show in one place. Good first
    setting: alpha=1.

    Source: Yun, Han, Oh, Chun, Choe, Yoo, "CutMix: Regularization Strategy to Train Strong Classifiers", ICCV 2019.

    >>> x, y = CutMix(classes=3)(torch.randn(4, 1, 8, 8), torch.tensor([0, 1, 2, 1]))
    >>> y.sum(1)
    tensor([1., 1., 1., 1.])
    """

    _mix = staticmethod(cutmix)

    def __init__(
        self,
        classes: int | None = None,
        alpha: float = 1.0,
        *,
        per_sample: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(classes, alpha, per_sample=per_sample, generator=generator)


def _check_alpha(what: str, alpha: float) -> None:
    if not 0 < as_number(alpha) < math.inf:
        raise ValueError(f"{what}: alpha={alpha} must be positive: lambda is drawn from Beta(alpha, alpha). Try 0.2.")


def _permutation(x: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
    return torch.randperm(len(x), generator=generator, device=x.device)


def _beta(alpha: float, number: int, device: torch.device, generator: torch.Generator | None) -> torch.Tensor:
    """Draws from Beta(alpha, alpha) with a generator, which ``torch.distributions`` does not take.

    A beta variable is ``G / (G + G')`` of two gamma variables. Those of a small alpha underflow, so they are drawn as logarithms:
    ``Gamma(alpha) = Gamma(alpha + 1) U^(1 / alpha)`` with U uniform in 0..1 (Marsaglia and Tsang), where -log U is exponential.
    """
    gamma = torch._standard_gamma(torch.full((2, number), alpha + 1.0, device=device), generator=generator)
    log_u = -torch.empty_like(gamma).exponential_(generator=generator)
    one, other = gamma.log() + log_u / alpha
    return torch.sigmoid(one - other)
