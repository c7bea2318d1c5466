"""Opening parts of pipelines: autoencoders, encoders of text and images, ControlNets, adapters."""

import os
from pathlib import Path
from typing import Any

from jaxdiff.pretrained.autoencoders import is_autoencoder, read_autoencoder
from jaxdiff.pretrained.cards import AUTOENCODERS
from jaxdiff.pretrained.clip import (
    ImageEncoder,
    TextEncoder,
    read_image_encoder,
    read_text_encoder,
)
from jaxdiff.pretrained.clip_tokenizer import read_tokenizer
from jaxdiff.pretrained.controls import Control, is_control, read_control
from jaxdiff.pretrained.model import Autoencoder
from jaxdiff.pretrained.opening import found, open_source


def load_autoencoder(
    path: str | os.PathLike[str], *, variant: str = "", dtype: Any = None, put: Any = None
) -> Autoencoder:
    """Return the autoencoder in a folder of diffusers, or in one of TAESD's files, which holds the
    encoder or the decoder alone (:func:`jaxdiff.pretrained.autoencoders.taesd` takes both).

    Arguments as :func:`jaxdiff.pretrained.opening.load_pretrained`'s. Raises OSError if there is
    nothing at ``path``, ValueError if it is damaged or no autoencoder.

    Args:
        path: of the folder or file.
        variant: of the weights in a folder, "fp16".
        dtype: of the floating parameters; by default that of the file.
        put: ``put(path, array)`` places each parameter as it is read, on a device or a mesh.

    Returns:
        The autoencoder: parameters, network, and shape, scale and shift of latents.
    """
    path = found(path, AUTOENCODERS)
    source = open_source(path, variant=variant, dtype=dtype, put=put)
    if not is_autoencoder(source):
        raise ValueError(f"{path} is no autoencoder that is known")
    return read_autoencoder(source)


def load_text_encoder(
    path: str | os.PathLike[str],
    tokenizer: str | os.PathLike[str] | None = None,
    *,
    variant: str = "",
    dtype: Any = None,
    put: Any = None,
) -> TextEncoder:
    """Return the text encoder in a folder, with the tokenizer in another if it is given.

    Other arguments as :func:`jaxdiff.pretrained.opening.load_pretrained`'s. Raises OSError if there
    is nothing at ``path``, ValueError if it is damaged or no text encoder of CLIP's.

    Args:
        path: of the folder or file.
        tokenizer: folder of the tokenizer; None for an encoder of token numbers alone.
        variant: of the weights in a folder, "fp16".
        dtype: of the floating parameters; by default that of the file.
        put: ``put(path, array)`` places each parameter as it is read, on a device or a mesh.

    Returns:
        The text encoder, with its tokenizer if any.
    """
    words = None if tokenizer is None else read_tokenizer(Path(tokenizer))
    source = open_source(found(path), variant=variant, dtype=dtype, put=put)
    return read_text_encoder(source, words)


def load_image_encoder(
    path: str | os.PathLike[str], *, variant: str = "", dtype: Any = None, put: Any = None
) -> ImageEncoder:
    """Return the image encoder in a folder, and how it takes images, from preprocessor_config.json
    if there is one. Arguments and errors as :func:`load_text_encoder`'s.

    Args:
        path: of the folder or file.
        variant: of the weights in a folder, "fp16".
        dtype: of the floating parameters; by default that of the file.
        put: ``put(path, array)`` places each parameter as it is read, on a device or a mesh.

    Returns:
        The image encoder.

    Raises:
        OSError: if there is nothing at ``path``.
        ValueError: if it is damaged or no image encoder of CLIP's.
    """
    source = open_source(found(path), variant=variant, dtype=dtype, put=put)
    return read_image_encoder(source)


def load_controlnet(
    path: str | os.PathLike[str], *, variant: str = "", dtype: Any = None, put: Any = None
) -> Control:
    """Return the ControlNet in a folder of diffusers.

    Arguments as :func:`jaxdiff.pretrained.opening.load_pretrained`'s. Raises OSError if there is
    nothing at ``path``, ValueError if it is damaged or no ControlNet.

    Args:
        path: of the folder or file.
        variant: of the weights in a folder, "fp16".
        dtype: of the floating parameters; by default that of the file.
        put: ``put(path, array)`` places each parameter as it is read, on a device or a mesh.

    Returns:
        The ControlNet, for :func:`with_controlnet`.
    """
    return _control(path, "ControlNetModel", variant=variant, dtype=dtype, put=put)


def load_t2i_adapter(
    path: str | os.PathLike[str], *, variant: str = "", dtype: Any = None, put: Any = None
) -> Control:
    """Return the T2I-Adapter in a folder of diffusers. Arguments and errors as
    :func:`load_controlnet`'s.

    Args:
        path: of the folder or file.
        variant: of the weights in a folder, "fp16".
        dtype: of the floating parameters; by default that of the file.
        put: ``put(path, array)`` places each parameter as it is read, on a device or a mesh.

    Returns:
        The T2I-Adapter, for :func:`with_t2i_adapter`.

    Raises:
        OSError: if there is nothing at ``path``.
        ValueError: if it is damaged or no T2I-Adapter.
    """
    return _control(path, "T2IAdapter", variant=variant, dtype=dtype, put=put)


def _control(path: str | os.PathLike[str], kind: str, **options: Any) -> Control:
    source = open_source(found(path), **options)
    if is_control(source) != kind:
        said = source.config.get("_class_name")
        raise ValueError(f"{path} is no {kind}: its config.json names the class {said!r}")
    return read_control(source)
