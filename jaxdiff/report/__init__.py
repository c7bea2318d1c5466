"""Reports: figures, a self-contained page, and a table for the terminal.

Takes NumPy arrays, numbers and strings; knows of no network and no sampler.
"""

from jaxdiff.report.best_curves import best_against_nfe
from jaxdiff.report.curves import quality_against_nfe, seconds_per_image, training_curves
from jaxdiff.report.images import image_grid, nearest_neighbours, side_by_side, trajectory_strip
from jaxdiff.report.page import Picture, Section, Table, write_page
from jaxdiff.report.terminal import format_table

__all__ = [
    "Picture",
    "Section",
    "Table",
    "best_against_nfe",
    "format_table",
    "image_grid",
    "nearest_neighbours",
    "quality_against_nfe",
    "seconds_per_image",
    "side_by_side",
    "training_curves",
    "trajectory_strip",
    "write_page",
]
