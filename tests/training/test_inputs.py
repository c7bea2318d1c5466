"""What cannot be trained on is refused by name, before anything is compiled."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.distill import scd
from jaxdiff.distill.flow_map.mean_flow import mean_flow
from jaxdiff.distill.parts.student import Student
from jaxdiff.distill.score_matching import score_matching
from jaxdiff.exact import Gaussian
from jaxdiff.networks import MLP, from_linen, init
from jaxdiff.training.inputs import checked
from jaxdiff.training.loop import fit


def network(params, x, label, cond=None, *, key=None):
    return params["w"] * x


PARAMS = {"w": np.float32(0.5)}
STUDENT = Student(network, PARAMS)
POINTS = np.zeros((4, 2), np.float32)
IMAGES = np.zeros((2, 8, 8, 3), np.float32)


def plain(**options):
    return score_matching(STUDENT._replace(**{"label_drop": 0.0, **options}))


def of(**batch):
    return lambda step: batch


DATA = {
    "an iterator": (iter([{"image": POINTS}]), "function of the step"),
    "a list": ([{"image": POINTS}], "function of the step"),
    "an array": (POINTS, "batches"),
    "tuples": (lambda step: (POINTS, None), "returned tuple"),
    "no image": (of(picture=POINTS), r"'image' in every batch; these have \['picture'\]"),
    "uint8": (of(image=IMAGES.astype(np.uint8)), "to_float"),
    "0 to 255": (of(image=IMAGES + np.arange(8, dtype=np.float32)[:, None]), "127.5"),
    "0 to 255 after a black one": (
        of(image=np.stack([IMAGES[0], IMAGES[0] + 200]).astype(np.float32)),
        "127.5",
    ),
    "none at all": (of(image=POINTS[:0]), "empty"),
    "a list of numbers": (of(image=POINTS.tolist()), "empty|one array|list"),
    "channels first": (of(image=IMAGES.transpose(0, 3, 1, 2) + np.float32(0.1)), "moveaxis"),
    "channels first, on a device": (
        lambda step: {"image": jnp.full((2, 3, 8, 8), 0.1)},
        "moveaxis",
    ),
    "0 to 255, on a device": (lambda step: {"image": jnp.full((2, 8, 8, 3), 7.0)}, "127.5"),
    "float64": (of(image=POINTS.astype(np.float64)), "float32"),
}


COMPILED: list[str] = []


def note(event, seconds, **metadata):
    if "backend_compile" in event:
        COMPILED.append(str(metadata))


jax.monitoring.register_event_duration_secs_listener(note)


def steps_compiled():
    return [metadata for metadata in COMPILED if "step" in metadata]


@pytest.fixture(autouse=True)
def as_users_train(request):
    """In single precision; and no refusal compiles the training step."""
    COMPILED.clear()
    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"):
        yield
    assert bool(steps_compiled()) == ("right" in request.node.name)


@pytest.mark.parametrize("name", DATA)
def test_data(name):
    data, message = DATA[name]
    with pytest.raises((TypeError, ValueError), match=message):
        fit(plain(), data, num_updates=1, progress=False, ahead=0)


def test_numbers_on_a_device_are_fetched_in_the_first_batch_alone():
    images = [jnp.full((2, 8, 8, 3), 0.5), jnp.full((2, 8, 8, 3), 7.0)]
    batch_of = checked(lambda step: {"image": images[step]}, None)
    batch_of(0)
    batch_of(1)
    with pytest.raises(ValueError, match="127.5"):
        checked(lambda step: {"image": images[1]}, None)(1)


def test_the_first_batch_is_looked_at_before_any_state_is_made():
    def init(key):
        raise AssertionError("a state was made")

    method = score_matching(STUDENT._replace(params=init, label_drop=0.0))
    with pytest.raises(ValueError, match="moveaxis"):
        fit(method, DATA["channels first"][0], num_updates=1, progress=False)


@pytest.mark.parametrize(
    "labels, message",
    [
        ([0, 1, 2, 4], "from 0 to 4"),
        ([0, -1, 2, 3], "from -1"),
        (None, "no .lab"),
        (np.float32([0.5, 0, 1, 2]), "whole numbers"),
        ([0, 1, 2], "each of the 4 samples"),
        (["a", "b", "c", "d"], "whole numbers"),
        (np.eye(4, dtype=np.int32), "each of the 4 samples"),
    ],
)
def test_labels(labels, message):
    batch = {"image": POINTS} | ({} if labels is None else {"label": np.asarray(labels)})
    with pytest.raises(ValueError, match=message):
        fit(plain(classes=3), lambda step: batch, num_updates=1, progress=False)


def test_networks_that_lack_what_a_method_asks_for():
    D = Gaussian(np.zeros(2), np.ones(2)).denoiser
    with pytest.raises(ValueError, match="jaxdiff.typing.Outputs"):
        fit(scd(D, STUDENT), of(image=POINTS), num_updates=1, progress=False)
    module = MLP(width=4, depth=1, embedding=4)
    one = Student(from_linen(module), init(module, jax.random.key(0), (2,)))
    with pytest.raises(ValueError, match="labels=2"):
        fit(mean_flow(one), of(image=POINTS), num_updates=1, progress=False)
    with pytest.raises(ValueError, match="log_variance=True"):
        fit(scd(D, one), of(image=POINTS), num_updates=1, progress=False)


def test_what_is_right_passes():
    from jaxdiff.training.inputs import check_batch

    for image in (POINTS + 40.0, IMAGES, np.rint(IMAGES), jnp.ones((2, 4, 4, 4))):
        check_batch({"image": image, "label": {"text": np.ones((2, 3), np.float32)}})
    with pytest.raises(ValueError, match="at least 1"):
        fit(plain(), of(image=POINTS), num_updates=-1, progress=False)
    assert not steps_compiled()
    fit(plain(), of(image=POINTS), num_updates=1, progress=False)


def test_an_error_that_is_not_known_stays_itself():
    from jaxdiff.training.inputs import explained

    batch = {"image": POINTS}
    for error in (KeyError(), KeyError("w"), KeyError((1,)), ValueError("x"), TypeError("y")):
        assert explained(error, batch) is None
