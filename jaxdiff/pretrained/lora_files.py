r"""Files of low-rank changes of a model's weights (LoRA, 2106.09685), in the styles they go about
in.

    LoRA        dW = c up down                               c = alpha / rank
    LoHa        dW = c (w1a w1b) * (w2a w2b)                 (2108.06098)
    LoKr        dW = c kron(w1, w2), each a product or whole
    DoRA        dW = m V / |V| - W,  V = W + c up down       (2402.09353), |V| by outputs

of linear layers and of convolutions, whose factors have further axes. c is 1 where a file says no
alpha; alphas and ranks may differ from layer to layer, and each layer has its own here. Names:

    lora_unet_down_blocks_0_..._to_q.lora_down.weight, .alpha      kohya; lora_te_, lora_te1_,
    lora_te2_ unet.down_blocks.0...to_q.lora_A.weight                        PEFT; alphas in the
    file's header unet.down_blocks.0...to_q.lora.down.weight, ....processor.to_q_lora.down.weight
    older

m is ".dora_scale" or ".lora_magnitude_vector"; the first may count inputs in place of outputs,
(1, in), as LyCORIS has it.
"""

import json
import math
import os
import re
from typing import Any, NamedTuple

import numpy as np

from jaxdiff.brief import short
from jaxdiff.pretrained.tensors import Tensors, open_tensors

PREFIXES = {
    "lora_unet_": "unet", "lora_te_": "text_encoder", "lora_te1_": "text_encoder",
    "lora_te2_": "text_encoder_2", "unet.": "unet", "text_encoder.": "text_encoder",
    "text_encoder_2.": "text_encoder_2", "transformer.": "transformer",
}  # fmt: skip
FACTORS = {
    "lora_down": "down", "lora_A": "down", "lora.down": "down", "lora_linear_layer.down": "down",
    "lora_up": "up", "lora_B": "up", "lora.up": "up", "lora_linear_layer.up": "up",
    "lora_mid": "mid",
}  # fmt: skip
_FACTOR = re.compile(
    rf"(.+?)\.({'|'.join(map(re.escape, FACTORS))})(?:\.default(?:_\d+)?)?\.weight"
)
_OLD = re.compile(r"(.+?)\.(?:processor\.)?to_(q|k|v|out)_lora\.(down|up)\.weight")
MAGNITUDE = "lora_magnitude_vector"
_NORMS = re.compile(
    r"(.+?)\.(dora_scale|lora_magnitude_vector)(?:\.default(?:_\d+)?)?(?:\.weight)?"
)
_WHOLE = re.compile(r"(.+?)\.(alpha|hada_(?:w[12]_[ab]|t[12])|lokr_(?:w[12](?:_[ab])?|t2))")
CLIP = {"q": "q_proj", "k": "k_proj", "v": "v_proj", "out": "out_proj"}


class Change(NamedTuple):
    """Factors of one layer in a file. name: of the layer, in the file. factors: by "up", "down",
    "mid", or by LoHa's and LoKr's own names; m of DoRA by its own. scale: what alpha and rank make,
    c.
    """

    __repr__ = short

    name: str
    factors: dict[str, np.ndarray]
    scale: float

    def delta(self, shape: tuple[int, ...]) -> np.ndarray:
        """Return dW in float32, of the published weight's shape. ValueError if it is of another."""
        made = self.scale * _product(self.name, self.factors)
        if made.size != math.prod(shape) or made.shape[0] != shape[0]:
            raise ValueError(
                f"the change of {self.name} has shape {list(made.shape)}; the layer's weight has "
                f"{list(shape)}"
            )
        return made.reshape(shape)

    def changed(self, weight: np.ndarray, scale: float) -> np.ndarray:
        """Return W + scale dW, in float32 at least, of a published weight."""
        wide = np.asarray(weight, np.promote_types(np.float32, weight.dtype))
        delta = np.asarray(self.delta(weight.shape), wide.dtype)
        for name in ("dora_scale", MAGNITUDE):
            if name in self.factors:
                delta = self._rescaled(wide + delta, np.asarray(self.factors[name], wide.dtype),
                                       name) - wide  # fmt: skip
        return wide + scale * delta

    def _rescaled(self, v: np.ndarray, m: np.ndarray, name: str) -> np.ndarray:
        """Return m V / |V|. ValueError for another number of norms than outputs, or inputs."""
        out, into = v.shape[:2]
        by_inputs = name == "dora_scale" and m.ndim > 1 and m.shape[:2] == (1, into)
        axis, count = (1, into) if by_inputs else (0, out)
        if m.size != count:
            raise ValueError(f"{self.name} has {m.size} norms in {name}; the layer has {count}")
        others = tuple(i for i in range(v.ndim) if i != axis)
        norm = np.sqrt(np.sum(v * v, axis=others, keepdims=True))
        return v * (m.reshape(norm.shape) / norm)


def read_changes(path: str | os.PathLike[str]) -> dict[str, dict[str, Change]]:
    """Return the changes of a file: by part of the pipeline ("unet", "text_encoder", ...), by the
    layer's name as the file has it, with "." or with "_" between its words.

    Raises OSError if there is no file, ValueError, by name, for a tensor that is no such change.
    """
    tensors = open_tensors(path)
    found: dict[tuple[str, str], dict[str, np.ndarray]] = {}
    for name in tensors:
        part, module, what = _place(name, tensors)
        own = found.setdefault((part, module), {})
        if what in own:
            raise ValueError(f"{path} says {what!r} of {module} twice")
        own[what] = np.asarray(tensors[name], np.float32)
    said = _header(tensors)
    made: dict[str, dict[str, Change]] = {}
    for (part, module), factors in found.items():
        alpha = factors.pop("alpha", None)
        scale = _scale(factors, None if alpha is None else float(alpha.reshape(())))
        if alpha is None and "down" in factors:
            scale = _peft_scale(said, part, module, factors["down"].shape[0])
            if said.get(f"{part}.use_dora") and not {"dora_scale", MAGNITUDE} & {*factors}:
                raise ValueError(f"{path} is of DoRA, and says no {MAGNITUDE} of {module}")
        made.setdefault(part, {})[module] = Change(module, factors, scale)
    return made


def _place(name: str, tensors: Tensors) -> tuple[str, str, str]:
    """Return the part, the layer and the factor that a tensor's name says."""
    bare = name.removeprefix("base_model.model.")
    prefix = next((p for p in PREFIXES if bare.startswith(p)), "")
    part, rest = PREFIXES.get(prefix, "unet"), bare.removeprefix(prefix)
    if match := _OLD.fullmatch(rest):
        module, letter, way = match.groups()
        last = CLIP[letter] if part != "unet" else f"to_{letter}" + ".0" * (letter == "out")
        return part, f"{module}.{last}", way
    if match := _FACTOR.fullmatch(rest):
        return part, match[1], FACTORS[match[2]]
    if match := _NORMS.fullmatch(rest) or _WHOLE.fullmatch(rest):
        return part, match[1], match[2]
    raise ValueError(
        f"{tensors.source}: {name} is no change of a weight that is supported: LoRA, LoHa, LoKr "
        "and DoRA are, without changed biases and whole weights"
    )


def _header(tensors: Tensors) -> dict[str, Any]:
    """Return what PEFT wrote into the header of a file."""
    text = tensors.metadata.get("lora_adapter_metadata")
    if text is None:
        return {}
    try:
        said = json.loads(text)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{tensors.source}: the header's lora_adapter_metadata: {error}"
        ) from error
    return said if isinstance(said, dict) else {}


def _peft_scale(said: dict[str, Any], part: str, module: str, rank: int) -> float:
    """Return c of a layer, of the header's alpha for it; 1 where it says none."""
    alpha = said.get(f"{part}.lora_alpha")
    for pattern, own in (said.get(f"{part}.alpha_pattern") or {}).items():
        if module == pattern or module.endswith(f".{pattern}"):
            alpha = own
            break
    if alpha is None:
        return 1.0
    return float(alpha) / (math.sqrt(rank) if said.get(f"{part}.use_rslora") else rank)


def _scale(factors: dict[str, np.ndarray], alpha: float | None) -> float:
    """Return c of alpha and the rank of the factors; 1 without alpha, or without a rank."""
    ranks = ("down", "hada_w1_b", "lokr_w1_b", "lokr_w2_b")
    rank = next((factors[name].shape[0] for name in ranks if name in factors), 0)
    return alpha / rank if alpha is not None and rank else 1.0


def _product(name: str, factors: dict[str, np.ndarray]) -> np.ndarray:
    """Return the product of a layer's factors. ValueError if some are missing or do not fit."""
    try:
        if "up" in factors:
            return _lora(factors)
        if "hada_w1_a" in factors:
            first, second = (_part(factors, f"hada_w{i}", f"hada_t{i}") for i in (1, 2))
            return first * second
        first = _part(factors, "lokr_w1", "")
        second = _part(factors, "lokr_w2", "lokr_t2")
        return np.kron(first.reshape(*first.shape, *[1] * (second.ndim - first.ndim)), second)
    except KeyError as error:
        raise ValueError(f"{name} lacks the factor {error.args[0]!r}") from error
    except ValueError as error:
        raise ValueError(f"the factors of {name} do not fit: {error}") from error


def _lora(factors: dict[str, np.ndarray]) -> np.ndarray:
    up, down = factors["up"], factors["down"]
    if "mid" in factors:
        up, down = (f.reshape(f.shape[:2]) for f in (up, down))
        return np.einsum("or,rskl,si->oikl", up, factors["mid"], down)
    flat = up.reshape(up.shape[0], -1) @ down.reshape(down.shape[0], -1)
    return flat.reshape(up.shape[0], *down.shape[1:])


def _part(factors: dict[str, np.ndarray], name: str, core: str) -> np.ndarray:
    """Return one of the two matrices of LoHa and LoKr: whole, or a product, around a core."""
    if name in factors:
        return factors[name]
    left, right = factors[f"{name}_a"], factors[f"{name}_b"]
    if core in factors:
        return np.einsum("rskl,si,ro->oikl", factors[core], right, left)
    return left @ right
