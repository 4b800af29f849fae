"""How far a question about speech lies from what a model was trained on, as rows and test items tell it.

`generalisation` is one of the levels below; `wording_distance` is 0 for a wording that was trained, and 1 for one that shares no
word with any. MTBI (arXiv 2505.18644) calls what is measured at the second level prompt generalisation, at the third task
generalisation.
"""

LEVEL, DISTANCE = "generalisation", "wording_distance"
"""Names of the two fields."""

KNOWN, PROMPT, TASK = "known", "prompt", "task"
"""A trained task in a wording that was trained; a trained task in another wording; a task that no training has."""

LEVELS = (KNOWN, PROMPT, TASK)
