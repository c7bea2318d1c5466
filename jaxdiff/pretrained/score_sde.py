"""Checkpoints of score_sde_pytorch (Song et al. 2011.13456), Apache-2.0, as far as they are read.

A checkpoint is {optimizer, model, ema, step}. The average is a list of tensors without names, in
the order of the model's parameters that are trained. Modules are numbered through, and which of
them does what follows from their order. Read are NCSN++ and DDPM++ with BigGAN's residual blocks,
trained on continuous times; each is a network that EDM has as well
(:class:`jaxdiff.networks.song.SongUNet`), and tensors are renamed to its names first.

    vesde      network/level is the score of x in [0, 1]; its label is log(level)
    vpsde      -network/sigma is the score; its label is 999 t
    subvpsde   likewise

Images have values from -1 to 1 here: the levels of vesde are twice those of its authors. Neither
names nor shapes say which of the last two it is, nor the size of the images, which is taken to have
attention at maps of 16 pixels, as all published ones have; ``config={"sde": ..., "image_size":
...}`` says them. Refused by name: DDPM's residual blocks, NCSN and NCSNv2, residual pyramids on the
way up, class conditions, and tables of steps ("continuous": False).

Source: github.com/yang-song/score_sde_pytorch.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxdiff import grids
from jaxdiff.denoisers import denoiser
from jaxdiff.networks.adapters import from_linen
from jaxdiff.pretrained.edm import layout_of, network_of
from jaxdiff.pretrained.edm_process import Preconditioning, preconditioning
from jaxdiff.pretrained.edm_shapes import shapes_of
from jaxdiff.pretrained.layout import fill
from jaxdiff.pretrained.model import Pretrained, Source
from jaxdiff.pretrained.score_sde_names import edm_names
from jaxdiff.pretrained.tensors import Tensors
from jaxdiff.process import SubVP

KNOWN = {"sde", "image_size", "beta_min", "beta_max", "fir", "continuous", "dropout"}
FIRST = re.compile(r"(?:module\.)?all_modules\.(\d+)\..+")


def read_score_sde(source: Source) -> Pretrained | None:
    """Return the model of such a checkpoint; None for other files.

    Raises ValueError, naming it, for whatever the module's text says is refused, and for an average
    whose tensors are not those of the model.
    """
    if not any(FIRST.fullmatch(name) for name in source.tensors):
        return None
    path, options = str(source.path), source.config
    if strange := sorted(set(options) - KNOWN):
        raise ValueError(f"{path}: config has {', '.join(strange)}, not one of {sorted(KNOWN)}")
    if options.get("continuous") is False:
        raise ValueError(f"{path}: models of a table of steps are not read, continuous ones are")
    tensors, averaged = _averaged(source)
    renamed = edm_names(tensors, path, options.get("image_size"))
    fourier = "map_noise.freqs" in renamed
    residual = any("_aux_" in name and name.startswith("enc.") for name in renamed)
    taps = (1 / 8, 3 / 8, 3 / 8, 1 / 8) if options.get("fir", residual) else (0.5, 0.5)
    module = network_of(renamed.shapes, taps, "")
    own = _sde(tensors, options, fourier, path)
    module = module.clone(sign=own.sign, dropout=float(options.get("dropout", 0)))
    params = fill(shapes_of(module), renamed, layout_of(module, ""),
                  dtype=source.dtype, put=source.put)  # fmt: skip
    D = denoiser(from_linen(module), params, prediction="eps", process=own.process, label=own.label)

    def grid(num_steps: int) -> np.ndarray:
        """Times of equal distance, to the last one that its authors sample at."""
        end = 1e-5 if fourier else 1e-3
        return np.asarray(grids.of_process(own.process, num_steps, end=end))

    return Pretrained(
        D, params, module, (module.resolution, module.resolution, module.in_channels), "eps",
        own.process, grid,
        metadata={
            "name": f"score_sde {source.path.name}", "licence": "Apache-2.0", "averaged": averaged,
            "source": "https://github.com/yang-song/score_sde_pytorch",
            "options": dict(options), "data": "values from -1 to 1",
        },
    )  # fmt: skip


def _averaged(source: Source) -> tuple[Tensors, bool]:
    """The model's tensors, with the numbers of the average if there is one."""
    tensors = source.tensors.renamed(lambda name: name.removeprefix("module."))
    made = source.object.get("ema") if isinstance(source.object, dict) else None
    if made is None:
        return tensors, False
    shadows = made.get("shadow_params") if isinstance(made, dict) else None
    trained = [name for name in tensors if name != "sigmas" and not name.endswith("_modules.0.W")]
    if not isinstance(shadows, list) or [tuple(getattr(s, "shape", ())) for s in shadows] != [
        tensors.shapes[name] for name in trained
    ]:
        raise ValueError(
            f"{source.path}: its average does not hold the model's parameters in order"
        )
    kept = {name: value for name, value in tensors.items() if name not in trained}
    pairs = dict(zip(trained, shadows, strict=True))
    readers: dict[str, Any] = {
        name: (tensors.shapes[name], tensors.dtypes[name],
               lambda name=name: np.asarray(pairs[name] if name in pairs else kept[name]))
        for name in tensors
    }  # fmt: skip
    return Tensors(readers, None, str(source.path)), True


def _sde(tensors: Tensors, options: Mapping[str, Any], fourier: bool, path: str) -> Preconditioning:
    """Process, label and levels, in units of images from -1 to 1."""
    sde = options.get("sde", "vesde" if fourier else None)
    if sde not in ("vesde", "vpsde", "subvpsde") or (sde == "vesde") != fourier:
        raise ValueError(
            f"{path}: config={{'sde': ...}} says which it is, "
            + ("'vesde', by its Fourier features" if fourier else "'vpsde' or 'subvpsde'")
            + f"; not {sde!r}"
        )
    if fourier:
        sigmas = np.asarray(tensors["sigmas"], np.float64)
        ends = {"sigma_min": float(2 * sigmas.min()), "sigma_max": float(2 * sigmas.max())}
        return preconditioning({"class_name": "VEPrecond", **ends})
    low, high = float(options.get("beta_min", 0.1)), float(options.get("beta_max", 20.0))
    own = preconditioning({"class_name": "VPPrecond", "beta_min": low, "beta_d": high - low})
    if sde == "subvpsde":
        process: Any = SubVP(low, high)
        own = own._replace(process=process)
    return own
