"""The proof on the model itself that what was found are units; it shares nothing with the tracing but the slots.

Read the files in this order. ``verify``: which laws there are, and how they are proven together. Then the laws:
``independence`` (nothing else reads the units) and ``exclusivity`` (the readers read nothing else), both tried in
``rounds``; ``need`` (units and readers matter) and ``completeness`` (nothing was forgotten; ``forgotten`` tells what,
where units cannot be exchanged). Then what they stand on: ``laws`` (what a law takes and returns, and whom it blames),
``sandbox`` (a model to experiment with, on a copy of its numbers made by ``swapping``), ``comparison`` (what counts as
a change), ``watching`` (what the taps show), ``effects`` (derivatives, of which ``unread`` and ``summing`` leave some
out), ``computed_weights``, ``batch_norm`` and ``precision``. ``report`` says what was proven.
"""
