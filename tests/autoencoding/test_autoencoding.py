"""Autoencoders: their losses term by term, codes and scale by hand, and a training that learns."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxdiff.autoencoding import (
    Adversary,
    kl_autoencoder,
    kl_divergence,
    latent_std,
    scaled,
    vq_autoencoder,
)
from jaxdiff.autoencoding.quantised import codebook_use
from jaxdiff.method import Context
from jaxdiff.networks import AutoencoderVQ
from jaxdiff.training.loop import fit

RNG = np.random.default_rng(2)
X = RNG.uniform(-1, 1, (6, 4, 4, 1))


class Linear(nn.Module):
    """A linear autoencoder of pixels: moments (mean, log variance), or codes."""

    channels: tuple[int, ...] = (1,)
    latent_channels: int = 2

    def setup(self):
        self.inner, self.outer = nn.Dense(4, param_dtype=float), nn.Dense(1, param_dtype=float)
        self.book = self.param("codebook", nn.initializers.normal(), (3, 4), float)

    def __call__(self, x):
        return self.decode(self.encode(x)[..., :2]), self.book

    def encode(self, x):
        return self.inner(x)

    def codes(self, z):
        index = jnp.argmin(
            jnp.sum((z[..., None, :] - self.book.reshape(1, 1, 1, 3, 4)) ** 2, -1), -1
        )
        return self.book[index], index

    def decode(self, z, nearest=True):
        return self.outer(z[..., :2])


NETWORK = Linear()
PARAMS = jax.tree.map(
    lambda p: jnp.asarray(RNG.normal(size=p.shape)),
    jax.eval_shape(NETWORK.init, jax.random.key(0), X)["params"],
)
CONTEXT = Context(jnp.int32(5), {"critic": jnp.asarray(0.7)}, {}, None)


def loss_of(method, player="autoencoder"):
    return method.players[player].loss


def test_the_divergence_is_that_of_two_normals():
    mean, log_variance = RNG.normal(size=(2, 3)), RNG.normal(size=(2, 3))
    draws = mean[:, None] + np.exp(log_variance / 2)[:, None] * RNG.normal(size=(2, 200_000, 3))
    ratio = 0.5 * (draws**2 - ((draws - mean[:, None]) ** 2) / np.exp(log_variance)[:, None])
    estimate = (ratio - 0.5 * log_variance[:, None]).sum(axis=2).mean(axis=1)
    np.testing.assert_allclose(kl_divergence(mean, log_variance), estimate, rtol=0.02)


def test_the_loss_of_gaussian_latents_term_by_term():
    method = kl_autoencoder(NETWORK, PARAMS, kl_weight=0.3)
    value, metrics = jax.jit(lambda p, k: loss_of(method)(p, CONTEXT, {"image": X}, k))(
        PARAMS, jax.random.key(1)
    )
    kernel, bias = np.asarray(PARAMS["inner"]["kernel"]), np.asarray(PARAMS["inner"]["bias"])
    moments = X @ kernel + bias
    mean, log_variance = moments[..., :2], moments[..., 2:]
    eps = np.asarray(jax.random.normal(jax.random.key(1), mean.shape, mean.dtype))
    z = mean + np.exp(0.5 * log_variance) * eps
    made = z @ np.asarray(PARAMS["outer"]["kernel"]) + np.asarray(PARAMS["outer"]["bias"])
    far = np.abs(X - made).sum() / 6
    kl = 0.5 * (mean**2 + np.exp(log_variance) - 1 - log_variance).sum() / 6
    np.testing.assert_allclose([value, metrics["kl"]], [far + 0.3 * kl, kl], rtol=1e-10)


def test_codes_pass_gradients_straight_through_and_both_pulls_are_theirs():
    method = vq_autoencoder(NETWORK, PARAMS, commitment=0.25)
    (value, metrics), slope = jax.jit(
        jax.value_and_grad(lambda p: loss_of(method)(p, CONTEXT, {"image": X}, None), has_aux=True)
    )(PARAMS)
    inner, outer = ({k: np.asarray(v) for k, v in PARAMS[n].items()} for n in ("inner", "outer"))
    book = np.asarray(PARAMS["codebook"])
    z = X @ inner["kernel"] + inner["bias"]
    index = ((z[..., None, :] - book) ** 2).sum(-1).argmin(-1)
    q = book[index]
    made = q[..., :2] @ outer["kernel"] + outer["bias"]
    apart = ((z - q) ** 2).mean()
    np.testing.assert_allclose(value, np.abs(X - made).mean() + 1.25 * apart, rtol=1e-10)
    # codes are pulled to latents alone; latents get the decoder's gradient and the commitment's
    pull = np.zeros((3, 4))
    np.add.at(pull, index.reshape(-1), (2 * (q - z) / z.size).reshape(-1, 4))
    np.testing.assert_allclose(slope["codebook"], pull, atol=1e-12)
    to_z = 0.25 * 2 * (z - q) / z.size
    to_z[..., :2] += (np.sign(made - X) / X.size) @ outer["kernel"].T
    np.testing.assert_allclose(slope["inner"]["bias"], to_z.sum(axis=(0, 1, 2)), atol=1e-12)
    share = np.bincount(index.reshape(-1), minlength=3) / index.size
    assert metrics["used"] == (share > 0).mean()
    use = codebook_use(jnp.asarray(index), 3)
    entropy = -(share[share > 0] * np.log(share[share > 0])).sum()
    np.testing.assert_allclose(use["codes"], np.exp(entropy), rtol=1e-12)


def test_an_adversary_weighs_as_much_as_the_reconstruction_from_its_start_on():
    def logits(params, x):
        return params * x[:, 0]

    adversary = Adversary(logits, jnp.asarray(0.7), weight=0.5, start=5)
    method = kl_autoencoder(NETWORK, PARAMS, adversary=adversary)
    plain = kl_autoencoder(NETWORK, PARAMS)

    def run(step):
        context = CONTEXT._replace(step=jnp.int32(step))
        both = (
            loss_of(m)(PARAMS, context, {"image": X}, jax.random.key(1)) for m in (method, plain)
        )
        critic = loss_of(method, "critic")(
            jnp.asarray(0.7), context._replace(params={"autoencoder": PARAMS}), {"image": X},
            jax.random.key(1),
        )  # fmt: skip
        return *both, critic

    (value, metrics), (alone, _), (critic, of_critic) = jax.jit(run)(5)
    # |grad of the sum of |x - x'| over 6| against that of the mean of 0.7 x' over 24 numbers
    near, away = np.sqrt(96) / 6, 0.7 * np.sqrt(24) / 24
    np.testing.assert_allclose(metrics["weight"], 0.5 * near / (away + 1e-4), rtol=1e-6)
    np.testing.assert_allclose(value, alone + metrics["weight"] * metrics["adversary"], rtol=1e-10)
    np.testing.assert_allclose(metrics["adversary"], -of_critic["fake"], rtol=1e-10)
    assert critic > 0 and jax.jit(run)(4)[0][1]["weight"] == 0
    assert sorted(method.init(jax.random.key(0))) == ["autoencoder", "critic"]


def test_the_nearest_codes_are_found_and_decoded():
    network = AutoencoderVQ(5, channels=(4,), in_channels=1, latent_channels=2, groups=2)
    shapes = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, 4, 4, 1), jnp.float32))
    params = jax.tree.map(lambda p: RNG.normal(size=p.shape).astype(p.dtype), shapes["params"])
    z = RNG.normal(size=(2, 3, 3, 2)).astype(np.float32)
    codes = jax.jit(lambda z: network.apply({"params": params}, z, method="codes"))
    q, index = codes(z)
    book = params["codebook"]
    np.testing.assert_array_equal(index, ((z[..., None, :] - book) ** 2).sum(-1).argmin(-1))
    np.testing.assert_array_equal(q, book[np.asarray(index)])
    decode = jax.jit(lambda z: network.apply({"params": params}, z, method="decode"))
    np.testing.assert_array_equal(decode(z), decode(np.asarray(q)))
    lost = np.array(z)
    lost[1, 0, 0, 0] = np.nan
    found = np.isfinite(codes(lost)[0])
    assert found[0].all() and not found[1, 0, 0].any() and found[1, 1:].all()
    with pytest.raises(ValueError, match="latents are"):
        codes(z[..., :1])
    with pytest.raises(ValueError, match="divisible by 1"):
        network.apply({"params": params}, z, method="encode")


def test_training_learns_the_line_and_the_scale_makes_its_latents_standard():
    """Pixels on a line need one latent; the loop trains, and the sampler codes and decodes."""
    method = kl_autoencoder(NETWORK, PARAMS, optimiser=optax.adam(0.03))
    images = X.astype(np.float64)
    before = loss_of(method)(PARAMS, CONTEXT, {"image": X}, jax.random.key(0))[1]["distance"]
    state = fit(method, lambda step: {"image": images}, num_updates=300, progress=False)
    vae = method.sampler(state)
    made = vae.decode(vae.encode(images))
    assert np.abs(made - images).mean() < 0.1 * before / 16
    unit = scaled(vae, images)
    z = np.asarray(unit.encode(images))
    np.testing.assert_allclose(z.std(), 1, rtol=1e-6)
    np.testing.assert_allclose(unit.decode(z), made, atol=1e-6)
    assert latent_std(vae, images, batch=4) == pytest.approx(1 / float(unit.scale))
    with pytest.raises(ValueError, match="there are none"):
        latent_std(vae, images[:0])


def test_wrong_weights_are_refused_by_name():
    with pytest.raises(ValueError, match="kl_weight"):
        kl_autoencoder(NETWORK, PARAMS, kl_weight=-1.0)
    with pytest.raises(ValueError, match="commitment"):
        vq_autoencoder(NETWORK, PARAMS, commitment=float("nan"))
