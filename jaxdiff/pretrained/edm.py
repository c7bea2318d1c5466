"""EDM's models (Karras et al. 2206.00364; github.com/NVlabs/edm, licence CC BY-NC-SA 4.0).

A snapshot is a pickle {"ema": network, "loss_fn": ..., "augment_pipe": ..., "dataset_kwargs": ...};
of the network, the class's name and its state are read. A bare file of its tensors, named
``model.enc.32x32_block0.conv0.weight`` and so on, is read too. The architecture follows from names
and shapes; the preconditioning is the class's name:

    EDMPrecond     prediction "edm", c_noise = log(sigma)/4
    VPPrecond      eps of VP, c_noise = (M - 1) t
    VEPrecond      minus eps of VE, c_noise = log(sigma/2)
    iDDPMPrecond   eps of a table of M levels, c_noise the step; as many outputs again are left out

For a bare file (but one of iDDPM, which holds its table) it is to be said:
``load_pretrained(path, config={"class_name": "VPPrecond"})``, with the class's other options if
they are not its defaults.

In this frame one state serves all of them: y is EDM's x. Labels are class indices; without one the
class's vector is 0. Images have values from -1 to 1, channels last.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxdiff.denoisers import denoiser
from jaxdiff.files import naming
from jaxdiff.networks.adapters import from_linen
from jaxdiff.networks.adm import DhariwalUNet
from jaxdiff.networks.song import SongUNet
from jaxdiff.pretrained.edm_process import DEFAULTS, Preconditioning, preconditioning
from jaxdiff.pretrained.edm_shapes import (
    Shapes,
    by_kind,
    first_layer,
    levels_of,
    number_of,
    options_in,
    plain,
    shape_of,
    shapes_of,
    stages_of,
    whole,
)
from jaxdiff.pretrained.layout import Layout, fill
from jaxdiff.pretrained.model import Pretrained, Source
from jaxdiff.pretrained.pickles import Record

PARTS = (
    ("norm0", "norm_in"), ("conv0", "conv_in"), ("affine", "modulation"), ("norm1", "norm_out"),
    ("conv1", "conv_out"), ("skip", "skip"), ("norm2", "attention/norm"), ("qkv", "attention/qkv"),
    ("proj", "attention/out"),
)  # fmt: skip
MODELS = {"SongUNet", "DhariwalUNet"}
# options of the networks' classes, all of which show in names and shapes but the last three
OPTIONS = {
    "img_resolution", "img_channels", "in_channels", "out_channels", "label_dim", "augment_dim",
    "model_channels", "channel_mult", "channel_mult_emb", "num_blocks", "attn_resolutions",
    "embedding_type", "channel_mult_noise", "encoder_type", "decoder_type", "resample_filter",
    "model_type", "use_fp16", "dropout", "label_dropout",
}  # fmt: skip


def read_edm(source: Source) -> Pretrained | None:
    """Return the model of an EDM snapshot, or of a file of its tensors; None for other files.

    Raises ValueError, naming it, for a preconditioning, network or option that is not EDM's, and
    for tensors that do not fit.
    """
    names = list(source.tensors)
    prefix = next((p for p in ("model.", "") if f"{p}map_layer0.weight" in names), None)
    if prefix is None or not any(first_layer(prefix).fullmatch(name) for name in names):
        return None
    with naming(source.path):
        return _read(source, prefix)


def _read(source: Source, prefix: str) -> Pretrained:
    options, tensors = options_of(source), source.tensors
    module = network_of(tensors.shapes, _taps(tensors, prefix), prefix)
    own = preconditioning(options, tensors["u"] if "u" in tensors else None)
    if own.outputs * module.in_channels != _outputs(tensors.shapes, prefix):
        raise ValueError(
            f"{options['class_name']} has {own.outputs} times as many outputs as "
            f"channels; this network has {_outputs(tensors.shapes, prefix)}"
        )
    module = module.clone(
        sign=own.sign, learned_variance=own.outputs == 2, dropout=number_of(options, "dropout", 0)
    )
    return pretrained(source, module, layout_of(module, prefix), own, options)


def pretrained(
    source: Source,
    module: SongUNet | DhariwalUNet,
    layout: Layout,
    own: Preconditioning,
    options: Mapping[str, Any],
) -> Pretrained:
    """Return the model: parameters in place, process and grid of the preconditioning."""
    params = fill(shapes_of(module), source.tensors, layout, dtype=source.dtype, put=source.put)
    D = denoiser(
        from_linen(module), params, prediction=own.prediction, process=own.process,
        sigma_data=own.sigma_data, label=own.label,
    )  # fmt: skip
    return Pretrained(
        D, params, module, (module.resolution, module.resolution, module.in_channels),
        own.prediction, own.process, own.grid, module.num_classes, cond=_condition_text(module),
        metadata={
            "name": f"{type(module).__name__} with {options['class_name']}",
            "source": "https://github.com/NVlabs/edm", "paper": "arXiv 2206.00364",
            "licence": "CC BY-NC-SA 4.0 (non-commercial)", "options": dict(options),
            "sigma_min": own.sigma_min, "sigma_max": own.sigma_max,
            "data": plain(_of(source.object, "dataset_kwargs")),
            "loss": plain(_of(source.object, "loss_fn")),
        },
    )  # fmt: skip


def options_of(source: Source) -> dict[str, Any]:
    """Return the preconditioning's class and its options, of the record of a snapshot, of the
    configuration, or, for iDDPM alone, of what the tensors say.
    """
    record = _of(source.object, "ema")
    options = dict(source.config)
    if isinstance(record, Record):
        own, state = options_in(record), dict(record.state)
        said = {k: v for k, v in state.items() if k in DEFAULTS.get(record.name, {})}
        options = {"class_name": record.name, "dropout": 0.1, **said, **own, **options}
        model = dict(state.get("_modules") or {}).get("model")
        if not isinstance(model, Record) or model.name not in MODELS:
            raise ValueError(f"it has a network {model!r:.60}, which is not EDM's")
    elif "u" in source.tensors:
        options = {"class_name": "iDDPMPrecond", **options}
    if "class_name" not in options:
        raise ValueError(
            "its tensors do not say how the network is preconditioned; "
            f'load_pretrained(path, config={{"class_name": ...}}) with one of {", ".join(DEFAULTS)}'
        )
    options["class_name"] = str(options["class_name"]).rpartition(".")[2]
    if options["class_name"] not in DEFAULTS:
        raise ValueError(
            f"a preconditioning {options['class_name']!r}, which is none of {', '.join(DEFAULTS)}"
        )
    known = OPTIONS | set(DEFAULTS[options["class_name"]]) | {"class_name"}
    if strange := sorted(set(options) - known):
        raise ValueError(f"{options['class_name']} has no option {', '.join(strange)}")
    return options


def network_of(shapes: Shapes, taps: tuple[float, ...] | None, prefix: str = "model.") -> Any:
    """Return the network that has tensors of these names and shapes: SongUNet or DhariwalUNet.

    taps: the filter that is among the tensors, None without one. Raises ValueError for names that
    are of neither.
    """
    own = {n.removeprefix(prefix): s for n, s in shapes.items() if n.startswith(prefix)}
    resolution, levels = levels_of(own)
    attends, widths, blocks = stages_of(own, resolution, levels)
    first = shape_of(own, f"enc.{resolution}x{resolution}_conv.weight", 4)
    song = not any(name.startswith("out_norm.") for name in own)
    label, augment = (
        shape_of(own, name, 2)[1] if name in own else 0
        for name in ("map_label.weight", "map_augment.weight")
    )
    embedding, waves = shape_of(own, "map_layer0.weight", 2)
    channels = first[0] if song else waves
    common = {
        "resolution": resolution, "in_channels": first[1], "channels": channels,
        "multipliers": tuple(whole(w, channels) for w in widths), "blocks": blocks,
        "attention": attends, "num_classes": label,
        "augment": augment, "embedding": whole(embedding, channels),
    }  # fmt: skip
    if not song:
        if taps not in (None, (0.5, 0.5)):
            raise ValueError(f"DhariwalUNet with a filter {taps}, which is not EDM's")
        return DhariwalUNet(**common)
    encoder = "residual" if _any(own, "_aux_residual") else "skip" if _any(own, "_aux_skip") else ""
    return SongUNet(
        **common, waves=whole(waves, channels),
        fourier="map_noise.freqs" in own, encoder=encoder or "standard",
        decoder="skip" if _any(own, "_aux_norm", levels > 1) else "standard",
        taps=taps or (0.5, 0.5),
    )  # fmt: skip


def layout_of(module: SongUNet | DhariwalUNet, prefix: str = "model.") -> Layout:
    """Return where the published tensors of a network belong in it."""
    root, rules = re.escape(prefix), []
    for level in range(len(module.multipliers)):
        size = f"{module.resolution >> level}x{module.resolution >> level}"
        for theirs, ours in PARTS:
            rules += [
                (rf"{root}enc\.{size}_block(\d+)\.{theirs}", rf"down_{level}_block_\1/{ours}"),
                (rf"{root}dec\.{size}_block(\d+)\.{theirs}", rf"up_{level}_block_\1/{ours}"),
                (rf"{root}enc\.{size}_down\.{theirs}", f"down_{level}_resample/{ours}"),
                (rf"{root}dec\.{size}_up\.{theirs}", f"up_{level}_resample/{ours}"),
                (rf"{root}dec\.{size}_in(\d)\.{theirs}", rf"middle_\1/{ours}"),
            ]
        rules += [
            (rf"{root}enc\.{size}_conv", "conv_in"),
            (rf"{root}enc\.{size}_aux_(?:skip|residual)", f"down_{level}_image"),
            (rf"{root}dec\.{size}_aux_norm", f"up_{level}_norm_out"),
            (rf"{root}dec\.{size}_aux_conv", f"up_{level}_conv_out"),
        ]
    rules += [
        (rf"{root}map_layer(\d)", r"embedding/dense_\1"),
        (rf"{root}map_label", "embedding/class"),
        (rf"{root}map_augment", "embedding/augment"),
        (rf"{root}map_noise\.freqs", "embedding/frequencies"),
        (rf"{root}out_norm", "norm_out"),
        (rf"{root}out_conv", "conv_out"),
    ]
    head_channels = getattr(module, "head_channels", None)

    def change(name: str, value: np.ndarray) -> np.ndarray:
        if ".qkv." not in name:
            return value
        return by_kind(value, value.shape[0] // 3 // (head_channels or value.shape[0] // 3))

    return Layout(tuple(rules), unused=(rf"{root}.*\.resample_filter", "u"), change=change)


def _any(names: Shapes, part: str, where: bool = True) -> bool:
    """Return whether a part occurs; of the way up's, in a level other than the finest."""
    resolution = levels_of(names)[0]
    return where and any(
        part in name and not name.startswith(f"dec.{resolution}x") for name in names
    )


def _taps(tensors: Mapping[str, Any], prefix: str) -> tuple[float, ...] | None:
    """Return the filter of the resampling blocks, which must be one, of sum 1; None without."""
    found = set()
    for name in tensors:
        if name.startswith(prefix) and name.endswith(".resample_filter"):
            square = np.asarray(tensors[name], np.float64)
            if square.ndim != 4 or square.shape[:2] != (1, 1) or not square.size:
                raise ValueError(f"{name} is not a filter: its shape is {list(square.shape)}")
            square = square[0, 0]
            found.add(tuple(np.round(square.sum(axis=0), 6).tolist()))
            outer = np.outer(square.sum(axis=0), square.sum(axis=0))
            if outer.shape != square.shape or not np.allclose(outer, square, atol=1e-5):
                raise ValueError(f"{name} is not the square of a filter")
    if len(found) > 1:
        raise ValueError(f"filters {sorted(found)}, where one is expected")
    return found.pop() if found else None


def _outputs(shapes: Shapes, prefix: str) -> int:
    resolution, _ = levels_of({n.removeprefix(prefix): s for n, s in shapes.items()})
    last = f"{prefix}dec.{resolution}x{resolution}_aux_conv.bias"
    return shape_of(shapes, last if last in shapes else f"{prefix}out_conv.bias", 1)[0]


def _condition_text(module: SongUNet | DhariwalUNet) -> str:
    augment = f'{{"class": ..., "augment": (batch, {module.augment})}}'
    said = ("class indices" * bool(module.num_classes), augment * bool(module.augment))
    return " or ".join(filter(None, said))


def _of(made: Any, name: str) -> Any:
    """Return an entry of a snapshot, or what is no snapshot itself."""
    return made.get(name) if isinstance(made, dict) else made
