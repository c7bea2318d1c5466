"""Any adapter as a file of safetensors, trained part alone, and back.

    LoRA, DoRA           layouts of PEFT and kohya      (:mod:`jaxdiff.adapt.lora_file`)
    textual inversion    {token: rows}, as diffusers    (:mod:`jaxdiff.adapt.textual_inversion`)
    SVDiff, whole layers, Custom Diffusion
                         "spectral/PATH", "whole/PATH", "rows", what it is in the header

A file is applied to a base after a check of its names and shapes; nothing is written of an adapter
that does not fit.
"""

import json
import os
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.adapt.described import described
from jaxdiff.adapt.frame import Adapter, check_adapter, network_with, prepare
from jaxdiff.adapt.lora_file import load_lora, save_lora
from jaxdiff.adapt.low_rank import LowRank, combined
from jaxdiff.adapt.svdiff import SpectralShift
from jaxdiff.adapt.textual_inversion import TextualInversion, load_token, save_token
from jaxdiff.adapt.whole import Together, Whole
from jaxdiff.brief import short
from jaxdiff.denoisers import denoiser
from jaxdiff.pretrained.lora import merge_lora
from jaxdiff.pretrained.lora_files import read_changes
from jaxdiff.pretrained.lora_names import layers_of
from jaxdiff.pretrained.saving import write_tensors
from jaxdiff.pretrained.tensors import open_tensors
from jaxdiff.typing import Denoiser, Params

FORMAT = "jaxdiff adapter"


class Loaded(NamedTuple):
    """An adapter of a file. kind: "lora", "dora", "svdiff", "whole", "custom" or
    "textual-inversion". adapter, small: to be applied. token: new one in prompts, "" for none.
    """

    __repr__ = short

    kind: str
    adapter: Adapter
    small: Any
    token: str = ""


def save_adapter(
    path: str | os.PathLike[str],
    base: Params,
    adapter: Adapter,
    small: Params,
    *,
    token: str = "",
    layout: str = "peft",
) -> None:
    """Save the trained part of an adapted network alone.

    Args:
        path: of the file, ``.safetensors``.
        base: the base's parameters.
        adapter: what was trained.
        small: its parameters.
        token: text of its new token, where it has one.
        layout: of LoRA, "peft" or "kohya".

    Returns:
        None, when the file is written.

    Raises:
        ValueError: for an adapter of another base, one that has no file, and a new token without
            its text, before anything is written.
        OSError: where the file cannot be written.
    """
    new = any(isinstance(part, TextualInversion) for part in _parts(adapter))
    if new != bool(token):
        raise ValueError("an adapter with a new token is saved with its text, others without one")
    check_adapter(adapter, prepare_shapes(adapter, base), small)
    if isinstance(adapter, LowRank):
        save_lora(path, base, adapter, small, layout)
    elif isinstance(adapter, TextualInversion):
        save_token(path, token, small)
    else:
        kind, tensors, said = _own(adapter, small)
        said |= {"token": token} if token else {}
        header = {"format": FORMAT, "kind": kind, "adapter": json.dumps(said)}
        write_tensors(path, {k: np.asarray(v) for k, v in tensors.items()}, header)


def load_adapter(path: str | os.PathLike[str], base: Params) -> Loaded:
    """Read an adapter of a file, of any kind that :func:`save_adapter` writes, and LoRA in all
    layouts.

    Args:
        path: of the file.
        base: the base's parameters.

    Returns:
        The adapter.

    Raises:
        OSError: if there is no file.
        ValueError: naming the file or the layer, for another file, and for an adapter of another
            base.
    """
    kind = kind_of(path)
    if kind == "lora":
        adapter, small = load_lora(path, base)
        return Loaded("dora" if adapter.dora else "lora", adapter, small)
    if kind == "textual-inversion":
        token, adapter, small = load_token(path)
        jax.eval_shape(adapter.apply, base, small)
        return Loaded(kind, adapter, small, token)
    tensors = open_tensors(path)
    try:
        said = json.loads(tensors.metadata["adapter"])
        token = said.get("token", "")
        by_prefix: dict[str, dict[str, Any]] = {"spectral": {}, "whole": {}}
        for name in tensors:
            prefix, _, rest = name.partition("/")
            if rest:
                by_prefix[prefix][rest] = jnp.asarray(tensors[name])
        if kind == "custom":
            rows = jnp.asarray(tensors["rows"])
            first = TextualInversion((0,), rows.shape[0], said["table"])
            adapter = Together((first, Whole(tuple(sorted(by_prefix["whole"])))))
            small = {"0": {"rows": rows}, "1": by_prefix["whole"]}
        else:
            small = by_prefix["spectral" if kind == "svdiff" else "whole"]
            adapter = (SpectralShift if kind == "svdiff" else Whole)(tuple(sorted(small)))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{path} is damaged: {error!r}") from error
    check_adapter(adapter, prepare_shapes(adapter, base), small)
    return Loaded(kind, adapter, small, token)


def kind_of(path: str | os.PathLike[str]) -> str:
    """Return which kind of adapter a file is, by its header and names alone.

    Args:
        path: of the file.

    Returns:
        "lora" (DoRA, LoHa, LoKr among them), "textual-inversion", "svdiff", "whole" or "custom".

    Raises:
        OSError: if there is no file.
        ValueError: for a file that is no adapter.
    """
    tensors = open_tensors(path)
    if tensors.metadata.get("format") == FORMAT:
        kind = str(tensors.metadata.get("kind"))
        if kind not in ("svdiff", "whole", "custom"):
            raise ValueError(f"{path} is an adapter of the kind {kind!r:.40}, which is not known")
        return kind
    from jaxdiff.pretrained.textual_inversion import read_tokens

    try:
        read_changes(path)
        return "lora"
    except ValueError as first:
        try:
            read_tokens(path)
            return "textual-inversion"
        except ValueError:
            raise ValueError(f"{path} is no adapter that is read: {first}") from first


def with_adapter(
    D: Denoiser, path: str | os.PathLike[str], scale: float = 1.0
) -> tuple[jax.tree_util.Partial, Loaded | None]:
    """Return a denoiser with a file's adapter merged into its parameters, W + scale dW.

    Args:
        D: as :func:`jaxdiff.denoisers.denoiser` makes it.
        path: of the file, in any layout; several are put in one after the other.
        scale: of the change.

    Returns:
        The denoiser, and what was read; None of that for LoRA, which is merged as it is.

    Raises:
        TypeError: for another denoiser.
        OSError: if there is no file.
        ValueError: for a file that is no adapter or of another base, and a scale other than 1 of
            new tokens.
    """
    made = described(D)
    params = made.pop("params")
    if kind_of(path) == "lora":
        known = layers_of(params)
        parts = [part for part in read_changes(path) if part in known]
        if not parts:
            raise ValueError(f"{path} changes nothing of the {', '.join(known)}")
        for part in parts:
            params = merge_lora(params, path, scale, part=part)
        return denoiser(made.pop("network"), params, **made), None
    loaded = load_adapter(path, params)
    if kind_of(path) == "textual-inversion" and not loaded.token:
        raise ValueError(
            f"{path} does not say its token: jaxdiff.adapt.save_token(path, token, small) writes "
            "what load_token reads of it, with one"
        )
    if loaded.token and scale != 1:
        raise ValueError(f"{path} has a new token, which is put in whole: its scale is 1")
    if loaded.token:
        params = loaded.adapter.apply(params, loaded.small)
    else:
        params = combined(params, [(loaded.adapter, loaded.small)], [scale])
    network = network_with(loaded.adapter, made.pop("network"))
    return denoiser(network, params, **made), loaded


def prepare_shapes(adapter: Adapter, base: Params) -> Any:
    """Return the shapes of what an adapter's ``init`` takes.

    Args:
        adapter: any.
        base: parameters.

    Returns:
        A tree of shapes.
    """
    return jax.eval_shape(lambda b: prepare(adapter, b), base)


def _parts(adapter: Adapter) -> tuple[Adapter, ...]:
    return adapter.adapters if isinstance(adapter, Together) else (adapter,)


def _own(adapter: Adapter, small: Any) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """Return kind, tensors and header of an adapter that has no published layout."""
    match adapter:
        case SpectralShift():
            return "svdiff", {f"spectral/{name}": v for name, v in small.items()}, {}
        case Whole():
            return "whole", {f"whole/{name}": v for name, v in small.items()}, {}
        case Together((TextualInversion() as token, Whole())):
            tensors = {f"whole/{name}": v for name, v in small["1"].items()}
            return "custom", {**tensors, "rows": small["0"]["rows"]}, {"table": token.table}
    raise ValueError(f"a {type(adapter).__name__} has no file; each of its adapters has")
