"""Networks of a configuration."""

import dataclasses
from typing import Any

import jax.numpy as jnp

from jaxdiff.app import config as configs
from jaxdiff.app import config_network
from jaxdiff.app.shown import channels_of
from jaxdiff.app.text import tokenizer_of
from jaxdiff.typing import Network


def build_network(
    config: config_network.Network,
    classes: int,
    measure: configs.Measure | None = None,
    shape: tuple[int, ...] = (),
    words: Any = None,
    pairs: int = 0,
) -> tuple[Any, Network]:
    """Return the linen module and the network function of a configuration, and of what it is shown
    beside images of a shape. A module of the user's own is taken from its file, which is run.

    words: of the tokenizer, for a network of texts. pairs: channels of another picture that it is
    shown. Raises FileNotFoundError without that file, ValueError for one that has no such class, or
    fields that the class has not.
    """
    from jaxdiff.networks import Beside
    from jaxdiff.networks.adapters import from_linen

    beside = pairs if measure is None else channels_of(measure, shape)
    if isinstance(config, configs.TextUNet):
        wide = (*shape[:-1], shape[-1] + beside) if shape else ()
        module = _of_texts(config, wide, words, classes)
    else:
        module = _module(config, classes)
    module = Beside(module, beside) if beside else module
    return module, from_linen(module)


def _of_texts(config: configs.TextUNet, shape: tuple[int, ...], words: Any, classes: int) -> Any:
    """Return a network of texts and images. ValueError for arrays, or without words."""
    from jaxdiff.networks import small_text_to_image

    tokenizer = tokenizer_of(words)
    if tokenizer is None:
        raise ValueError("a network of texts needs the words of its tokenizer")
    if len(shape) != 3:
        raise ValueError(f"--network text is for images (height, width, channels), not {shape}")
    fields: dict[str, Any] = dataclasses.asdict(config) | {"dtype": jnp.dtype(config.dtype)}
    fields["num_classes"] = classes if fields.pop("classes") else 0
    return small_text_to_image(
        len(tokenizer), tokenizer.length, tokenizer.empty, image_channels=shape[-1], **fields
    )


def _module(config: config_network.Network, classes: int) -> Any:
    from jaxdiff import networks

    if isinstance(config, configs.Module):
        return _user_s(config, classes)
    fields = dataclasses.asdict(config) | {"dtype": jnp.dtype(config.dtype), "num_classes": classes}
    if isinstance(config, configs.MLP):
        return networks.MLP(**fields, flatten=True)
    return (networks.DiT if isinstance(config, configs.DiT) else networks.UNet)(**fields)


def _user_s(config: configs.Module, classes: int) -> Any:
    """Return an instance of the user's class."""
    from jaxdiff.app.image_features import function_in

    kind = function_in(config.source)
    linen = dataclasses.is_dataclass(kind) and hasattr(kind, "apply") and hasattr(kind, "init")
    if not (isinstance(kind, type) and linen):
        raise ValueError(f"{config.source} is not a class of flax.linen modules")
    known = {field.name for field in dataclasses.fields(kind)} - {"name", "parent"}
    if unknown := sorted(set(config.options) - known):
        raise ValueError(
            f"{config.source} has no field {unknown[0]!r}; it has {', '.join(sorted(known))}"
        )
    own: dict[str, Any] = {"num_classes": classes, "dtype": jnp.dtype(config.dtype)}
    own = {name: value for name, value in own.items() if name in known} | config.options
    try:
        return kind(**own)
    except TypeError as error:
        raise ValueError(f"{config.source}: {error}") from error


def compute_dtype(config: config_network.Network | None) -> Any:
    """Return what a denoiser's input is cast to: the dtype of a module of the user's own, and
    nothing for the library's, which cast it themselves.
    """
    return jnp.dtype(config.dtype) if isinstance(config, configs.Module) else None


def with_log_variance(module: Any, wanted: bool) -> Any:
    """Return a module with that head or without. ValueError for one that cannot have it."""
    if getattr(module, "log_variance", None) is not None:
        return module.clone(log_variance=wanted)
    if wanted:
        raise ValueError(f"the network {type(module).__name__} has no field log_variance")
    return module
