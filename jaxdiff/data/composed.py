r"""Pictures made of pictures, with captions: a symbol of a class, somewhere, in some size and ink.

A grey symbol is made thin or thick (erosion or dilation of its ink), small or large (a half or
three quarters of the canvas' side), put into a corner or the centre of a black canvas, and
coloured. A caption says its class and, each with probability 0.85, the other four attributes, in
varied order and wording:

    "a small thick red seven, upper left"      "top right: a blue two"      "the big yellow one"

Pairs of class and colour with (class + colour) mod colours = 0 are held out: each class is seen in
other colours and each colour on other classes, so that these test composition.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxdiff.brief import short
from jaxdiff.data.dataset import Dataset, to_float

NUMBERS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine",
)  # fmt: skip
FASHION = (
    "t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag",
    "ankle boot",
)  # fmt: skip
VALUES = {
    "position": ("upper left", "upper right", "lower left", "lower right", "centre"),
    "scale": ("small", "large"),
    "thickness": ("thin", "thick"),
    "colour": ("red", "green", "blue", "yellow"),
}
WORDS = {
    "upper left": ("upper left", "top left"), "upper right": ("upper right", "top right"),
    "lower left": ("lower left", "bottom left"), "lower right": ("lower right", "bottom right"),
    "centre": ("centre", "middle"), "small": ("small", "little"), "large": ("large", "big"),
    "thin": ("thin", "fine"), "thick": ("thick", "bold"),
}  # fmt: skip
INKS = np.array([[1, 0.15, 0.15], [0.15, 1, 0.15], [0.25, 0.35, 1], [1, 1, 0.1]], np.float32)
MENTIONED = 0.85
LEAST_SIDE = 8
WORKING = 24  # pixels, at least, of a symbol whose strokes are changed


class Composed(NamedTuple):
    """Composed pictures.

    images: (n, size, size, 3) uint8. captions: n texts. attributes: for each of "class",
    "position", "scale", "thickness" and "colour" the number (n,) of its value. values: the names of
    these. held_out: (n,) booleans, the combinations of the module's text. source: (n,), which
    symbol a picture was made of.
    """

    __repr__ = short

    images: np.ndarray
    captions: tuple[str, ...]
    attributes: dict[str, np.ndarray]
    values: dict[str, tuple[str, ...]]
    held_out: np.ndarray
    source: np.ndarray

    def dataset(self, name: str = "composed", source: str = "") -> Dataset:
        """Return images and captions as a data set; the attributes are not conditions of it."""
        note = f"held-out pairs of class and colour among them: {int(self.held_out.sum())}"
        given = {"text": list(self.captions)}
        return Dataset(self.images, name=name, source=source, notes=(note,), conditions=given)

    def boxes(self) -> np.ndarray:
        """Return where the symbols are, (n, 1, 4): left, upper, right and lower end in [0, 1]."""
        size = self.images.shape[1]
        made = np.empty((len(self.images), 1, 4), np.float32)
        for i, (p, s) in enumerate(
            zip(self.attributes["position"], self.attributes["scale"], strict=True)
        ):
            side = 3 * size // 4 if s else size // 2
            top, left = corner(int(p), size - side)
            made[i, 0] = left, top, left + side, top + side
        return made / size


def compose(
    symbols: Dataset, count: int, *, size: int = 16, seed: int = 0, nouns: Sequence[str] = (),
    held_out: bool | None = False, mentioned: float = MENTIONED,
) -> Composed:  # fmt: skip
    """Return pictures of symbols with captions: see the module's text.

    Args:
        symbols: grey images with labels, light on dark.
        count: of pictures, each of a symbol drawn at random.
        size: side of a picture, a multiple of 4 and at least 8.
        seed: of all choices.
        nouns: what captions call the classes; by default the names of the classes, where these are
            no numbers, and number words.
        held_out: False for combinations to train on alone, True for the held-out ones alone, None
            for any.
        mentioned: probability with which a caption says an attribute.

    Returns:
        The pictures, and all that is known of them.

    Raises:
        ValueError: for images with colours or without labels, another number of nouns, and a size,
            count or probability out of range.
    """
    nouns = _check(symbols, count, size, tuple(nouns))
    values = {"class": nouns, **VALUES}
    chosen, source = _choices(symbols, count, np.random.default_rng([seed, 0]), held_out)
    images = np.zeros((count, size, size, 3), np.uint8)
    for scale in range(2):
        for thick in range(2):
            here = np.flatnonzero((chosen["scale"] == scale) & (chosen["thickness"] == thick))
            if not len(here):
                continue
            grey = (to_float(symbols.images[source[here]])[..., 0] + 1) / 2
            side = size // 2 if scale == 0 else 3 * size // 4
            ink = resized(stroked(grey, bool(thick)), side)
            _place(images, here, ink, chosen)
    captions = tuple(
        caption(
            {name: values[name][chosen[name][i]] for name in values},
            np.random.default_rng([seed, 1, i]),
            mentioned,
        )
        for i in range(count)
    )
    return Composed(images, captions, chosen, values, _is_held_out(chosen), source)


def caption(
    attributes: dict[str, str], rng: np.random.Generator, mentioned: float = MENTIONED
) -> str:
    """Return a caption of attributes, in wording that is drawn.

    Args:
        attributes: "class", and any of "position", "scale", "thickness" and "colour", by their
            names.
        rng: source of the choices.
        mentioned: probability with which each but the class is said.

    Returns:
        The text.

    Raises:
        ValueError: without a class, or for a probability that is none.
    """
    if not 0 <= mentioned <= 1:
        raise ValueError(f"mentioned is a probability, not {mentioned}")
    if "class" not in attributes:
        raise ValueError("a caption needs a class")
    said = {
        name: str(rng.choice(WORDS.get(value, (value,))))
        for name, value in attributes.items()
        if name == "class" or rng.random() < mentioned
    }
    adjectives = [said[name] for name in ("scale", "thickness", "colour") if name in said]
    thing = " ".join([*rng.permutation(adjectives).tolist(), said["class"]])
    article = rng.choice(["an" if thing[0] in "aeiou" else "a", "the", ""], p=[0.6, 0.2, 0.2])
    thing = f"{article} {thing}".strip()
    if "position" not in said:
        return thing
    where = said["position"]
    return (f"{thing}, {where}", f"{thing} in the {where}", f"{where}: {thing}")[rng.integers(3)]


def stroked(grey: np.ndarray, thick: bool) -> np.ndarray:
    """Return symbols (n, side, side) in [0, 1] with thinner or thicker strokes.

    Args:
        grey: light on dark; those of fewer than 24 pixels a side are enlarged first.
        thick: dilation of the ink by a disc of a radius of 7 % of the side; else erosion by one of
            half of that.

    Returns:
        (n, side', side'), side' at least 24.
    """
    from scipy import ndimage

    grey = grey if grey.shape[1] >= WORKING else resized(grey, 3 * grey.shape[1])
    reach = max(1, round(grey.shape[1] * (0.07 if thick else 0.035)))
    across = np.arange(-reach, reach + 1)
    disc = (across[:, None] ** 2 + across[None, :] ** 2 <= reach**2)[None]
    change = ndimage.grey_dilation if thick else ndimage.grey_erosion
    return change(grey, footprint=disc, mode="constant")


def resized(images: np.ndarray, side: int) -> np.ndarray:
    """Return square images (n, from, from) of another side, by a triangular filter whose width is
    that of a pixel of the coarser grid.

    Args:
        images: (n, from, from).
        side: of the result.

    Returns:
        (n, side, side); values stay in the range of those given.
    """
    old = images.shape[1]
    wide = max(1.0, old / side)
    centres = (np.arange(side) + 0.5) * old / side - 0.5
    weights = np.maximum(0, 1 - np.abs(centres[:, None] - np.arange(old)[None]) / wide)
    weights = (weights / weights.sum(axis=1, keepdims=True)).astype(images.dtype)
    return np.einsum("ai,nij,bj->nab", weights, images, weights, optimize=True)


def corner(position: int, free: int) -> tuple[int, int]:
    """Return the top and the left of a symbol at a position.

    Args:
        position: number of the position's value.
        free: pixels that the canvas has more than the symbol, along an axis.

    Returns:
        Rows above it, and columns left of it.
    """
    half = free // 2
    return ((0, 0), (0, free), (free, 0), (free, free), (half, half))[position]


def _choices(
    symbols: Dataset, count: int, rng: np.random.Generator, held_out: bool | None
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Return the attributes of each picture, and the symbol it is made of."""
    source = rng.integers(0, len(symbols), count)
    chosen = {"class": np.asarray(symbols.labels)[source]}
    for name, values in VALUES.items():
        chosen[name] = rng.integers(0, len(values), count).astype(np.int32)
    colours = len(VALUES["colour"])
    apart = -chosen["class"] % colours  # the colour that a class is held out with
    if held_out is True:
        chosen["colour"] = apart.astype(np.int32)
    elif held_out is False:
        shift = rng.integers(1, colours, count)
        chosen["colour"] = ((apart + shift) % colours).astype(np.int32)
    return chosen, source


def _is_held_out(chosen: dict[str, np.ndarray]) -> np.ndarray:
    return (chosen["class"] + chosen["colour"]) % len(VALUES["colour"]) == 0


def _place(
    images: np.ndarray, here: np.ndarray, ink: np.ndarray, chosen: dict[str, np.ndarray]
) -> None:
    """Put ink (k, side, side) into the pictures ``here`` of ``images``."""
    size, side = images.shape[1], ink.shape[1]
    for row, picture in zip(here, ink, strict=True):
        top, left = corner(int(chosen["position"][row]), size - side)
        colour = INKS[chosen["colour"][row]]
        made = np.rint(255 * picture[..., None] * colour).astype(np.uint8)
        images[row, top : top + side, left : left + side] = made


def _check(symbols: Dataset, count: int, size: int, nouns: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names of the classes. Raises ValueError for arguments that do not fit."""
    if symbols.labels is None or symbols.shape[-1] != 1 or not symbols.pictures:
        raise ValueError(f"{symbols.name}: symbols are grey images with labels")
    if symbols.shape[0] != symbols.shape[1]:
        raise ValueError(f"{symbols.name}: symbols are square, not {symbols.shape}")
    if count < 1:
        raise ValueError(f"count must be at least 1, not {count}")
    if size % 4 or size < LEAST_SIDE:
        raise ValueError(f"size must be a multiple of 4, at least {LEAST_SIDE}, not {size}")
    if not nouns:
        names = symbols.class_names
        known = all(name.isdecimal() and int(name) < len(NUMBERS) for name in names)
        nouns = tuple(NUMBERS[int(name)] for name in names) if known else names
    if len(nouns) != symbols.num_classes:
        raise ValueError(f"{symbols.num_classes} classes need as many nouns, not {len(nouns)}")
    return nouns
