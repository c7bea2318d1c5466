"""Losses of distillation against the numbers of well-known implementations, gradients included."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.classify_modules import (
    close,
    first,
    gradients_close,
    last,
    statistics_close,
    variables,
)
from helpers.golden_numbers import load

from jaxdiff.classify import semantic_calibration as semckd
from jaxdiff.classify.frame import Modules
from jaxdiff.classify.losses import contrast, logits, maps, relations
from jaxdiff.networks import transfer


@pytest.fixture(scope="module")
def family():
    return load("losses_kd", full=True)


def cases(family, words):
    found = [c for c in family.cases if words in c["peer"]]
    assert found
    return found


def getter(family, case, prefix=""):
    def get(name):
        key = f"{case['id']}/{prefix}{name}"
        return family[key] if key in family else None

    return get


PLAIN = {  # peer: (loss of (student, teacher), the student's array)
    "distiller_zoo/KD.py": lambda case: functools.partial(
        logits.distilled_logits, temperature=case["T"]
    ),
    "SimKD HintLoss": lambda case: maps.hint,
    "AT.py": lambda case: maps.attention,
    "SP.py": lambda case: maps.similarity,
    "RepDistiller PKT": lambda case: relations.probabilistic,
    "RepDistiller RKDLoss": lambda case: relations.relational,
    "RepDistiller NSTLoss": lambda case: maps.selectivity,
    "RepDistiller CC": lambda case: relations.congruence,
    "RepDistiller FT": lambda case: maps.factor,
}


@pytest.mark.parametrize("peer", PLAIN)
def test_a_loss_without_parameters(family, peer):
    for case in cases(family, peer):
        get = getter(family, case)
        name = "logit" if "logit_s" in case["arrays"] else "f"
        s, t = (last(get(f"{name}_{end}")) for end in "st")
        value, grad = jax.jit(jax.value_and_grad(PLAIN[peer](case)))(s, t)
        close(value, get("loss"))
        close(first(grad), get(f"grad_{name}_s"), rtol=1e-6)


def test_variational_information(family):
    rules = {f"conv{i + 1}": f"regressor.{2 * i}" for i in range(3)}
    for case in cases(family, "VIDLoss"):
        get, w = getter(family, case), getter(family, case, "w:")
        if "eps" in case:
            module = transfer.Variational(5, 2)
            drawn = module.init(jax.random.key(0), jnp.ones((1, 2, 2, 2)))
            close(drawn["params"]["rho"], get("log_scale"), rtol=1e-6)
            continue
        module = transfer.Variational(5, 7)
        s, t = last(get("f_s")), last(get("f_t"))
        params = variables(w, rules)["params"] | {"rho": jnp.asarray(w("log_scale"))}

        def loss(params, s, module=module, t=t):
            f_s, f_t = maps.aligned(s, t)
            return maps.variational(*module.apply({"params": params}, f_s), f_t)

        value, (gp, gs) = jax.jit(jax.value_and_grad(loss, (0, 1)))(params, s)
        close(value, get("loss"))
        close(first(gs), get("grad_f_s"))
        grad = getter(family, case, "grad_w:")
        close(gp.pop("rho"), grad("log_scale"))
        gradients_close(gp, grad, rules)


def test_regressors_of_hints(family):
    rules = {"conv": "conv", "norm": "bn"}
    for case in cases(family, "ConvReg"):
        get, w = getter(family, case), getter(family, case, "w:")
        s, t = last(get("f_s")), last(get("f_t"))
        module = transfer.Regressor(t.shape[-1], t.shape[1])
        doubled = 2 * s.shape[1] == t.shape[1]
        known = variables(w, rules, doubled)

        def loss(params, s, module=module, t=t, known=known):
            given = {"params": params, "batch_stats": known["batch_stats"]}
            out, state = module.apply(given, s, train=True, mutable=["batch_stats"])
            return maps.hint(*maps.aligned(out, t)), (out, state)

        step = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))
        (value, (out, state)), (gp, gs) = step(known["params"], s)
        close(first(out), get("out_s"))
        close(value, get("loss"))
        close(first(gs), get("grad_f_s"))
        gp["conv"].pop("bias")  # 0 but for rounding, as batch norm follows
        gradients_close(gp, getter(family, case, "grad_w:"), rules, doubled)
        n = float(np.prod(out.shape[:3]))
        after = getter(family, case, "after:")
        statistics_close(state["batch_stats"], known["batch_stats"], after, rules, lambda _, n=n: n)


@pytest.mark.parametrize("part", [slice(1, 3), pytest.param(slice(3, 7), marks=pytest.mark.slow),
                                  pytest.param(slice(0, 1), marks=pytest.mark.slow)])  # fmt: skip
def test_projectors_that_a_teachers_head_follows(family, part):
    places = ("first", "middle", "last")
    rules = {f"{p}_conv": f"transfer.{3 * i}" for i, p in enumerate(places)}
    rules |= {f"{p}_norm": f"transfer.{3 * i + 1}" for i, p in enumerate(places)}
    for case in cases(family, "util.py SimKD")[part]:
        get, w = getter(family, case), getter(family, case, "w:")
        s, t = last(get("f_s")), last(get("f_t"))
        module = transfer.Bottleneck(case["t_n"], case["t_n"] // case["factor"])
        known, train = variables(w, rules), case["train_mode"]

        def loss(params, s, module=module, t=t, known=known, train=train):
            given = {"params": params, "batch_stats": known["batch_stats"]}
            f_s, f_t = maps.aligned(s, t)
            out, state = module.apply(given, f_s, train=train, mutable=["batch_stats"])
            return maps.hint(out, f_t), (out, state)

        step = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))
        (value, (out, state)), (gp, gs) = step(known["params"], s)
        close(first(out), get("trans_feat_s"))
        close(value, get("loss"))
        close(first(gs), get("grad_f_s"))
        close(
            np.mean(out, (1, 2)) @ get("cls:weight").T + get("cls:bias")[None], get("pred_feat_s")
        )
        gradients_close(gp, getter(family, case, "grad_w:"), rules)
        if train:
            after, n = getter(family, case, "after:"), float(np.prod(out.shape[:3]))
            before = known["batch_stats"]
            statistics_close(state["batch_stats"], before, after, rules, lambda _, n=n: n)


def test_a_connector_that_a_teachers_head_follows(family):
    (case,) = cases(family, "SRRL")
    get, w = getter(family, case), getter(family, case, "w:")
    s, t = jnp.asarray(get("f_s")), jnp.asarray(get("f_t"))
    module = transfer.Connector(8, True)
    rules = {"linear": "transfer.0", "norm": "transfer.1"}
    known = variables(w, rules)
    linear = known["params"]["linear"]
    linear["kernel"] = linear["kernel"].reshape(linear["kernel"].shape[2:])
    head = jnp.asarray(get("cls:weight").T), jnp.asarray(get("cls:bias"))[None]

    def loss(params, s):
        given = {"params": params, "batch_stats": known["batch_stats"]}
        out, _ = module.apply(given, s, train=True, mutable=["batch_stats"])
        z = out @ head[0] + head[1]
        return maps.hint(out, t) + maps.hint(z, jnp.asarray(get("logit_t"))), (out, z)

    step = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))
    (value, (out, z)), (gp, gs) = step(known["params"], s)
    close(out, get("trans_feat_s"))
    close(z, get("pred_feat_s"))
    close(value, get("loss"))
    close(gs, get("grad_f_s"))
    gradients_close({"norm": gp["norm"]}, getter(family, case, "grad_w:"), {"norm": "transfer.1"})
    close(gp["linear"]["kernel"].T, np.squeeze(family[f"{case['id']}/grad_w:transfer.0.weight"]))


def test_contrasts_with_a_memory_over_two_steps(family):
    after = None  # the published one of the first step has been written over by the second
    for case in cases(family, "CRDLoss"):
        get = getter(family, case)
        modules = {end: transfer.Embedding(5) for end in "st"}
        rules = {"linear": "linear"}
        params = {
            e: variables(getter(family, case, f"w:embed_{e}."), rules)["params"] for e in "st"
        }
        f = {end: jnp.asarray(get(f"f_{end}")) for end in "st"}
        scale = jnp.asarray(get("params_before"))[2:4]
        before = [jnp.asarray(get(f"memory_v{i}_before")) for i in (1, 2)]
        if after is not None:
            close(after.student, before[0], rtol=1e-6)
            close(after.teacher, before[1], rtol=1e-6)
        stored = contrast.Memory(*before, scale)

        def loss(params, f_s, modules=modules, f=f, stored=stored, chosen=get("contrast_idx")):
            v_s, v_t = (
                modules[e].apply({"params": params[e]}, x) for e, x in (("s", f_s), ("t", f["t"]))
            )
            value, scale = contrast.contrastive(v_s, v_t, stored, jnp.asarray(chosen))
            return value, (v_s, v_t, scale)

        step = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))
        (value, (v_s, v_t, scale)), (gp, gs) = step(params, f["s"])
        close(value, get("loss"), rtol=1e-6)
        close(gs, get("grad_f_s"), rtol=1e-6)
        for e in "st":
            grad = getter(family, case, f"grad_w:embed_{e}.")
            for ours, theirs in (("kernel", "weight"), ("bias", "bias")):
                found = gp[e]["linear"][ours]
                close(found.T, grad(f"linear.{theirs}"), rtol=1e-6)
        after = contrast.moved(stored, v_s, v_t, jnp.asarray(get("idx")), scale)
        close(after.scale, get("params_after")[2:4], rtol=1e-6)
    close(after.student, get("memory_v1_after"), rtol=1e-6)
    close(after.teacher, get("memory_v2_after"), rtol=1e-6)


def test_semantic_calibration(family):
    (case,) = cases(family, "SemCKDLoss")
    get, w = getter(family, case), getter(family, case, "w:")
    s, t = ([last(get(f"f_{e}{i}")) for i in range(n)] for e, n in (("s", 2), ("t", 3)))
    modules, rules = {}, {}
    for name, count in (("query", 2), ("key", 3)):
        for i in range(count):
            modules[f"{name}{i}"] = transfer.RowMLP(case["factor"])
            rules |= {f"{name}{i}/linear{k}": f"{name}_{i}.linear{k}" for k in (1, 2)}
    for i in range(2):
        for j, f in enumerate(t):
            name, theirs = f"projection{i}_{j}", f"regressor{i}{j}.regressor"
            modules[name] = transfer.Bottleneck(f.shape[-1], 2 * f.shape[-1], False)
            places = {"first_conv": 0, "first_norm": 1, "middle_conv": 3, "middle_norm": 4}
            rules |= {f"{name}/{k}": f"{theirs}.{n}" for k, n in places.items()}
            rules[f"{name}/last_conv"] = f"{theirs}.6"
    known = variables(w, rules)
    state = {name: {"batch_stats": value} for name, value in known["batch_stats"].items()}

    def loss(params, s):
        run = Modules(modules, params, state, None)
        alpha = semckd.attention(run, s, t, case["soft"])
        return semckd.calibrated(run, s, t, case["soft"]), (alpha, run.state)

    step = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))
    (value, (alpha, _)), (gp, gs) = step(known["params"], s)
    close(alpha, get("attention"))
    close(value, get("loss"))
    for i in range(2):
        close(first(gs[i]), get(f"grad_f_s{i}"), rtol=1e-6)
    gradients_close(gp, getter(family, case, "grad_w:"), rules)
