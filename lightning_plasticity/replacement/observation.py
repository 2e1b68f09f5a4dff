"""What the engine sees of its groups between two optimizer steps."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lightning_plasticity.replacement.alarm import Alarm
from lightning_plasticity.replacement.memory import Memory
from lightning_plasticity.replacement.outgoing import OutgoingMagnitudes
from lightning_plasticity.replacement.statistic import Observer, Statistic
from lightning_plasticity.replacement.watch import Watch


class Observation:
    """Feeds what the layers see to the statistics, and counts it.

    Args:
        memory: The memory of all groups, into which the statistics add.
        statistics: What is measured.
        idle: Layers that are not expected to run, by name: nobody knows which units they read.
    """

    def __init__(
        self, memory: Memory, statistics: Sequence[Statistic], idle: Sequence[tuple[str, nn.Module]] = ()
    ) -> None:
        self.memory, self._idle = memory, idle
        self._alarm = Alarm([group.tap for group in memory.groups])
        self._watches = [_watch(memory, i, statistics, self._alarm) for i in range(len(memory.groups))]
        self._writers = [group.incoming[0] for group in memory.groups]
        self._handles: list[RemovableHandle] = []
        weighed = [name for name, spec in memory.fields.items() if spec.holds == "outgoing magnitude"]
        self._outgoing = [OutgoingMagnitudes(memory, name) for name in weighed]

    def attach(self) -> None:
        """Start observing, without what compiled code may have left since the last time."""
        self.drop(range(len(self._watches)))
        for watch in self._watches:
            if watch is not None:
                watch.attach()
        self._handles = [
            layer.register_forward_pre_hook(partial(self._alarm.woken, name)) for name, layer in self._idle
        ]

    def detach(self) -> None:
        """Stop observing."""
        while self._handles:
            self._handles.pop().remove()
        for watch in self._watches:
            if watch is not None:
                watch.detach()

    def collect(self, groups: Sequence[int]) -> tuple[list[int], dict[int, Tensor | int]]:
        """Return the groups that were trained in the step that just ended, and the samples that were seen of them.

        A group is trained if its first incoming weight has a gradient: the host knows that, and all processes agree. A
        frozen layer, a branch that was not used, or a step without a loss does not age its units.

        Args:
            groups: Positions of the groups to look at.

        Returns:
            Positions of the trained groups, and samples by position of those that were also observed.
        """
        trained: list[int] = []
        samples: dict[int, Tensor | int] = {}
        for i in groups:
            watch = self._watches[i]
            count = 1 if watch is None else watch.collect()
            if self._writers[i].tensor.grad is not None:
                trained.append(i)
                if count is not None:
                    samples[i] = count
            elif count is not None:
                self.memory.drop(i, "step")
        self._alarm.hear(samples)
        if len(samples) < len(trained):
            self._alarm.miss(i for i in trained if i not in samples)
        for each in self._outgoing:
            each.write(samples)
        return trained, samples

    def drop(self, groups: Sequence[int]) -> None:
        """Throw away what was observed of ``groups`` since the last step."""
        for i in groups:
            watch = self._watches[i]
            if watch is not None:
                watch.collect()
                self.memory.drop(i, "step")


def _watch(memory: Memory, i: int, statistics: Sequence[Statistic], alarm: Alarm) -> Watch | None:
    tap, part = memory.groups[i].tap, memory.parts[i]
    readers = [each for each in statistics if each.reads_activation or each.reads_gradient]
    if tap is None or not readers:
        return None
    fields = [item for each in readers for item in each.fields().items()]
    sums = [(part[name], spec.holds) for name, spec in fields if spec.holds and spec.holds != "outgoing magnitude"]
    observers = [partial(each.observe, part) for each in readers if isinstance(each, Observer)]
    reads_gradient = any(each.reads_gradient for each in readers)
    return Watch(tap, sums, observers, memory.device, reads_gradient=reads_gradient, unstepped=alarm.unstepped)
