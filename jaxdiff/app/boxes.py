"""Boxes that say where things are to be, of runs of texts (GLIGEN, arXiv 2301.07093).

jaxdiff adapt --run BASE --kind gligen --out boxes.safetensors         boxes of the data
jaxdiff sample --run BASE --adapter boxes.safetensors --prompt TEXT --box 0,0,0.5,0.5:seven

What is in a box is the text encoder's last token of a text: as the encoder is causal, it knows all.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from jaxdiff.app import config as configs
from jaxdiff.app.conditions import prompts_of
from jaxdiff.app.data import composed_of
from jaxdiff.app.models import Model
from jaxdiff.app.options import refuse
from jaxdiff.app.text import in_turn
from jaxdiff.data.dataset import Dataset
from jaxdiff.typing import Cond

KEYS = ("boxes", "box_tokens", "box_mask")
DROPPED = 0.5  # of captions: one that says where things are leaves boxes nothing to say


def started(model: Model, out: str, seed: int) -> Any:
    """Return a model's denoiser with gated layers for boxes at the start of their training.

    out: where these are to be saved. Raises ValueError for a network without a place for them, and
    for a path that is not of a .safetensors file.
    """
    from jaxdiff.adapt import with_boxes
    from jaxdiff.adapt.box_files import check_ending

    check_ending(out)
    try:
        return with_boxes(model.denoiser, key=seed)
    except TypeError as error:
        raise ValueError(f"--kind gligen is not for this model: {error}") from error


def boxes_of(model: Model, data: Dataset, source: configs.Data) -> dict[str, np.ndarray]:
    """Return the boxes of images, a row for each: those that lie beside them, of what
    "box_texts" say, a text for each, or else their captions; of composed pictures those of the
    symbols, of their nouns.

    Raises ValueError for data without boxes, and for boxes that are none or have no text.
    """
    if source.compose is not None:
        made = composed_of(source, progress=False)
        nouns = [made.values["class"][i] for i in made.attributes["class"]]
        return grounding(model, made.boxes(), [[noun] for noun in nouns])
    if "boxes" not in data.conditions:
        raise ValueError(
            f'{data.name} has no boxes: give, beside the images, "boxes": [[left, upper, right, '
            'lower], ...] in [0, 1] and "box_texts": [text, ...] (or "text" alone) in a '
            "metadata.jsonl, and --data.captions True"
        )
    boxes = np.asarray(data.conditions["boxes"], np.float32)
    inside = boxes.ndim == 3 and boxes.shape[2] == 4 and bool(((boxes >= 0) & (boxes <= 1)).all())
    if not inside:
        raise ValueError(
            f"{data.name}: boxes are (left, upper, right, lower) in [0, 1], as many for every "
            f"image; these are {boxes.shape[1:]} from {boxes.min():g} to {boxes.max():g}"
        )
    return grounding(model, boxes, _texts_of(data, boxes))


def _texts_of(data: Dataset, boxes: np.ndarray) -> list[list[str]]:
    """Return what is in each box: its own text, or the caption."""
    own, captions = (data.conditions.get(key) for key in ("box_texts", "text"))
    if own is None:
        if captions is None:
            raise ValueError(f"{data.name} has no captions, which say what is in the boxes")
        return [[text] * boxes.shape[1] for text in captions]
    named = np.asarray(own != "", bool) if own.shape == boxes.shape[:2] else None
    if named is None or (wrong := named != (_areas(boxes) > 0)).any():
        first = 0 if named is None else int(np.argmax(wrong.any(axis=1)))
        raise ValueError(
            f"{data.name}: image {first} has not as many box_texts as boxes that have an area"
        )
    return own.tolist()


def _areas(boxes: np.ndarray) -> np.ndarray:
    sides = np.maximum(boxes[..., 2:] - boxes[..., :2], 0)
    return sides[..., 0] * sides[..., 1]


def grounding(
    model: Model, boxes: np.ndarray, texts: Sequence[Sequence[str]]
) -> dict[str, np.ndarray]:
    """Return the conditions of boxes (n, k, 4) and of what is in each, k texts for each of n. A box
    without an area is not there.
    """
    tokenizer, module = model.tokenizer, model.module
    assert tokenizer is not None
    known = [*dict.fromkeys(text for row in texts for text in row)]
    encode = jax.jit(lambda p, ids: module.encoder.apply({"params": p}, ids).last[:, -1])
    made = np.asarray(encode(model.params["encoder"], tokenizer(known)))
    place = {text: i for i, text in enumerate(known)}
    rows = np.array([[place[text] for text in row] for row in texts])
    there = (_areas(boxes) > 0).astype(np.float32)
    return dict(zip(KEYS, (boxes, made[rows], there), strict=True))


def parsed(given: str) -> tuple[tuple[float, float, float, float], str | None]:
    """Return the ends of a box and what is in it, None for the prompt. ValueError for anything but
    LEFT,UPPER,RIGHT,LOWER in [0, 1], or these and :TEXT.
    """
    numbers, colon, text = given.partition(":")
    ends = _four(numbers)
    inside = all(math.isfinite(n) and 0 <= n <= 1 for n in ends)
    if not inside or ends[2] <= ends[0] or ends[3] <= ends[1] or (colon and not text.strip()):
        raise ValueError(
            "--box is LEFT,UPPER,RIGHT,LOWER in [0, 1], from the upper left corner, or these and "
            f":TEXT; not {given!r}"
        )
    return ends, text.strip() or None


def _four(numbers: str) -> tuple[float, float, float, float]:
    """Return four numbers; four that are none of other text."""
    try:
        left, upper, right, lower = map(float, numbers.split(","))
    except ValueError:
        return math.nan, math.nan, math.nan, math.nan
    return left, upper, right, lower


def attends(model: Model) -> bool:
    """Return whether a run's network has gated layers for boxes."""
    unet = getattr(model.module, "unet", None)
    return bool(getattr(getattr(unet, "unet", unet), "boxes", False))


def boxed(model: Model, cond: Cond, config: configs.Sample) -> Cond:
    """Return the conditions of samples with the boxes that options give. ValueError for boxes that
    no adapter takes, or that are missing.
    """
    if not attends(model) or model.tokenizer is None:
        refuse(config, "no --adapter of --kind gligen takes boxes", "box")
        return cond
    if not config.box:
        raise ValueError("the --adapter says where things are: give a --box")
    each = [parsed(text) for text in config.box]
    prompts = in_turn(prompts_of(config) or ("",), config.count)
    texts = [[text or prompt for _, text in each] for prompt in prompts]
    ends = np.asarray([ends for ends, _ in each], np.float32)
    made = grounding(model, np.repeat(ends[None], config.count, axis=0), texts)
    assert isinstance(cond, dict)
    return cond | made
