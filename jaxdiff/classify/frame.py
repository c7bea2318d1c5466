"""The frame of methods that distil a trained classifier into a student.

    loss = a CE(z_s, label) + b T^2 KL(softmax(z_t / T) || softmax(z_s / T)) + c term

The student and what a term trains beside it (regressors, embeddings) are one player with one
optimiser; the teacher is frozen and in evaluation. Losses are computed in float32 at least, also of
networks that compute in less. Its recipe by default is the one that the
authors of SimKD and SemCKD compare methods by: a = b = 1, T = 4, SGD of momentum 0.9, weight decay
5e-4 and rate 0.05, a tenth of it after 150, 180 and 210 of 240 epochs, batches of 64.

Sources: Chen et al., arXiv 2203.14001 (SimKD) and arXiv 2012.03236 (SemCKD), appendices.
"""

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxdiff.brief import short
from jaxdiff.classify.losses.logits import cross_entropy, distilled_logits
from jaxdiff.classify.trained import Trained, check_batch
from jaxdiff.method import Batch, Context, Method, Player, WithState
from jaxdiff.networks.embedding import wide
from jaxdiff.networks.image_classifier import ImageClassifier
from jaxdiff.typing import Array, Key, Outputs, Params

Number = float | Callable[[Array], Array]  # or a function of the step


class Recipe(NamedTuple):
    """How a student is trained.

    num_updates: of the whole training; 240 epochs of 50 000 images in batches of 64 by default.
    rate: at the start; 0.01 for MobileNet and ShuffleNet. milestones: fractions of the updates
    after which the rate is a tenth. decay: of weights, in the gradient. momentum, nesterov: of SGD.
    optimiser: another one than these describe.
    """

    __repr__ = short

    num_updates: int = 187_680
    rate: float = 0.05
    milestones: tuple[float, ...] = (150 / 240, 180 / 240, 210 / 240)
    decay: float = 5e-4
    momentum: float = 0.9
    nesterov: bool = False
    optimiser: optax.GradientTransformation | None = None

    def sgd(self) -> optax.GradientTransformation:
        """Return the optimiser. Raises ValueError for numbers out of range."""
        if self.num_updates < 1 or not 0 < self.rate < float("inf"):
            raise ValueError(
                f"num_updates and rate must be positive; got {self.num_updates} and {self.rate}"
            )
        if self.optimiser is not None:
            return self.optimiser
        ends = (0.0, *self.milestones, 1.0)
        if not all(a < b for a, b in pairwise(ends)):
            raise ValueError(f"milestones increase within (0, 1); got {self.milestones}")
        if not (0 <= self.momentum < 1 and 0 <= self.decay < float("inf")):
            raise ValueError(
                f"momentum is in [0, 1), and decay not negative: {self.momentum}, {self.decay}"
            )
        steps = {round(m * self.num_updates): 0.1 for m in self.milestones}
        rate = optax.piecewise_constant_schedule(self.rate, steps)
        sgd = optax.sgd(rate, self.momentum, self.nesterov)
        return optax.chain(optax.add_decayed_weights(self.decay), sgd)


class Shares(NamedTuple):
    """Weights and temperature of the loss: a, b and T of the module; a and b may be functions of
    the step.
    """

    __repr__ = short

    classes: Number = 1.0
    logits: Number = 1.0
    temperature: float = 4.0


DEFAULT, BOTH, LABELS = Recipe(), Shares(), Shares(logits=0.0)


class Seen(NamedTuple):
    """Inputs of a term: Outputs of both networks, labels, the batch, the context and a key.

    ``context.frozen["teacher"]`` are the teacher's variables, WithState(parameters, state).
    """

    student: Outputs
    teacher: Outputs
    label: Array
    batch: Batch
    context: Context
    key: Key


class Modules:
    """Modules with their variables during one call of a loss; keeps the state that they leave."""

    def __init__(
        self, modules: Mapping[str, Any], params: Params, state: Any, axis_name: str | None
    ) -> None:
        """Take modules, parameters and state by name; "memory" is state of the term's own."""
        self.modules, self.params, self.state = modules, params, dict(state)
        self.axis_name = axis_name

    def __call__(self, name: str, *inputs: Array | None) -> Any:
        """Apply a module in training."""
        known = self.state.get(name, {})
        out, after = self.modules[name].apply(
            {"params": self.params[name], **known}, *inputs, train=True, axis_name=self.axis_name,
            mutable=list(known),
        )  # fmt: skip
        if known:
            self.state[name] = after
        return out


class Term(NamedTuple):
    """A term that a method adds to the loss.

    loss: ``loss(run, seen) -> scalar``; ``run(name, *inputs)`` applies a module.
    modules: by name, with example inputs (shapes), from which they are drawn.
    memory: ``memory(key)`` makes state of its own, floats, at ``run.state["memory"]``.
    fields: of the batch that it reads besides images and labels.
    """

    __repr__ = short

    loss: Callable[[Modules, Seen], Array]
    modules: Mapping[str, tuple[Any, ...]] = {}
    memory: Callable[[Key], Any] | None = None
    fields: tuple[str, ...] = ()


def in_full(outputs: Outputs) -> Outputs:
    """Return Outputs in float32 at least: in less, losses of nearly equal numbers are rounding."""
    return jax.tree.map(lambda x: x.astype(wide(x.dtype)), outputs)


def draw(modules: Mapping[str, tuple[Any, ...]], key: Key) -> tuple[Params, dict[str, Any]]:
    """Return parameters and state by name of modules with example inputs."""
    params, state = {}, {}
    for i, (name, (module, *inputs)) in enumerate(modules.items()):
        zeros = [None if x is None else jnp.zeros(x.shape, x.dtype) for x in inputs]
        variables = dict(module.init(jax.random.fold_in(key, i), *zeros))
        params[name] = variables.pop("params", {})
        if variables:
            state[name] = variables
    return params, state


def value(number: Number, step: Array) -> float | Array:
    """Return a number, or that of the step."""
    return number(step) if callable(number) else number


def check_weights(name: str, **weights: float) -> None:
    """Raise ValueError for weights that are negative or not finite, or all 0."""
    numbers = weights.values()
    if not all(0 <= w < float("inf") for w in numbers) or not any(numbers):
        given = ", ".join(f"{key} = {w}" for key, w in weights.items())
        raise ValueError(f"{name}: weights must not be negative, nor all 0; got {given}")


def check_classes(name: str, classes: int) -> None:
    """Raise ValueError for fewer than two classes, between which there is nothing to learn."""
    if classes < 2:
        raise ValueError(f"{name}: a classifier has two classes at least; this one has {classes}")


def times(number: float | Array, x: Array) -> Array:
    """Return the product in the dtype of ``x``."""
    return jnp.asarray(number, x.dtype) * x


def distilled(
    name: str,
    teacher: Trained | None,
    student: ImageClassifier,
    term: Term | None = None,
    weight: Number = 1.0,
    shares: Shares = BOTH,
    recipe: Recipe = DEFAULT,
    start: Callable[[WithState], WithState] = lambda variables: variables,
) -> Method:
    """Return the method of a term: see the module.

    Args:
        name: what errors call it.
        teacher: frozen; None for training by labels alone.
        student: what is trained.
        term, weight: what is added, c times.
        shares: the rest of the loss.
        recipe: how it is trained.
        start: from the variables drawn to those that training begins with.

    ``method.sampler(state)`` is the student, :class:`jaxdiff.classify.trained.Trained`. Batches
    have "image" and "label". Raises ValueError where student and teacher have other classes.
    """
    if not 0 < shares.temperature < float("inf"):
        raise ValueError(f"{name}: the temperature must be positive; got {shares.temperature}")
    for what, number in (("weight", weight), *zip("ab", shares[:2], strict=True)):
        if not callable(number) and not 0 <= number < float("inf"):
            raise ValueError(f"{name}: {what} must not be negative, and finite; got {number}")
    classes = student.outputs().value.shape[1]
    check_classes(name, classes)
    if teacher is not None and teacher.network.outputs().value.shape[1] != classes:
        raise ValueError(
            f"{name}: the student has {classes} classes, the teacher "
            f"{teacher.network.outputs().value.shape[1]}"
        )
    if teacher is not None and teacher.network.shape != student.shape:
        raise ValueError(
            f"{name}: the student takes images {student.shape}, the teacher {teacher.network.shape}"
        )
    drawn = {} if term is None else term.modules
    modules = {n: m[0] for n, m in drawn.items()}

    def init(key: Key) -> dict[str, Any]:
        keys = jax.random.split(key, 3)
        own = start(student.init(keys[0]))
        params, state = jax.jit(lambda k: draw(drawn, k))(keys[1])
        if term is not None and term.memory is not None:
            state["memory"] = term.memory(keys[2])
        whole = {"network": own.value, "beside": params}
        return {"student": WithState(whole, {"network": own.state, "beside": state})}

    def loss(params: Params, context: Context, batch: Batch, key: Key) -> Any:
        known, image, label = context.network_state["student"], batch["image"], batch["label"]
        own = WithState(params["network"], known["network"])
        out, after = student.training(own, image, context.axis_name)
        out = in_full(out)
        metrics: dict[str, Array] = {"right": right(out.value, label)}
        total = _labels(out.value, label, value(shares.classes, context.step), metrics)
        beside = known["beside"]
        if teacher is not None:
            seen_by_teacher = in_full(teacher.network(context.frozen["teacher"], image, full=True))
            soft = distilled_logits(out.value, seen_by_teacher.value, shares.temperature)
            metrics["kl"] = soft
            total = total + times(value(shares.logits, context.step), soft)
            if term is not None:
                run = Modules(modules, params["beside"], beside, context.axis_name)
                seen = Seen(out, seen_by_teacher, label, batch, context, key)
                added = term.loss(run, seen)
                metrics["term"], beside = added, run.state
                total = total + times(value(weight, context.step), added)
        return total, WithState(metrics, {"network": after, "beside": beside})

    def sampler(state: Any) -> Trained:
        params, known = state.params["student"], state.network_state["student"]
        return Trained(student, WithState(params["network"], known["network"]))

    def check(batch: Batch) -> None:
        check_batch(batch, student, classes, name, *(() if term is None else term.fields))

    player = Player(loss, recipe.sgd())
    frozen = {} if teacher is None else {"teacher": teacher.variables}
    return Method(init, {"student": player}, sampler, frozen, check)


def right(logits: Array, label: Array) -> Array:
    """Return the share of samples whose largest logit is that of their label."""
    found = jnp.argmax(logits, axis=1).astype(jnp.int32) == label.astype(jnp.int32)
    return jnp.mean(found.astype(jnp.float32))


def _labels(logits: Array, label: Array, a: float | Array, metrics: dict[str, Array]) -> Array:
    metrics["ce"] = cross_entropy(logits, label)
    return times(a, metrics["ce"])


def first_part(
    recipe: Recipe, share: float
) -> tuple[Callable[[Array], Array], Callable[[Array], Array]]:
    """Return two weights: 1 in the first ``share`` of the updates, in one at least, and 0 after,
    and the other way round.
    """
    end = max(1, round(share * recipe.num_updates))

    def before(step: Array) -> Array:
        return (step < end).astype(jnp.float32)

    return before, lambda step: 1.0 - before(step)
