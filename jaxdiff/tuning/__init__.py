"""Tuning samplers: schedules by search, tables by gradient descent.

What is optimised is a table, so one harness serves everything: a *family* says which numbers make a
table, an *objective* what it is to be good at, :func:`tuning` makes a method of both, and
:func:`jaxdiff.tune` runs it.
"""

from jaxdiff.tuning.family import Family as Family
from jaxdiff.tuning.family import concrete as concrete
from jaxdiff.tuning.family import of_grid as of_grid
from jaxdiff.tuning.family import of_weights as of_weights
from jaxdiff.tuning.flatten import flatten as flatten
from jaxdiff.tuning.flatten import unflatten as unflatten
from jaxdiff.tuning.handmade import usual as usual
from jaxdiff.tuning.levels import moving as moving
from jaxdiff.tuning.levels import snapped as snapped
from jaxdiff.tuning.method import Ball as Ball
from jaxdiff.tuning.method import tuning as tuning
from jaxdiff.tuning.objective import end_point as end_point
from jaxdiff.tuning.objective import every_state as every_state
from jaxdiff.tuning.objective import kernel_distance as kernel_distance
from jaxdiff.tuning.path import Path as Path
from jaxdiff.tuning.path import follow as follow
