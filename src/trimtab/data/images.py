"""Random affine maps of images (rotation, flips, scaling, translation) and CutOut."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from trimtab.data.augment import (
    Augmentation,
    check_fill,
    check_images,
    check_positive,
    check_setting,
    laid_out_as,
    per_sample,
)
from trimtab.values import as_number

GROUP = "augmentation"
INTERPOLATIONS = ("bilinear", "nearest", "bicubic")
PADDINGS = ("border", "zeros", "reflection")


def warp(
    x: torch.Tensor, matrix: torch.Tensor, shift: torch.Tensor, interpolation: str = "bilinear", padding: str = "border"
) -> torch.Tensor:
    r"""Takes the value of each output pixel p from the input at ``matrix p + shift``.

    .. math:: y_n(p) = x_n(A_n p + b_n)

    with p in pixels from the centre of the image, first right and then down, ``x`` of shape ``(N, C, H, W)``, ``matrix`` of
    shape ``(N, 2, 2)`` and ``shift`` of shape ``(N, 2)``.

    >>> x = torch.arange(4.0).view(1, 1, 1, 4)
    >>> warp(x, torch.eye(2)[None], torch.tensor([[1.0, 0.0]]), padding="zeros")
    tensor([[[[1., 2., 3., 0.]]]])
    """
    kind = torch.promote_types(x.dtype, torch.float32)  # a bfloat16 cannot tell the pixels of a wide image apart
    height, width = x.shape[2:]
    matrix, shift = matrix.to(kind), shift.to(kind)
    right = torch.arange(width, device=x.device, dtype=kind) - (width - 1) / 2
    down = (torch.arange(height, device=x.device, dtype=kind) - (height - 1) / 2).unsqueeze(-1)
    # Written out, not by affine_grid: that multiplies matrices, in half precision under autocast and in TF32 on request.
    a, b = matrix[..., None, None].unbind(1), shift[..., None, None]
    grid = [
        (a[axis][:, 0] * right + a[axis][:, 1] * down + b[:, axis]) * (2 / size)
        for axis, size in enumerate((width, height))
    ]
    y = F.grid_sample(x.to(kind), torch.stack(grid, -1), interpolation, padding, align_corners=False)
    return laid_out_as(x, y.to(x.dtype))


def affine(
    x: torch.Tensor,
    degrees: torch.Tensor,
    translate: torch.Tensor,
    scale: torch.Tensor,
    interpolation: str = "bilinear",
    padding: str = "border",
) -> torch.Tensor:
    r"""Scales, rotates and then moves each image of a batch by numbers of its own.

    .. math:: p' = R(\theta_n) \operatorname{diag}(s_n) p + t_n

    Args:
        x: images of shape ``(N, C, H, W)``.
        degrees: the angles, counter-clockwise, of shape ``(N,)``.
        translate: the ways right and down as shares of width and height, of shape ``(N, 2)``.
        scale: the factors right and down, of shape ``(N, 2)``; negative ones flip.
        interpolation: "bilinear", "nearest" or "bicubic".
        padding: what is outside the image: "border", "zeros" or "reflection".

    >>> x = torch.arange(4.0).view(1, 1, 2, 2)
    >>> affine(x, torch.tensor([90.0]), torch.zeros(1, 2), torch.ones(1, 2)).round()
    tensor([[[[1., 3.],
              [0., 2.]]]])
    """
    kind = torch.promote_types(x.dtype, torch.float32)
    angle = torch.deg2rad(degrees.to(kind))
    cos, sin = angle.cos(), angle.sin()
    back = torch.stack([cos, -sin, sin, cos], -1).view(-1, 2, 2)  # the rows point down: this turns clockwise
    inverse = back / scale.to(kind).unsqueeze(-1)
    way = translate.to(kind) * translate.new_tensor([x.shape[3], x.shape[2]], dtype=kind)
    return warp(x, inverse, -(inverse * way.unsqueeze(1)).sum(-1), interpolation, padding)


class RandomAffine(Augmentation):
    r"""Flips, scales, rotates and moves each image at random, all in one interpolation.

    .. math:: p' = R(\theta) \operatorname{diag}(s f_x, s f_y) p + t

    for pixels p counted from the centre, with ``theta`` uniform in ±degrees (counter-clockwise), s uniform in ``scale``, ``t``
    uniform in ±translate times width and height, and f = -1 with the probability of the flip and 1 otherwise; drawn
    for each image by itself. x and y have the shape ``(N, C, H, W)``. In evaluation mode ``y = x``.

    The values are those of ``kornia.geometry.transform.affine``; several maps in a row blur the image anew each time, one
    does it once.

    Args:
        degrees: the largest angle.
        translate: the largest way as a share of width and height.
        scale: the smallest and the largest factor; above 1 enlarges.
        p: the share of images that are changed; the others keep every bit.
        horizontal_flip: the probability of exchanging left and right.
        vertical_flip: the probability of exchanging top and bottom.
        interpolation: "bilinear", "nearest" or "bicubic".
        padding: what is outside the image: "border" (the nearest pixel, right for every range of values), "zeros" or
            "reflection".
        generator: source of the random numbers; torch's global generator if ``None``.

    Raises:
        ValueError: for settings out of range, or if the input is no floating-point tensor of shape (N, C, H, W).

    When it helps: images whose class does not depend on pose, few of them. When it hurts: where pose is the answer (6 and
    9, arrows), and networks that do not even fit the plain images.

    Source: Simard, Steinkraus & Platt, "Best Practices for Convolutional Neural Networks", ICDAR 2003.

    >>> layer = RandomAffine(degrees=10, translate=0.1, scale=(0.9, 1.1))
    >>> layer(torch.rand(4, 3, 8, 8)).shape
    torch.Size([4, 3, 8, 8])
    """

    def __init__(
        self,
        degrees: float = 0.0,
        translate: float = 0.0,
        scale: tuple[float, float] = (1.0, 1.0),
        p: float = 1.0,
        *,
        horizontal_flip: float = 0.0,
        vertical_flip: float = 0.0,
        interpolation: str = "bilinear",
        padding: str = "border",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(generator)
        if as_number(degrees) != 0:
            check_positive(self, "the largest angle in degrees", 180, degrees=degrees)
        if as_number(translate) != 0:
            check_positive(self, "the largest way as a share of width and height", 1, translate=translate)
        pair = [as_number(one) for one in scale] if isinstance(scale, (tuple, list)) else []
        if not (len(pair) == 2 and 0 < pair[0] <= pair[1] < math.inf):
            raise ValueError(
                f"{type(self).__name__}(scale={scale}): scale must be two positive factors, the smallest first, such as "
                "(0.9, 1.1)."
            )
        check_positive(self, "the share of images that are changed", 1, p=p)
        for name, flip in (("horizontal_flip", horizontal_flip), ("vertical_flip", vertical_flip)):
            if as_number(flip) != 0:
                check_positive(self, "the probability of a flip", 1, **{name: flip})
        check_setting(self, INTERPOLATIONS, interpolation=interpolation)
        check_setting(self, PADDINGS, padding=padding)
        self.degrees, self.translate, self.scale, self.p = degrees, translate, (scale[0], scale[1]), p
        self.horizontal_flip, self.vertical_flip = horizontal_flip, vertical_flip
        self.interpolation, self.padding = interpolation, padding

    def check(self, x: torch.Tensor) -> None:
        check_images(self, x)

    def draw(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Angles, ways and factors for the images of a batch, as :func:`affine` takes them."""
        degrees, translate = (
            self.uniform(x, len(x), *shape, low=-most, high=most)
            for most, shape in ((self.degrees, ()), (self.translate, (2,)))
        )
        scale = self.uniform(x, len(x), 1, low=self.scale[0], high=self.scale[1])
        flips = self.uniform(x, len(x), 2) < scale.new_tensor([self.horizontal_flip, self.vertical_flip])
        return degrees, translate, torch.where(flips, -scale, scale)

    def change(self, x: torch.Tensor) -> torch.Tensor:
        y = affine(x, *self.draw(x), self.interpolation, self.padding)
        return y if self.p == 1 else torch.where(per_sample(self.uniform(x, len(x)) < self.p, x), y, x)

    def extra_repr(self) -> str:
        settings = (
            "degrees",
            "translate",
            "scale",
            "p",
            "horizontal_flip",
            "vertical_flip",
            "interpolation",
            "padding",
        )
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in settings)


class RandomRotation(RandomAffine):
    """Rotates each image by an angle uniform in ±degrees, counter-clockwise. See :class:`RandomAffine`.

    >>> RandomRotation(10)(torch.ones(2, 1, 5, 5)).mean()
    tensor(1.)
    """

    def __init__(
        self,
        degrees: float,
        p: float = 1.0,
        *,
        interpolation: str = "bilinear",
        padding: str = "border",
        generator: torch.Generator | None = None,
    ) -> None:
        check_positive(self, "the largest angle in degrees", 180, degrees=degrees)
        super().__init__(degrees, p=p, interpolation=interpolation, padding=padding, generator=generator)


class RandomScale(RandomAffine):
    """Enlarges (above 1) or shrinks each image about its centre by a factor uniform in scale. See :class:`RandomAffine`.

    >>> RandomScale((0.9, 1.1))(torch.ones(2, 1, 5, 5)).mean()
    tensor(1.)
    """

    def __init__(
        self,
        scale: tuple[float, float],
        p: float = 1.0,
        *,
        interpolation: str = "bilinear",
        padding: str = "border",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(scale=scale, p=p, interpolation=interpolation, padding=padding, generator=generator)


class RandomTranslation(RandomAffine):
    """Moves each image right and down by ways uniform in ±share of its width and height. See :class:`RandomAffine`.

    >>> RandomTranslation(0.1)(torch.ones(2, 1, 5, 5)).mean()
    tensor(1.)
    """

    def __init__(
        self,
        share: float,
        p: float = 1.0,
        *,
        interpolation: str = "bilinear",
        padding: str = "border",
        generator: torch.Generator | None = None,
    ) -> None:
        check_positive(self, "the largest way as a share of width and height", 1, share=share)
        super().__init__(translate=share, p=p, interpolation=interpolation, padding=padding, generator=generator)


class RandomHorizontalFlip(Augmentation):
    r"""Exchanges left and right of each image with probability p; no value changes.

    .. math:: y_{nchw} = x_{nch(W-1-w)}

    for the images that are flipped, of shape ``(N, C, H, W)``; the others, and all in evaluation mode, stay as they are.

    Args:
        p: the probability of flipping an image.
        generator: source of the random numbers; torch's global generator if ``None``.

    Raises:
        ValueError: if p is outside (0, 1], or the input is no floating-point tensor of shape (N, C, H, W).

    When it helps: photographs. When it hurts: writing, digits, faces of clocks: a mirrored 3 is no 3.

    Source: Krizhevsky, Sutskever & Hinton, "ImageNet Classification with Deep Convolutional Neural Networks", NeurIPS 2012.

    >>> RandomHorizontalFlip(p=1.0)(torch.tensor([[[[1.0, 2.0]]]]))
    tensor([[[[2., 1.]]]])
    """

    axis = -1

    def __init__(self, p: float = 0.5, *, generator: torch.Generator | None = None) -> None:
        super().__init__(generator)
        check_positive(self, "the probability of flipping an image", 1, p=p)
        self.p = p

    def check(self, x: torch.Tensor) -> None:
        check_images(self, x)

    def change(self, x: torch.Tensor) -> torch.Tensor:
        return torch.where(per_sample(self.uniform(x, len(x)) < self.p, x), x.flip(self.axis), x)

    def extra_repr(self) -> str:
        return f"p={self.p}"


class RandomVerticalFlip(RandomHorizontalFlip):
    """Exchanges top and bottom of each image with probability p. See :class:`RandomHorizontalFlip`.

    >>> RandomVerticalFlip(p=1.0)(torch.tensor([[[[1.0], [2.0]]]])).flatten()
    tensor([2., 1.])
    """

    axis = -2


class CutOut(Augmentation):
    r"""Covers a square of each image, at a place of its own, with one value.

    .. math:: y_{nchw} = \begin{cases} v & |h - h_n| < a/2, \; |w - w_n| < a/2 \\ x_{nchw} & \text{else} \end{cases}

    with the centre ``(h_n, w_n)`` uniform over all pixels, so that part of the square may lie outside, as in the paper; it
    is ``size`` times the height high and ``size`` times the width wide, rounded to pixels, at least one. x and y
    have the shape ``(N, C, H, W)``. In evaluation mode ``y = x``.

    Args:
        size: the side of the square as a share of the side of the image; the paper's 16 of 32 pixels are 0.5.
        fill: the value; 0 is the mean of standardized images, and black in those of 0..1.
        generator: source of the random numbers; torch's global generator if ``None``.

    Raises:
        ValueError: if size is outside (0, 1], or the input is no floating-point tensor of shape (N, C, H, W).

    When it helps: images of objects that show more than one part of theirs. When it hurts: small objects, which it covers whole.

    Source: DeVries & Taylor, "Improved Regularization of Convolutional Neural Networks with Cutout", 2017.

    >>> y = CutOut(0.5)(torch.ones(1, 1, 8, 8))
    >>> 4 <= int((y == 0).sum()) <= 16
    True
    """

    def __init__(self, size: float = 0.5, fill: float = 0.0, *, generator: torch.Generator | None = None) -> None:
        super().__init__(generator)
        check_positive(self, "the side of the square as a share of the side of the image", 1, size=size)
        check_fill(self, fill)
        self.size, self.fill = size, fill

    def check(self, x: torch.Tensor) -> None:
        check_images(self, x)

    def change(self, x: torch.Tensor) -> torch.Tensor:
        places = self.uniform(x, len(x), 2)
        rows, columns = (
            self._covered(place, length) for place, length in zip(places.unbind(1), x.shape[2:], strict=True)
        )
        return laid_out_as(x, x.masked_fill(rows[:, None, :, None] & columns[:, None, None, :], self.fill))

    def _covered(self, place: torch.Tensor, length: int) -> torch.Tensor:
        """Which of the rows (or columns) the squares cover, of shape (N, length)."""
        side = max(1, round(self.size * length))
        first = (place * length).long().clamp_(max=length - 1) - side // 2
        way = torch.arange(length, device=place.device) - first.unsqueeze(-1)
        return (way >= 0) & (way < side)

    def extra_repr(self) -> str:
        return f"size={self.size}, fill={self.fill}"
