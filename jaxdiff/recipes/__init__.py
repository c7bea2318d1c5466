"""Every method of distillation by name, with choices for a few thousand updates.

Used by the command line and by the gym; from Python, call the methods of :mod:`jaxdiff.distill`.
"""

from jaxdiff.recipes import consistency
from jaxdiff.recipes.goal import Goal as Goal
from jaxdiff.recipes.goal import Recipe as Recipe

RECIPES: dict[str, Recipe] = {**consistency.RECIPES}
