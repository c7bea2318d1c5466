"""A picture as a new word: an encoder gives, of each image, the rows that a new token stands for.

    v_j(image) = e_start + (f(image) W + b)_j,      j = 1 .. count,      W = b = 0 at the start,

in place of the rows that textual inversion optimises for each subject: conditional projection, as
E4T (Gal et al., 2302.12228, section 4.1: an offset of the domain's word, kept small) and ELITE's
global mapping (Wei et al., 2302.13848, section 3.1: several words) have it. f is any function of
images, usually a frozen image encoder's features. It is trained on a domain, with the base frozen;
one subject is then one evaluation, or a few updates from there.

Deviations: f W + b is linear where E4T has a network over the U-Net's own features, and the domain
tuning of attention weights is a LoRA of the user's.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxdiff.adapt.described import described
from jaxdiff.adapt.frame import adapter_only
from jaxdiff.adapt.patterns import paths
from jaxdiff.adapt.textual_inversion import more_tokens
from jaxdiff.arrays import check
from jaxdiff.brief import short
from jaxdiff.denoisers import denoiser
from jaxdiff.distill.parts.student import Student
from jaxdiff.distill.score_matching import score_matching
from jaxdiff.method import Batch, Context, Method, Metrics, Player
from jaxdiff.typing import Array, Cond, Denoiser, Key, Network, Params

PICTURE = "picture"


@dataclasses.dataclass(frozen=True)
class PictureWords:
    """A text-to-image network whose new tokens are each sample's own, made of its picture.

    Its parameters are {"base": base, "adapter": {"weight", "bias"}}; cond has "picture" (batch,
    ...) beside "text", in which the new tokens have the numbers after the vocabulary's.

    Attributes:
        network: of the base, with a text encoder of its own.
        features: ``features(images) -> (batch, n)``, hashable, its own parameters held.
        start: numbers of the tokens that the words start as, one for each.
        table: path of the table of tokens in the base.
    """

    __repr__ = short

    network: Network
    features: Callable[[Array], Array]
    start: tuple[int, ...]
    table: str = "encoder/tokens/embedding"

    def __call__(
        self, params: Params, x: Array, label: Array, cond: Cond = None, /, **options: Any
    ) -> Any:
        """Apply the network. Raises ValueError for new tokens without pictures."""
        base = jax.tree.map(jax.lax.stop_gradient, params["base"])
        if not isinstance(cond, Mapping) or PICTURE not in cond:
            return self.network(base, x, label, cond, **options)
        given = {key: value for key, value in cond.items() if key != PICTURE}
        if "text" not in given:
            raise ValueError(
                f"cond has a {PICTURE!r} and no 'text', whose new tokens it stands for"
            )
        self.check_cond(cond)
        leaves, structure = jax.tree.flatten(base)
        place = paths(base).index(self.table)
        table, batch = leaves[place], x.shape[0]
        count, known = len(self.start), table.shape[0]
        rows = self.rows(params, cond[PICTURE]).reshape(batch * count, -1)
        leaves[place] = jnp.concatenate([table, rows.astype(table.dtype)])
        ids = jnp.asarray(given["text"])
        own = ids + count * jnp.arange(batch, dtype=ids.dtype)[:, None]
        own = jnp.where(ids < known + count, own, known + batch * count)  # NaN, no other's words
        given["text"] = jnp.where(ids >= known, own, ids)
        network = more_tokens(self.network, batch * count)
        return network(jax.tree.unflatten(structure, leaves), x, label, given, **options)

    def check_cond(self, cond: Cond) -> None:
        """Raise ValueError for known conditions that the network inside does not have, and for
        numbers of tokens that are neither in its vocabulary nor of the new words.
        """
        look = getattr(self.network, "check_cond", None)
        if not isinstance(cond, Mapping) or PICTURE not in cond:
            if look:
                look(cond)
            return
        rest = {key: value for key, value in cond.items() if key not in (PICTURE, "text")}
        if look:
            look(rest)
        if (ids := cond.get("text")) is not None:
            last = self.network.module.encoder.vocabulary + len(self.start) - 1  # type: ignore[attr-defined]
            message = f"cond['text'] must be whole numbers from 0 to {last}"
            check(message, lambda i: bool((i >= 0).all() and (i <= last).all()), ids)

    def rows(self, params: Params, pictures: Array) -> Array:
        """Return the rows of pictures, (batch, count, width)."""
        table = _table(params["base"], self.table)
        first = jnp.asarray(table)[np.asarray(self.start)]
        return first[None] + self.offsets(params, pictures).astype(first.dtype)

    def offsets(self, params: Params, pictures: Array) -> Array:
        """Return what is added to the rows at the start, (batch, count, width)."""
        own = params["adapter"]
        f = self.features(pictures).astype(own["weight"].dtype)
        made = f @ own["weight"] + own["bias"][None]
        return made.reshape(f.shape[0], len(self.start), -1)


def picture_words(
    D: Denoiser,
    features: Callable[[Array], Array],
    start: tuple[int, ...],
    shape: tuple[int, ...],
    table: str = "encoder/tokens/embedding",
) -> jax.tree_util.Partial:
    """Return a text-to-image denoiser with new words that pictures make.

    Args:
        D: as :func:`jaxdiff.denoisers.denoiser` makes it.
        features: ``features(images) -> (batch, n)``, hashable.
        start: numbers of the tokens that the words start as, one for each.
        shape: of a picture.
        table: path of the table of tokens.

    Returns:
        The denoiser, which computes at the start what the base does for the words ``start``.

    Raises:
        TypeError: for another denoiser, or one without a text encoder.
        ValueError: for a table or a token that there is not, and features of another shape.
    """
    made = described(D)
    base, network = made.pop("params"), made.pop("network")
    rows = _table(base, table)
    more_tokens(network, len(start))  # says what lacks
    if not start or [n for n in start if not 0 <= n < rows.shape[0]]:
        raise ValueError(f"words start as tokens from 0 to {rows.shape[0] - 1}, not {start}")
    seen = jax.eval_shape(features, jax.ShapeDtypeStruct((2, *shape), jnp.float32))
    if getattr(seen, "ndim", 0) != 2 or seen.shape[0] != 2:
        raise ValueError(f"features are (batch, n); they are {seen} of two pictures")
    dtype = np.promote_types(np.float32, rows.dtype)
    size = len(start) * rows.shape[1]
    small = {"weight": jnp.zeros((seen.shape[1], size), dtype), "bias": jnp.zeros(size, dtype)}
    words = PictureWords(network, features, tuple(start), table)
    return denoiser(words, {"base": base, "adapter": small}, **made)


def domain_tuning(student: Student, *, penalty: float = 0.01, **matching: Any) -> Method:
    """Train an encoder of pictures on a domain: score matching, and penalty |offset|^2.

    Args:
        student: of :func:`picture_words`; Adam with learning rate 1e-4 of the encoder alone by
            default. No condition is dropped by default.
        penalty: of the mean square of what is added to the rows (E4T's regulariser).
        matching: options of :func:`jaxdiff.distill.score_matching.score_matching`.

    Returns:
        The method, whose batches' "label" has "text" and "picture".

    Raises:
        TypeError: for another student.
        ValueError: for a negative penalty.
    """
    words = student.network
    if not isinstance(words, PictureWords):
        raise TypeError("the student must be that of jaxdiff.adapt.picture_words")
    if not 0 <= penalty < float("inf"):
        raise ValueError(f"a penalty is not negative; got {penalty}")
    optimiser = student.optimiser or adapter_only(optax.adam(1e-4))
    drop = 0.0 if student.label_drop is None else student.label_drop
    method = score_matching(student._replace(optimiser=optimiser, label_drop=drop), **matching)
    one = method.players["student"].loss

    def loss(params: Params, context: Context, batch: Batch, key: Key) -> tuple[Array, Metrics]:
        value, metrics = one(params, context, batch, key)
        offset: Any = words.offsets(params, batch["label"][PICTURE])
        size = jnp.mean(jnp.square(offset)).astype(value.dtype)
        known: Any = metrics
        return value + penalty * size, {**known, "offset": size}

    return method._replace(players={"student": Player(loss, optimiser, ema=student.ema)})


def _table(base: Params, at: str) -> Any:
    named = dict(zip(paths(base), jax.tree.leaves(base), strict=True))
    if at not in named:
        raise ValueError(f"there is no table of tokens at {at}: {', '.join(list(named)[:3])}, ...")
    return named[at]
