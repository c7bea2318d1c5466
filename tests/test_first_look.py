"""What is seen first: names that Tab completes, and how objects show themselves in a notebook."""

import base64
import io
import re
import xml.dom.minidom

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

import jaxdiff as jd
from jaxdiff import inline
from jaxdiff.adapt.embedding_encoder import PictureWords
from jaxdiff.distill.parts.critic import Critic
from jaxdiff.metrics.frechet import Moments
from jaxdiff.metrics.kernel import KID
from jaxdiff.metrics.statistics import Statistics
from jaxdiff.networks.clip import ClipText
from jaxdiff.pretrained.clip import TextEncoder

TABLE = jd.table(jd.solvers.heun, jd.grids.karras(5))


def test_completion_offers_public_names_alone():
    names = dir(jd)
    for hidden in ("arrays", "brief", "conditioning", "files", "importlib", "Any", "sampling"):
        assert hidden not in names, hidden
    for shown in ("sample", "Table", "distill", "solvers", "load_pretrained", "load_run", "fit"):
        assert shown in names, shown
    assert [n for n in names if n.startswith("_")] == ["__version__"]
    assert all(hasattr(jd, name) for name in names)
    for package, name in ((jd.distill, "dmd2"), (jd.tuning, "gits")):
        offered = dir(package)
        assert name in offered and not {"parts", "learned", "search", "trajectory"} & {*offered}
        assert not [n for n in offered if n.startswith("_")]


def test_a_denoiser_says_what_it_is_and_not_its_numbers():
    D = jd.load_pretrained("digits").denoiser
    assert repr(D) == "Denoiser(UNet, edm of EDM, 454,305 parameters)"
    again = jax.tree.unflatten(jax.tree.structure(D), jax.tree.leaves(D))
    assert type(again) is type(D) and repr(again) == repr(D)
    guided = jd.guidance.classifier_free(D, 2.0)
    assert repr(guided) == f"classifier_free({D!r}, 2.0)"
    again = jax.tree.unflatten(jax.tree.structure(guided), jax.tree.leaves(guided))
    assert repr(jd.blending.rescaled(again, 3.0, phi=0.5)).count("rescaled(classifier_free(") == 1
    kept = jd.guidance.classifier_free(D, 2.0, channels=1)
    assert repr(kept) == repr(guided)
    assert "jit(" not in repr(jax.eval_shape(lambda D: D, D))
    own = jd.denoiser(lambda params, x, label, cond: x, (), prediction="x0")
    assert repr(own) == "Denoiser(<lambda>, x0 of EDM, 0 parameters)"


def test_records_of_arrays_are_one_short_line():
    many, tree = np.zeros((200, 300)), {"a": {"b": np.zeros((40, 40))}}
    for record in (
        jd.guidance.Prompts(many, many), Statistics(many[0], many), KID(0.1, 0.2, many[0]),
        Critic(jnp.sum, tree), TextEncoder(tree, ClipText()), Moments(3, many[0], many),
        PictureWords(jnp.sum, jnp.sum, (1,)),
    ):  # fmt: skip
        assert repr(record).startswith(type(record).__name__) and len(repr(record)) < 300
        assert "\n" not in repr(record)


def picture(page):
    (data,) = re.findall(r"base64,([^']+)'", page)
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))


def test_a_table_shows_its_levels():
    page = TABLE._repr_html_()
    assert "Table(heun(), nfe=9, levels 80 to 0, window=" in page and page.count("<circle") == 6
    svg = xml.dom.minidom.parseString(page[page.index("<svg") :])
    height = [float(c.getAttribute("cy")) for c in svg.getElementsByTagName("circle")]
    assert height == sorted(height) and height[0] < height[-1]  # levels fall, 0 on the axis
    assert ">80<" in page and ">0<" in page and "5 steps" in page
    for other in (jd.pad([TABLE])[0], jd.table(jd.solvers.euler, [1.0, 0.0])):
        assert "Table(" in other._repr_html_()
    many = jax.tree.map(lambda x: jnp.stack([jnp.asarray(x)] * 2), TABLE)
    for other in (many, jax.eval_shape(lambda t: t, TABLE)):
        assert repr(other).startswith("Table(heun(), nfe=") and "levels" not in repr(other)
    for metadata in ({"tuned": True}, {"step": 50}):
        assert repr(TABLE.with_metadata(**metadata)).startswith("Table(heun(), tuned, nfe=9, lev")
    for metadata in ({"tuned": False, "step": 0}, {"model": "digits"}):
        assert repr(TABLE.with_metadata(**metadata)) == repr(TABLE)
    assert jax.jit(lambda t: len(t._repr_html_()) + t.levels[0] * 0)(TABLE) > 0


def test_a_trajectory_shows_paths_or_images():
    D = jd.exact.Gaussian([0.5, -0.5], [1.0, 0.5]).denoiser
    start = jd.start(jax.random.key(0), TABLE, 3, (2,))
    page = jd.trajectory(D, TABLE, start)._repr_html_()
    assert page.count("<polyline") == 3 and page.count("<circle") == 18
    states = jnp.zeros((6, 5, 4, 8, 1)).at[-1].set(1.0)
    levels = jnp.asarray([80.0, 9.0, 3.0, 1.0, 0.1, 0.0])
    shown = jd.Trajectory(states, levels, states[:5], levels[:5])
    pixels = picture(shown._repr_html_())
    assert pixels.shape == (4 * 42, 6 * 82) and pixels[20, -20] == 255 and pixels[20, 20] == 128
    signals = jd.Trajectory(states[..., 0, 0], levels, states[:5, ..., 0, 0], levels[:5])
    assert "<polyline" in signals._repr_html_()


def test_a_png_holds_its_pixels():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    np.testing.assert_array_equal(Image.open(io.BytesIO(inline.png(pixels))), pixels)
