"""Files of adapters put into the model of a command: ``--adapter FILE`` or ``FILE:SCALE``."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jaxdiff.app.models import Model
from jaxdiff.app.text import with_token
from jaxdiff.denoisers import description


def parsed(text: str) -> tuple[str, float]:
    """Return the path and the scale of an argument. ValueError for a scale that is none."""
    path, colon, scale = text.rpartition(":")
    try:
        value = float(scale) if colon else 1.0
    except ValueError:
        return text, 1.0  # a colon of the path
    if not math.isfinite(value) or not (path or not colon):
        raise ValueError(f"--adapter is FILE or FILE:SCALE, not {text!r}")
    return (path, value) if colon else (text, 1.0)


def with_adapters(model: Model, texts: Sequence[str]) -> Model:
    """Return a model with files of adapters in it, one after the other.

    Raises OSError if there is no file, ValueError for one that is no adapter, or of another base.
    """
    for text in texts:
        model = _with_one(model, *parsed(text))
    return model


def _with_one(model: Model, path: str, scale: float) -> Model:
    from jaxdiff.adapt.box_files import has_boxes, load_boxes
    from jaxdiff.adapt.files import kind_of, with_adapter
    from jaxdiff.adapt.steering_files import is_steering

    if not Path(path).exists():
        raise FileNotFoundError(f"there is no adapter {path}: jaxdiff adapt --out makes one")
    if description(model.denoiser) is None:
        raise ValueError("this model has no network of its own that an adapter could change")
    if is_steering(path):
        return _steered(model, path, scale)
    if has_boxes(path):
        if scale != 1:
            raise ValueError(f"{path} has gated layers, which are put in whole: its scale is 1")
        return _with_denoiser(model, path, lambda D: load_boxes(D, path))
    source: Any = model.source
    if source is not None and kind_of(path) in ("lora", "textual-inversion"):
        parts = _of_parts(source, path, scale, kind_of(path))
        source = dataclasses.replace(source, parts={**source.parts, **parts})
        if not _of_network(model, path):
            return model._replace(source=source)
    D, loaded = with_adapter(model.denoiser, path, scale)
    made: Any = description(D)
    if source is not None:
        source = dataclasses.replace(source, denoiser=D, params=made["params"])
    module = getattr(made["network"], "module", model.module)
    metadata = dict(model.metadata)
    if loaded is not None and loaded.token:
        known = metadata.get("tokenizer")
        if known is None:
            raise ValueError(f"{path} has the token {loaded.token!r}, and this model takes no text")
        metadata["tokenizer"] = with_token(known, loaded.token, _count(loaded))
    return model._replace(
        denoiser=D, params=made["params"], module=module, source=source, metadata=metadata
    )


def _steered(model: Model, path: str, scale: float) -> Model:
    """Return a model with a ControlNet, T2I-Adapter or IP-Adapter beside its network."""
    from jaxdiff.adapt.steering_files import load_steering, steered
    from jaxdiff.app.control import steering

    control = load_steering(path)
    if steering(model):
        raise ValueError(f"{path} is a second network that a --control would steer by: give one")
    return _with_denoiser(model, path, lambda D: steered(D, control, scale))


def _with_denoiser(model: Model, path: str, change: Callable[[Any], Any]) -> Model:
    """Return a model whose denoiser a file has changed. ValueError for a network that it cannot."""
    try:
        D = change(model.denoiser)
    except TypeError as error:
        raise ValueError(f"{path} is not for this model: {error}") from error
    made: Any = description(D)
    source = model.source
    if source is not None:
        source = dataclasses.replace(source, denoiser=D, params=made["params"])
    module = made["network"].module
    return model._replace(denoiser=D, params=made["params"], module=module, source=source)


def _of_network(model: Model, path: str) -> bool:
    """Return whether a file changes the network that is sampled, not a text encoder alone."""
    from jaxdiff.adapt.files import kind_of
    from jaxdiff.pretrained.lora_files import read_changes
    from jaxdiff.pretrained.lora_names import layers_of

    return kind_of(path) == "lora" and bool({*read_changes(path)} & {*layers_of(model.params)})


def _of_parts(source: Any, path: str, scale: float, kind: str) -> dict[str, Any]:
    """Return the text encoders of a pipeline that a file changes."""
    from jaxdiff.pretrained.lora import merge_lora
    from jaxdiff.pretrained.lora_files import read_changes
    from jaxdiff.pretrained.textual_inversion import with_textual_inversion

    if kind == "textual-inversion":
        if scale != 1:
            raise ValueError(f"{path} has a new token, which is put in whole: its scale is 1")
        return dict(with_textual_inversion(source, path).parts)
    changed = {}
    for part in read_changes(path):
        if part.startswith("text_encoder"):
            if part not in source.parts:
                raise ValueError(f"{path} changes a {part}, which {source!r} does not have")
            own = source.parts[part]
            merged = merge_lora(own.params, path, scale, part=part)
            changed[part] = dataclasses.replace(own, params=merged)
    return changed


def _count(loaded: Any) -> int:
    rows = loaded.small["rows"] if "rows" in loaded.small else loaded.small["0"]["rows"]
    return int(rows.shape[0])
