"""What each class of operations does to labels.

A rule is a function of the run and the call that returns the labels of the results: one compact tensor (or None) if
there is one result, else a list. Rules are registered under the names of torch's operations; the large classes of
element-wise operations and reductions are recognised by torch's own operator tags. An operation without a rule makes
one mixture of all it reads, which is always safe.
"""

from lightning_plasticity.units.tracing.rules.dispatch import label_step, observe

__all__ = ["label_step", "observe"]
