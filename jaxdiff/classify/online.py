"""Classifiers that learn from each other: mutual learning, collaborative learning, ensembles.

With m members, T = 3 and a ramp w that grows to 1:

    DML      member i:  CE(z_i) + mean over j != i of KL(p_j || p_i), T = 1, one after the other
    CL-ILR   sum of CE(z_i) + w T^2 KL(target_i || z_i), target_i = mean of the others' logits; the
             gradient into what they share divided by m
    ONE      z = sum of g_i z_i with gates g = softmax(relu(norm(W mean(shared map)))),
             sum of CE(z_i) + CE(z) + w T^2 sum of KL(z || z_i)

    w(step) = exp(-5 (1 - min(step / ramp, 1))^2).

Sources: DML, Zhang et al., arXiv 1706.00384; CL-ILR, Song and Chai, arXiv 1805.11761; ONE, Lan et
al., arXiv 1806.04606; the last two in the form that OKDDip, Chen et al., arXiv 1912.00350, compares
them in, whose recipe is the default: 300 epochs in batches of 128, SGD with Nesterov's momentum at
rate 0.1, a tenth of it after 150 and 225.
"""

import functools
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jaxdiff.classify.frame import Recipe, check_classes, draw, in_full, right, times
from jaxdiff.classify.group import Group
from jaxdiff.classify.losses.logits import cross_entropy, distilled_logits
from jaxdiff.classify.trained import Ensemble, Trained, check_batch
from jaxdiff.method import Batch, Context, Method, Player, WithState
from jaxdiff.networks.image_classifier import ImageClassifier
from jaxdiff.networks.transfer import Connector
from jaxdiff.typing import Array, Key, Outputs, Params

ONLINE = Recipe(117_300, 0.1, (150 / 300, 225 / 300), 5e-4, 0.9, True)
Member = int | Literal["leader", "ensemble"]
GroupLoss = Callable[..., tuple[Array, dict[str, Array], Any]]


def ramp(step: Array, recipe: Recipe, share: float = 80 / 300) -> Array:
    """Return w of the step, which reaches 1 after ``share`` of the updates."""
    if not 0 <= share <= 1:
        raise ValueError(f"the warm-up is a fraction of the updates, 0 to 1; got {share}")
    left = 1.0 - jnp.minimum(step.astype(jnp.float32) / max(1.0, share * recipe.num_updates), 1.0)
    return jnp.exp(-5.0 * left**2)


def together(
    name: str,
    group: Group,
    loss: GroupLoss,
    recipe: Recipe,
    beside: Callable[[Key], tuple[Params, Any]] = lambda key: ({}, {}),
    shared_gradient: float = 1.0,
    leader: int = 0,
    peers: tuple[int, ...] | None = None,
) -> Method:
    """Return the method of a group that is one player.

    Args:
        name: what errors call it.
        group: the classifiers.
        loss: ``loss(outputs, shared map, params, state, label, context) -> (scalar, metrics,
            state)``, params and state being those of ``beside``.
        recipe: how they are trained.
        beside: ``beside(key) -> (parameters, state)``, what is trained besides.
        shared_gradient: of :meth:`jaxdiff.classify.group.Group.training`.
        leader, peers: members that the sampler returns as "leader", and averages as "ensemble".

    ``method.sampler(state, member="leader")`` is a Trained, or, of "ensemble", an Ensemble.
    """
    everyone = tuple(range(group.members)) if peers is None else peers
    classes = group.network.outputs().value.shape[1]
    check_classes(name, classes)

    def init(key: Key) -> dict[str, Any]:
        first, second = jax.random.split(key)
        own, (params, state) = group.init(first), beside(second)
        whole = {"members": own.value, "beside": params}
        return {"group": WithState(whole, {"members": own.state, "beside": state})}

    def group_loss(params: Params, context: Context, batch: Batch, key: Key) -> Any:
        known, label = context.network_state["group"], batch["label"]
        own = WithState(params["members"], known["members"])
        made, shared, after = group.training(
            own, batch["image"], context.axis_name, shared_gradient
        )
        outputs = [in_full(one) for one in made]
        total, metrics, state = loss(
            outputs, shared, params["beside"], known["beside"], label, context
        )
        metrics |= {
            "right": right(outputs[leader].value, label),
            "diversity": diversity([outputs[i].value for i in everyone]),
        }
        return total, WithState(metrics, {"members": after, "beside": state})

    def sampler(state: Any, *, member: Member = "leader") -> Trained | Ensemble:
        whole = WithState(state.params["group"]["members"], state.network_state["group"]["members"])
        return chosen(
            [Trained(group.network, group.member(whole, i)) for i in range(group.members)],
            member, leader, everyone,
        )  # fmt: skip

    def check(batch: Batch) -> None:
        check_batch(batch, group.network, classes, name)

    return Method(init, {"group": Player(group_loss, recipe.sgd())}, sampler, None, check)


def chosen(
    trained: list[Trained], member: Member, leader: int, peers: tuple[int, ...]
) -> Trained | Ensemble:
    """Return one of several classifiers, or some as an ensemble. Raises ValueError for others."""
    if member == "ensemble":
        return Ensemble(tuple(trained[i] for i in peers))
    number = leader if member == "leader" else member
    if not isinstance(number, int) or not 0 <= number < len(trained):
        raise ValueError(
            f'member is "leader", "ensemble" or 0 to {len(trained) - 1}; got {member!r}'
        )
    return trained[number]


def diversity(logits: list[Array]) -> Array:
    """Return the mean distance of the members' predictions, over pairs and samples."""
    shares = [jax.nn.softmax(z, axis=1) for z in logits]
    apart = [
        jnp.mean(jnp.sqrt(jnp.sum((a - b) ** 2, axis=1)))
        for i, a in enumerate(shares)
        for b in shares[i + 1 :]
    ]
    return jnp.mean(jnp.stack(apart)) if apart else jnp.zeros((), shares[0].dtype)


def total_of(terms: list[Array]) -> Array:
    """Return the sum of scalars."""
    return functools.reduce(jnp.add, terms)


def labels_of_all(outputs: list[Outputs], label: Array) -> Array:
    """Return the sum of the members' cross-entropies."""
    return total_of([cross_entropy(o.value, label) for o in outputs])


def mutual_learning(
    network: ImageClassifier, *, members: int = 2, recipe: Recipe = ONLINE
) -> Method:
    """Deep mutual learning: networks of their own, updated one after the other (Zhang et al.,
    arXiv 1706.00384, algorithm 1). The leader is the first.
    """
    group = Group(network, members, False)
    names = [f"member{i}" for i in range(members)]
    classes = network.outputs().value.shape[1]
    check_classes("mutual_learning", classes)

    def init(key: Key) -> dict[str, Any]:
        whole = group.init(key)
        return {name: group.member(whole, i) for i, name in enumerate(names)}

    def of(name: str) -> Player:
        def loss(params: Params, context: Context, batch: Batch, key: Key) -> Any:
            label, states = batch["label"], context.network_state
            out, after = network.training(
                WithState(params, states[name]), batch["image"], context.axis_name
            )
            out = in_full(out)
            ce, terms = cross_entropy(out.value, label), []
            for other in names:
                if other != name:
                    variables = WithState(context.params[other], states[other])
                    seen, _ = network.training(variables, batch["image"], context.axis_name)
                    terms.append(distilled_logits(out.value, in_full(seen).value, 1.0))
            kl = total_of(terms) / len(terms)
            return ce + kl, WithState({"ce": ce, "kl": kl, "right": right(out.value, label)}, after)

        return Player(loss, recipe.sgd())

    def sampler(state: Any, *, member: Member = "leader") -> Trained | Ensemble:
        trained = [
            Trained(network, WithState(state.params[n], state.network_state[n])) for n in names
        ]
        return chosen(trained, member, 0, tuple(range(members)))

    def check(batch: Batch) -> None:
        check_batch(batch, network, classes, "mutual_learning")

    return Method(init, {name: of(name) for name in names}, sampler, None, check)


def collaborative_learning(
    network: ImageClassifier, *, members: int = 4, branches: bool = True, temperature: float = 3.0,
    warmup: float = 80 / 300, recipe: Recipe = ONLINE,
) -> Method:  # fmt: skip
    """CL-ILR: each from the mean of the others, gradients into the shared part scaled (Song and
    Chai, arXiv 1805.11761). branches: share all but the last stage, or nothing.
    """

    def loss(
        outputs: list[Outputs], shared: Any, params: Params, state: Any, label: Array,
        context: Context,
    ) -> tuple[Array, dict[str, Array], Any]:  # fmt: skip
        logits = [jax.lax.stop_gradient(o.value) for o in outputs]
        terms = []
        for i, o in enumerate(outputs):
            others = jnp.stack([z for j, z in enumerate(logits) if j != i])
            terms.append(distilled_logits(o.value, jnp.mean(others, axis=0), temperature))
        ce, kl = labels_of_all(outputs, label), total_of(terms)
        total = ce + times(ramp(context.step, recipe, warmup), kl)
        return total, {"ce": ce, "kl": kl}, state

    group = Group(network, members, branches)
    return together("collaborative_learning", group, loss, recipe, shared_gradient=1.0 / members)


def native_ensemble(
    network: ImageClassifier, *, members: int = 4, temperature: float = 3.0,
    warmup: float = 80 / 300, recipe: Recipe = ONLINE,
) -> Method:  # fmt: skip
    """ONE: branches learn from their own gated ensemble (Lan et al., arXiv 1806.04606).

    Deviation: its logits are a target, without a gradient through the divergences.
    """
    group, module = Group(network, members, True), Connector(members, True)
    shared_map = network.outputs().features[-3]

    def beside(key: Key) -> tuple[Params, Any]:
        example = jax.ShapeDtypeStruct((1, shared_map.shape[-1]), shared_map.dtype)
        return jax.jit(lambda k: draw({"gate": (module, example)}, k))(key)

    def loss(
        outputs: list[Outputs], shared: Any, params: Params, state: Any, label: Array,
        context: Context,
    ) -> tuple[Array, dict[str, Array], Any]:  # fmt: skip
        pooled = jnp.mean(shared.astype(outputs[0].value.dtype), axis=(1, 2))
        gate, after = module.apply(
            {"params": params["gate"], **state["gate"]}, pooled, train=True,
            axis_name=context.axis_name, mutable=list(state["gate"]),
        )  # fmt: skip
        shares = jax.nn.softmax(gate, axis=1)
        logits = jnp.stack([o.value for o in outputs], axis=1)
        z = jnp.einsum("bm,bmk->bk", shares, logits)
        target = jax.lax.stop_gradient(z)
        terms = [distilled_logits(o.value, target, temperature) for o in outputs]
        ce, kl = labels_of_all(outputs, label) + cross_entropy(z, label), total_of(terms)
        total = ce + times(ramp(context.step, recipe, warmup), kl)
        return total, {"ce": ce, "kl": kl}, {"gate": after}

    return together("native_ensemble", group, loss, recipe, beside)
