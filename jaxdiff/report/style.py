"""The look of all figures of a report, whatever the user's own matplotlib settings are.

Colours: Okabe and Ito's, distinguishable with any colour vision (Wong 2011, Nature Methods 8:441),
in an order of alternating luminance. Lengths are inches; figures are at most 9.2 wide, which is 883
CSS pixels.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ParamSpec, TypeAlias

if TYPE_CHECKING:
    from matplotlib.figure import Figure

P = ParamSpec("P")
Points: TypeAlias = Sequence[tuple[float, float]]

WIDTH = 9.2
TILE = 0.62
GAP = 0.05
EDGE = 0.04
LETTERS = 30  # of a name on one line
PIXELS = 192  # per inch, at least
INK, SOFT, FAINT, BAND = "#26292c", "#6b7075", "#e3e5e6", "#eceeef"
MAGENTA = (255, 0, 200)
COLOURS = ("#0072B2", "#E69F00", "#1d1f21", "#D55E00", "#56B4E9", "#009E73", "#CC79A7")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
DASHES = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)))
STUDENTS = ("*", "p", "h", "8", "d", "H")
STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.color": INK,
    "text.parse_math": False,  # names are shown as they are, dollars included
    "axes.edgecolor": "#9a9fa3",
    "axes.labelcolor": INK,
    "axes.labelsize": 9,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.linewidth": 0.8,
    "grid.color": FAINT,
    "grid.linewidth": 0.7,
    "xtick.color": "#9a9fa3",
    "ytick.color": "#9a9fa3",
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.6,
    "lines.markersize": 5,
}


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Draw in one style, whatever the user's own settings are, and leave those as they were."""

    @functools.wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> Figure:
        import matplotlib

        with matplotlib.rc_context():
            matplotlib.rcdefaults()
            matplotlib.rcParams.update(STYLE)
            return draw(*args, **kwargs)

    return drawn
