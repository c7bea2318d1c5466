"""OKDDip: peers that each attend to the others in their own way, and a leader that learns from all.

Of m members the last is the leader, the others are peers a with pooled features h_a and logits z_a:

    alpha_ab = softmax over peers b of (W_q h_a . W_k h_b),   itself included,
    target_a = sum over b of alpha_ab z_b,
    loss = sum of CE + w(step) T^2 [ sum over a of KL(target_a || z_a) + KL(mean z || z_leader) ]

with T = 3, W of an eighth of the features, shared by the peers, and w of
:func:`jaxdiff.classify.online.ramp`. Weights are not symmetric, so that peers keep different
targets and stay diverse. The leader is used alone.

W_q and W_k learn through the targets alone. The authors' code lets gradients into the targets'
logits as well (``reference=True``); here those are constants, and the attention learns still. The
paper has predictions where the code averages logits: ``average="predictions"``.

Source: Chen et al., arXiv 1912.00350 (AAAI 2020), section 3.
"""

from typing import Any, Literal

import jax
import jax.numpy as jnp

from jaxdiff.classify.frame import Recipe, times
from jaxdiff.classify.group import Group
from jaxdiff.classify.losses.logits import distilled_logits, divergence
from jaxdiff.classify.online import ONLINE, labels_of_all, ramp, together, total_of
from jaxdiff.method import Context, Method
from jaxdiff.networks.embedding import wide
from jaxdiff.networks.image_classifier import ImageClassifier
from jaxdiff.typing import Array, Key, Outputs, Params

Average = Literal["logits", "predictions"]


def okddip(
    network: ImageClassifier, *, peers: int = 3, branches: bool = True, temperature: float = 3.0,
    average: Average = "logits", reference: bool = False, reduction: int = 8,
    warmup: float = 80 / 300, recipe: Recipe = ONLINE,
) -> Method:  # fmt: skip
    """Online distillation with diverse peers (Chen et al., arXiv 1912.00350).

    Args:
        network: each of peers and leader.
        peers: their number, 3 in the paper; the leader comes to them.
        branches: they share all but the last stage, or, False, nothing.
        temperature: T. average: what the attention averages. reference: the code's gradients.
        reduction: queries and keys have 1/reduction of the features, at least 1.
        warmup: fraction of the updates after which w is 1.
        recipe: how they are trained.

    ``method.sampler(state)`` is the leader; ``member="ensemble"`` the mean of the peers' logits,
    a number one of the members.
    """
    if average not in ("logits", "predictions"):
        raise ValueError(f'average is "logits" or "predictions"; got {average!r}')
    if peers < 2 or reduction < 1:
        raise ValueError(f"2 peers at least and reduction >= 1; got {peers} and {reduction}")
    pooled = network.outputs().features[-1]
    features = pooled.shape[-1]
    size = max(1, features // reduction)

    def beside(key: Key) -> tuple[Params, Any]:
        draw = jax.nn.initializers.lecun_normal()
        dtype = wide(pooled.dtype)
        q, k = (draw(one, (features, size), dtype) for one in jax.random.split(key))
        return {"query": q, "key": k}, {}

    def loss(
        outputs: list[Outputs], shared: Array | None, params: Params, state: Any, label: Array,
        context: Context,
    ) -> tuple[Array, dict[str, Array], Any]:  # fmt: skip
        h, z = (jnp.stack(x, axis=1) for x in _of_peers(outputs))
        alpha = attention(h, params["query"], params["key"])
        kl = peer_divergence(z, alpha, temperature, average, reference)
        mean = jnp.mean(z, axis=1)
        mean = mean if reference else jax.lax.stop_gradient(mean)
        lead = distilled_logits(outputs[-1].value, mean, temperature)
        ce = labels_of_all(outputs, label)
        total = ce + times(ramp(context.step, recipe, warmup), kl + lead)
        return total, {"ce": ce, "kl": kl, "leader_kl": lead}, state

    return together(
        "okddip", Group(network, peers + 1, branches), loss, recipe, beside, leader=peers,
        peers=tuple(range(peers)),
    )  # fmt: skip


def _of_peers(outputs: list[Outputs]) -> tuple[list[Array], list[Array]]:
    return [o.features[-1] for o in outputs[:-1]], [o.value for o in outputs[:-1]]


def attention(h: Array, query: Array, key: Array) -> Array:
    """Return alpha (batch, peers, peers), which sums to 1 over the last axis, of features (batch,
    peers, k) and matrices (k, l).
    """
    return jax.nn.softmax(jnp.einsum("bak,bck->bac", h @ query, h @ key), axis=2)


def peer_divergence(
    z: Array, alpha: Array, temperature: float, average: Average, reference: bool
) -> Array:
    """Return the sum over peers of T^2 KL(target || own), of logits (batch, peers, classes)."""
    given = z if reference else jax.lax.stop_gradient(z)
    if average == "logits":
        targets = jnp.einsum("bac,bck->bak", alpha, given)
        log_targets = jax.nn.log_softmax(targets / temperature, axis=2)
    else:
        shares = jax.nn.softmax(given / temperature, axis=2)
        log_targets = jnp.log(jnp.einsum("bac,bck->bak", alpha, shares) + 1e-30)
    own = jax.nn.log_softmax(z / temperature, axis=2)
    count = z.shape[1]
    terms = [divergence(own[:, a], log_targets[:, a]) for a in range(count)]
    return temperature**2 * total_of(terms)
