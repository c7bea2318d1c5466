"""Every method of distillation by name, with choices for a few thousand updates.

A file per family of :mod:`jaxdiff.distill`, an entry of its ``RECIPES`` per method: the names on
the command line, in the experiments and in the tests are those found here. From Python, call the
methods of :mod:`jaxdiff.distill`.
"""

from jaxdiff.recipes import adversarial, consistency, flow_map, score, trajectory
from jaxdiff.recipes.goal import Goal as Goal
from jaxdiff.recipes.goal import Recipe as Recipe

FAMILIES: dict[str, dict[str, Recipe]] = {
    "trajectory": trajectory.RECIPES,
    "consistency": consistency.RECIPES,
    "flow_map": flow_map.RECIPES,
    "score": score.RECIPES,
    "adversarial": adversarial.RECIPES,
}
RECIPES: dict[str, Recipe] = {
    name: recipe for family in FAMILIES.values() for name, recipe in family.items()
}
