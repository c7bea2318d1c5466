"""Factor transfer and the overhaul of features: two methods that need more of the teacher.

Factor transfer (FT): a paraphraser first learns to reconstruct the teacher's last map from a factor
of fewer channels; then the student, with a translator of its own last map,
    loss = a CE + b T^2 KL + c mean |n(factor_s) - n(factor_t)|,
with n the energy over channels as a unit vector, as comparisons of methods have it.

Overhaul (OFD): maps of every stage before their ReLU,
:func:`jaxdiff.classify.losses.boundaries.overhaul`.

Sources: Kim et al., arXiv 1802.04977; Heo et al., arXiv 1904.01866.
"""

from typing import Any

import jax

from jaxdiff.classify.feature_methods import both_stages, stages, sum_of
from jaxdiff.classify.frame import (
    BOTH,
    DEFAULT,
    LABELS,
    Modules,
    Recipe,
    Seen,
    Shares,
    Term,
    distilled,
    draw,
    in_full,
)
from jaxdiff.classify.losses import boundaries, maps
from jaxdiff.classify.trained import Trained
from jaxdiff.method import Batch, Context, Method, Player, WithState
from jaxdiff.networks.embedding import wide
from jaxdiff.networks.image_classifier import ImageClassifier
from jaxdiff.networks.resnet_cifar import ResNetCIFAR, before_relu
from jaxdiff.networks.transfer import Connector, Encoder, Paraphraser
from jaxdiff.typing import Array, Key, Params


def factor_transfer(
    teacher: Trained, student: ImageClassifier, *, share: float = 0.5, first: float = 1 / 8,
    weight: float = 200.0, shares: Shares = BOTH, recipe: Recipe = DEFAULT,
) -> Method:  # fmt: skip
    """Factors of the teacher's last map, FT (Kim et al., arXiv 1802.04977).

    share: of the teacher's channels in the factor. first: part of the updates in which the
    paraphraser is trained, alone, at the recipe's rate; the recipe is then for the others.
    """
    if not 0 < share <= 1 or not 0 < first < 1:
        raise ValueError(f"share and first lie within 0 to 1; got {share} and {first}")
    s, t = (n.outputs().features[-2] for n in (student, teacher.network))
    channels, end = max(1, round(share * t.shape[-1])), max(1, round(first * recipe.num_updates))
    module = Paraphraser(channels)
    rest = recipe._replace(num_updates=max(1, recipe.num_updates - end))

    def student_loss(run: Modules, seen: Seen) -> Array:
        params, state = (
            tree["paraphraser"] for tree in (seen.context.params, seen.context.network_state)
        )
        factor, _ = module.apply({"params": params, **state}, seen.teacher.features[-2])
        return maps.factor(*maps.aligned(run("translator", seen.student.features[-2]), factor))

    term = Term(student_loss, {"translator": (Encoder(channels), s)})
    method = distilled("factor_transfer", teacher, student, term, weight, shares, rest)

    def loss(params: Params, context: Context, batch: Batch, key: Key) -> Any:
        seen = in_full(teacher.network(context.frozen["teacher"], batch["image"], full=True))
        state, f_t = context.network_state["paraphraser"], seen.features[-2]
        (_, again), after = module.apply(
            {"params": params, **state}, f_t, train=True, axis_name=context.axis_name,
            mutable=list(state),
        )  # fmt: skip
        return maps.hint(again, f_t), WithState({}, after)

    def init(key: Key) -> dict[str, Any]:
        params, state = jax.jit(lambda k: draw({"p": (module, t)}, k))(jax.random.fold_in(key, 1))
        return {"paraphraser": WithState(params["p"], state["p"]), **method.init(key)}

    constant = recipe._replace(milestones=())
    players = {
        "paraphraser": Player(loss, constant.sgd(), turn=lambda step: step < end),
        "student": method.players["student"]._replace(turn=lambda step: step >= end),
    }
    return method._replace(init=init, players=players)


def feature_overhaul(
    teacher: Trained, student: ImageClassifier, *, weight: float = 1.0, shares: Shares = LABELS,
    recipe: Recipe = DEFAULT,
) -> Method:  # fmt: skip
    """Maps before their ReLU, of every stage of a ResNet teacher, OFD (Heo et al., arXiv
    1904.01866).

    Stages count 1, 1/2, 1/4, ... from the last. Deviations: the connectors read the student's maps
    after their ReLU; margins are of the batch. Raises ValueError for another teacher.
    """
    s, t = both_stages(teacher, student, "feature_overhaul")
    module = teacher.network.module
    if not isinstance(module, ResNetCIFAR):
        raise ValueError(
            "feature_overhaul reads maps before their ReLU, which ResNetCIFAR gives; the teacher "
            f"is {type(module).__name__}"
        )
    count = len(stages(s))
    modules = {
        f"connector{i}": (Connector(f_t.shape[-1]), f_s)
        for i, (f_s, f_t) in enumerate(zip(stages(s), stages(t), strict=True))
    }

    def loss(run: Modules, seen: Seen) -> Array:
        params, state = seen.context.frozen["teacher"]
        terms = []
        for i, own in enumerate(stages(seen.student)):
            f_t = before_relu(
                module, {"params": params, **state}, seen.batch["image"], i + 1, module.blocks - 1
            )
            f_s, f_t = maps.aligned(own, f_t.astype(wide(f_t.dtype)))
            each = boundaries.overhaul(run(f"connector{i}", f_s), f_t)
            terms.append(2.0 ** (i + 1 - count) * each)
        return sum_of(terms)

    return distilled(
        "feature_overhaul", teacher, student, Term(loss, modules), weight, shares, recipe
    )
