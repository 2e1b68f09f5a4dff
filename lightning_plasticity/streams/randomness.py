"""Generators that depend on what they are for, not on what was drawn before."""

from __future__ import annotations

import hashlib

import torch


def derived_generator(*keys: int | str) -> torch.Generator:
    """Return a generator seeded by ``keys`` alone.

    The draws of experience 700 are the same whether or not the experiences before it were ever built, and neighbouring
    seeds share nothing. A stream needs no state to be resumed.

    Args:
        keys: What the draws are for: a seed first, then for example a purpose and an index.

    Returns:
        A generator on the CPU.

    Example:
        >>> torch.equal(*(torch.randperm(5, generator=derived_generator(0, "pixels", 7)) for _ in range(2)))
        True
    """
    plain = tuple(key if isinstance(key, str) else int(key) for key in keys)  # whole numbers of numpy count as such
    digest = hashlib.blake2b(repr(plain).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big"))
