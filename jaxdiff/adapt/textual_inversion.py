"""Textual inversion: a new token, of which only the rows of the table are trained.

    v* = argmin_v E |eps - eps_theta(x_t, t, c(y; v))|^2      (Gal et al., 2208.01618, eq. 2)

for a few images with texts y that contain the token. The base, its table of tokens included, stays
as it is; a new token's numbers follow the last one's. Custom Diffusion trains the keys and values
of cross-attention with it (Kumari et al., 2212.04488, section 3).
"""

import dataclasses
import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.adapt.patterns import Pattern, paths
from jaxdiff.adapt.whole import KEYS_AND_VALUES, Together, Whole
from jaxdiff.pretrained.textual_inversion import read_tokens, write_tokens
from jaxdiff.typing import Array, Key, Network, Params

TEMPLATES = (
    "a {}", "a photo of a {}", "a picture of one {}", "a close-up of a {}", "the {}", "this is {}",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class TextualInversion:
    """New rows of a table of tokens.

    Its small tree is {"rows": (count, width)}.

    Attributes:
        start: numbers of the tokens whose rows the new ones start as: one, for all of them, or as
            many. The paper's is a word that describes the object coarsely.
        count: of rows, the vectors of the token.
        table: path of the table (vocabulary, width) in the parameters.
    """

    start: tuple[int, ...]
    count: int = 1
    table: str = "encoder/tokens/embedding"

    def init(self, key: Key, base: Params) -> dict[str, Array]:
        """Return copies of rows. Raises ValueError for a token or a table that there is not."""
        del key
        rows = self._table(base)[1]
        if self.count < 1 or len(self.start) not in (1, self.count):
            raise ValueError(
                f"{self.count} rows start as 1 or {self.count} tokens, not {len(self.start)}"
            )
        if wrong := [n for n in self.start if not 0 <= n < rows.shape[0]]:
            raise ValueError(f"the table has {rows.shape[0]} rows: there is no token {wrong[0]}")
        first = np.asarray(self.start * (self.count // len(self.start)))
        return {"rows": jnp.asarray(rows, np.promote_types(np.float32, rows.dtype))[first]}

    def apply(self, base: Params, small: Params) -> Params:
        """Return the parameters with a table of more rows."""
        place, table = self._table(base)
        rows = small["rows"]
        if rows.ndim != 2 or rows.shape[1] != table.shape[1]:
            raise ValueError(
                f"the adapter does not belong to this base: rows {rows.shape}, and the table has "
                f"{table.shape[1]} numbers in each"
            )
        leaves, structure = jax.tree.flatten(base)
        leaves[place] = jnp.concatenate([table, rows.astype(table.dtype)])
        return jax.tree.unflatten(structure, leaves)

    def grown(self, network: Network) -> Network:
        """Return the network of as many tokens more. Raises TypeError for one without a text
        encoder of its own.
        """
        return more_tokens(network, self.count)

    def _table(self, base: Params) -> tuple[int, Any]:
        named = paths(base)
        if self.table not in named:
            raise ValueError(f"there is no table of tokens at {self.table}: {', '.join(named[:3])}")
        place = named.index(self.table)
        return place, jax.tree.leaves(base)[place]


def more_tokens(network: Any, count: int) -> Network:
    """Return a text-to-image network whose vocabulary has more tokens.

    Args:
        network: of a module with a field ``encoder``, which has a ``vocabulary``.
        count: of new tokens.

    Returns:
        The network, whose table of tokens has as many rows more.

    Raises:
        TypeError: for another network.
    """
    module = getattr(network, "module", None)
    encoder = getattr(module, "encoder", None)
    if not hasattr(encoder, "vocabulary"):
        kind = type(network if module is None else module).__name__
        raise TypeError(f"new tokens need a network with a text encoder; a {kind} has none")
    more = encoder.clone(vocabulary=encoder.vocabulary + count)  # type: ignore[union-attr]
    return dataclasses.replace(network, module=module.clone(encoder=more))  # type: ignore[union-attr]


def custom_diffusion(
    start: tuple[int, ...], count: int = 1, layers: Pattern = KEYS_AND_VALUES
) -> Together:
    """Return Custom Diffusion's adapter: a new token, and keys and values of cross-attention.

    Args:
        start: tokens that the new one starts as (:class:`TextualInversion`).
        count: of rows.
        layers: pattern of the kernels that are trained whole.

    Returns:
        The adapter, to be trained with :func:`jaxdiff.adapt.dreambooth`, as the paper does with 200
        images of the class.

    Source:
        Multi-Concept Customization of Text-to-Image Diffusion, arXiv 2212.04488, section 3.
    """
    return Together((TextualInversion(start, count), Whole(layers)))


def save_token(path: str | os.PathLike[str], token: str, small: Params) -> None:
    """Save a learned token alone, as diffusers does: {token: rows}.

    Args:
        path: of the file, ``.safetensors``.
        token: as it is written in prompts.
        small: that was trained.

    Returns:
        None, when the file is written.

    Raises:
        OSError: where the file cannot be written.
    """
    write_tokens(path, {token: np.asarray(small["rows"])})


def load_token(path: str | os.PathLike[str]) -> tuple[str, TextualInversion, Params]:
    """Read a learned token of a file (:func:`jaxdiff.pretrained.read_tokens`).

    Args:
        path: of the file.

    Returns:
        The token's text, "" where the file says none; the adapter and its rows.

    Raises:
        OSError: if there is no file.
        ValueError: for a file of another kind, several tokens, or several text encoders.
    """
    found = read_tokens(path)
    if len(found) != 1 or set(found[0].vectors) != {"text_encoder"}:
        raise ValueError(f"{path} is not of one token of one text encoder")
    rows = found[0].vectors["text_encoder"]
    return found[0].token, TextualInversion((0,), len(rows)), {"rows": jnp.asarray(rows)}
