"""Random flips, crops and rotations of a whole batch of images at once, from a generator of our own."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def flip_crop_rotate(images: Tensor, generator: torch.Generator, *, padding: int = 4, degrees: float = 15.0) -> Tensor:
    """Return the images, each flipped half of the time, shifted and rotated.

    In this order, as in the published CIFAR-100 experiment: a horizontal flip, a crop after padding by reflection, a
    rotation by an angle in ``[0, degrees]`` (to one side) with the nearest pixel and zeros outside.

    Args:
        images: A batch, ``[N, C, H, W]``, of a floating type.
        generator: Draws on the CPU, so that every device sees the same.
        padding: Largest shift, in pixels.
        degrees: Largest angle.

    Returns:
        The images, ``[N, C, H, W]``.

    References:
        Dohare et al., Loss of plasticity in deep continual learning (Nature 632, 2024), class-incremental CIFAR-100.

    Example:
        >>> image = torch.eye(3).view(1, 1, 3, 3)
        >>> flip_crop_rotate(image, torch.Generator().manual_seed(0), padding=0, degrees=0.0)[0, 0]
        tensor([[0., 0., 1.],
                [0., 1., 0.],
                [1., 0., 0.]])
    """
    size, _, height, width = images.shape
    device = images.device
    flips = torch.rand(size, 1, 1, 1, generator=generator) < 0.5
    shifts = torch.randint(2 * padding + 1, (2, size, 1), generator=generator)
    angle = (torch.rand(size, generator=generator) * math.radians(degrees)).to(device)
    images = torch.where(flips.to(device), images.flip(3), images)
    rows = (shifts[0] + torch.arange(height)).to(device)
    columns = (shifts[1] + torch.arange(width)).to(device)
    padded = nn.functional.pad(images, (padding,) * 4, mode="reflect").permute(0, 2, 3, 1)
    picture = torch.arange(size, device=device)[:, None, None]
    images = padded[picture, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    turn = torch.zeros(size, 2, 3, device=device, dtype=images.dtype)
    turn[:, 0, 0] = turn[:, 1, 1] = angle.cos()
    turn[:, 0, 1], turn[:, 1, 0] = -angle.sin() * height / width, angle.sin() * width / height
    grid = nn.functional.affine_grid(turn, list(images.shape), align_corners=False)
    return nn.functional.grid_sample(images, grid, mode="nearest", padding_mode="zeros", align_corners=False)
