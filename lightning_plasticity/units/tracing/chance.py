"""What a run drew at random, and whether Python learned of it, so that another run may take another branch."""

from __future__ import annotations

import random
import sys
from collections.abc import Hashable, Iterable
from types import FrameType

from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from lightning_plasticity.units.tracing.shadow import storage_key

_LOADING = "torch.utils.data"


class Chance:
    """The tensors that hold numbers drawn at random, and what was computed from them without the example.

    Example:
        >>> import torch
        >>> chance, drawn = Chance(), torch.rand(3)
        >>> chance.add([drawn])
        >>> chance.made(drawn[1:]), chance.made(torch.zeros(3))
        (True, False)
    """

    def __init__(self) -> None:
        self._drawn: dict[int, StorageWeakRef] = {}  # a reference keeps the identity from being used again

    def add(self, tensors: Iterable[Tensor]) -> None:
        """Note that ``tensors`` were drawn at random, or computed from such."""
        for tensor in tensors:
            self._drawn[storage_key(tensor)] = StorageWeakRef(tensor.untyped_storage())  # type: ignore[no-untyped-call]

    def made(self, tensor: Tensor) -> bool:
        """Return whether ``tensor`` was drawn at random, or computed from such."""
        return bool(self._drawn) and storage_key(tensor) in self._drawn


def states_on_the_host() -> Hashable:
    """Return the states of the global generators of Python and, if it is in use, NumPy, to be compared."""
    numpy = sys.modules.get("numpy")
    state = numpy.random.get_state() if numpy else ()
    return random.getstate(), *(value.tobytes() if hasattr(value, "tobytes") else value for value in state)


def is_loading() -> bool:
    """Return whether PyTorch's own loader of data is running: what it draws shuffles samples, and is no branch."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and not frame.f_globals.get("__name__", "").startswith(_LOADING):
        frame = frame.f_back
    return frame is not None
