"""The proof on the model itself that what was found are units; it shares nothing with the tracing but the slots.

Read the files in this order: ``laws`` (what holds of a unit), ``comparison`` (what counts as a change), ``sandbox`` (a
copy of the numbers to experiment with), ``verify`` (all laws on all groups).
"""
