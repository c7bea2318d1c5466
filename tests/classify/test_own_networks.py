"""Networks of one's own as teachers and students, and numbers of methods that need no training."""

import importlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import classify
from jaxdiff.classify import feature_methods, frame
from jaxdiff.classify.losses import logits, maps, relations
from jaxdiff.networks import ImageClassifier, ResNetCIFAR
from jaxdiff.networks.classifier_layers import Layers
from jaxdiff.networks.transfer import Embedding
from jaxdiff.training import init_state, update
from jaxdiff.typing import Outputs

SHAPE = (8, 8, 3)


class Plain(nn.Module):
    """Convolutions of flax and a linear layer, without batch statistics."""

    last: str = "fc"
    pooled: bool = True
    num_classes: int = 4
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, images, *, train=False, axis_name=None, full=False):
        first = nn.relu(nn.Conv(4, (3, 3), dtype=self.dtype)(images))
        second = nn.relu(nn.Conv(6, (3, 3), (2, 2), feature_group_count=2, dtype=self.dtype)(first))
        second = nn.Dense(8, dtype=self.dtype)(second)
        read = jnp.mean(second, (1, 2)) if self.pooled else second.reshape(len(second), -1)
        z = nn.Dense(self.num_classes, dtype=self.dtype, name=self.last)(read)
        return Outputs(z, None, (first, first, second, read)) if full else z


class Fixed(nn.Module):
    """Without a number of classes to choose."""

    @nn.compact
    def __call__(self, images, *, train=False, axis_name=None, full=False):
        return Plain()(images, full=full)


OWN = ImageClassifier(Plain(), SHAPE)
RESNET = ImageClassifier(ResNetCIFAR(1, (4, 4, 6), 4), SHAPE)


def teacher(network):
    shapes = jax.eval_shape(network.init, jax.random.key(0))
    return classify.Trained(network, jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes))


def step(method, batch=4):
    """The metrics' shapes, without computing anything."""
    rows = {"image": jnp.zeros((batch, *SHAPE), jnp.float32), "label": jnp.zeros(batch, jnp.int32)}
    one = lambda key: update(method, init_state(method, key), rows, tuple(method.players))  # noqa: E731
    return jax.eval_shape(one, jax.random.key(0))[1]


def test_multiply_adds_of_flaxs_own_layers_are_counted():
    convolutions = 64 * 9 * 3 * 4 + 16 * 9 * (4 // 2) * 6
    assert OWN.multiply_adds() == convolutions + 16 * 6 * 8 + 8 * 4

    class Up(nn.Module):
        @nn.compact
        def __call__(self, images, *, full=False):
            h = nn.ConvTranspose(5, (4, 4), (2, 2))(images)
            return Outputs(h, None, (h,)) if full else h

    assert ImageClassifier(Up(), [8, 8, 3]).multiply_adds() == 64 * 16 * 3 * 5
    with pytest.raises(ValueError, match="shape is .height, width, channels."):
        ImageClassifier(Up(), (8, 8))


def test_a_module_that_gives_no_features_is_refused():
    class Logits(nn.Module):
        flat: bool = False

        @nn.compact
        def __call__(self, images, *, train=False, axis_name=None, full=False):
            z = nn.Dense(4)(jnp.mean(images, (1, 2)))
            return Outputs(z, None, (z, z)) if full and self.flat else z

    for module, message in ((Logits(), r"it returns \(1, 4\)"), (Logits(True), "Outputs")):
        with pytest.raises(TypeError, match=f"Logits called with full=True should .*{message}"):
            classify.kd(teacher(RESNET), ImageClassifier(module, SHAPE))


def test_networks_of_ones_own_teach_and_learn():
    assert step(classify.simkd(teacher(OWN), RESNET))["student/term"].shape == ()
    method = classify.regression_of_representation(teacher(RESNET), OWN)
    assert step(method)["student/term"].shape == ()


@pytest.mark.parametrize("make", [classify.simkd, classify.regression_of_representation])
def test_a_teacher_without_the_last_layer_that_is_reused_is_refused(make):
    other = ImageClassifier(Plain("head"), SHAPE)
    with pytest.raises(ValueError, match="parameters 'fc' .* of Plain are not there"):
        make(teacher(other), RESNET)


def test_what_simkd_cannot_take_apart_is_refused():
    flat = ImageClassifier(Plain(pooled=False), SHAPE)
    with pytest.raises(ValueError, match="has 8 channels, and what that layer reads 128"):
        classify.simkd(teacher(flat), RESNET)
    for module in (Plain(), Fixed()):
        with pytest.raises(ValueError, match="simkd leaves the student's last layer out"):
            classify.simkd(teacher(RESNET), ImageClassifier(module, SHAPE))


def test_losses_of_a_network_in_half_precision_are_in_full():
    half = ImageClassifier(Plain(dtype=jnp.bfloat16), SHAPE)
    assert half.outputs().value.dtype == jnp.bfloat16
    with jax.numpy_dtype_promotion("standard"):
        for method in (
            classify.probabilistic_transfer(teacher(half), half),
            classify.okddip(half, branches=False, peers=2),
        ):
            dtypes = {x.dtype for x in jax.tree.leaves(step(method))}
            assert dtypes == {jnp.dtype(jnp.float32)}


# --- numbers out of range


@pytest.mark.parametrize(
    "loss", [relations.probabilistic, relations.relational, relations.congruence,
             maps.similarity, logits.correlation_distances],
)  # fmt: skip
def test_a_loss_of_pairs_refuses_a_batch_of_one(loss):
    with pytest.raises(ValueError, match="of 2 at least"):
        jax.eval_shape(loss, jnp.zeros((1, 3)), jnp.zeros((1, 3)))


def test_batch_norm_refuses_one_number_per_channel():
    class Norm(nn.Module):
        train: bool

        @nn.compact
        def __call__(self, x):
            return Layers(self.train).norm(x, "norm")

    draw = lambda train, shape: jax.eval_shape(  # noqa: E731
        lambda: Norm(train).init(jax.random.key(0), jnp.zeros(shape, jnp.float32))
    )
    draw(True, (1, 2, 1, 3)), draw(True, (2, 3)), draw(False, (1, 3))
    with pytest.raises(ValueError, match="'norm' has one number per channel"):
        draw(True, (1, 1, 1, 3))


def test_accuracy_refuses_labels_that_are_none():
    class Broken:
        def __call__(self, images):
            return jnp.full((len(images), 2), jnp.nan)

    images = np.zeros((3, 1), np.float32)
    for labels, message in (
        (np.array([[0], [1], [1]]), r"integers \(3,\), one per image; got int64\(3, 1\)"),
        (np.eye(3), "got float64"),
        (np.array([0, 1, 2]), "labels go from 0 to 2; there are 2 classes"),
    ):
        with pytest.raises(ValueError, match=message):
            classify.accuracy(Broken(), images, labels)


def test_a_first_phase_has_an_update_however_few_there_are():
    before, after = frame.first_part(classify.Recipe(num_updates=3), 1 / 8)
    steps = jnp.arange(3)
    assert before(steps).tolist() == [1, 0, 0] and after(steps).tolist() == [0, 1, 1]


def test_a_label_is_right_for_its_own_class_alone():
    found = frame.right(jax.nn.one_hot(jnp.array([256, 1]), 300), jnp.array([0, 1], jnp.uint8))
    assert found == 0.5


def test_numbers_that_would_do_nothing_are_refused():
    one = ImageClassifier(ResNetCIFAR(1, (4, 4), 1), SHAPE)
    known = teacher(RESNET)
    for make, message in (
        (lambda: classify.vanilla(one), "vanilla: a classifier has two classes"),
        (lambda: classify.mutual_learning(one), "mutual_learning: a classifier has two"),
        (lambda: classify.collaborative_learning(one), "collaborative_learning: a classifier"),
        (lambda: classify.Recipe(rate=np.inf).sgd(), "num_updates and rate must be positive"),
        (lambda: classify.dkd(known, RESNET, alpha=-1.0), "dkd: weights must not be negative"),
        (lambda: classify.dist(known, RESNET, beta=0.0, gamma=0.0), "dist: .* nor all 0"),
        (lambda: classify.variational_information(known, RESNET, variance=0.0), "above 1e-5"),
        (lambda: classify.correlation_congruence(known, RESNET, size=0), "size of 1 at least"),
        (lambda: classify.activation_boundaries(known, RESNET, margin=0.0), "the margin must"),
        (lambda: classify.standardised_kd(known, RESNET, temperature=0.0), "temperature must be"),
        (lambda: classify.contrastive_distillation(known, RESNET, np.arange(4) - 1), "from 0"),
    ):
        with pytest.raises(ValueError, match=message):
            make()


# --- scales of terms


def test_activation_boundaries_count_as_in_the_comparisons(monkeypatch):
    """A stage's sum over a sample's numbers times 3/1000, halved from each stage to the one
    before.
    """
    terms = []
    caught = lambda name, teacher, student, term, *rest: terms.append(term)  # noqa: E731
    monkeypatch.setattr(feature_methods, "distilled", caught)
    classify.activation_boundaries(teacher(RESNET), RESNET)
    rng, shapes = np.random.default_rng(0), ((2, 8, 8, 4), (2, 4, 4, 6))
    f_s, f_t = ([rng.standard_normal(shape) for shape in shapes] for _ in range(2))
    outputs = [Outputs(None, None, (None, *f, None)) for f in (f_s, f_t)]
    seen = frame.Seen(*outputs, None, None, None, None)
    wanted = 0.0
    for s, t, share in zip(f_s, f_t, (0.5, 1.0), strict=True):
        above, below = (s > -1) & (t <= 0), (s <= 1) & (t > 0)
        wanted += share * 3e-3 * np.sum((s + 1) ** 2 * above + (s - 1) ** 2 * below) / 2
    np.testing.assert_allclose(terms[0].loss(lambda name, f: f, seen), wanted, rtol=1e-6)


def test_congruence_is_of_linear_embeddings_and_contrast_of_unit_vectors():
    x, params = jnp.array([[3.0, 4.0]]), {"linear": {"kernel": jnp.eye(2), "bias": jnp.zeros(2)}}
    plain, unit = (Embedding(2, normed).apply({"params": params}, x) for normed in (False, True))
    np.testing.assert_allclose(plain, x)
    np.testing.assert_allclose(unit, x / 5)
    term = []

    def caught(name, teacher, student, given, *rest):
        term.append(given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jaxdiff.classify.relation_methods.distilled", caught)
        classify.correlation_congruence(teacher(RESNET), RESNET)
    assert not any(module.normed for module, _ in term[0].modules.values())


def test_factors_are_made_of_whole_maps_and_averaged_after(monkeypatch):
    """The paraphraser, which learns maps of the teacher's size, sees no other."""
    module = importlib.import_module("jaxdiff.classify.factor_transfer")
    terms, real, read, seen = [], module.distilled, [], []

    def caught(name, teacher, student, term, *rest):
        terms.append(term)
        return real(name, teacher, student, term, *rest)

    def aligned(s, t):
        seen.append((s.shape, t.shape))
        return s, s

    monkeypatch.setattr(module, "distilled", caught)
    monkeypatch.setattr(maps, "aligned", aligned)
    small = ImageClassifier(ResNetCIFAR(1, (4, 4, 6, 6), 4), SHAPE)
    method = classify.factor_transfer(teacher(RESNET), small)

    def run(name, f):
        read.append(f.shape)
        return f

    def loss(key):
        params, state = method.init(key)["paraphraser"]
        context = frame.Context(0, {"paraphraser": params}, {}, None, {"paraphraser": state})
        outputs = (jnp.zeros((2, side, side, 6), jnp.float32) for side in (2, 4))
        s, t = (Outputs(None, None, (f, None)) for f in outputs)
        return terms[0].loss(run, frame.Seen(s, t, None, None, context, None))

    assert jax.eval_shape(loss, jax.random.key(0)).shape == ()
    assert read == [(2, 2, 2, 6)] and seen == [((2, 2, 2, 6), (2, 4, 4, 3))]
