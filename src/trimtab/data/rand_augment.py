"""RandAugment: some operations out of a list, drawn for each image."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F

from trimtab.data.augment import Augmentation, check_images, laid_out_as, per_sample
from trimtab.data.images import warp
from trimtab.values import as_number, is_whole

GROUP = "augmentation"

# Operations take images with values in 0..1 and the signed strength of each, of shape (N, 1, 1, 1), at most 1.


def brightness(x: torch.Tensor, strength: torch.Tensor) -> torch.Tensor:
    """Away from black, or towards it."""
    return _away_from(torch.zeros_like(x), x, strength)


def contrast(x: torch.Tensor, strength: torch.Tensor) -> torch.Tensor:
    """Away from the mean grey of the image, or towards it."""
    return _away_from(_grey(x).mean((2, 3), keepdim=True), x, strength)


def color(x: torch.Tensor, strength: torch.Tensor) -> torch.Tensor:
    """Away from the grey image, or towards it; grey images stay."""
    return _away_from(_grey(x), x, strength)


def sharpness(x: torch.Tensor, strength: torch.Tensor) -> torch.Tensor:
    """Away from a blurred image, or towards it; pixels at the border stay."""
    if min(x.shape[2:]) < 3:
        return x
    blurred = x.clone()
    blurred[:, :, 1:-1, 1:-1] = (9 * F.avg_pool2d(x, 3, 1) + 4 * x[:, :, 1:-1, 1:-1]) / 13
    return _away_from(blurred, x, strength)


def solarize(x: torch.Tensor, strength: torch.Tensor) -> torch.Tensor:
    """Inverts the bright values: of 256 levels, those from 256 (1 - strength) on."""
    return torch.where(x * 255 >= 256 * (1 - strength.abs()), 1 - x, x)


def posterize(x: torch.Tensor, strength: torch.Tensor) -> torch.Tensor:
    """Of 8 bits, keeps 8 to 4."""
    step = torch.exp2((4 * strength.abs()).round())
    return ((x * 255).round() / step).floor() * step / 255


def autocontrast(x: torch.Tensor, strength: torch.Tensor) -> torch.Tensor:
    """Stretches each channel to 0..1; constant ones stay."""
    low, high = x.amin((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)
    return torch.where(high > low, (x - low) / torch.where(high > low, high - low, 1), x)


def equalize(x: torch.Tensor, strength: torch.Tensor) -> torch.Tensor:
    """Makes all of 256 levels equally frequent in each channel; constant ones stay."""
    levels = (x * 255).round().long().clamp(0, 255).flatten(2)  # a NaN must not become an index far outside
    counts = torch.zeros(*levels.shape[:2], 256, dtype=x.dtype, device=x.device)
    counts.scatter_add_(2, levels, torch.ones_like(levels, dtype=x.dtype))
    below = counts.cumsum(2) - counts
    brightest = counts.gather(2, levels.amax(2, keepdim=True))
    others = levels.shape[2] - brightest
    return torch.where(others > 0, below.gather(2, levels) / others, x.flatten(2)).view_as(x)


def _away_from(other: torch.Tensor, x: torch.Tensor, strength: torch.Tensor) -> torch.Tensor:
    """``x`` at strength 0, nearly ``other`` at -1, as far on the other side at 1 (PIL's ImageEnhance)."""
    return other + (x - other) * (1 + 0.9 * strength)


def _grey(x: torch.Tensor) -> torch.Tensor:
    """Luma of three channels (ITU-R 601), the mean of any other number."""
    if x.shape[1] != 3:
        return x.mean(1, keepdim=True)
    red, green, blue = x.split(1, 1)
    return 0.299 * red + 0.587 * green + 0.114 * blue


POSES = ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")  # all of a batch in one interpolation
COLORS: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    one.__name__: one for one in (brightness, contrast, color, sharpness, solarize, posterize, autocontrast, equalize)
}
OPERATIONS = ("identity", *POSES, *COLORS)


def pose(x: torch.Tensor, kind: torch.Tensor, strength: torch.Tensor) -> torch.Tensor:
    """Rotates, shears or moves images: each by the operation whose place in :data:`POSES` ``kind`` holds, of shape (N,)."""
    angle, right, down, *way = (torch.where(kind == place, strength, 0) for place in range(len(POSES)))
    angle = math.radians(30) * angle
    cos, sin = angle.cos(), angle.sin()
    # where the values come from; no image has more than one of these
    matrix = torch.stack([cos, -sin - 0.3 * right, sin - 0.3 * down, cos], -1).view(-1, 2, 2)
    shift = -0.45 * torch.stack(way, -1) * strength.new_tensor([x.shape[3], x.shape[2]])
    return warp(x, matrix, shift, padding="zeros")


class RandAugment(Augmentation):
    r"""Applies to each image some operations drawn from a list of 14, one after the other, all of one magnitude.

    .. math:: y_n = o_{n,K} \circ \dots \circ o_{n,1}(x_n), \qquad o_{n,k} \sim U(\mathrm{OPERATIONS})

    with x and y of shape ``(N, C, H, W)``. In evaluation mode ``y = x``. At the magnitude M = 10 the operations reach:

    =============================== ==========================================================
    ``identity``                    the image itself
    ``rotate``                      ±30 degrees
    ``shear_x``, ``shear_y``        ±0.3, about the centre
    ``translate_x``, ``..._y``      ±0.45 of width, height
    ``brightness``, ``contrast``,   factors 1 ± 0.9, as in PIL's ImageEnhance; ``color`` leaves
    ``color``, ``sharpness``        images of one channel alone
    ``solarize``                    inverts all values; below, those above 1 - M / 10
    ``posterize``                   keeps 4 of 8 bits
    ``autocontrast``, ``equalize``  in full at any M
    =============================== ==========================================================

    and below in proportion; signs are drawn. What comes from outside the image is the lowest value. Results are kept inside
    ``value_range``. Images are changed in groups by operation, whose sizes the CPU has to know: without a generator given
    here, or with one of the CPU, choices are drawn there and nothing waits for an accelerator.

    Args:
        ops: how many operations for each image.
        magnitude: M, from 0 to 10; it need not be whole. Libraries that count to 30 (torchvision) call 27 what is 9 here.
        value_range: the lowest and the highest value that a pixel can have.
        generator: source of the choices; torch's global generator if ``None``.

    Raises:
        ValueError: for settings out of range, if the input is no floating-point tensor of shape (N, C, H, W), or if values of
            the first batch lie outside ``value_range`` by more than a quarter of it; lesser ones are cut off.

    When it helps: photographs and large networks. When it hurts: images whose class hangs on color or pose, small images, where
    little is left after two strong operations.

    Source: Cubuk et al., "RandAugment: Practical Automated Data Augmentation with a Reduced Search Space", NeurIPS 2020.

    >>> RandAugment(ops=2, magnitude=9)(torch.rand(4, 3, 8, 8)).shape
    torch.Size([4, 3, 8, 8])
    """

    def __init__(
        self,
        ops: int = 2,
        magnitude: float = 9.0,
        value_range: tuple[float, float] = (0.0, 1.0),
        *,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(generator)
        if not is_whole(ops, 1):
            raise ValueError(
                f"RandAugment(ops={ops}): ops must be a whole number of operations for each image, 1 or more."
            )
        if not 0 <= as_number(magnitude) <= 10:
            raise ValueError(f"RandAugment(magnitude={magnitude}): magnitude must lie in [0, 10].")
        pair = [as_number(one) for one in value_range] if isinstance(value_range, (tuple, list)) else []
        if not (len(pair) == 2 and -math.inf < pair[0] < pair[1] < math.inf):
            raise ValueError(
                f"RandAugment(value_range={value_range}): value_range must be the lowest and the highest value that a pixel can "
                "have, such as (0.0, 1.0)."
            )
        self.ops, self.magnitude, self.value_range = ops, magnitude, (value_range[0], value_range[1])
        self._seen = False

    def check(self, x: torch.Tensor) -> None:
        check_images(self, x)
        if self._seen or not x.numel():
            return
        low, high = self.value_range
        lowest, highest = (value.item() for value in x.detach().aminmax())  # once: an accelerator has to be waited for
        slack = 0.25 * (high - low)  # resizing overshoots a little, noise more
        if not (low - slack <= lowest and highest <= high + slack):
            raise ValueError(
                f"RandAugment(value_range={self.value_range}) got images with values in {lowest:g} .. {highest:g}. Give the lowest "
                "and the highest value that a pixel can have after normalization as value_range."
            )
        self._seen = True

    def change(self, x: torch.Tensor) -> torch.Tensor:
        low, high = self.value_range
        y = ((x.to(torch.promote_types(x.dtype, torch.float32)) - low) / (high - low)).clamp(0, 1)
        place = "cpu" if self.generator is None else self.generator.device
        size = (self.ops, len(x))
        chosen = torch.randint(len(OPERATIONS), size, generator=self.generator, device=place).cpu()
        signs = torch.randint(2, size, generator=self.generator, device=place).to(x.device)
        strengths = (2 * signs - 1).to(y.dtype) * (self.magnitude / 10)
        for kinds, strength in zip(chosen, strengths, strict=True):
            y = self._one_each(y, kinds, strength)
        return laid_out_as(x, (low + y * (high - low)).to(x.dtype))

    def _one_each(self, y: torch.Tensor, kinds: torch.Tensor, strength: torch.Tensor) -> torch.Tensor:
        """One operation for each image: its place in :data:`OPERATIONS`, on the CPU, and its signed strength."""
        posed = (kinds > 0) & (kinds <= len(POSES))
        groups: list[tuple[torch.Tensor, Callable]] = [
            (posed, lambda z, s: pose(z, (kinds[posed] - 1).to(z.device), s.flatten()))
        ]
        groups += [(kinds == OPERATIONS.index(name), change) for name, change in COLORS.items()]
        for members, change in groups:
            rows = members.nonzero().flatten().to(y.device)
            if len(rows):
                changed = change(y[rows], per_sample(strength[rows], y)).clamp(0, 1)
                y = y.index_copy(0, rows, changed)
        return y

    def extra_repr(self) -> str:
        return f"ops={self.ops}, magnitude={self.magnitude}, value_range={self.value_range}"
