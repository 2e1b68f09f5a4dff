"""Labels: the ids of units, and which ids are one unit.

A label is an integer that travels beside a number of the model. :data:`NOBODY` says that the number is a constant or
only parameters made it; :data:`FOREIGN` says that it depends on the example but is no unit's (an input, or a unit that
was given up). Three kinds of labels belong to units:

* a *hard* label is a row of a weight: the hidden unit that this row writes;
* a *soft* label is an entry of a parameter that the model uses element-wise (a scale, a slope, a position embedding);
  it joins the unit it meets and never hurts it;
* a *mixture* is a number that depends on several units at once, such as a mean over channels. It does no harm until it
  is used; then its units become one, if that leaves several (``joining``), else they are none. A mixture of a single
  unit (or of entries of parameters) and of foreign data is a *blend*: it does not vanish with the unit, so it is no
  unit; but if all that it does is to scale another unit, it belongs to that one.

Labels that meet one-to-one are *unified* (a union-find says which ids are one unit). A label that cannot be a unit is
*spoiled*, with the reason. Every label made from others remembers its parents, so that spoiling it spoils exactly
the labels it came from.

Tensors of labels are shared, by views, by tensors that have equal labels, and by the memory of earlier runs. So none is
ever written in place once it was handed on. What changes is what :class:`Labels` knows of each.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_plasticity.units.tracing.faults import Faults
from lightning_plasticity.units.tracing.growing import blank
from lightning_plasticity.units.tracing.why import DILUTED

UNREAD = -1
"""Among the labels of the columns of a weight: no layer has read this part of the tensor."""

NOBODY = 0
"""The label of constants; neutral wherever it meets another label."""

FOREIGN = 1
"""The label of data that belongs to no unit; a weight column that reads it can be given to no unit."""

FOREIGN_KIND, BLEND, MIXTURE, SOFT, HARD = range(5)


def foreign(ndim: int) -> Tensor:
    """Return labels, of size 1 in every dimension, of a tensor of data that belongs to no unit."""
    return torch.full([1] * ndim, FOREIGN)


class Labels(Faults):
    """All labels of a discovery: their kinds, their union-find, their faults.

    Ids are never reused, so that a row of a weight has the same label in every run of the model. What is known of each
    is an entry of several tensors. These last as long as the id:

    * ``hard``, ``soft``, ``mixture``: the kind of the label; none of them for nobody and foreign;
    * ``lost``: of a mixture, whether it counts as foreign; it only remembers which units were lost in it;
    * ``statistic``: of a mixture, whether it is a mean, a sum or the like, by which a norm may treat its own input;
    * ``core``: of a blend, a label of the unit (or of the parameter) in it; nobody for all other mixtures;
    * ``core_beside``: of a blend of two units, a label of the second;
    * ``off``, ``off_reason``: whether the label is switched off (foreign in all further runs), and the reason.

    These are what the runs since :meth:`restart` have concluded:

    * ``root``: the union-find: another label of the same unit; its own for the representative;
    * ``has_row``: of a representative, whether there is a hard label in the unit;
    * ``unjoined``: of a soft label, whether it belongs to no unit yet;
    * ``summed``: whether the label was added to another one of its unit, as in a residual stream;
    * ``factor``, ``factor_beside``: of a product of two labels of one unit, what they are;
    * ``offset``: whether the number is not zero where its unit is, as the sigmoid of it;
    * ``shifted``: the label of the same unit for numbers with an offset, 0 while there is none.

    What is wrong with labels, and which labels were made from which, is kept as :class:`~.faults.Faults` says.

    Args:
        room: How many labels there is memory for at first; it doubles as needed.

    Example:
        >>> labels = Labels()
        >>> a, b = labels.fresh(2), labels.fresh(2)
        >>> _ = labels.unify(a, b)
        >>> bool((labels.find(a) == labels.find(b)).all())
        True
    """

    def __init__(self, room: int = 2**16) -> None:
        self.count = 2
        room = max(room, self.count)
        super().__init__(room, FOREIGN + 1)
        self.hard, self.soft, self.mixture = (torch.zeros(room, dtype=torch.bool) for _ in range(3))
        self.lost = torch.arange(room) == FOREIGN
        self.off, self.statistic = (blank(room) for _ in range(2))
        self.off_reason, self.core, self.core_beside = (blank(room, torch.long) for _ in range(3))
        self._all_on = True
        self.restart()

    def restart(self) -> None:
        """Forget unions and faults; keep the ids and what is switched off."""
        room = len(self.soft)
        self.root = torch.arange(room)
        self.has_row, self.unjoined = self.hard.clone(), self.soft.clone()  # every label is a unit of its own again
        self.summed, self.offset = blank(room), blank(room)
        self.shifted, self.factor, self.factor_beside = (blank(room, torch.long) for _ in range(3))
        self.forget_faults(room)

    def fresh(self, number: int, *, soft: bool = False, mixture: bool = False) -> Tensor:
        """Return ``number`` new labels, ``[number]``."""
        first, self.count = self.count, self.count + number
        if self.count > len(self.root):
            have = len(self.root)
            self.grow(max(self.count, 2 * have))
            self.root[have:] = torch.arange(have, len(self.root))
        new = slice(first, self.count)
        self.hard[new] = self.has_row[new] = not (soft or mixture)
        self.soft[new] = self.unjoined[new] = soft
        self.mixture[new] = mixture
        return torch.arange(first, self.count)

    def switch_off(self, which: Tensor) -> None:
        """Let the labels ``which`` (a mask) be foreign in all further runs, for the reasons found."""
        self.off = self.off | which
        self._all_on = False
        self.off_reason = torch.where(which, self.reason, self.off_reason)

    def alive(self, ids: Tensor) -> Tensor:
        """Return ``ids`` with those that are switched off replaced by foreign."""
        return ids if self._all_on else torch.where(self.off[ids], FOREIGN, ids)

    def kind(self, ids: Tensor) -> Tensor:
        """Return the kind of each label (none of them nobody): foreign, a blend, another mixture, soft or hard."""
        lower = self.soft[ids].int() + 2 * self.mixture[ids].int() + (self.core[ids] != NOBODY).int()
        return (HARD - lower) * ~self.lost[ids]

    def find(self, ids: Tensor | None = None) -> Tensor:
        """Return the representative of the unit that each label belongs to, in the shape of ``ids``; default all."""
        found = self.root[: self.count] if ids is None else self.root[ids]
        while True:
            further = self.root[found]
            if torch.equal(further, found):
                return found
            found = further

    def unify(self, a: Tensor, b: Tensor) -> Tensor:
        """Declare that ``a[i]`` and ``b[i]`` are one unit for every ``i``; return the representatives."""
        while True:
            ra, rb = self.find(a), self.find(b)
            if torch.equal(ra, rb):
                return ra
            self.unjoined[ra], self.unjoined[rb] = False, False
            low, high = torch.minimum(ra, rb), torch.maximum(ra, rb)
            self.root.scatter_reduce_(0, high, low, "amin")
            hard = self.has_row[high] | self.has_row[low]
            self.has_row[self.find(low)[hard]] = True

    def adopt(self, soft: Tensor, units: Tensor) -> bool:
        """Unify labels that belong to nobody yet with hard labels, if each of them meets one unit only.

        It is :meth:`unify` for what parameters do nearly always, at a tenth of its time.

        Args:
            soft: Labels of any shape.
            units: Labels, broadcastable to the shape of ``soft``.

        Returns:
            Whether it was so; if not, nothing has changed.
        """
        if not (self.hard[units].all() and self.unjoined[soft].all()):
            return False
        root = self.find(units).expand(soft.shape)
        self.root[soft] = root
        if not torch.equal(self.root[soft], root):
            self.root[soft] = soft
            return False
        self.unjoined[soft] = False
        return True

    def may_vanish(self, ids: Tensor) -> Tensor:
        """Return which labels tell whether the number is zero where the unit is: of units, and of products of two."""
        return self.hard[ids] | (self.core_beside[ids] != NOBODY)

    def rank(self, ids: Tensor, *, adds: bool) -> Tensor:
        """Return by which of several labels of one unit to call what is made of them: by the highest.

        A row stands before a parameter. A sum is zero where all of its summands are, a product where any factor is.
        """
        return 2 * (~self.soft[ids]).int() + (self.offset[ids] == adds).int()

    def child(self, a: Tensor, b: Tensor, *, summed: bool) -> Tensor:
        """Return new labels for numbers that belong to the units ``a[i]`` and ``b[i]``, now one unit.

        Args:
            a: Labels, ``[N]``.
            b: Labels, ``[N]``.
            summed: Whether they were added, as in a residual stream, and not multiplied, as by a gate.
        """
        new = self.fresh(len(a), soft=bool(self.soft[a].all() and self.soft[b].all()))
        self.has_row[new] = self.has_row[a] | self.has_row[b]
        if summed:
            self.writable("summed")[new] = True
        else:
            self.writable("factor")[new], self.writable("factor_beside")[new] = a, b
        self.writable("offset")[new] = self.offset[a] | self.offset[b] if summed else self.offset[a] & self.offset[b]
        self.edges.append((torch.cat([new, new]), torch.cat([a, b])))
        self.unify(a, b)
        self.unify(new, a)
        return new

    def add(self, a: Tensor, b: Tensor) -> None:
        """Note that rows of one unit were added, but for a row and its own product with a gate."""
        own = (
            (self.factor[a] == b) | (self.factor_beside[a] == b) | (self.factor[b] == a) | (self.factor_beside[b] == a)
        )
        self.writable("summed")[a[self.hard[a] & self.hard[b] & ~own]] = True

    def shift(self, ids: Tensor) -> Tensor:
        """Return labels of the same units for numbers that are not zero where the unit is, such as its sigmoid.

        Products of two units become others that are not zero where one of the two is.
        """
        products = (self.core_beside[ids] != NOBODY) & ~self.offset[ids]
        if products.any():
            old = ids[products]
            new = self.blend(self.core[old], [old], self.reasons[int(self.if_used[old[0]])], self.core_beside[old])
            self.writable("offset")[new] = True
            ids = ids.masked_scatter(products, new)
        plain = (self.kind(ids) == HARD) & (ids != NOBODY) & ~self.offset[ids]
        if not plain.any():
            return ids
        parents = ids[plain].unique()  # type: ignore[no-untyped-call]
        parents = parents[self.shifted[parents] == 0]
        if len(parents):
            new = self.fresh(len(parents))
            self.writable("shifted")[parents], self.writable("offset")[new] = new, True
            self.edges.append((new, parents))
            self.unify(new, parents)
        return torch.where(plain, self.shifted[ids], ids)

    def mixtures(self, number: int, child: Tensor, member: Tensor, why: str, *, statistic: bool) -> Tensor:
        """Return ``number`` new mixtures; mixture ``child[i]`` contains the label ``member[i]``.

        Args:
            number: How many mixtures to make.
            child: Positions in ``range(number)``, ``[M]``.
            member: Labels, ``[M]``.
            why: The reason for which the members are spoiled if the mixture is used.
            statistic: Whether they are statistics (means, sums) by which a normalisation may treat its own input.
        """
        new = self.fresh(number, mixture=True)
        if statistic:
            self.writable("statistic")[new] = True
        self.writable("if_used")[new] = self.code(why)
        self.edges.append((new[child], member))
        return new

    def blend(self, core: Tensor, made_from: Sequence[Tensor], why: str, beside: Tensor | None = None) -> Tensor:
        """Return new labels, one per unit, for numbers made from units (or entries of parameters) and foreign data.

        Args:
            core: A label of what each is a blend of, ``[N]``; of one unit where several are the same.
            made_from: Labels that take part, each ``[N]``.
            why: The reason for which they are spoiled if the blend is used.
            beside: A label of a second unit that takes part as ``core`` does, ``[N]``.

        Returns:
            Blends, ``[N]``.
        """
        parts = self.find(core) if beside is None else self.find(core) * self.count + self.find(beside)
        roots, which = parts.unique(return_inverse=True)  # type: ignore[no-untyped-call]
        new = self.fresh(len(roots), mixture=True)
        self.writable("if_used")[new] = self.code(why)
        for chosen in (self.soft[core], ~self.soft[core]):  # a row, if there is one, stands for what joins it
            self.writable("core")[new[which[chosen]]] = core[chosen]
        if beside is not None:
            self.writable("core_beside")[new[which]] = beside
        self.edges.append((new[which].repeat(len(made_from)), torch.cat([*made_from])))
        return new[which]

    def lose(self, units: Tensor) -> Tensor:
        """Return one label that counts as foreign, ``[]``, for numbers in which ``units`` were lost."""
        new = self.fresh(1, mixture=True)
        self.lost[new] = True
        self.writable("if_used")[new] = self.code(DILUTED)
        self.edges.append((new.expand(len(units)), units))
        return new[0]

    def spoil_units(self, roots: Tensor, why: str) -> None:
        """Declare that the units with these representatives, as far as they have rows, are none because of ``why``."""
        roots = roots[self.has_row[roots]].unique()  # type: ignore[no-untyped-call]
        if len(roots):
            self.spoil((torch.isin(self.find(), roots) & self.hard[: self.count]).nonzero()[:, 0], why)

    def members(self, mixtures: Tensor) -> Tensor:
        """Return the labels that are not mixtures themselves among all ancestors of ``mixtures``, ``[M]``."""
        inside = torch.zeros(self.count, dtype=torch.bool)
        inside[mixtures] = True
        for child, parent in reversed(self.edges):
            inside[parent[inside[child] & self.mixture[child]]] = True
        inside &= ~self.mixture[: self.count]
        return inside.nonzero()[:, 0]
