"""Every method of distillation by name, with choices for a few thousand updates.

Used by the command line and by the gym; from Python, call the methods of :mod:`jaxdiff.distill`.
"""

from jaxdiff.recipes import consistency, flow_maps, generators, grids, paths, two_time
from jaxdiff.recipes.goal import Goal as Goal
from jaxdiff.recipes.goal import Recipe as Recipe

RECIPES: dict[str, Recipe] = {
    **grids.RECIPES,
    **paths.RECIPES,
    **consistency.RECIPES,
    **two_time.RECIPES,
    **flow_maps.RECIPES,
    **generators.RECIPES,
}
