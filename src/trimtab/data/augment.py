"""What all augmentations share: they act in training mode only, and draw from a generator that can be given."""

from __future__ import annotations

import math

import torch
from torch import nn

from trimtab.values import as_number


class Augmentation(nn.Module):
    """Base of all augmentations: changes its input in training mode, sample by sample, and lets it pass in evaluation.

    Derive and implement :meth:`change`; take random numbers from :meth:`uniform` and :meth:`normal`.

    Args:
        generator: source of the random numbers; torch's global generator of the input's device if ``None``.
    """

    def __init__(self, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return x
        if not x.is_floating_point():
            raise ValueError(
                f"{type(self).__name__} got an input of type {str(x.dtype).removeprefix('torch.')}. It must be floating point: "
                "x.float()."
            )
        self.check(x)
        return self.change(x) if x.numel() else x

    def check(self, x: torch.Tensor) -> None:
        """Refuse inputs of another shape."""

    def change(self, x: torch.Tensor) -> torch.Tensor:
        """The augmented batch."""
        raise NotImplementedError(f"{type(self).__name__} must implement change(x).")

    def uniform(self, x: torch.Tensor, *shape: int, low: float = 0.0, high: float = 1.0) -> torch.Tensor:
        """Float32 numbers between ``low`` and ``high`` of this shape, on the device of x."""
        place = x.device if self.generator is None else self.generator.device
        numbers = torch.rand(shape, generator=self.generator, device=place).to(x.device)
        return numbers.mul_(high - low).add_(low)

    def normal(self, x: torch.Tensor, *shape: int) -> torch.Tensor:
        """Standard normal numbers of this shape, in the type of x."""
        place = x.device if self.generator is None else self.generator.device
        return torch.randn(shape, generator=self.generator, device=place, dtype=x.dtype).to(x.device)

    def __getstate__(self) -> dict:
        # generators do not pickle; their state does
        state = self.__dict__.copy()
        if self.generator is not None:
            state["generator"] = (str(self.generator.device), self.generator.get_state())
        return state

    def __setstate__(self, state: dict) -> None:
        super().__setstate__(state)
        if self.generator is not None:
            device, bits = state["generator"]
            self.generator = torch.Generator(device)
            self.generator.set_state(bits)


def check_positive(part: nn.Module, meaning: str, most: float = float("inf"), **setting: float) -> None:
    """Refuse a setting outside (0, most]."""
    ((name, value),) = setting.items()
    if not 0 < as_number(value) <= most:
        bounds = "be positive" if most == float("inf") else f"lie in (0, {most:g}]"
        raise ValueError(f"{type(part).__name__}({name}={value}): {name} must {bounds}: it is {meaning}.")


def check_fill(part: nn.Module, fill: float) -> None:
    """Refuse what no entry can be filled with."""
    if not math.isfinite(as_number(fill)):
        raise ValueError(f"{type(part).__name__}(fill={fill}): fill must be a finite number.")


def check_setting(part: nn.Module, choices: tuple[str, ...], **setting: str) -> None:
    """Refuse a setting that is not in the list."""
    ((name, value),) = setting.items()
    if value not in choices:
        raise ValueError(
            f"{type(part).__name__}({name}={value!r}): {name} must be one of {', '.join(map(repr, choices))}."
        )


def check_images(part: nn.Module, x: torch.Tensor) -> None:
    """Refuse what is no batch of images."""
    if x.ndim != 4:
        cure = {
            2: "Give the rows their form in front of the model: x.view(len(x), C, H, W).",
            3: "Images without a channel axis: x.unsqueeze(1); a single image: x.unsqueeze(0).",
        }.get(x.ndim, "It acts on images only.")
        raise ValueError(
            f"{type(part).__name__} got an input of shape {tuple(x.shape)}. Images must have the shape (N, C, H, W). {cure}"
        )
    if x.shape[-1] in (1, 3) and min(x.shape[1], x.shape[2]) > 4:
        raise ValueError(
            f"{type(part).__name__} got an input of shape {tuple(x.shape)}, in which the channels seem to stand last. Images "
            "must have the shape (N, C, H, W): x.movedim(-1, 1)."
        )


def observe(statistics: nn.Module, x: torch.Tensor) -> None:
    """Let running statistics see a batch, also where augmentation runs without gradients."""
    with torch.enable_grad():
        statistics(x.detach())


def per_sample(values: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Values of shape (N,) so that they broadcast against x of shape (N, ...)."""
    return values.view(-1, *[1] * (x.ndim - 1))


def laid_out_as(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """y in the memory format of x."""
    last = not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)
    return y.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)
