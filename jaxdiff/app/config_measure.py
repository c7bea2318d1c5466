"""Configuration of the measurement that a restoration network is shown."""

import dataclasses
from typing import Literal

from jaxdiff.ranges import NotNegative, Number, Positive, Several


@dataclasses.dataclass(frozen=True)
class Measure:
    """The measurement beside x, drawn anew for every image that is trained on."""

    task: Literal["super", "bicubic", "decimate", "inpaint", "blur", "motion", "colour"] = "super"
    """As in jaxdiff restore; inpaint hides a box of random sides, a quarter to three quarters of
    the image's, at a random place.
    """
    noise: tuple[NotNegative, NotNegative] = (0.0, 0.2)
    """Least and largest standard deviation of the measurement's noise, of images in [-1, 1], drawn
    for every image. The network is told which it is.
    """
    factor: Several | None = None
    """super, bicubic, decimate: how many pixels become one along each axis, 2."""
    width: Positive | None = None
    """blur: standard deviation in pixels, 1. motion: its length, an odd number of pixels, 5."""
    angle: Number | None = None
    """motion: in degrees from along the rows of the image, 0."""
