"""The proof on the model itself that what was found are units; it shares nothing with the tracing but the slots.

Read the files in this order: ``verify`` (which laws are proven, and of how many units), ``laws`` (of units that nothing
reads, and of silent ones), ``need`` (what matters) and ``completeness`` (what was forgotten); then what they stand on:
``comparison`` (what counts as a change), ``effects`` (derivatives), ``sandbox`` (a copy of the numbers to experiment
with) and ``precision`` (of its runs). ``report`` says what was proven.
"""
