"""Scenes: what blobs draw, what particles are measured with, what the command says."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.scenes import __main__ as scenes
from experiments.scenes import pictures, points, render, report
from jaxdiff.distill.score.score_distillation import variance


def blob(position=(0.1, -0.2), width=(0.15, 0.1), angle=0.6, opacity=0.7):
    """A scene of one blob of these widths and opacity."""
    share = np.log(np.asarray(width) / render.THIN) / np.log(render.WIDE / render.THIN)
    logit = lambda p: jnp.log(jnp.asarray(p) / (1 - jnp.asarray(p)))  # noqa: E731
    return {
        "position": jnp.asarray([position]),
        "width": logit(share)[None],
        "angle": jnp.asarray([angle]),
        "opacity": logit([opacity]),
    }


def moments(picture):
    """Mass, centre and covariance of ink in the square [-1, 1]^2, first coordinate to the right."""
    size = len(picture)
    at = (np.arange(size) + 0.5) * 2 / size - 1
    ink = (np.asarray(picture)[..., 0] + 1) / 2
    x = np.stack(np.meshgrid(at, at), axis=-1)
    mass = ink.sum() * (2 / size) ** 2
    centre = np.einsum("ij,ijk->k", ink, x) / ink.sum()
    off = x - centre
    return mass, centre, np.einsum("ij,ijk,ijl->kl", ink, off, off) / ink.sum()


# Rendering


def test_a_blob_has_its_mass_place_and_axes():
    mass, centre, covariance = moments(render.picture(blob(), 128, 1))
    assert mass == pytest.approx(0.7 * 2 * np.pi * 0.15 * 0.1, rel=1e-4)
    np.testing.assert_allclose(centre, [0.1, -0.2], atol=1e-4)
    along = np.array([np.cos(0.6), np.sin(0.6)])  # clockwise in the picture, which goes down
    assert along @ covariance @ along == pytest.approx(0.15**2, rel=1e-3)
    assert np.trace(covariance) == pytest.approx(0.15**2 + 0.1**2, rel=1e-3)


def test_a_picture_is_the_same_at_every_resolution(key):
    scene = render.blobs(key, 5)
    large, small = render.picture(scene, 64, 1), render.picture(scene, 8, 8)
    np.testing.assert_allclose(large.reshape(8, 8, 8, 8, 1).mean(axis=(1, 3)), small, atol=1e-12)
    coarse = render.picture(scene, 8)  # with fewer points in a pixel
    np.testing.assert_allclose(coarse, small, atol=0.05)


@pytest.mark.slow
def test_ink_is_covered_by_chance():
    one = blob()
    two = jax.tree.map(lambda leaf: jnp.concatenate([leaf, leaf]), one)
    single, double = ((render.picture(s, 16) + 1) / 2 for s in (one, two))
    assert 0 <= single.min() and double.max() < 1
    at = jnp.asarray([[0.1, -0.2]])
    np.testing.assert_allclose(render.ink(one, at), [0.7])
    np.testing.assert_allclose(render.ink(two, at), [1 - 0.3**2])


@pytest.mark.slow
def test_every_parameter_has_a_gradient(key):
    scene = render.blobs(key, 3)
    target = render.picture(blob())
    slope = jax.grad(lambda s: jnp.mean((render.picture(s) - target) ** 2))(scene)
    assert set(slope) == {"position", "width", "angle", "opacity"}
    assert all((jnp.abs(leaf) > 1e-9).all() for leaf in slope.values())


@pytest.mark.slow
def test_a_batch_has_the_classes_in_turn(key):
    """Scenes of class k have their only blob at height k."""
    classes, own = 4, 3
    scene = jax.vmap(lambda k: render.blobs(k, 1))(jax.random.split(key, classes * own))
    height = jnp.linspace(-0.6, 0.6, classes)
    place = jnp.stack([jnp.zeros(12), jnp.tile(height, own)], axis=1)[:, None]
    drawn = pictures.in_turn(classes, scene | {"position": place}, key)
    assert drawn.shape == (pictures.BATCH * classes, 8, 8, 1)
    found = [moments(picture)[1][1] for picture in drawn]
    np.testing.assert_allclose(np.argsort(np.argsort(found[:classes])), np.arange(classes))
    ordered = np.reshape(found, (pictures.BATCH, classes))
    assert (np.diff(ordered, axis=1) > 0).all()


# Points


@pytest.mark.slow
def test_score_distillation_descends_its_landscape():
    """The gradient of L is E w (eps_teacher - eps), for the same levels and noises."""
    given, choice, draws = points.problem(), points.CHOICES["SDS, low levels"], 64
    x = jnp.asarray([[0.3, -0.4]])
    L = lambda x: points.landscape(x, given.model, choice, draws)[0]  # noqa: E731
    keys = jax.random.split(jax.random.key(0))
    s = points.LEVELS[choice.levels](keys[0], jnp.zeros((draws, 2)))
    noise = jax.random.normal(keys[1], (draws, 2))
    noise, s = jnp.concatenate([noise, -noise]), jnp.concatenate([s, s])
    y = x + s[:, None] * noise
    said = (y - given.model.denoise(y, s)) / s[:, None]
    expected = jnp.mean(variance(s)[:, None] * (said - noise), axis=0)
    np.testing.assert_allclose(jax.grad(L)(x)[0], expected, rtol=1e-8)


@pytest.mark.slow
def test_numbers_of_exact_and_of_collapsed_particles():
    given = points.problem()
    exact = points.numbers(np.asarray(given.samples(jax.random.key(3), 1000)), given, 0)
    assert 0.5 < exact["sliced"] / exact["real_data"] < 1.5
    assert 0.7 < min(exact["shares"]) and max(exact["spread"]) < 1.2
    x = given.modes[[0, 0, 4]].repeat(10, axis=0)
    lost = points.numbers(x, given, 0)
    assert lost["ends"] == 2 and lost["sliced"] > 2 * lost["real_data"]
    assert np.flatnonzero(lost["shares"]).tolist() == [0, 4] and max(lost["spread"]) < 1e-6


def test_ends_are_groups():
    line = np.stack([np.arange(5) * 0.09, np.zeros(5)], axis=1)
    assert points.ends(np.concatenate([line, line, line + 2.0])) == 2
    assert points.ends(line, 0.05) == 5


# Numbers of pictures


def test_diversity_of_noise():
    x = np.random.default_rng(0).normal(size=(400, 8, 8, 1))
    labels = np.arange(400) % 4
    assert pictures.diversity(x, labels, 4) == pytest.approx(np.sqrt(2 * 64), rel=0.02)
    assert pictures.diversity(x[:4], labels[:4], 4) == 0.0
    assert pictures.diversity(x[:8] * 0 + 1, labels[:8], 4) == 0.0


# The command


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("--part line", "invalid choice: 'line'"),
        ("--updates 0", "--updates is at least 1"),
        ("--point-updates 0", "--point-updates is at least 1"),
        ("--scenes 1", "--scenes is at least 2"),
        ("--rank -1", "--rank is at least 0"),
        ("--sds 3 -2", "weights of --sds are not negative"),
        ("--vsd nan", "weights of --vsd are not negative"),
        ("--teacher nowhere", "nowhere is not a run"),
        ("--json t.txt", "ends in .json"),
    ],
)
def test_errors_come_before_any_work(given, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        scenes.main(given.split())
    assert stopped.value.code == 2 and message in capsys.readouterr().err
    assert not list(tmp_path.rglob("*"))


def test_help_says_what_the_numbers_mean(capsys):
    with pytest.raises(SystemExit):
        scenes.main(["--help"])
    text = capsys.readouterr().out
    assert "python -m experiments.scenes --part points" in text and "real-data score" in text


COMMON = {"error": None, "machine": "here", "seconds": 3.0, "seed": 0}


def points_row(name):
    x = np.random.default_rng(0).normal(size=(20, 2))
    found = {"sliced": 0.3, "real_data": 0.1, "shares": [0.5, 1.5], "spread": [0.0, 1.2], "ends": 3}
    given = points.CHOICES[name]._asdict()
    return COMMON | given | found | {
        "problem": "points", "name": name, "count": 20, "updates": 9, "particles": x.tolist(),
    }  # fmt: skip


def digits_row(method, **choice):
    found = {"count": 160, "class": 0.9, "frechet": 2.5, "real_data": 2.0, "diversity": 0.4}
    plan = pictures.Plan()._asdict()
    row = COMMON | plan | found | {"problem": "digits", "method": method, "contrast": 0.8}
    row |= choice | {"name": report.named(method, **choice)}
    if method == "teacher":
        return row | {"diversity": 0.8, "weight": 1.0, "images": np.zeros((40, 8, 8, 1)).tolist()}
    scene = pictures.scattered(jax.random.key(0), 40, 3)
    return row | {"scene": {name: leaf.tolist() for name, leaf in scene.items()}}


@pytest.fixture
def bowl(monkeypatch):
    """A landscape that costs nothing."""
    monkeypatch.setattr(points, "landscape", lambda x, model, choice: (x**2).sum(axis=1))


@pytest.mark.slow
def test_the_page_and_the_figure(bowl):
    rows = [points_row("SDS"), points_row("VSD"), digits_row("teacher")]
    rows += [digits_row("vsd", weight=1.0), digits_row("sds", weight=7.5)]
    rows += [digits_row("vsd", weight=1.0, alone=True) | {"count": 10, "diversity": 0.0}]
    rows += [COMMON | {"error": "ValueError: no", "problem": "digits", "name": "lost"}]
    page = report.markdown(rows, {"command": "c", "jax": "0", "device": "cpu"})
    assert "| SDS | 3.00 | 0.50 to 1.50 | 0.00 to 1.20 | 3 | 3 |" in page
    assert "| VSD | 3.00 | 0.50 to 1.50 | 0.00 to 1.20 | - | 3 |" in page
    assert "| VSD | 0.90 | 2.50 | 2.00 | 0.40 | 0.50 | 0.80 | 3 |" in page
    assert "| SDS, guidance 7.5 | 0.90 | 2.50 | 2.00 | 0.40 | - | 0.80 | 3 |" in page
    assert "| VSD, one scene of a class | 0.90 | - | - | - | - | 0.80 | 3 |" in page
    assert "- digits, lost failed: ValueError: no" in page
    titles = [axes.get_title(loc="left") for axes in report.figure(rows).axes]
    assert titles[:3] == ["exact samples", "SDS", "VSD"]
    assert "VSD:  class 0.90, diversity 0.40, Frechet 2.5" in titles
    assert [report.line(row)[:8] for row in rows[-2:]] == ["  class ", "  failed"]
    with pytest.raises(ValueError, match="no finished row"):
        report.figure(rows[-1:])


def small(folder, *more):
    given = "--scenes 2 --blobs 3 --rank 2 --updates 4 --teacher-updates 3 --sds 2 --vsd 1"
    given += " --particles 40 --point-updates 3 --start-updates 3"
    return [*given.split(), "--out", str(folder), "--json", str(folder / "t.json"), *more]


@pytest.mark.slow
def test_stopping_keeps_what_was_made(tmp_path, monkeypatch, capsys, bowl):
    made = points_row("SDS")

    def run(choice, **settings):
        if choice.method == "vsd":
            raise KeyboardInterrupt
        return {name: made[name] for name in ("sliced", "real_data", "shares", "spread", "ends",
                                              "particles", "seconds", "count")}  # fmt: skip

    monkeypatch.setattr(points, "run", run)
    assert scenes.main(small(tmp_path, "--part", "points")) == 130
    rows = json.loads((tmp_path / "t.json").read_text())["rows"]
    assert [row["name"] for row in rows] == ["SDS", "SDS, low levels"]
    assert "particles" not in rows[0] and (tmp_path / "t.png").exists()
    assert "2 rows" in capsys.readouterr().err


@pytest.mark.slow
def test_from_the_command_line_to_the_table(tmp_path, monkeypatch, capsys, bowl):
    two = {name: points.CHOICES[name] for name in ("SDS", "VSD")}
    monkeypatch.setattr(points, "CHOICES", two)
    assert scenes.main(small(tmp_path)) == 0
    rows = json.loads((tmp_path / "t.json").read_text())["rows"]
    assert all(row["error"] is None for row in rows)
    names = [row["name"] for row in rows]
    assert names[:2] == list(two)
    assert names[2:] == [
        "teacher", "blobs fitted to digits", "SDS, guidance 2", "VSD", "VSD, levels annealed",
        "VSD, one scene of a class",
    ]  # fmt: skip
    assert rows[-1]["count"] == 10 and rows[-1]["diversity"] == 0.0
    assert rows[-2]["count"] == 20 and 0 <= rows[-2]["class"] <= 1
    assert (tmp_path / "t.md").exists() and (tmp_path / "t.png").exists()
    capsys.readouterr()
    assert scenes.main(small(tmp_path)) == 0  # nothing is made again
    assert capsys.readouterr().out.count(": made ") == len(rows)
