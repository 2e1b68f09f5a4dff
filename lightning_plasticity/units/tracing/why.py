"""The sentences that say why a label is no unit. A label has one of them: the first, except that some give way."""

OUTPUT = "it reaches the output of the model"

SCALES = "it scales several units at once (a gate or a context), so it is none of them"
ADDED = "it is added to several units at once, so no weight column can read it alone"
DILUTED = "it is combined with a feature that is no unit, so no weight column can read it alone"
COMBINED = "it is combined with other units into one number (a sum, a mean, a maximum), which is used"
MATCHED = "it is multiplied with another activation and summed (like a query with a key)"
INDEX = "it is used as an index"
SHARED = "its weight column also reads a feature that is no unit"
SPREAD = "the weight column that reads it reads other units as well"

GIVE_WAY = frozenset({SCALES, ADDED, DILUTED})
"""What a unit is combined with; if the result reaches the output of the model, that is what is to be said."""
