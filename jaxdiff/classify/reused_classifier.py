"""SimKD: the student ends in its teacher's classifier, and learns the map that it reads.

    loss = mean (P(f_s) - f_t)^2,     inference: logits = W_t mean(P(f_s)) + b_t,

with f the last maps, P a projector of 1 x 1, 3 x 3 and 1 x 1 convolutions with norm and ReLU whose
middle has 1 / factor of the teacher's channels, the larger map averaged to the size of the smaller.
No labels are used. If P(f_s) = f_t, the student's logits are the teacher's. Further back, the
teacher's last blocks can be kept as well.

Source: Chen et al., arXiv 2203.14001 (CVPR 2022), section 3.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from jaxdiff.classify.frame import DEFAULT, Modules, Recipe, Seen, Shares, Term, distilled
from jaxdiff.classify.losses.maps import aligned, hint
from jaxdiff.classify.relation_methods import check_last_layer, last_layer
from jaxdiff.classify.trained import Trained
from jaxdiff.method import Method, WithState
from jaxdiff.networks.embedding import wide
from jaxdiff.networks.image_classifier import ImageClassifier
from jaxdiff.networks.resnet_cifar import ResNetCIFAR, before_relu
from jaxdiff.networks.reused import MeanHead, Reused
from jaxdiff.typing import Array

NOTHING_ELSE = Shares(0.0, 0.0)


def simkd(
    teacher: Trained, student: ImageClassifier, *, factor: int = 2, blocks: int = 0,
    weight: float = 1.0, shares: Shares = NOTHING_ELSE, recipe: Recipe = DEFAULT,
) -> Method:  # fmt: skip
    """Knowledge distillation with the reused teacher classifier (Chen et al., arXiv 2203.14001).

    Args:
        teacher, student, recipe: as of all methods. The student's own last layer is left out.
        factor: the projector's middle has a factor-th of the teacher's channels: 2, 4 or 8 in the
            paper.
        blocks: of the end of a ResNet teacher's last stage that are reused too.
        shares: a and b, both 0 in the paper.

    ``method.sampler(state)`` is the student with projector and teacher's tail, which its state
    holds: it is evaluated, stored and used as a teacher as it is.

    Raises ValueError for a factor that does not divide the channels, for blocks that the teacher
    does not have, for a teacher whose logits are not linear in the mean of its last map, and for a
    student that is nothing without its last layer, ``num_classes=0``.
    """
    tail, held, sides, channels = tail_of(teacher, blocks)
    if factor < 1 or channels % factor:
        raise ValueError(f"the factor {factor} does not divide the teacher's {channels} channels")
    bare = without_last_layer(student)
    module = Reused(bare, channels, channels // factor, sides, tail)
    network = ImageClassifier(module, student.shape)

    def loss(run: Modules, seen: Seen) -> Array:
        f_t = seen.teacher.features[-2]
        if blocks:
            given = seen.context.frozen["teacher"]
            f_t = input_of_tail(teacher.network.module, given, seen.batch["image"], blocks)
        return hint(*aligned(seen.student.features[-2], f_t.astype(wide(f_t.dtype))))

    def start(variables: WithState) -> WithState:
        own = jax.tree.map(lambda x: jnp.array(x, copy=True), held)
        return WithState(variables.value, {**variables.state, "teacher": {"variables": own}})

    return distilled("simkd", teacher, network, Term(loss), weight, shares, recipe, start)


def without_last_layer(student: ImageClassifier) -> Any:
    """Return a student's module that ends with its pooled features. Raises ValueError for one that
    cannot.
    """
    try:
        bare = student.module.clone(parent=None, num_classes=0)
        ImageClassifier(bare, student.shape).outputs()
    except (TypeError, ZeroDivisionError) as error:  # no such field, a layer of no features
        raise ValueError(
            "simkd leaves the student's last layer out, by num_classes=0 as the networks here take "
            f"it; {type(student.module).__name__} does not: {error}"
        ) from error
    return bare


def tail_of(teacher: Trained, blocks: int) -> tuple[Any, dict[str, Any], tuple[int, int], int]:
    """Return what of a teacher is reused: module and variables, and sides and channels of its
    map.
    """
    outputs = teacher.network.outputs()
    if not blocks:
        check_last_layer(teacher, "simkd")
        fc, last = last_layer(teacher.variables), outputs.features[-2]
        if last.shape[3] != outputs.features[-1].shape[-1]:
            raise ValueError(
                f"simkd projects onto the map that the teacher's last layer reads the mean of: it "
                f"has {last.shape[3]} channels, and what that layer reads "
                f"{outputs.features[-1].shape[-1]} numbers"
            )
        head = MeanHead(outputs.value.shape[1])
        return head, {"params": {"fc": fc}}, (last.shape[1], last.shape[2]), last.shape[3]
    module, stage = teacher.network.module, len(outputs.features) - 2
    if not isinstance(module, ResNetCIFAR) or not 0 < blocks <= module.blocks:
        raise ValueError(
            f"blocks={blocks} are reused of a ResNetCIFAR with that many in its last stage; the "
            f"teacher is {module}"
        )
    tail = module.clone(parent=None, begin=(stage, module.blocks - blocks))
    names = {f"stage{stage}_block{j}" for j in range(module.blocks - blocks, module.blocks)}
    params, state = teacher.variables
    statistics = {n: v for n, v in state["batch_stats"].items() if n in names}
    held = {"params": {n: v for n, v in params.items() if n in names | {"fc"}}}
    image = jax.ShapeDtypeStruct((1, *teacher.network.shape), jnp.float32)
    reads = functools.partial(input_of_tail, module, blocks=blocks)
    shape = jax.eval_shape(lambda v, x: reads(v, x), teacher.variables, image).shape
    return tail, {**held, "batch_stats": statistics}, (shape[1], shape[2]), shape[3]


def input_of_tail(module: Any, variables: WithState, images: Array, blocks: int) -> Array:
    """Return the map that a teacher's last ``blocks`` blocks read."""
    given = {"params": variables.value, **variables.state}
    stage, block = len(module.widths) - 1, module.blocks - blocks - 1
    if block < 0:
        stage, block = stage - 1, module.blocks - 1
    return jax.nn.relu(before_relu(module, given, images, stage, block))
