"""How units are found: the model runs once, and beside every number travels the label of the unit that it belongs to.

A *label* is an integer. Every row of a weight has its own: it is the hidden unit that the row writes. The labels of an
activation are a tensor beside it, kept *compact*: with as many dimensions, but of size 1 along those in which labels do
not vary, such as the batch. What an operation does to labels is said once per class of operations, never per type of
layer: a contraction with a weight reads labels (its columns) and makes new ones (its rows); element by element, labels
*meet*; a reduction mixes them; a view is the same view of the labels. A unit is a label that a row wrote, that columns
read which read nothing else, and that was *spoiled* by nothing on its way.

What is found in ``Linear(2, 3) -> ReLU -> Linear(3, 1)``:

    >>> import torch
    >>> from torch import nn
    >>> from lightning_plasticity.units.tracing.execution import Execution
    >>> from lightning_plasticity.units.tracing.frames import Frames
    >>> from lightning_plasticity.units.tracing.labels import Labels
    >>> from lightning_plasticity.units.tracing.rules import label_step
    >>> from lightning_plasticity.units.tracing.sources import Sources
    >>> from lightning_plasticity.units.tracing.trace import run_under_labels
    >>> from lightning_plasticity.units.tracing.verdict import Verdict
    >>> model, x = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)), torch.randn(5, 2)
    >>> labels, names = Labels(), {module: name for name, module in model.named_modules()}
    >>> run = Execution(labels, Sources(model, labels, names), Frames(names), label_step)
    >>> with torch.no_grad():
    ...     run_under_labels(run, lambda: model(x), training=False, before_write=lambda tensor: None)
    >>> for use in run.uses.values():
    ...     print(use.source.path, {"in": "rows write", "out": "columns read"}[use.role], use.labels.tolist())
    0.weight columns read [[1]]
    0.weight rows write [[2], [3], [4]]
    2.weight columns read [[2, 3, 4]]
    2.weight rows write [[8]]

The input belongs to no unit; its label is 1, *foreign*. The rows of the first weight are the labels 2, 3 and 4. So is
its output, ``[[2, 3, 4]]`` for a tensor ``[5, 3]``, until it meets the bias: the entries of that are labels of a *soft*
kind, 5, 6 and 7, which join the unit that they meet. ReLU is zero where its input is, so the labels pass, and each
column of the second weight reads one of them. The unit of its own row, 8, reaches the output of the model:

    >>> labels.settle()
    >>> verdict = Verdict(run, through_norms=True)
    >>> for entry in verdict.entries:
    ...     print(entry.source.path, entry.role, entry.kind, verdict.good[entry.owners].tolist())
    0.weight out weight [[False]]
    0.weight in weight [[True], [True], [True]]
    2.weight out weight [[True, True, True]]
    2.weight in weight [[False]]
    0.bias None bias [True, True, True]
    2.bias None bias [False]
    >>> labels.reasons[labels.reason[8]]
    'it reaches the output of the model'

No rule asks for the type of a layer. It is looked at in two places besides: batch norms stay in evaluation mode
(``trace``), and of layers that did not run ``reasons`` says what they could read; it also calls recurrent layers by
their name. Read the files in this order:

1. Labels: ``labels`` (what a label is, and which are one unit), ``faults`` (which are none; the reasons are in
   ``why``), both kept in tensors that ``growing`` lengthens; ``meeting`` (labels meet in an element-wise operation),
   ``pairs`` (what comes out, for each two kinds of labels), ``columns`` (many meet in a reduction or a weight column),
   ``joining`` (units that are only used together, as in a maximum of a few, become one).
2. Where labels are kept: ``shadow`` (beside the model's memory), ``source`` and ``sources`` (parameters and buffers,
   and the labels of their rows and entries), ``frames`` (which module is running), ``chance`` (what was drawn at
   random), ``updates`` (which buffers the model writes), ``tape`` (how weights were computed from parameters),
   ``summands`` (which of these are merely added), ``memory`` (what the first run concluded), ``seen`` (what is known of
   a tensor), and all of them together: ``execution``.
3. The run: ``trace`` follows every operation of the model; ``rules`` says what each class of operations does to
   labels; ``computed`` gives the rows and columns of computed weights back to the parameters they were computed from,
   by running their ``recipe`` again.
4. The result: ``verdict`` says which labels are units, ``grouping`` makes them groups, ``reasons`` says why the other
   layers have none.
"""
