"""Pictures as words: at the start those of the base; each sample has its own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.adapt import domain_tuning, picture_words
from jaxdiff.denoisers import denoiser
from jaxdiff.distill import Student
from jaxdiff.networks import from_linen, init
from jaxdiff.networks.text_to_image import small_text_to_image
from jaxdiff.training.step import init_state, update

EMPTY = (1, 2, 2, 2)


def features(images):
    return images.reshape(images.shape[0], -1)[:, :5]


def base():
    module = small_text_to_image(9, 4, EMPTY, channels=(8,), head_width=8, text_width=8,
                                 text_depth=1, image_channels=1)  # fmt: skip
    shapes = jax.eval_shape(lambda key: init(module, key, (8, 8, 1)), jax.random.key(0))
    rng = np.random.default_rng(0)
    draw = lambda s: jnp.asarray(rng.standard_normal(s.shape) * 0.3, s.dtype)  # noqa: E731
    return denoiser(from_linen(module), jax.tree.map(draw, shapes))


def pictures(count=3):
    return jnp.asarray(np.random.default_rng(1).normal(size=(count, 8, 8, 1)), jnp.float32)


def test_what_does_not_fit_is_named():
    D = base()
    with pytest.raises(ValueError, match=r"tokens from 0 to 8, not \(9,\)"):
        picture_words(D, features, (9,), (8, 8, 1))
    with pytest.raises(ValueError, match=r"features are \(batch, n\)"):
        picture_words(D, lambda x: x, (3,), (8, 8, 1))
    with pytest.raises(ValueError, match="no table of tokens at other"):
        picture_words(D, features, (3,), (8, 8, 1), table="other")
    with pytest.raises(TypeError, match="that of jaxdiff.adapt.picture_words"):
        domain_tuning(Student.of(D))
    words = picture_words(D, features, (3,), (8, 8, 1))
    with pytest.raises(ValueError, match="not negative"):
        domain_tuning(Student.of(words), penalty=-1.0)
    with pytest.raises(ValueError, match="no 'text', whose new tokens"):
        words(pictures(), 1.0, {"picture": pictures()})
    text = np.tile(np.asarray([[1, 9, 10, 2]], np.int32), (3, 1))  # 10 would be the next sample's
    with pytest.raises(ValueError, match=r"cond\['text'\] must be whole numbers from 0 to 9"):
        words(pictures(), 1.0, {"text": text, "picture": pictures()})
    run = jax.jit(lambda text: words(pictures(), 1.0, {"text": text, "picture": pictures()}))
    assert np.isnan(run(text)).all()
    with pytest.raises(ValueError, match="whole numbers from 0 to 8"):
        words(pictures(), 1.0, {"text": text})


@pytest.mark.slow
def test_each_sample_has_the_words_of_its_picture():
    D, images = base(), pictures()
    words = picture_words(D, features, (3, 4), (8, 8, 1))
    new = {"text": np.tile(np.asarray([[1, 9, 10, 2]], np.int32), (3, 1)), "picture": images}
    old = {"text": np.tile(np.asarray([[1, 3, 4, 2]], np.int32), (3, 1))}
    run = jax.jit(lambda D, cond: D(images, 1.0, cond))
    near = lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5)  # noqa: E731
    first = run(words, new)
    near(first, run(D, old))
    method = domain_tuning(Student.of(words), penalty=0.5)
    state = init_state(method, jax.random.key(0))
    batch = {"image": images, "label": new}
    step = jax.jit(lambda state: update(method, state, batch, ("student",)))
    after, _ = step(state)
    own = after.params["student"]
    keep = lambda a, b: a.tobytes() == b.tobytes()  # noqa: E731
    assert jax.tree.all(jax.tree.map(keep, own["base"], D.args[0]))
    assert np.abs(own["adapter"]["weight"]).max() > 0
    weight = np.random.default_rng(2).normal(size=own["adapter"]["weight"].shape)
    far = {"weight": jnp.asarray(weight, jnp.float32), "bias": own["adapter"]["bias"]}
    moved = jax.tree_util.Partial(words.func, {**own, "adapter": far}, *words.args[1:])
    made = run(moved, new)
    turned = {"text": new["text"], "picture": images[::-1]}
    other = run(moved, turned)
    assert all(np.abs(made[i] - first[i]).max() > 1e-4 for i in range(3))
    assert np.abs(made[0] - other[0]).max() > 1e-4
    near(made[1], other[1])  # the middle has its own picture in both
    _, metrics = step(after._replace(params={"student": {**own, "adapter": far}}))
    offset = np.square(np.asarray(features(images)) @ weight + np.asarray(far["bias"])).mean()
    np.testing.assert_allclose(metrics["student/offset"], offset, rtol=1e-3)
