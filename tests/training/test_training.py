"""Training: the loop against closed forms, resuming, whole or absent checkpoints, devices."""

import contextlib
import json
import resource
import signal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers.scripts import last_line

from jaxdiff.method import Method, Player
from jaxdiff.training import (
    checkpoint,
    devices,
    due,
    ema,
    fit,
    init_state,
    loop,
    read_history,
    replay,
    update,
)
from jaxdiff.training.history import HISTORY

RNG = np.random.default_rng(0)
X = RNG.standard_normal((32, 3))
Y = X @ np.array([[1.0], [-2.0], [0.5]]) + 0.3 * RNG.standard_normal((32, 1))


def batches(step):
    """Eight rows with noise, a function of the step alone."""
    rng = np.random.default_rng(step)
    rows = rng.integers(0, 32, 8)
    return {"x": X[rows], "y": Y[rows] + 0.1 * rng.standard_normal((8, 1))}


def squares(params, context, batch, key):
    return jnp.mean((batch["x"] @ params["w"] - batch["y"]) ** 2), {
        "norm": jnp.sum(params["w"] ** 2)
    }


def regression(optimiser=None, loss=squares, width=1, **kwargs):
    def init(key):
        return {"fit": {"w": jax.random.normal(key, (3, width))}}

    return Method(
        init, {"fit": Player(loss, optimiser or optax.adam(0.1), **kwargs)}, lambda s: None
    )


def duel(frozen=None):
    """Two players with periods 1 and 3; the second looks at the first and at the frozen tree."""

    def first(params, context, batch, key):
        noise = jax.random.normal(key, params.shape)
        return jnp.sum((params - context.params["second"] + 0.1 * noise) ** 2), {}

    def second(params, context, batch, key):
        return jnp.sum((params - context.params["first"] - context.frozen) ** 2), {}

    players = {
        "first": Player(first, optax.sgd(0.1), ema={"slow": ema.constant(0.9)}),
        "second": Player(second, optax.sgd(0.25), every=3, ema={"power": ema.power(3.0)}),
    }
    frozen = jnp.array([1.0, 2.0]) if frozen is None else frozen
    return Method(lambda key: {"first": frozen, "second": frozen}, players, lambda s: None, frozen)


def run(method, num_updates, folder=None, data=batches, **kwargs):
    return fit(method, data, num_updates=num_updates, checkpoint=folder, progress=False, **kwargs)


def same(a, b):
    a, b = jax.tree.leaves(a), jax.tree.leaves(b)
    return len(a) == len(b) and all(
        np.array_equal(_raw(x), _raw(y)) for x, y in zip(a, b, strict=True)
    )


def _raw(x):
    return jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x


# --- the step


def test_gradient_descent_reaches_the_least_squares_solution():
    state = run(regression(optax.sgd(0.2)), 400, data=lambda step: {"x": X, "y": Y})
    exact = np.linalg.lstsq(X, Y, rcond=None)[0]
    np.testing.assert_allclose(state.params["fit"]["w"], exact, rtol=0, atol=1e-12)
    assert int(state.step) == 400


def test_one_step_is_the_gradient_step_by_hand():
    method = regression(optax.sgd(0.2))
    state = init_state(method, jax.random.key(3))
    w = np.asarray(state.params["fit"]["w"])
    new, metrics = update(method, state, {"x": X, "y": Y}, ("fit",))
    residual = X @ w - Y
    np.testing.assert_allclose(
        new.params["fit"]["w"], w - 0.2 * 2 * X.T @ residual / 32, rtol=1e-12
    )
    np.testing.assert_allclose(metrics["fit/loss"], np.mean(residual**2), rtol=1e-12)
    np.testing.assert_allclose(metrics["fit/norm"], np.sum(w**2), rtol=1e-12)


def test_players_take_turns_and_touch_only_themselves():
    method = duel()
    state = init_state(method, jax.random.key(0))
    assert [due(method, n) for n in range(4)] == [
        ("first", "second"), ("first",), ("first",), ("first", "second"),
    ]  # fmt: skip
    after, metrics = update(method, state, {}, ("first",))
    for part in (0, 1, 2):  # params, opt_state, ema
        old, new = state[1 + part], after[1 + part]
        assert same(old["second"], new["second"])
    assert not same(state.params["first"], after.params["first"])
    assert set(metrics) == {"first/loss"}


def test_a_later_player_sees_the_earlier_ones_new_parameters():
    method = duel()
    state = init_state(method, jax.random.key(0))
    both, _ = update(method, state, {}, ("first", "second"))
    old, new = state.params["second"], both.params["first"]
    expected = old - 0.25 * 2 * (old - new - method.frozen)
    np.testing.assert_allclose(both.params["second"], expected, rtol=1e-12)


def test_the_context_carries_no_gradient():
    def loss(params, context, batch, key):
        others = context.params["fit"]["w"] + context.ema["fit"]["e"]["w"]
        return jnp.sum(others * params["w"]), {}

    method = regression(optax.sgd(1.0), loss, ema={"e": ema.constant(0.5)})
    state = init_state(method, jax.random.key(0))

    def final(params, averages):
        new, _ = update(method, state._replace(params=params, ema=averages), {}, ("fit",))
        return jnp.sum(new.params["fit"]["w"])

    # the step is w - sg(w) - sg(ema)
    by_params, by_averages = jax.grad(final, argnums=(0, 1))(state.params, state.ema)
    np.testing.assert_array_equal(by_params["fit"]["w"], 1.0)
    np.testing.assert_array_equal(by_averages["fit"]["e"]["w"], 0.0)


def test_keys_differ_by_step_and_player_and_depend_on_nothing_else():
    drawn = []

    def loss(params, context, batch, key):
        drawn.append(jax.random.key_data(key))
        return jnp.sum(params), {}

    players = {name: Player(loss, optax.sgd(0.1)) for name in "ab"}
    method = Method(lambda key: {"a": jnp.ones(2), "b": jnp.ones(2)}, players, lambda s: None)
    state = init_state(method, jax.random.key(0))
    update(method, state, {}, ("a", "b"))
    update(method, state, {}, ("b",))
    update(method, state._replace(step=state.step + 1), {}, ("a", "b"))
    a0, b0, alone, a1, b1 = (tuple(np.asarray(k)) for k in drawn)
    assert b0 == alone
    assert len({a0, b0, a1, b1}) == 4


def test_fit_leaves_the_methods_own_trees_alone():
    frozen = jnp.array([1.0, 2.0])
    run(duel(frozen), 3)
    np.testing.assert_array_equal(frozen, [1.0, 2.0])  # a donated buffer would raise


def test_frozen_trees_are_arguments_of_the_step_and_no_constants_in_it(monkeypatch):
    frozen, given = jnp.full((1000,), 1.5), {}
    method = duel(frozen)
    monkeypatch.setattr(devices, "by_jit", lambda *args: given.update(args=args))
    loop.step_runner(method, "jit", None)
    step, tree = given["args"][:2]
    assert tree is frozen
    state = init_state(method, jax.random.key(0))

    def one(state, frozen):
        return step(state, {}, frozen, active=("first", "second"), axis_name=None)

    consts = jax.make_jaxpr(one)(state, frozen).consts
    assert all(np.size(c) < 1000 for c in consts)
    loss = one(state, frozen + 1.0)[1]["second/loss"]
    assert not np.array_equal(loss, one(state, frozen)[1]["second/loss"])


@pytest.mark.parametrize(
    "change, message",
    [
        ({"init": lambda key: {"other": jnp.ones(2)}}, "init gives parameters of .*other"),
        ({"players": {"fit": Player(squares, optax.sgd(0.1), every=0)}}, "periods"),
    ],
)
def test_a_malformed_method_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        run(regression()._replace(**change), 1)


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"num_updates": 0}, "at least 1"),
        ({"log_every": 0}, "at least 1"),
        ({"parallel": "threads"}, "parallel is"),
        ({"data": lambda step: {"x": X[:3], "y": np.float64(1.0)}}, r"batch\['y'\] has shape \(\)"),
    ],
)
def test_wrong_arguments_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        run(regression(), **{"num_updates": 2, **wrong})


# --- moving averages


def _average(decay, values):
    e = ema.start({"w": values[0]})
    for n, p in enumerate(values[1:]):
        e = ema.update(e, {"w": p}, decay(jnp.int32(n)))
    return np.asarray(e["w"])


VALUES = [jnp.asarray(v) for v in RNG.standard_normal((13, 4))]


def test_constant_decay_has_geometric_weights():
    b, n = 0.8, 12
    weights = [b**n] + [(1 - b) * b ** (n - i) for i in range(1, n + 1)]
    expected = sum(w * p for w, p in zip(weights, VALUES, strict=True))
    np.testing.assert_allclose(_average(ema.constant(b), VALUES), expected, rtol=1e-13)


@pytest.mark.parametrize("gamma", [0.0, 3.0, 6.94])
def test_power_average_has_power_weights(gamma):
    n = len(VALUES) - 1
    edges = (np.arange(n + 1) / n) ** (gamma + 1)  # the weights telescope
    expected = sum(w * p for w, p in zip(np.diff(edges), VALUES[1:], strict=True))
    np.testing.assert_allclose(_average(ema.power(gamma), VALUES), expected, rtol=1e-12)


def test_half_life_halves_and_ramps():
    decay = ema.halflife(10.0, ramp=None)
    np.testing.assert_allclose(float(decay(jnp.int32(0))) ** 10, 0.5, rtol=1e-12)
    ramped = ema.halflife(10.0, ramp=0.5)
    np.testing.assert_array_equal(ramped(jnp.int32(0)), 0.0)  # the initial parameters are forgotten
    np.testing.assert_allclose(ramped(jnp.int32(4)), 2 ** (-1 / 2), rtol=1e-12)
    np.testing.assert_allclose(ramped(jnp.int32(1000)), decay(jnp.int32(0)), rtol=1e-12)


@pytest.mark.parametrize("width, gamma", [(0.05, 16.97), (0.1, 6.94), (12**-0.5, 0.0)])
def test_exponent_of_a_relative_width(width, gamma):  # the first two from 2312.02696, section 3
    found = ema.exponent(width)
    assert found == pytest.approx(gamma, abs=5e-3)
    t = (np.arange(200000) + 0.5) / 200000
    w = t**found / np.sum(t**found)
    assert np.sqrt(w @ t**2 - (w @ t) ** 2) == pytest.approx(width, rel=1e-3)


def test_averages_are_float32_at_least_and_take_over_counters():
    params = {"w": jnp.ones(2, jnp.bfloat16), "n": jnp.int32(3)}
    e = ema.start(params)
    assert e["w"].dtype == jnp.float32
    e = ema.update(e, {"w": params["w"] * 2, "n": jnp.int32(4)}, ema.constant(0.999)(jnp.int32(0)))
    np.testing.assert_allclose(e["w"], 1.001, rtol=1e-6)  # bfloat16 would give 1
    assert int(e["n"]) == 4


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: ema.constant(1.0),
        lambda: ema.halflife(0.0),
        lambda: ema.ramped(1.0),
        lambda: ema.power(-0.1),
        lambda: ema.exponent(0.3),
    ],
)
def test_wrong_decays_are_refused(wrong):
    with pytest.raises(ValueError):
        wrong()


def test_the_average_in_the_loop_counts_the_players_own_updates():
    method = duel()
    state, seen = init_state(method, jax.random.key(0)), []
    step = jax.jit(lambda s, active: update(method, s, {}, active)[0], static_argnames="active")
    for n in range(7):
        state = step(state, due(method, n))
        seen.append(state.params["second"])
    edges = (np.arange(4) / 3) ** 4.0
    expected = sum(w * p for w, p in zip(np.diff(edges), seen[::3], strict=True))
    np.testing.assert_allclose(state.ema["second"]["power"], expected, rtol=1e-12)


# --- resuming


def test_a_resumed_run_gives_the_numbers_of_an_uninterrupted_one(tmp_path):
    method = duel()
    whole = run(method, 10, tmp_path / "whole", save_every=100, log_every=2)
    run(method, 4, tmp_path / "parts", save_every=3, log_every=2)
    assert checkpoint.all_steps(tmp_path / "parts") == [3, 4]
    parts = run(method, 10, tmp_path / "parts", save_every=100, log_every=2)
    assert same(whole, parts)
    a, b = read_history(tmp_path / "whole"), read_history(tmp_path / "parts")
    for row, again in zip(a, b, strict=True):
        # the second player has no metrics in the resumed process before it moves again
        assert {**again, "seconds": row["seconds"]}.items() <= row.items()
        assert row["first/loss"] == again["first/loss"]
    assert [row["step"] for row in a] == [2, 4, 6, 8, 10]


@pytest.mark.parametrize("kill, saved", [(2, None), (8, 6)])
def test_a_run_killed_without_warning_resumes_from_its_last_checkpoint(tmp_path, kill, saved):
    class Killed(BaseException):
        pass

    def data(step):
        if step == kill:
            raise Killed
        return {}

    method = duel()
    with pytest.raises(Killed):
        run(method, 10, tmp_path, data=data, save_every=3, log_every=1)
    assert checkpoint.latest_step(tmp_path) == saved
    assert [row["step"] for row in read_history(tmp_path)] == list(range(1, kill))
    with (tmp_path / HISTORY).open("a") as file:
        file.write('{"step": 8, "seco')  # cut short by the kill
    resumed = run(method, 10, tmp_path, save_every=3, log_every=1)
    assert same(resumed, run(method, 10))
    assert [row["step"] for row in read_history(tmp_path)] == list(range(1, 11))
    assert len(checkpoint.all_steps(tmp_path)) == 3


def test_a_finished_run_is_returned_as_it_is(tmp_path):
    state = run(duel(), 3, tmp_path)

    def none(step):
        raise AssertionError("no step is left to make")

    assert same(state, run(duel(), 3, tmp_path, data=none))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"key": 1}, "another key"),
        ({"num_updates": 2}, "more than 2"),
        ({"resume": False}, "resume is False"),
    ],
)
def test_another_run_in_the_folder_is_refused(tmp_path, change, message):
    run(duel(), 3, tmp_path)
    with pytest.raises(ValueError, match=message):
        run(duel(), **{"num_updates": 3, "folder": tmp_path, **change})
    assert checkpoint.all_steps(tmp_path) == [3]


@pytest.mark.parametrize(
    "width, optimiser, message",
    [
        (1, optax.adam(0.1), r"params\.fit\.w is float64\[3, 2\] there and float64\[3, 1\] here"),
        (2, optax.sgd(0.1), r"opt_state\.fit\.0\.count is int32\[\] there and absent here"),
    ],
)
def test_another_network_is_refused_by_name_before_any_compilation(
    tmp_path, width, optimiser, message
):
    run(regression(width=2), 1, tmp_path)
    method = regression(optimiser, width=width)

    def only_traced(key):
        assert isinstance(key, jax.core.Tracer)
        return method.init(key)

    with pytest.raises(ValueError, match=message):
        run(method._replace(init=only_traced), 2, tmp_path)


# --- stopping


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_leaves(tmp_path, number, capsys):
    def data(step):
        if step == 4:
            signal.raise_signal(number)
        return {}

    before = signal.getsignal(number)
    expected = KeyboardInterrupt if number == signal.SIGINT else SystemExit
    with pytest.raises(expected) as error:
        run(duel(), 10, tmp_path, data=data, log_every=1, ahead=0)
    assert signal.getsignal(number) is before
    message = str(error.value) if number == signal.SIGINT else capsys.readouterr().err
    assert "after 5 updates" in message and str(tmp_path) in message
    assert error.value.args == (message,) if number == signal.SIGINT else error.value.code == 143
    assert checkpoint.all_steps(tmp_path) == [5]  # the step under way was finished
    assert [row["step"] for row in read_history(tmp_path)] == [1, 2, 3, 4, 5]
    assert same(run(duel(), 10, tmp_path), run(duel(), 10))


@pytest.mark.parametrize("where", ["data", "log"])
def test_an_interrupt_raised_by_a_callback_saves_the_last_whole_step(tmp_path, where):
    def raising(step, *row):
        if step == 4:
            raise KeyboardInterrupt
        return {}

    callbacks = {"data": raising} if where == "data" else {"log": raising}
    with pytest.raises(KeyboardInterrupt, match="newest checkpoint"):
        run(duel(), 10, tmp_path, **{"data": lambda step: {}, "log_every": 1, **callbacks})
    assert same(run(duel(), 10, tmp_path), run(duel(), 10))


def test_an_interrupt_without_a_folder_says_that_nothing_was_saved():
    def data(step):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match="nothing was saved"):
        run(duel(), 10, data=data)


def explosive(params, context, batch, key):
    """Not a number in steps 5 and 7."""
    loss, metrics = squares(params, context, batch, key)
    bad = (context.step == 5) | (context.step == 7)
    return jnp.where(bad, jnp.nan, 1.0) * loss, metrics


@pytest.mark.parametrize("parallel", ["jit", "pmap"])
def test_a_step_that_is_not_finite_stops_the_run_and_can_be_made_again(tmp_path, parallel):
    method, ways = regression(loss=explosive), {"parallel": parallel, "devices": jax.devices()[:1]}
    with pytest.raises(FloatingPointError, match="fit/loss is nan in step 5; .*nonfinite-5.npz"):
        run(method, 20, tmp_path, save_every=4, log_every=100, **ways)
    assert checkpoint.all_steps(tmp_path) == [4, 5]
    state, batch, metrics = replay(method, tmp_path)
    assert same(state, run(method, 5)) and same(batch, batches(5))
    assert np.isnan(metrics["fit/loss"])
    key = jax.random.fold_in(state.key, 5)
    noted = checkpoint.load_params(tmp_path / "nonfinite-5.npz")[1]
    assert noted == {"step": 5, "key": jax.random.key_data(key).tolist()}
    with pytest.raises(FloatingPointError, match="invalid value"), jax.debug_nans(True):
        replay(method, tmp_path)
    with pytest.raises(FloatingPointError, match="in step 5"):  # it is no matter of luck
        run(method, 20, tmp_path, log_every=100, **ways)


@pytest.mark.parametrize("when", [{"watch": lambda n, state: False, "watch_every": 6}, {}])
def test_a_step_that_is_not_finite_is_found_before_anyone_sees_the_state(tmp_path, when):
    seen = []
    look = {"watch": lambda n, state: seen.append(n), "watch_every": 2} if when else {}
    with pytest.raises(FloatingPointError, match="in step 5"):
        run(regression(loss=explosive), 8, tmp_path, save_every=3, log_every=100, **look)
    assert checkpoint.all_steps(tmp_path) == [3, 5] and seen == ([2, 4] if when else [])
    with pytest.raises(FloatingPointError, match="in step 5; nothing was saved"):
        run(regression(loss=explosive), 8, log_every=100)


def test_steps_that_are_not_finite_are_skipped_and_counted(tmp_path):
    method = regression(loss=explosive, ema={"e": ema.constant(0.5)})
    state = run(method, 10, tmp_path, nonfinite="skip", log_every=2)
    assert int(state.step) == 10 and int(state.skipped) == 2
    assert [row.get("skipped", 0) for row in read_history(tmp_path)] == [0, 0, 1, 2, 2]
    by_hand = init_state(method, jax.random.key(0))
    for n in range(10):
        new, _ = update(method, by_hand, batches(n), ("fit",))
        by_hand = new if n not in (5, 7) else by_hand._replace(step=new.step)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), state[:4], by_hand[:4])
    resumed = run(method, 12, tmp_path, log_every=2)  # and from here on none is allowed
    assert int(resumed.step) == 12 and int(resumed.skipped) == 0


def test_skipping_ends_where_most_steps_are_skipped():
    with pytest.raises(FloatingPointError, match="of the last .* updates were not finite"):
        run(regression(optax.sgd(1e200)), 100, nonfinite="skip", log_every=5)


def test_a_gradient_that_is_not_finite_is_found_behind_a_finite_loss(tmp_path):
    def steep(params, context, batch, key):
        at_zero = jnp.where(context.step == 3, 0.0, 1.0)
        return jnp.sum(jnp.sqrt(at_zero * params["w"] ** 2)), {}

    method = regression(optax.lion(0.1), loss=steep)  # whose steps are signs, of any gradient
    with pytest.raises(FloatingPointError, match="a gradient is not finite in step 3"):
        run(method, 10, tmp_path)
    assert checkpoint.all_steps(tmp_path) == [3]


def test_parameters_that_start_out_not_finite_are_never_saved(tmp_path):
    method = regression()._replace(init=lambda key: {"fit": {"w": jnp.full((3, 1), jnp.nan)}})
    with pytest.raises(FloatingPointError, match="there is no checkpoint in"):
        run(method, 20, tmp_path)
    assert checkpoint.all_steps(tmp_path) == []


@pytest.mark.parametrize("nonfinite", ["stop", "skip"])
def test_an_update_that_overflows_is_never_saved(tmp_path, nonfinite):
    """Its gradient is finite, and what the optimiser makes of it is not."""
    method = regression(optax.sgd(lambda step: jnp.where(step == 3, 1e308, 0.1) * 10))
    with pytest.raises(FloatingPointError, match="fit.w is not finite .* that of step 2 in"):
        run(method, 20, tmp_path, save_every=2, nonfinite=nonfinite)
    assert checkpoint.all_steps(tmp_path) == [2]


# --- accumulation, batches in advance, transfers


@pytest.mark.parametrize("unroll", [False, True])
def test_accumulated_gradients_are_those_of_the_whole_batch(unroll):
    method = regression(optax.sgd(0.1, momentum=0.9))
    state, batch = init_state(method, jax.random.key(0)), batches(0)
    whole, metrics = update(method, state, batch, ("fit",))
    for parts in (2, 4, 8):
        new, own = update(method, state, batch, ("fit",), None, parts, unroll)
        close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12)  # noqa: E731
        jax.tree.map(close, (new[:4], own), (whole[:4], metrics))


def test_parts_of_a_batch_have_noise_of_their_own():
    def loss(params, context, batch, key):
        return jnp.sum(params["w"]) * jax.random.normal(key), {"count": len(batch["x"])}

    state = init_state(regression(loss=loss), jax.random.key(0))
    drawn = [
        update(regression(loss=loss), state, batches(0), ("fit",), None, parts)[1]
        for parts in (1, 2, 8)
    ]
    assert len({float(metrics["fit/loss"]) for metrics in drawn}) == 3
    assert [float(metrics["fit/count"]) for metrics in drawn] == [8, 4, 1]


def test_a_batch_that_does_not_divide_into_parts_is_an_error():
    with pytest.raises(ValueError, match=r"batch\['x'\] has 8 rows.* 3 parts"):
        run(regression(), 1, gradient_accumulation=3)


def test_batches_are_made_in_advance_in_order_and_their_errors_come_in_time(tmp_path):
    made = []

    def data(step):
        made.append(step)
        if step == 6:
            raise RuntimeError("no such batch")
        return batches(step)

    state = run(regression(), 6, data=data)
    assert made == list(range(6)) and same(state, run(regression(), 6, ahead=0))
    with pytest.raises(RuntimeError, match="no such batch"):
        run(regression(), 20, tmp_path, data=data, save_every=2)
    assert checkpoint.latest_step(tmp_path) == 6


@pytest.mark.parametrize("parallel", ["jit", "fsdp", "pmap"])
def test_nothing_is_transferred_unasked_in_the_loop(parallel):
    guards = contextlib.ExitStack()

    def guarded(step):
        if step == 2:  # what starts a run may transfer: from here on the loop may not
            guards.enter_context(jax.transfer_guard("disallow"))
        return batches(step)

    with guards:
        state = run(regression(), 8, data=guarded, parallel=parallel, ahead=0, log_every=2)
    assert int(state.step) == 8
    with pytest.raises(Exception, match="[Dd]isallowed"), jax.transfer_guard("disallow"):
        jnp.ones(2) + np.ones(2)  # the guard works


def test_log_gets_the_latest_metrics_of_every_player(tmp_path):
    rows = []
    run(duel(), 6, log=lambda step, row: rows.append((step, row)), log_every=2)
    assert [step for step, _ in rows] == [2, 4, 6]
    # the second player moves in steps 0 and 3 only, never the last before a log point but once
    assert all({"first/loss", "second/loss"} <= set(row) for _, row in rows)
    assert rows[1][1]["second/loss"] == rows[2][1]["second/loss"] != rows[0][1]["second/loss"]


# --- checkpoints


def sample_state():
    return {
        "params": {"dense": {"kernel": jnp.asarray(RNG.standard_normal((64, 64)), jnp.float32)}},
        "half": jnp.ones((3, 2), jnp.bfloat16),
        "empty": jnp.zeros((0, 4)),
        "moments": optax.adam(0.1).init({"a": jnp.arange(6.0).reshape(2, 3)}),
        "key": jax.random.key(5),
        "count": jnp.int32(7),
    }


def test_a_checkpoint_comes_back_leaf_by_leaf(tmp_path):
    state = sample_state()
    checkpoint.save(tmp_path, 12, state, {"width": [3, 4]})
    for like in (state, jax.eval_shape(lambda: state)):
        step, back, meta = checkpoint.restore(tmp_path, like)
        assert (step, meta) == (12, {"width": [3, 4]})
        assert jax.tree.structure(back) == jax.tree.structure(state)
        assert same(back, state)
        assert [x.dtype for x in jax.tree.leaves(back)] == [x.dtype for x in jax.tree.leaves(state)]


def largest_file(folder):
    return max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def truncate(folder):
    file = largest_file(folder / "state")
    file.write_bytes(file.read_bytes()[:100])


def flip(folder):
    file = largest_file(folder / "state")
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def edit(folder):
    file = folder / "record" / "metadata"
    assert "64" in file.read_text()
    file.write_text(file.read_text().replace("64", "65"))


def gut(folder):
    for file in [p for p in folder.rglob("*") if p.is_file()]:
        file.unlink()


@pytest.mark.parametrize("damage", [truncate, flip, edit, gut])
def test_a_damaged_checkpoint_is_passed_over_with_a_warning(tmp_path, damage):
    old, new = {"w": jnp.asarray(RNG.standard_normal((64, 64)))}, {"w": jnp.zeros((64, 64))}
    new = {"w": old["w"] + 1.0}
    checkpoint.save(tmp_path, 1, old)
    checkpoint.save(tmp_path, 2, new)
    assert same(checkpoint.restore(tmp_path, old).state, new)
    damage(tmp_path / "2")
    with pytest.warns(UserWarning, match="damaged checkpoint .*/2"):
        step, state, _ = checkpoint.restore(tmp_path, old)
    assert step == 1 and same(state, old)
    checkpoint.save(tmp_path, 2, new)  # a run continued from 1 gets to 2 again
    assert checkpoint.restore(tmp_path, old).step == 2


def test_no_sound_checkpoint_is_an_error_and_not_a_fresh_start(tmp_path):
    with pytest.raises(FileNotFoundError):
        checkpoint.restore(tmp_path, {"w": jnp.ones(3)})
    checkpoint.save(tmp_path, 1, {"w": jnp.ones(3)})
    gut(tmp_path / "1")
    with pytest.warns(UserWarning), pytest.raises(ValueError, match="no sound checkpoint"):
        checkpoint.restore(tmp_path, {"w": jnp.ones(3)})


def test_a_failed_write_leaves_the_last_checkpoint_and_nothing_partial(tmp_path):
    state = {"w": jnp.asarray(RNG.standard_normal((256, 256)))}
    checkpoint.save(tmp_path, 1, state)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (65536, limits[1]))  # what a full disk does
    try:
        with pytest.raises(OSError, match="step 2 .*newest in the folder is that of step 1"):
            checkpoint.save(tmp_path, 2, state)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["1"]
    assert same(checkpoint.restore(tmp_path, state).state, state)


def test_a_folder_that_cannot_be_written_is_refused_before_training(tmp_path):
    (tmp_path / "file").write_text("")

    def data(step):
        raise AssertionError("training began")

    with pytest.raises(OSError, match="cannot be written") as error:
        run(duel(), 3, tmp_path / "file" / "run", data=data)
    assert str(tmp_path / "file") in str(error.value)
    with pytest.raises(OSError, match="MB are free"):
        checkpoint.probe(tmp_path, 10**18)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_only_the_newest_are_kept_and_later_ones_give_way(tmp_path):
    for step in (1, 2, 3, 4):
        checkpoint.save(tmp_path, step, {"w": jnp.ones(3)}, keep=2)
    assert checkpoint.all_steps(tmp_path) == [3, 4]
    checkpoint.save(tmp_path, 2, {"w": jnp.ones(3)}, keep=2)
    assert checkpoint.all_steps(tmp_path) == [2]
    assert checkpoint.latest_step(tmp_path / "absent") is None


def test_parameter_files(tmp_path):
    path = tmp_path / "deep" / "net.npz"
    params = {"dense": {"kernel": jnp.arange(6.0).reshape(2, 3), "bias": jnp.ones(3, jnp.bfloat16)}}
    checkpoint.save_params(path, params, {"classes": 10})
    for like in (None, params, jax.eval_shape(lambda: params)):
        back, meta = checkpoint.load_params(path, like)
        assert meta == {"classes": 10} and same(back, params)
        assert back["dense"]["bias"].dtype == jnp.bfloat16
    assert [p.name for p in path.parent.iterdir()] == ["net.npz"]
    with pytest.raises(
        ValueError, match=r"dense\.kernel is float64\[2, 3\] there and float64\[4\] here"
    ):
        checkpoint.load_params(path, {"dense": {**params["dense"], "kernel": jnp.ones(4)}})
    flip_at = path.read_bytes().index(np.float64(4.0).tobytes())
    data = bytearray(path.read_bytes())
    data[flip_at] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match="damaged"):
        checkpoint.load_params(path)
    with pytest.raises(FileNotFoundError):
        checkpoint.load_params(tmp_path / "absent.npz")


def test_a_parameter_file_of_one_array_and_of_awkward_names(tmp_path):
    for params in (jnp.arange(3.0), {"file": jnp.ones(2), "record": {"file": jnp.zeros(())}}):
        checkpoint.save_params(tmp_path / "net.npz", params)
        back, _ = checkpoint.load_params(tmp_path / "net.npz")
        assert jax.tree.structure(back) == jax.tree.structure(params) and same(back, params)


def test_a_parameter_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "net.npz"
    checkpoint.save_params(path, {"w": jnp.ones(3)})
    with pytest.raises(TypeError):
        checkpoint.save_params(path, {"w": jnp.zeros(3)}, {"not json": object()})
    assert [p.name for p in tmp_path.iterdir()] == ["net.npz"]
    assert same(checkpoint.load_params(path)[0], {"w": jnp.ones(3)})


# --- devices


def test_jit_fsdp_and_pmap_give_the_single_device_numbers_on_eight_devices():
    difference = json.loads(last_line("multidevice_training.py", "trained", devices=8))
    assert set(difference) == {"jit", "fsdp", "pmap", "jit from the key", "resumed under pmap"}
    assert max(difference.values()) < 1e-10


@pytest.mark.slow
def test_tuning_gives_the_single_device_numbers_on_eight_devices():
    difference = json.loads(last_line("multidevice_training.py", "tuned", devices=8))
    assert set(difference) == {"jit", "fsdp", "pmap"}
    assert max(difference.values()) < 1e-10


def test_pmap_on_one_device_is_the_plain_step():
    kwargs = {"log_every": 2}
    assert_close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12)  # noqa: E731
    plain = run(regression(), 4, **kwargs)
    mapped = run(regression(), 4, parallel="pmap", devices=jax.local_devices()[:1], **kwargs)
    jax.tree.map(assert_close, plain.params, mapped.params)


def test_the_average_of_a_short_run_is_near_its_last_parameters():
    """400 updates that end at 1: with a constant decay of 0.998, 45 % of the first 0 is left."""
    values = [0.0, *np.minimum(np.arange(1, 401) / 100, 1.0)]
    kept, old = (float(_average(make(0.998), values)) for make in (ema.ramped, ema.constant))
    apart = [ema.distance({"w": jnp.asarray(e)}, {"w": jnp.asarray(1.0)}) for e in (kept, old)]
    assert apart[0] < 0.03 and old < 0.56
    np.testing.assert_allclose(apart[1], (1 - old) / old, rtol=1e-6)
    np.testing.assert_allclose(ema.ramped(0.998)(jnp.int32(10**6)), 0.998, rtol=1e-9)
