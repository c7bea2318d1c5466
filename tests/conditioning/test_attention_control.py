"""Controllers of attention on a network of one self- and one cross-attention layer, by hand."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff import attention, blending, guidance, solvers
from jaxdiff.conditioning.attention.worse import gaussian_blur
from jaxdiff.denoisers import conditioned, denoiser
from jaxdiff.networks.attention import Place, attend, attention_weights, softmax_attention

RNG = np.random.default_rng(0)
PARAMS = {n: jnp.asarray(RNG.standard_normal((4, 4))) for n in ("sq", "sk", "sv", "cq", "ck", "cv")}
Y = jnp.asarray(RNG.standard_normal((3, 2, 2, 4)))
COND = {"tokens": jnp.asarray(RNG.standard_normal((3, 3, 4)))}
EYE = np.eye(3)


def network(params, x, label, cond=None, /, attention: Any = softmax_attention, **_):
    """Two heads of two channels; the tokens of a text, or zeros."""
    h = x.reshape(x.shape[0], -1, 4)
    text = jnp.zeros((x.shape[0], 3, 4), x.dtype) if cond is None else cond["tokens"]
    kinds: Any = (("self", "s", None), ("cross", "c", text))
    for kind, name, others in kinds:
        source = h if others is None else others
        heads = lambda n, a: (a @ params[n]).reshape(*a.shape[:2], 2, 2)  # noqa: E731
        q, k, v = heads(name + "q", h), heads(name + "k", source), heads(name + "v", source)
        place = Place(kind + "_0", kind, x.shape[1:3], "middle")
        h = h + attend(attention, q, k, v, place).reshape(h.shape)
    return h.reshape(x.shape)


D = denoiser(network, PARAMS)
PAIR = jnp.stack([Y, Y[::-1]], axis=1)
PAIR_COND = {"tokens": jnp.stack([COND["tokens"], COND["tokens"][::-1]], axis=1)}
CONTROLLERS = {
    "replace": (2, attention.prompt_to_prompt(replace=EYE, own=None)),
    "refine": (2, attention.prompt_to_prompt(refine=np.arange(3), own=None)),
    "scales": (2, attention.prompt_to_prompt(scales=np.ones(3), own=None)),
    "own": (2, attention.prompt_to_prompt()),
    "plug and play": (2, attention.plug_and_play()),
    "masactrl": (2, attention.masactrl()),
    "style": (3, attention.style_injection(gamma=0.0, temperature=1.0)),
}


def call(D, y=PAIR, cond=PAIR_COND, level=0.7):
    return jax.jit(lambda D, y, cond: D(y, level, cond))(D, y, cond)


QUICK = ("masactrl",)
NAMES = [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in CONTROLLERS]


@pytest.mark.parametrize("name", NAMES)
def test_a_group_of_the_same_is_the_network_itself(name):
    members, control = CONTROLLERS[name]
    y, tokens = (jnp.stack([x] * members, axis=1) for x in (Y, COND["tokens"]))
    out = call(attention.grouped(D, control), y, {"tokens": tokens})
    np.testing.assert_allclose(out[:, 0], D(Y, 0.7, COND), rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(out[:, -1], out[:, 0], rtol=1e-10, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("name", CONTROLLERS)
def test_a_source_is_left_alone_and_a_group_does_not_depend_on_others(name):
    members, control = CONTROLLERS[name]
    rolled = lambda x: jnp.stack([jnp.roll(x, i, axis=0) for i in range(members)], axis=1)  # noqa: E731
    y, cond = rolled(Y), {"tokens": rolled(COND["tokens"])}
    out = call(attention.grouped(D, control), y, cond)
    np.testing.assert_allclose(out[:, 0], D(Y, 0.7, COND), rtol=1e-10, atol=1e-12)
    one = call(attention.grouped(D, control), y[1:2], {"tokens": cond["tokens"][1:2]})
    np.testing.assert_allclose(one, out[1:2], rtol=1e-10, atol=1e-12)
    plain = call(attention.grouped(D), y, cond)
    changed = np.abs(out[:, -1] - plain[:, -1]).max()
    assert changed < 1e-10 if name == "scales" else changed > 1e-3


def layer(q, k, v, kind: Any = "cross"):
    return q, k, v, Place("x", kind, (2, 2), "middle")


def test_prompt_to_prompt_by_hand():
    q, k, v = (jnp.asarray(RNG.standard_normal((4, n, 2, 2))) for n in (4, 3, 3))
    maps = np.asarray(attention_weights(q, k)).reshape(2, 2, 2, 4, 3)
    move = np.array([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    wanted = {
        "replace": (move, maps[:, 0] @ move),
        "refine": (
            np.array([0, -1, 1]),
            np.stack([maps[:, 0, ..., 0], maps[:, 1, ..., 1], maps[:, 0, ..., 1]], -1),
        ),
        "scales": (np.array([1.0, 0.5, 2.0]), maps[:, 1] * np.array([1.0, 0.5, 2.0])),
    }
    for name, (value, target) in wanted.items():
        out = attention.prompt_to_prompt(**{name: value})(*layer(q, k, v))
        mixed = np.stack([maps[:, 0], target], axis=1).reshape(4, 2, 4, 3)
        np.testing.assert_allclose(out, np.einsum("bhqk,bkhc->bqhc", mixed, v), rtol=1e-10)


@pytest.mark.slow
def test_shared_attention_by_hand():
    q, k, v = (jnp.asarray(RNG.standard_normal((6, 4, 2, 2))) for _ in range(3))
    own = layer(q, k, v, "self")
    first = lambda x, n=2: jnp.repeat(x[::n], n, axis=0)  # noqa: E731
    np.testing.assert_allclose(
        attention.masactrl()(*own), softmax_attention(q, first(k), first(v)), rtol=1e-10
    )
    np.testing.assert_allclose(
        attention.plug_and_play()(*own), softmax_attention(first(q), first(k), v), rtol=1e-10
    )
    out = attention.style_injection(gamma=0.75, temperature=1.5)(*own)
    for g in (0, 3):
        query = 1.5 * (0.75 * q[g] + 0.25 * q[g + 2])
        expected = softmax_attention(query[None], k[g + 1][None], v[g + 1][None])
        np.testing.assert_allclose(out[g + 2], expected[0], rtol=1e-10)
        np.testing.assert_allclose(out[g], softmax_attention(q, k, v)[g], rtol=1e-10)


def test_adain_has_the_styles_statistics():
    content, style = Y, 3.0 * Y[::-1] + 1.0
    made = attention.adain(content, style)
    np.testing.assert_allclose(made.mean((1, 2)), style.mean((1, 2)), rtol=1e-9)
    np.testing.assert_allclose(made.std((1, 2)), style.std((1, 2)), rtol=1e-9)
    np.testing.assert_allclose(attention.adain(content, content), content, rtol=1e-9)


@pytest.mark.slow
def test_worse_attention_by_hand():
    q, k, v = (jnp.asarray(RNG.standard_normal((2, 4, 2, 2))) for _ in range(3))
    own, cross = layer(q, k, v, "self"), layer(q, k, v)
    np.testing.assert_array_equal(attention.perturbed()(*own), v)
    np.testing.assert_array_equal(attention.perturbed()(*cross), softmax_attention(q, k, v))
    np.testing.assert_array_equal(attention.skipped(attention.SELF)(*own), 0.0)
    mean = softmax_attention(jnp.broadcast_to(q.mean(1, keepdims=True), q.shape), k, v)
    np.testing.assert_allclose(attention.smoothed()(*own), mean, rtol=1e-10)
    np.testing.assert_allclose(attention.smoothed(sigma=1e4)(*own), mean, rtol=1e-6)
    tiny = attention.smoothed(sigma=0.05)(*own)
    np.testing.assert_allclose(tiny, softmax_attention(q, k, v), rtol=1e-10)
    x = jnp.asarray(RNG.standard_normal((2, 6, 3)))
    np.testing.assert_allclose(gaussian_blur(jnp.ones_like(x), (1,), 0.7), 1.0, rtol=1e-12)


@pytest.mark.slow
def test_guidance_by_worse_attention():
    worse = conditioned(D, attention=attention.perturbed())
    made = call(guidance.autoguidance(D, worse, 3.0), Y, COND)
    good, bad = D(Y, 0.7, COND), worse(Y, 0.7, COND)
    np.testing.assert_allclose(made, good + 2.0 * (good - bad), rtol=1e-9, atol=1e-11)
    assert np.abs(good - bad).max() > 1e-2
    # only in a part of the levels, where alone it is evaluated
    limited = blending.within(0.5, 1.0, guidance.autoguidance(D, worse, 3.0), D)
    np.testing.assert_allclose(call(limited, Y, COND), made, rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(call(limited, Y, COND, 2.0), D(Y, 2.0, COND), rtol=1e-9, atol=1e-11)


def test_maps_as_arrays():
    out, maps, places = attention.attention_maps(D, Y, 0.7, COND)
    np.testing.assert_array_equal(out, D(Y, 0.7, COND))
    assert list(maps) == ["cross_0"] and maps["cross_0"].shape == (3, 2, 4, 3)
    whole = attention.word_maps(maps, places)
    assert whole.shape == (3, 2, 2, 3)
    np.testing.assert_allclose(whole.sum(-1), 1.0, rtol=1e-12)
    np.testing.assert_allclose(whole[:, 0, 1], maps["cross_0"].mean(1)[:, 1], rtol=1e-12)
    for null in (None, {"tokens": np.zeros((3, 4))}):  # of guidance, those with the condition
        guided = guidance.classifier_free(D, 3.0, null)
        _, found, _ = attention.attention_maps(guided, Y, 0.7, COND)
        np.testing.assert_allclose(found["cross_0"], maps["cross_0"], rtol=1e-12)


@pytest.mark.slow
def test_paint_with_words_draws_tokens_to_places():
    masks = np.zeros((4, 4, 3))
    masks[:2, :, 1] = 1.0  # the second token in the upper half
    none = conditioned(D, attention=attention.paint_with_words(masks, 0.0))
    np.testing.assert_allclose(call(none, Y, COND), D(Y, 0.7, COND), rtol=1e-10, atol=1e-12)
    q, k, v = (jnp.asarray(RNG.standard_normal((2, n, 2, 2))) for n in (4, 3, 3))
    out = attention.paint_with_words(masks, 5.0)(*layer(q, k, v))
    logits = np.einsum("bqhc,bkhc->bhqk", q, k) / np.sqrt(2)
    small = np.repeat([[0.0, 1.0, 0.0], [0.0, 0.0, 0.0]], 2, axis=0)
    logits = logits + 5.0 * logits.max((2, 3), keepdims=True) * small
    weights = jax.nn.softmax(jnp.asarray(logits), axis=-1)
    np.testing.assert_allclose(out, np.einsum("bhqk,bkhc->bqhc", weights, v), rtol=1e-9)


@pytest.mark.slow
def test_attend_and_excite_raises_the_least_attended_word():
    words = (1, 2)

    def least(y):
        _, maps, places = attention.attention_maps(D, y, 0.7, COND)
        whole = gaussian_blur(attention.word_maps(maps, places)[..., 1:], (1, 2), 0.5)
        return whole.max((1, 2)).min(-1)

    correct = attention.attend_and_excite(D, COND, words, 0.05)

    @jax.jit
    def run(correct, y):
        after = correct(y, 0.7, None)
        slope = jax.grad(lambda y: jnp.sum(1 - least(y)))(y)
        return after, y - 0.05 * slope, least(y), least(after), correct(y, 0.0, None)

    after, expected, before, now, still = run(correct, Y)
    assert np.all(now > before)
    np.testing.assert_allclose(after, expected, rtol=1e-8, atol=1e-10)
    np.testing.assert_array_equal(still, Y)
    single = attention.attend_and_excite(D, {"tokens": COND["tokens"][:1]}, words, 0.05)
    one = jax.jit(lambda correct, y: correct(y, 0.7, None))(single, Y[:1])
    np.testing.assert_allclose(one, after[:1], rtol=1e-8, atol=1e-10)


@pytest.mark.slow
def test_self_attention_guidance():
    made = attention.self_attention_guidance(D, 0.0)
    np.testing.assert_allclose(call(made, Y, COND), D(Y, 0.7, COND), rtol=1e-10, atol=1e-12)
    out, maps, places = attention.attention_maps(D, Y, 0.7, COND, attention.SELF)
    got = attention.word_maps(maps, places).sum((1, 2))
    mask = np.asarray(got > 1.0, float).reshape(3, 2, 2, 1)
    worse = D(mask * gaussian_blur(out, (1, 2), 2.0) + (1 - mask) * out + Y - out, 0.7, COND)
    made = call(attention.self_attention_guidance(D, 0.75), Y, COND)
    np.testing.assert_allclose(made, out + 0.75 * (out - worse), rtol=1e-9, atol=1e-11)
    assert np.abs(out - worse).max() > 1e-3


def test_self_attention_guidance_hands_its_options_to_both_evaluations():
    keys = []

    def keyed(params, x, label, cond=None, /, key=None, **options):
        keys.append(key)
        return network(params, x, label, cond, **options)

    guided = attention.self_attention_guidance(denoiser(keyed, PARAMS))
    guided(Y, jnp.asarray(0.7), COND, key=jax.random.key(1))
    assert len(keys) == 2 and all(key is not None for key in keys)


@pytest.mark.slow
def test_an_edit_is_sampled_beside_its_source():
    """Prompt-to-Prompt in the first levels: the source's member is the source's own sample."""
    control = attention.prompt_to_prompt(replace=EYE)
    both = attention.grouped(D, control)
    edit = blending.within(1.0, 100.0, both, attention.grouped(D))
    table = jd.table(solvers.euler, [4.0, 2.0, 1.0, 0.5])
    start = jnp.stack([4.0 * Y, 4.0 * Y], axis=1)
    made = jd.sample(edit, table, start, PAIR_COND)
    source = jd.sample(D, table, 4.0 * Y, COND)
    np.testing.assert_allclose(made[:, 0], source, rtol=1e-9, atol=1e-11)
    plain = jd.sample(D, table, 4.0 * Y, {"tokens": COND["tokens"][::-1]})
    assert np.abs(made[:, 1] - plain).max() > 1e-3


MAPS = np.zeros((1, 3, 2, 2))
MAPS[0, :, :, 1] = [[1.0, 0.0], [3.0, 0.0], [0.0, 4.0]]


def test_properties_of_maps_by_hand():
    maps = jnp.asarray(MAPS)
    np.testing.assert_allclose(attention.centroid(maps, 1), [[(3 * 0.5 + 4) / 8, 4 / 8]])
    soft = 1 / (1 + np.exp(-10 * (MAPS[0, :, :, 1] / 4 - 0.5)))
    soft = (soft - soft.min()) / (soft.max() - soft.min())
    np.testing.assert_allclose(attention.shape(maps, 1)[0], soft, rtol=1e-12)
    np.testing.assert_allclose(attention.size(maps, 1), [soft.mean()], rtol=1e-12)
    seen = RNG.standard_normal((1, 3, 2, 5))
    mean = np.einsum("hw,hwc->c", soft, seen[0]) / soft.sum()
    np.testing.assert_allclose(attention.appearance(maps, 1, jnp.asarray(seen))[0], mean)
    np.testing.assert_array_equal(attention.size(maps, 0), [0.0])  # the same everywhere


def test_self_guidance_descends_the_energy_of_its_maps():
    def energy(maps):
        return ((attention.centroid(maps, 1) - jnp.array([[1.0, 0.0]])) ** 2).sum(1)

    def of(y):
        _, maps, places = attention.attention_maps(D, y, 0.7, COND)
        return energy(attention.word_maps(maps, places))

    guided = attention.self_guidance(D, energy, 2.0)
    made, slope = jax.jit(lambda y: (guided(y, 0.7, COND), jax.grad(lambda y: of(y).sum())(y)))(Y)
    np.testing.assert_allclose(made, D(Y, 0.7, COND) - 2.0 * 0.49 * slope, rtol=1e-8, atol=1e-10)
    assert (of(Y - 0.1 * slope) < of(Y)).all() and np.abs(slope).max() > 1e-4
    one = guided(Y[1:2], 0.7, {"tokens": COND["tokens"][1:2]})
    np.testing.assert_allclose(one, made[1:2], rtol=1e-8, atol=1e-10)


def test_a_local_blend_leaves_the_source_where_its_words_are_not():
    """A picture of 6 x 6, whose layer is made to attend to word 1 in one corner alone."""
    corner = np.zeros((6, 6))
    corner[:2, :2] = 1.0

    def pointed(params, x, label, cond=None, /, attention: Any = softmax_attention, **_):
        heads = lambda a: a.reshape(len(a), -1, 1, 1)  # noqa: E731
        q = jnp.broadcast_to(jnp.asarray(20 * corner), (len(x), 6, 6))
        k = jnp.broadcast_to(jnp.array([0.0, 1.0]), (len(x), 2))
        place = Place("cross_0", "cross", (6, 6), "middle")
        attend(attention, heads(q), heads(k), heads(jnp.ones_like(k)), place)
        return x

    y = jnp.asarray(RNG.standard_normal((2, 2, 6, 6, 3)))
    correct = attention.local_blend(denoiser(pointed, {}), None, (1,), (1,), threshold=0.7)
    made = correct(y, jnp.asarray(0.7), None)
    wide = np.zeros((6, 6, 1), bool)
    wide[:3, :3] = True  # the corner and its neighbours; elsewhere both words have a half
    np.testing.assert_array_equal(made[:, 0], y[:, 0])
    np.testing.assert_array_equal(made[:, 1], np.where(wide, y[:, 1], y[:, 0]))
    np.testing.assert_array_equal(correct(y, jnp.asarray(0.0), None), made)
    either = attention.local_blend(denoiser(pointed, {}), None, (1,), (0,), threshold=0.7)
    np.testing.assert_array_equal(either(y, jnp.asarray(0.7), None), y)  # word 0 is all around


NOWHERE = attention.At("self", ("up_0",))
AT_LEVEL = jnp.asarray(0.7)
TWO_TOKENS = attention.paint_with_words(np.ones((4, 4, 2)), 1.0)
WRONG = {
    "needs replace, refine": lambda: attention.prompt_to_prompt(own=None),
    "give one": lambda: attention.prompt_to_prompt(replace=EYE, refine=np.arange(3)),
    "a row and a column": lambda: attention.prompt_to_prompt(replace=np.ones((2, 3))),
    "an integer a token": lambda: attention.prompt_to_prompt(refine=np.ones(3)),
    "names tokens": lambda: attention.prompt_to_prompt(refine=np.array([0, 3])),
    "a number a token": lambda: attention.prompt_to_prompt(scales=EYE),
    "gamma must": lambda: attention.style_injection(gamma=2.0),
    "temperature must": lambda: attention.style_injection(temperature=0.0),
    "sigma must": lambda: attention.smoothed(sigma=0.0),
    "groups of 2": lambda: conditioned(D, attention=attention.masactrl())(Y, 0.7, COND),
    "batch, members": lambda: attention.grouped(D)(jnp.ones((2, 2)), 0.7),
    "has the axes": lambda: attention.grouped(D)(PAIR, 0.7, COND),
    "no attention layers": lambda: attention.attention_maps(D, Y, 0.7, COND, NOWHERE),
    "words are": lambda: attention.attend_and_excite(D, COND, ()),
    "not among 3 tokens": lambda: attention.attend_and_excite(D, COND, (3,))(Y, AT_LEVEL, None),
    "scales is for 1 tokens": lambda: call(
        attention.grouped(D, attention.prompt_to_prompt(scales=np.ones(1), own=None))
    ),
    "refine is for 1 tokens": lambda: call(
        attention.grouped(D, attention.prompt_to_prompt(refine=np.zeros(1, int), own=None))
    ),
    "masks have values": lambda: attention.paint_with_words(2 * np.ones((4, 4, 3)), 1.0),
    "masks of 2 tokens": lambda: conditioned(D, attention=TWO_TOKENS)(Y, 0.7, COND),
    "of one shape": lambda: attention.adain(Y, Y[:1]),
    "source has numbers": lambda: attention.local_blend(D, PAIR_COND, (), (1,)),
    "edit has numbers": lambda: attention.local_blend(D, PAIR_COND, (1,), (-1,)),
    "between 0 and 1": lambda: attention.local_blend(D, PAIR_COND, (1,), (1,), threshold=1.0),
    "groups of two": lambda: attention.local_blend(D, COND, (1,), (1,))(Y[:, :1], AT_LEVEL, None),
    "word 2 is not among 2": lambda: attention.size(jnp.asarray(MAPS), 2),
    "features are": lambda: attention.appearance(jnp.asarray(MAPS), 1, jnp.ones((1, 2, 2, 1))),
    "number for each sample": lambda: attention.self_guidance(D, jnp.sum)(Y, 0.7, COND),
    "sigma and threshold": lambda: attention.self_attention_guidance(D, sigma=0.0),
}


@pytest.mark.parametrize("said", WRONG)
def test_what_does_not_fit_is_said(said):
    with pytest.raises(ValueError, match=said):
        WRONG[said]()


def test_where_is_a_function():
    with pytest.raises(TypeError, match="function of a Place"):
        attention.perturbed("self")  # type: ignore[arg-type]
    at = attention.At("self", ("up_0",), smallest=4, largest=16)
    assert at(Place("", "self", (4, 4), "up_0")) and not at(Place("", "cross", (4, 4), "up_0"))
    assert not at(Place("", "self", (8, 4), "up_0")) and not at(Place("", "self", (1,), "up_0"))
    assert not at(Place("", "self", (4, 4), "up_1"))
