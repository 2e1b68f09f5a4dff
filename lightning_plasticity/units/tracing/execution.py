"""The state of a run under labels: what the rules of the operations read and write.

One :class:`Execution` serves a whole pass (the model in evaluation mode, then in training mode).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from lightning_plasticity.units.slot import SlotKind
from lightning_plasticity.units.tracing.chance import Chance, is_loading
from lightning_plasticity.units.tracing.columns import agree, mix
from lightning_plasticity.units.tracing.frames import Frames, TapCandidate
from lightning_plasticity.units.tracing.joining import joined
from lightning_plasticity.units.tracing.labels import FOREIGN, NOBODY, UNREAD, Labels, foreign
from lightning_plasticity.units.tracing.meeting import meet
from lightning_plasticity.units.tracing.memory import Memory
from lightning_plasticity.units.tracing.pairs import PRODUCT, Manner
from lightning_plasticity.units.tracing.seen import Seen
from lightning_plasticity.units.tracing.shadow import Origin, Shadow, compact, storage_key
from lightning_plasticity.units.tracing.source import Orientation, Source, orientation
from lightning_plasticity.units.tracing.sources import Sources
from lightning_plasticity.units.tracing.summands import summands
from lightning_plasticity.units.tracing.tape import DerivedUse, Role, Step, Tape, leaves
from lightning_plasticity.units.tracing.updates import Updates


@dataclass(eq=False)
class Use:
    """How a weight was used: the unit of each of its rows or columns.

    Args:
        source: The weight.
        role: Whether its rows write (``"in"``) or its columns read (``"out"``).
        labels: Compact labels in the shape of the weight; those of rows also if they are switched off.
        time: When it was first used so.
    """

    source: Source
    role: Role
    labels: Tensor
    time: int


@dataclass(eq=False)
class Execution:
    """Everything that the rules know and change.

    Args:
        labels: The labels and their faults.
        sources: The tensors of the model.
        frames: Which module is being executed.
        label_step: Follows an operation on parameters; given, because the rules know the run and not the run the rules.
        tape: What was computed from parameters only.
        memory: What earlier runs of the model concluded.
        chance: What was drawn at random.
        uses: How weights were used.
        derived: How computed weights were used.
        taps: Where units can be observed.
        clock: Counts the uses of weights.
        runs: Counts the runs of the model.
        decides: Whether the model looked at values that depend on the example, and may take another branch on others.
        gambles: Whether it looked at values that were drawn at random, and may take another branch with others.
        read: What is taken for data while a layer reads it, though it is a constant, with its labels.
    """

    labels: Labels
    sources: Sources
    frames: Frames
    label_step: Callable[[Execution, Step], None]
    tape: Tape = field(default_factory=Tape)
    memory: Memory = field(default_factory=Memory)
    chance: Chance = field(default_factory=Chance)
    uses: dict[tuple[Source, Role, Orientation], Use] = field(default_factory=dict)
    derived: list[DerivedUse] = field(default_factory=list)
    taps: list[TapCandidate] = field(default_factory=list)
    clock: int = 0
    runs: int = 0
    decides: bool = False
    gambles: bool = False
    read: tuple[Tensor, Tensor] | None = None

    def __post_init__(self) -> None:
        self.shadow = Shadow(lambda labels: self.labels.spoil(labels, "its memory is read as another type"))
        self.updates = Updates(self.sources.all)
        self.frames.on_entry = self._take_for_data

    def _take_for_data(self, tensor: Tensor) -> None:
        """Take what the model is run on for data, even if the example makes it from nothing."""
        if self.sources.find(tensor) is None and self.shadow.origin(tensor) is Origin.CONSTANT:
            self.shadow.mark(tensor, Origin.DATA)
            self.shadow.put(tensor, foreign(tensor.ndim))

    # -- what a tensor is -------------------------------------------------------------------------------------------

    def look(self, tensor: Tensor) -> Seen:
        """Return what is known of ``tensor``."""
        if self.read is not None and tensor is self.read[0]:
            return Seen(tensor, None, Origin.DATA, self.read[1])
        key = storage_key(tensor)
        return Seen(tensor, self.sources.find(tensor, key), *self.shadow.look(tensor, key))

    def is_weight(self, tensor: Tensor) -> bool:
        """Return whether ``tensor`` is a parameter, a view of one, or computed from parameters only."""
        return self.look(tensor).is_weight

    def is_data(self, tensor: Tensor) -> bool:
        """Return whether ``tensor`` depends on the example."""
        return self.look(tensor).is_data

    def tell(self, tensors: Iterable[Tensor]) -> None:
        """Note that Python learns the values of ``tensors``, or a shape that depends on them, so that it may branch."""
        for tensor in tensors:
            self.decides |= self.is_data(tensor)
            self.gambles |= self.chance.made(tensor) and not is_loading()

    # -- labels of tensors ------------------------------------------------------------------------------------------

    def of(self, tensor: Tensor | None, kind: SlotKind = "carried") -> Tensor | None:
        """Return the compact labels of ``tensor``, None for a constant.

        A parameter is thereby used element-wise, in the way of ``kind``.
        """
        if tensor is None:
            return None
        seen = self.look(tensor)
        if seen.source is not None and seen.source.is_parameter:
            return self.soft(tensor, kind)
        if seen.origin is Origin.DERIVED:
            self.tape.label(tensor, partial(self.label_step, self))
            self._use_in(tensor, kind)
            seen = self.look(tensor)
        return foreign(tensor.ndim) if seen.labels is None and seen.is_data else seen.labels

    def soft(self, tensor: Tensor | None, kind: SlotKind) -> Tensor | None:
        """Return the labels of the entries of a parameter or buffer that is used element-wise."""
        source = None if tensor is None else self.sources.find(tensor)
        if tensor is None or source is None:
            return self.of(tensor, kind)
        source.elementwise = True
        if not (self.tape.is_labelling and source.is_parameter):  # else it depends on the use of what is computed
            source.kinds.add("carried" if self.tape.is_labelling else kind)
        return self.sources.soft_labels(tensor)

    def _use_in(self, tensor: Tensor, kind: SlotKind) -> None:
        """Note of the parameters in a computed tensor what its element-wise use does with them."""
        if self.tape.is_labelling:
            return
        steps = self.tape.slice(tensor)
        added = summands(tensor, steps, self.sources) if kind in {"bias", "shift"} else set[Source]()
        for source in leaves(steps, self.sources):
            source.kinds.add(kind if source in added else "carried")

    def put(self, tensor: Tensor, labels: Tensor | None) -> None:
        """Set the labels of ``tensor``, which depends on the example; None for nobody."""
        if labels is None and self.is_data(tensor):
            labels = torch.full([1] * tensor.ndim, NOBODY)
        self.shadow.put(tensor, labels)

    def meet(self, a: Tensor | None, b: Tensor | None, manner: Manner = PRODUCT) -> Tensor | None:
        """Return the labels of an element-wise combination, see ``meeting.meet``."""
        return meet(self.labels, a, b, manner)

    def mix(self, of: Tensor | None, dims: list[int], why: str, *, statistic: bool = False) -> Tensor | None:
        """Return the labels of a combination along ``dims``, see ``columns.mix``."""
        return None if of is None else mix(self.labels, of, dims, why, statistic=statistic)

    def joined(self, tensor: Tensor) -> Tensor | None:
        """Return the labels of ``tensor``, with units in place of mixtures, where they can be joined."""
        labels = self.of(tensor)
        return labels if labels is None else joined(self.labels, labels)

    def spoil(self, labels: Tensor | None, why: str) -> None:
        """Declare that ``labels`` are no units."""
        if labels is not None:
            self.labels.spoil(labels, why)

    def end(self, labels: Tensor | None) -> None:
        """Declare that ``labels`` are in the output of the model."""
        if labels is not None:
            self.labels.end(labels)

    # -- weights ----------------------------------------------------------------------------------------------------

    def write_rows(self, weight: Tensor, rows: list[int], contracted: list[int]) -> Tensor:
        """Note that the rows of ``weight`` write units; return their labels in its compact shape."""
        self.clock += 1
        source = self.sources.find(weight)
        if source is None:
            owner = self.tape.name(weight, self.sources)
            along = frozenset(weight.stride(d) for d in contracted if weight.shape[d] > 1)  # tells rows from columns
            born = self.sources.row_labels(owner, weight, rows, along)
            self._derive(weight, "in", born)
            return self.labels.alive(born)
        own = source.own_type(weight)
        along = orientation(source, own, contracted)
        born = self.sources.row_labels(source, own, rows, along)
        source.orientations.add(along)
        source.calls[self.runs] += 1
        self.record(source, "in", along, source.own_shape(own, born, NOBODY), self.clock)
        return self.labels.alive(born.reshape(born.shape[: weight.ndim]))

    def read_columns(self, weight: Tensor, contracted: list[int], columns: Tensor, read: Tensor) -> None:
        """Note that the columns of ``weight`` read units.

        Args:
            weight: The weight as it is used.
            contracted: Its dimensions that are contracted with the activation.
            columns: The unit of every column, compact, in the dimensions of ``weight``.
            read: The activation.
        """
        self.clock += 1
        source = self.sources.find(weight)
        if source is None:
            self._derive(weight, "out", columns)
        else:
            own = source.own_type(weight)
            along = orientation(source, own, contracted)
            source.orientations.add(along)
            source.recurrent |= self._feeds_itself(source, along, columns)
            source.shown |= bool((columns != NOBODY).any()) or not read.is_floating_point() or bool(read.any())
            shown = columns.reshape([*columns.shape, *[1] * (own.ndim - weight.ndim)])
            self.record(source, "out", along, source.own_shape(own, shown, UNREAD), self.clock)
        if (columns > FOREIGN).any():
            self.taps += self.frames.taps(read, self.clock, self._units_of)

    def _units_of(self, tensor: Tensor) -> Tensor | None:
        """Return one label per unit for ``tensor``, compact; several labels of a unit may stand at its positions."""
        labels = self.shadow.labels(tensor)
        return None if labels is None else compact(torch.where(labels > FOREIGN, self.labels.find(labels), labels))

    def _feeds_itself(self, source: Source, along: Orientation, columns: Tensor) -> bool:
        """Return whether the columns of a weight, used for the second time in a run, read what its rows wrote."""
        rows = self.uses.get((source, "in", along))
        if rows is None or not source.calls[self.runs]:
            return False
        read, written = (self.labels.find(labels[labels > 0]) for labels in (columns, rows.labels))
        return bool(torch.isin(read, written).any())

    def _derive(self, weight: Tensor, role: Role, labels: Tensor) -> None:
        end = len(self.tape.steps)
        self.derived.append(DerivedUse(weight, role, labels, self.clock, self.runs, self.frames.path, end))

    def record(self, source: Source, role: Role, along: Orientation, labels: Tensor, time: int) -> None:
        """Note the units of the rows or columns of a weight.

        Args:
            source: The weight.
            role: Whether its rows write or its columns read.
            along: Its orientation.
            labels: Compact labels in its shape; they agree with what was noted before, or are spoiled.
            time: When it was used.
        """
        known = self.uses.get((source, role, along))
        if known is None:
            self.uses[source, role, along] = Use(source, role, labels, time)
        elif known.labels.shape != labels.shape or not torch.equal(known.labels, labels):
            shape = torch.broadcast_shapes(known.labels.shape, labels.shape)  # type: ignore[no-untyped-call]
            a, b = known.labels.expand(shape), labels.expand(shape)
            missing = UNREAD if role == "out" else NOBODY
            both = torch.stack([torch.where(a == missing, b, a), torch.where(b == missing, a, b)], -1).reshape(-1, 2)
            merged = both[:, 0].clone()
            read = merged != UNREAD
            differs = read & (both[:, 0] != both[:, 1])
            if differs.any():
                merged[differs] = agree(self.labels, both[differs])
            known.labels = compact(merged.reshape(a.shape))
