"""Parameters, checkpoints, histories and models, from outside: the requirements on readers,
fuzz_readers says.
"""

import contextlib
import json
import shutil
import warnings
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.fuzz_readers import (
    FINITE,
    MAGIC,
    OBJECTS,
    PLAIN,
    REFUSED,
    RNG,
    answer,
    changes,
    damages,
    depth,
    forall,
    noise,
    same,
    text_of,
)
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes

from jaxdiff import solvers
from jaxdiff.app import config as configs
from jaxdiff.app import config_file
from jaxdiff.app.load import load_model
from jaxdiff.app.samplers import student_sampler
from jaxdiff.app.student_file import decode, encode
from jaxdiff.denoisers import denoiser
from jaxdiff.networks import MLP, from_linen, init
from jaxdiff.sampling.trace import table
from jaxdiff.training import checkpoint
from jaxdiff.training.history import HISTORY, read_history

# Parameters and checkpoints


DTYPES = [
    "float32", "float64", "float16", "int8", "int64", "uint32", "bool", "complex64",
    jnp.bfloat16, jnp.float8_e4m3fn,
]  # fmt: skip


@st.composite
def any_array(draw):
    """An array of any dtype and shape, of any bits."""
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    shape = draw(array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3))
    size = int(np.prod(shape)) * dtype.itemsize
    bits = np.frombuffer(draw(st.binary(min_size=size, max_size=size)), np.uint8)
    return (bits % 2 == 1).reshape(shape) if dtype.kind == "b" else bits.view(dtype).reshape(shape)


def trees(names):
    """Nested dictionaries of arrays."""
    return st.recursive(
        any_array(),
        lambda inner: st.dictionaries(names, inner, min_size=1, max_size=3),
        max_leaves=4,
    )


@depth(12, 40)
def test_any_parameters_come_back(tmp_path, count):
    path = tmp_path / "net.npz"
    odd = st.sampled_from(["x", "x.npy", "record", "..", "/", "C:", "a.b", "file", "\0"])
    odd |= st.text(max_size=8)

    @forall(count, trees(odd), OBJECTS)
    def _(params, meta):
        try:
            checkpoint.save_params(path, params, meta)
        except ValueError as error:  # two leaves of one path, or a name that no zip can hold
            assert "same path" in str(error) or "no file can hold" in str(error)
            return
        back, said = checkpoint.load_params(path, params)
        assert same(back, params) and said == meta

    plain = st.text(st.characters(exclude_characters=".\0", exclude_categories=["Cs"]), max_size=8)

    @forall(count, st.dictionaries(plain.filter(bool), trees(plain), min_size=1, max_size=2))
    def _(params):
        checkpoint.save_params(path, params)
        assert same(checkpoint.load_params(path)[0], params)


PARAMS = {"a": np.arange(6.0).reshape(2, 3), "b": {"c": np.ones(3, jnp.bfloat16)}}


@depth(80, 300)
@pytest.mark.parametrize("given", [True, False])
def test_damaged_parameters_are_right_or_refused(tmp_path, count, given):
    path = tmp_path / "net.npz"
    checkpoint.save_params(path, PARAMS, {"classes": 10})
    good = path.read_bytes()

    @forall(count, damages(good) | noise(*MAGIC))
    def _(data):
        path.write_bytes(data)
        made = answer(lambda path: checkpoint.load_params(path, PARAMS if given else None), path)
        assert made is REFUSED or (same(made[0], PARAMS) and made[1] == {"classes": 10})


@depth(40, 200)
def test_the_record_of_parameters_is_checked(tmp_path, count):
    """Names and dtypes that are changed under right checksums."""
    path = tmp_path / "net.npz"
    checkpoint.save_params(path, PARAMS, {"classes": 10})
    with np.load(path) as file:
        arrays_of = {name: file[name] for name in file.files}
    record = json.loads(str(arrays_of["record"]))
    dtypes = st.sampled_from([
        "object", "float32", "uint16", "float16", "<U2", "datetime64[s]", "V8", "complex128", "x",
        "int64", ">f8", "f8,f8", None, 7,
    ])  # fmt: skip
    other = st.tuples(st.sampled_from(["a", "b.c"]), dtypes).map(
        lambda new: record | {"dtypes": record["dtypes"] | {new[0]: new[1]}}
    )

    @forall(count, changes(record) | other)
    def _(given):
        np.savez(path, **arrays_of | {"record": np.str_(text_of(given))})
        made = answer(checkpoint.load_params, path)
        if made is not REFUSED:
            assert json.dumps(made[1]) == json.dumps(json.loads(text_of(given))["meta"])
            for path_, leaf in (("a", made[0]["a"]), ("b.c", made[0]["b"]["c"])):
                assert str(leaf.dtype) == given["dtypes"][path_]  # bits may be stored as integers
                assert np.asarray(leaf).tobytes() == arrays_of[f"params.{path_}"].tobytes()


def test_arrays_inside_of_arrays_need_to_be_named(tmp_path):
    """Names with dots, which nested dictionaries cannot have."""
    for params in ({"a": np.ones(2), "a.b": np.zeros(2)}, {"a.b": np.ones(2), "a": np.zeros(2)}):
        checkpoint.save_params(tmp_path / "net.npz", params)
        assert same(checkpoint.load_params(tmp_path / "net.npz", params)[0], params)
        with pytest.raises(ValueError, match=r"net.npz.*read it with like="):
            checkpoint.load_params(tmp_path / "net.npz")
    empty = {"": np.ones(2), "a": np.zeros(2)}
    checkpoint.save_params(tmp_path / "net.npz", empty)
    assert same(checkpoint.load_params(tmp_path / "net.npz")[0], empty)


STATES = {
    1: {"w": RNG.normal(size=(8, 8)), "count": np.int32(1), "empty": np.zeros((0, 2))},
    2: {"w": RNG.normal(size=(8, 8)), "count": np.int32(2), "empty": np.zeros((0, 2))},
}
STATES = {step: jax.tree.map(jnp.asarray, state) for step, state in STATES.items()}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder with the checkpoints of steps 1 and 2."""
    folder = tmp_path_factory.mktemp("checkpoints") / "run"
    for step, state in STATES.items():
        checkpoint.save(folder, step, state, {"step": step})
    return folder


def check_checkpoint(folder):
    """The newest state, the one before it with a warning, or a refusal."""
    with warnings.catch_warnings(record=True) as noted:
        warnings.simplefilter("always")
        made = answer(lambda path: checkpoint.restore(path, STATES[2]), folder)
    if made is REFUSED:
        return None
    assert same(made.state, STATES[made.step]) and made.meta == {"step": made.step}
    assert made.step == 2 or any(f"{folder.name}/2" in str(w.message) for w in noted)
    return made.step


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # orbax's threads
@depth(6, 60)
def test_a_damaged_checkpoint_is_right_or_passed_over(tmp_path, saved, count):
    """One file of the newest checkpoint, any of them, is damaged anywhere."""
    files = [p for p in sorted((saved / "2").rglob("*")) if p.is_file() and p.stat().st_size]
    hurt = lambda p: damages(p.read_bytes()).map(lambda data: (p.relative_to(saved), data))  # noqa: E731
    seen = []

    @forall(count, st.sampled_from(files).flatmap(hurt))
    def _(change):
        folder, (name, data) = tmp_path / "run", change
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(saved, folder)
        (folder / name).write_bytes(data)
        seen.append(check_checkpoint(folder))
        assert seen[-1] is not None  # the one of step 1 is whole

    assert set(seen) == {1, 2} or count < 20


@depth(5, 30)
def test_the_record_of_a_checkpoint_is_checked(tmp_path, saved, count):
    """What the record says is changed, under a right checksum."""
    folder = tmp_path / "run"
    shutil.copytree(saved, folder)
    file = folder / "2" / "record" / "metadata"
    body = json.loads(json.loads(file.read_text())["body"])

    @forall(count, changes(body).map(text_of))
    def _(text):
        file.write_text(json.dumps({"body": text, "crc": zlib.crc32(text.encode())}))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made = answer(lambda path: checkpoint.restore(path, STATES[2]), folder)
        if made is not REFUSED:
            assert same(made.state, STATES[made.step])
            assert made.meta == ({"step": 1} if made.step == 1 else json.loads(text)["meta"])


# Histories and students


ROWS = [{"step": 1, "fit/loss": 0.5}, {"resumed": 1}, {"step": 2, "fit/loss": 0.25}]


@depth(20, 80)
def test_a_history_that_was_cut_short_keeps_its_whole_rows(tmp_path, count):
    path = tmp_path / HISTORY
    rows = st.lists(st.fixed_dictionaries({"step": st.integers(0, 9), "loss": FINITE, "x": PLAIN}))

    @forall(count, rows, st.integers(0, 10**6))
    def _(rows, cut):
        text = "".join(json.dumps(row) + "\n" for row in rows)
        path.write_text(text)
        assert read_history(tmp_path) == rows
        path.write_text(text[: cut % (len(text) + 1)])
        kept = read_history(tmp_path)
        assert kept == rows[: len(kept)]
        assert len(kept) >= text[: cut % (len(text) + 1)].count("\n")


@depth(60, 300)
def test_a_damaged_history_is_rows_or_refused(tmp_path, count):
    path = tmp_path / HISTORY
    good = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
    changed = changes(ROWS).map(lambda rows: "\n".join(map(text_of, rows)).encode())

    @forall(count, changed | damages(good) | noise(b"{", b'{"resumed": '))
    def _(data):
        path.write_bytes(data)
        made = answer(read_history, path.parent)
        assert made is REFUSED or all(type(row["step"]) is int for row in made)


MODULE = MLP(width=8, depth=1, embedding=8)


@pytest.fixture(scope="module")
def description():
    """Parameters, and what a student's file says of a denoiser conditioned on a number."""
    from jaxdiff.denoisers import conditioned

    with jax.enable_x64(False):
        params = init(MODULE, jax.random.key(0), (2,), labels=2)
        D = conditioned(denoiser(from_linen(MODULE), params), extra=jnp.asarray(0.3))
        return params, json.loads(json.dumps(encode(D)))


def agrees(given, again):
    """Return whether a description says what a text said, its numbers to single precision."""
    if isinstance(again, dict):
        return all(agrees(given[k], v) for k, v in again.items() if k in given)
    if isinstance(again, list):
        return len(given) == len(again) and all(map(agrees, given, again))
    return given == again or abs(given - again) < 1e-6 * abs(given) + 1e-30


@depth(40, 150)
def test_a_changed_description_of_a_student_is_what_it_says_or_refused(description, count):
    params, text = description

    @forall(count, changes(text))
    def _(changed):
        try:
            given = json.loads(text_of(changed))
        except (ValueError, RecursionError):
            return
        with jax.enable_x64(False):
            try:
                made = decode(given, MODULE, params)
            except ValueError:
                return
            assert agrees(given, encode(made))


@pytest.fixture(scope="module")
def models(description):
    """What the files of a teacher and of a student say."""
    params, text = description
    teacher = {
        "kind": "teacher", "network": {"channels": 8}, "shape": [8, 8, 1], "classes": 3,
        "sigma_data": 0.5, "data": {"path": "digits", "flip": True}, "updates": 3000,
    }  # fmt: skip
    entry = {"table": table(solvers.euler, [2.0, 0.5, 0.0]).to_dict(), "denoiser": text}
    given = json.loads(json.dumps({"2": entry | {"guidance": [text, text]}, "3": entry}))
    return params, [teacher, teacher | {"kind": "student", "method": "sfd_v", "samplers": given}]


@pytest.mark.parametrize("number", [0, 1])
@depth(30, 300)
def test_a_changed_model_is_loaded_and_sampled_or_refused(models, tmp_path, number, count):
    params, known = models[0], models[1][number]
    config_file.save(configs.Train(run=str(tmp_path)), tmp_path)

    def used(given):
        """A sampler of every number of evaluations, or REFUSED."""
        checkpoint.save_params(tmp_path / "model.npz", params, given)
        model = answer(load_model, tmp_path)
        if model is REFUSED or not model.student:
            return model
        for steps in (1, 2, 3):
            for weight in (None, 0.5):
                with contextlib.suppress(ValueError):
                    student_sampler(model, steps, weight)
        return model

    assert used(known) is not REFUSED

    @forall(count, changes(known))
    def _(changed):
        try:
            given = json.loads(text_of(changed))
        except (ValueError, RecursionError):
            return
        with jax.enable_x64(False):
            model = used(given)
        if model is not REFUSED:
            assert {"kind", "network", "shape", "classes", "sigma_data", "data"} <= {
                *model.metadata
            }
            assert np.prod(model.shape) >= 1 and type(model.classes) is int


def test_more_classes_than_can_be_named_are_refused():
    known = {"network": None, "shape": (2,), "sigma_data": 0.5, "data": None}
    assert config_file.ModelMetadata(**known, classes=1_000_000).classes == 1_000_000
    with pytest.raises(ValueError, match="there are no 1000001 classes"):
        config_file.ModelMetadata(**known, classes=1_000_001)
