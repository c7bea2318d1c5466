"""Tables, corrections and configurations, from outside: the requirements on readers, fuzz_readers
says.
"""

import dataclasses
import json
import typing

import jax
import numpy as np
import pytest
from helpers.fuzz_readers import (
    FINITE,
    NAMES,
    OBJECTS,
    REFUSED,
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
from hypothesis.extra.numpy import arrays

from jaxdiff import grids, solvers
from jaxdiff.app import config as configs
from jaxdiff.app import config_file
from jaxdiff.app import tune as tuned
from jaxdiff.sampling.table import Label, Table, load_table
from jaxdiff.sampling.trace import table
from jaxdiff.tuning.learned.pas import Corrections, load_corrections

# Tables


@st.composite
def any_table(draw):
    """A table of any shape, its numbers anything finite."""
    n, rows = draw(st.integers(0, 4)), draw(st.integers(1, 3))
    reals = lambda *shape: draw(arrays(np.float64, shape, elements=FINITE))  # noqa: E731
    levels = lambda *shape: np.abs(reals(*shape))  # noqa: E731
    some = lambda end, least=0: st.sets(st.integers(0, end - 1), min_size=least)  # noqa: E731
    accepted, slots = tuple(sorted(draw(some((n + 1) * rows)))), draw(st.integers(0, 2))
    draws = tuple(sorted(draw(some((n + 1) * slots, slots)))) if slots else ()
    window = [draw(st.integers(0, 3)) for _ in range(3)]
    return Table(
        levels(len(accepted) + 1), levels(n),
        *(reals(n + 1, rows, k if i < 2 or slots else 0) for i, k in enumerate(window)),
        targets=draw(st.none() | st.just(levels(n))), accepted=accepted, draws=draws, slots=slots,
        label=Label(draw(NAMES), draw(OBJECTS), draw(OBJECTS)),
    )  # fmt: skip


@depth(30, 100)
def test_any_table_comes_back(tmp_path, count):
    @forall(count, any_table())
    def _(made):
        made.save(tmp_path / "t.json")
        again = load_table(tmp_path / "t.json")
        assert again.to_dict() == made.to_dict()
        for field in dataclasses.fields(Table):
            mine, own = getattr(made, field.name), getattr(again, field.name)
            if isinstance(mine, np.ndarray):  # to the bit: -0.0 is not 0.0
                assert mine.shape == own.shape and mine.tobytes() == own.tobytes()


NOISY = table(solvers.ddim, [3.0, 1.0, 0.5], eta=1.0).with_metadata(score=0.5, of=["x"]).to_dict()
TABLES = [NOISY, table(solvers.unipc, grids.karras(2), order=2).to_dict()]


def check_table(path, text):
    """Return whether a text is a table, which then is what the text says."""
    path.write_text(text)
    made = answer(load_table, path)
    if made is REFUSED:
        return False
    given, again = (json.loads(t, parse_int=float) for t in (text, json.dumps(made.to_dict())))
    assert again.pop("metadata", {}) == given.get("metadata", {})
    assert again.pop("shapes").items() <= given["shapes"].items()
    assert again == {k: given[k] for k in again}
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(made))
    return True


@depth(100, 500)
@pytest.mark.parametrize("which", range(len(TABLES)))
def test_a_changed_table_is_what_it_says_or_refused(tmp_path, count, which):
    kept = []

    @forall(count, changes(TABLES[which]))
    def _(text):
        kept.append(check_table(tmp_path / "t.json", text_of(text)))

    assert 0 < sum(kept) < len(kept)  # a number may well be another


@depth(80, 300)
def test_a_damaged_table_file_is_what_it_says_or_refused(tmp_path, count):
    path, good = tmp_path / "t.json", json.dumps(NOISY).encode()

    @forall(count, damages(good) | noise(b"{", b'{"format": "jaxdiff-table-1"', b"\xff\xfe"))
    def _(data):
        path.write_bytes(data)
        made = answer(load_table, path)
        if made is not REFUSED:
            check_table(path, data.decode())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"nodes": ["3.0", "1.0"]}, "not a number"),
        ({"nodes": [True, 1.0]}, "True is not a number"),
        ({"nodes": [10**400, 1.0]}, "damaged"),
        ({"nodes": [3.0, -1.0]}, "'nodes' holds levels below 0"),
        ({"slots": 1.0}, "not one of 0, 1, 2"),
        ({"slots": 10**12}, "do not go with 2 draws"),
        ({"accepted": [1, 0]}, "'accepted' should increase"),
        ({"accepted": [0, 1.5]}, "1.5 is not one of 0, 1, 2"),
        ({"nfe": 3}, "'nfe' 3"),
        ({"targets": [1.0, float("nan")], "shapes": NOISY["shapes"] | {"targets": [2]}}, "finite"),
        ({"shapes": NOISY["shapes"] | {"nodes": [-1]}}, "'shapes'"),
        ({"options": [["eta", 1.0]]}, "should be objects"),
        ({"metadata": {"score": float("inf")}}, "not JSON compliant"),
    ],
)
def test_what_is_wrong_in_a_table_is_named(tmp_path, change, message):
    (tmp_path / "t.json").write_text(json.dumps(NOISY | change))
    with pytest.raises(ValueError, match=rf"t\.json.*{message}"):
        load_table(tmp_path / "t.json")


def test_absurd_windows_that_hold_no_numbers_are_refused(tmp_path):
    empty = {k: [[]] * 3 for k in ("states", "denoised", "noises")}
    shapes = NOISY["shapes"] | {k: [3, 0, 10**12] for k in empty} | {"nodes": [2]}
    (tmp_path / "t.json").write_text(json.dumps(NOISY | empty | {"shapes": shapes}))
    with pytest.raises(ValueError, match="t.json"):
        load_table(tmp_path / "t.json")


# Corrections


@st.composite
def any_corrections(draw):
    steps = draw(st.integers(1, 4))
    levels = sorted(draw(st.sets(st.floats(0, 1e300), min_size=steps + 1, max_size=steps + 1)))
    return Corrections(
        np.array(levels[::-1]), draw(arrays(np.float64, (steps, 4), elements=FINITE)),
        draw(arrays(bool, steps)),
        draw(st.none() | arrays(np.float64, (steps, 2), elements=FINITE)),
        draw(st.integers(1, 4)), draw(st.booleans()), draw(st.booleans()),
    )  # fmt: skip


@depth(20, 60)
def test_any_corrections_come_back(tmp_path, count):
    @forall(count, any_corrections())
    def _(made):
        made.save(tmp_path / "pas.json")
        again = load_corrections(tmp_path / "pas.json")
        assert same(again, made)


CORRECTIONS = Corrections(
    np.array([2.0, 1.0, 0.0]), np.arange(8.0).reshape(2, 4), np.array([True, False]),
    np.arange(4.0).reshape(2, 2), 2, False, True,
)  # fmt: skip


@depth(80, 400)
def test_changed_corrections_are_what_they_say_or_refused(tmp_path, count):
    path, other = tmp_path / "pas.json", tmp_path / "again.json"
    CORRECTIONS.save(path)
    good = path.read_bytes()
    texts = changes(json.loads(good)).map(lambda v: text_of(v).encode())

    @forall(count, texts | damages(good))
    def _(data):
        path.write_bytes(data)
        made = answer(load_corrections, path)
        if made is not REFUSED:
            made.save(other)
            given, again = (json.loads(t, parse_int=float) for t in (data, other.read_text()))
            assert again == {k: given[k] for k in again}


def test_words_and_truth_values_are_no_numbers_of_corrections(tmp_path):
    path = tmp_path / "pas.json"
    CORRECTIONS.save(path)
    text = json.loads(path.read_text())
    for change in ({"levels": ["2", "1", "0"]}, {"order": True}, {"losses": [[True, 1.0]] * 2}):
        path.write_text(json.dumps(text | change))
        with pytest.raises(ValueError, match=r"pas\.json holds damaged"):
            load_corrections(path)


# Configurations


RATES = st.floats(-1e300, 1e300)
COUNTS = st.integers(-(2**40), 2**40)


def of_fields(kind):
    """A configuration with anything of the right type in its fields."""

    def values(hint):
        of = typing.get_args(hint)
        if type(None) in of:
            return st.none() | values(of[0])
        if any(map(dataclasses.is_dataclass, of)):
            return st.one_of(*map(values, of))
        if typing.get_origin(hint) is tuple:
            if of[-1] is not Ellipsis:
                return st.tuples(*map(values, of))
            return st.lists(values(of[0]), max_size=3).map(tuple)
        if typing.get_origin(hint) is dict:
            return st.dictionaries(NAMES, RATES, max_size=3)
        if typing.get_origin(hint) is typing.Literal:
            return st.sampled_from(of)
        if dataclasses.is_dataclass(hint):
            return of_fields(hint)
        return {int: COUNTS, float: RATES | COUNTS, str: NAMES, bool: st.booleans()}[hint]

    return st.builds(kind, **{k: values(h) for k, h in typing.get_type_hints(kind).items()})


@depth(20, 80)
def test_any_configuration_comes_back(tmp_path, count):
    kinds = [configs.Train, configs.Distill]

    @forall(count, st.one_of(*map(of_fields, kinds)))
    def _(config):
        config_file.save(config, tmp_path)
        assert config_file.load(tmp_path) == config

    others = [configs.Sample, configs.Export, configs.Tune, configs.Evaluate, configs.Demo]

    @forall(count, st.one_of(*map(of_fields, others)))
    def _(config):
        text = json.loads(json.dumps(config_file.to_dict(config)))
        assert config_file.from_dict(type(config), text) == config


CONFIGS = [
    configs.Train("r", configs.Data("x", size=8), configs.UNet(16, (1, 2), attention=(4,))),
    configs.Distill("t", "r", choices={"q": 2.0}, devices=1),
]


def filled(given, whole):
    """What a text says, and of what it does not say what a configuration then is."""
    return whole | {
        k: filled(v, whole[k]) if isinstance(v, dict) and k != "choices" else v
        for k, v in given.items()
    }


@depth(100, 400)
def test_a_changed_configuration_is_what_it_says_or_refused(tmp_path, count):
    path, good = tmp_path / "config.json", [json.dumps(config_file.to_dict(c)) for c in CONFIGS]
    texts = [changes(json.loads(g)).map(lambda v: text_of(v).encode()) for g in good]
    hurt = [damages(g.encode()) for g in good]

    @forall(count, st.one_of(*texts, *hurt, noise(b"{", b"\xff")))
    def _(data):
        path.write_bytes(data)
        made = answer(lambda path: config_file.load(path.parent), path)
        if made is not REFUSED:
            given, again = json.loads(data), json.loads(json.dumps(config_file.to_dict(made)))
            assert again == filled(given, again)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"updates": "3000"}, "config.json.updates should be of type int, not '3000'"),
        ({"updates": 3.5}, "updates should be of type int"),
        ({"updates": True}, "updates should be of type int"),
        ({"seed": 10**30}, "seed should be of type int"),
        ({"learning_rate": float("nan")}, "learning_rate should be of type float, not nan"),
        ({"learning_rate": None}, "learning_rate should be of type float"),
        ({"parallel": "both"}, r"parallel should be of type Literal\['jit', 'fsdp', 'pmap'\]"),
        ({"network": 3}, "network should be of type Module"),
        ({"network": {"multipliers": [1, "2"]}}, r"network.multipliers\[1\] should be of type int"),
        ({"network": {"blocks": []}}, "network.blocks should be"),
        ({"data": {"flip": 1}}, "data.flip should be of type bool"),
        ({"kind": ["Train"]}, "damaged"),
        ({"steps": 3}, "earlier version: its field 'steps' is called 'updates' now. Rename it"),
    ],
)
def test_what_is_wrong_in_a_configuration_is_named(tmp_path, change, message):
    text = config_file.to_dict(CONFIGS[0]) | change
    (tmp_path / "config.json").write_text(json.dumps(text))
    with pytest.raises(ValueError, match=message):
        config_file.load(tmp_path)


@depth(40, 150)
def test_settings_of_a_tuning_are_the_same_or_refused(tmp_path, count):
    config = configs.Tune(problem="gaussian", out=str(tmp_path))
    tuned._begin(config, {})
    path = tmp_path / "tune.json"
    good = path.read_bytes()
    changed = changes(json.loads(good)).map(lambda v: text_of(v).encode())

    @forall(count, changed | damages(good) | st.sampled_from([b"[]", b"3", b'"x"', b"null"]))
    def _(data):
        path.write_bytes(data)
        begun = answer(lambda path: tuned._begin(config, {}), tmp_path)
        if begun is not REFUSED:
            given, known = json.loads(data), json.loads(good)
            for name in ("run", "checkpoint"):  # where a run lies is not what it is
                del known[name]
            assert known == {k: given.get(k) for k in known}
