"""How units are found: the model runs once, and beside every number travels the label of the unit that it belongs to.

Nothing here knows any layer type. Read the files in this order:

1. Labels: ``labels`` (what a label is, and which are one unit), ``meeting`` (two labels meet in an element-wise
   operation), ``columns`` (many labels meet in a reduction or in a weight column).
2. Where labels are kept: ``shadow`` (beside the model's memory), ``sources`` (parameters and buffers, and the labels of
   their rows and entries), ``frames`` (which module is running), ``tape`` (how weights were computed from parameters),
   ``memory`` (what the first run concluded), and all of them together: ``execution``.
3. The run: ``trace`` follows every operation of the model; ``rules`` says what each class of operations does to
   labels; ``computed`` gives the rows and columns of computed weights back to the parameters they were computed from.
4. The result: ``verdict`` says which labels are units, ``grouping`` makes them groups, ``reasons`` says why the other
   layers have none.
"""
