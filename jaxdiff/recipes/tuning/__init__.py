"""Every method of tuning a sampler by name, with choices for minutes.

A tuner is a function ``plan(task, **choices)`` of a :class:`Task`. A search returns tables, of
which the one that does best on the training pairs is taken; a descent returns a :class:`Descent`,
which the training loop runs. Its choices (:mod:`jaxdiff.recipes.choices`) are its keywords, the
paper's numbers by default, and those of the functions it passes others on to. What else is to know
of it is in its :class:`Tuner`, an entry of its file's ``TUNERS``.

Used by ``jaxdiff tune`` and ``experiments.tuning`` through
:func:`jaxdiff.recipes.tuning.solve.solve`; from Python, use :mod:`jaxdiff.tuning`.
"""

from jaxdiff.recipes.tuning import intermediate as intermediate
from jaxdiff.recipes.tuning import kernel, relaxed, samplewise, schedules, weights
from jaxdiff.recipes.tuning.task import Descent as Descent
from jaxdiff.recipes.tuning.task import Task as Task
from jaxdiff.recipes.tuning.task import Tuner as Tuner

TUNERS: dict[str, Tuner] = {
    **schedules.TUNERS,
    **relaxed.TUNERS,
    **weights.TUNERS,
    **intermediate.TUNERS,
    **kernel.TUNERS,
    **samplewise.TUNERS,
}
