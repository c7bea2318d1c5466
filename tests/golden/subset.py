"""Choose the compact subset of the golden numbers that is committed: python tests/golden/subset.py
FULL_FOLDER

One case of every kind, where a kind is what makes a solver or a loss compute something else. The
arrays are the peers' own numbers, unchanged; the README beside this file says which peers.
"""

import json
import pathlib
import shutil
import sys

import numpy as np
from safetensors.numpy import load_file, save_file

HERE = pathlib.Path(__file__).parent
# What is left out, to keep it small: intermediate states; 'final' is there.
LEFT_OUT = ("inter", "eval_t", "x_at_eval", "sigma_hat")
# family: (fields that make a kind, prefixes of shared arrays kept whole, values a case must have)
DIFFUSERS = """c0002 c0003 c0006 c0032 c0037 c0045 c0054 c0057 c0060 c0063 c0064 c0065 c0066 c0067
c0069 c0071 c0074 c0077 c0080 c0243 c0248 c0262 c0265 c0270""".split()
FASTGEN = """c0004 c0006 c0007 c0008 c0009 c0010 c0011 c0012 c0013 c0015 c0018 c0024 c0030 c0037
c0041 c0046 c0049 c0054 c0057 c0059 c0060 c0064""".split()
FAMILIES = {
    "teacher": ((), ("mix", "z", "labels"), {}),
    "solvers_diffsampler": (
        ("solver", "max_order", "predict_x0", "variant", "deis_mode"),
        ("discrete/", "dynthr/", "schedules/"),
        {"num_steps": (4,)},
    ),
    "solvers_kdiffusion": (
        ("function", "order", "stochastic", "solver_type"),
        (),
        {"sigmas": ("sigmas/karras7/4", "sigmas/vp/6")},
    ),
    "solvers_edm": (
        ("function", "solver", "stochastic", "schedule", "alpha"),
        (),
        {"num_steps": (4,)},
    ),
    "solvers_diffusers": (("id",), ("alphas_cumprod/sd",), {"id": DIFFUSERS}),
    "solvers_vp_original": (
        ("algorithm_type", "order", "method", "variant", "solver_type", "noise_schedule"),
        ("grid_check/", "betas_discrete"),
        {"steps": (4,), "noise_schedule": ("linear",)},
    ),
    "metrics": ((), (), {"name": ("b", "rankdef")}),
    "losses_diffusion": (
        ("what", "kind", "loss_norm", "target_ema_mode", "scale_mode", "sigma_data", "peer"),
        (),
        {},
    ),
    "losses_fastgen": (("id",), (), {"id": FASTGEN}),
    "gits": (
        ("peer", "cost", "num_steps", "metric", "solver_tea"),
        ("deviation/",),
        {
            "cost": ("cost/random_upper/11", "cost/metric_like/21"),
            "num_steps": (3, 4, 6),
            "num_steps_tea": (11, 15, 21),
        },
    ),
    "solvers_amed": (
        ("function", "max_order", "predict_x0", "lower_order_final", "afs"),
        (),
        {"num_steps": (4,)},
    ),
}


LARGE = ("f:", "act_mean:Mixed_7", "act_mean:AvgPool")  # of Inception, what others say, too
# networks with their weights: the cases that are kept whole, and the files of their weights
NETWORKS = {
    "networks_edm/io": (
        ["c0001", *(f"c{n:04d}" for n in range(13, 20))],
        ["networks_edm/edm_ddpmpp_uncond_aug.safetensors", "networks_edm/blocks.safetensors"],
        ("vp/", "round_sigma/"),
    ),
    "networks_diffusers_io": (
        ["c0000"],
        [f"networks_diffusers/unet2d_0/{name}"
         for name in ("config.json", "diffusion_pytorch_model.safetensors")],
        (),
    ),
    "inception_fid": (["c0000"], [], ()),
}  # fmt: skip


def choose_networks(full: pathlib.Path, name: str) -> None:
    """Write NAME.npz and NAME.json with the chosen cases, and copy the weights. Of other cases what
    they are is kept, without arrays.
    """
    chosen, files, prefixes = NETWORKS[name]
    text = json.loads((full / f"{name}.json").read_text())
    arrays = np.load(full / f"{name}.npz", allow_pickle=False)
    for case in text["cases"]:
        kept = case["arrays"] if case["id"] in chosen else {}
        case["arrays"] = {k: v for k, v in kept.items() if not k.startswith(LARGE)}
    text["cases"] = [c for c in text["cases"] if c["arrays"] or "name" in c]
    names = {f"{c['id']}/{a}" for c in text["cases"] for a in c["arrays"]}
    wanted = [k for k in arrays.files if k in names or k.startswith(prefixes or ("\0",))]
    (HERE / name).parent.mkdir(exist_ok=True)
    np.savez_compressed(HERE / f"{name}.npz", **{k: arrays[k] for k in wanted})
    (HERE / f"{name}.json").write_text(json.dumps(text))
    prefixes = tuple(c["prefix"] for c in text["cases"] if c["arrays"] and c.get("prefix"))
    for file in files:
        (HERE / file).parent.mkdir(parents=True, exist_ok=True)
        if file.endswith("blocks.safetensors"):  # those of the chosen cases
            tensors = load_file(full / file)
            save_file({k: v for k, v in tensors.items() if k.startswith(prefixes)}, HERE / file)
        else:
            shutil.copyfile(full / file, HERE / file)
    made = [HERE / f"{name}.npz", HERE / f"{name}.json", *(HERE / file for file in files)]
    print(f"{name}: {sum(p.stat().st_size for p in made) / 1e3:.0f} kB")


def choose(full: pathlib.Path, family: str) -> None:
    """Write NAME.npz and NAME.json with the chosen cases."""
    fields, prefixes, wanted = FAMILIES[family]
    text = json.loads((full / f"{family}.json").read_text())
    arrays = np.load(full / f"{family}.npz", allow_pickle=False)
    seen, cases = set(), []
    for case in text["cases"]:
        case["stochastic"] = case.get("stochastic", "noise" in case["arrays"])
        kind = tuple(str(case.get(f)) for f in fields) or case["id"]
        fits = all(case[k] in values for k, values in wanted.items() if k in case)
        fits |= case.get("method") == "adaptive" or case.get("solver_type") == "taylor"
        case.pop("unpatched_float32_peer", None)
        if kind not in seen and fits:
            seen.add(kind)
            cases.append(case)
            case["arrays"] = {k: v for k, v in case["arrays"].items() if k not in LEFT_OUT}
    kept_arrays = {f"{case['id']}/{name}" for case in cases for name in case["arrays"]}
    named = {v for case in cases for v in case.values() if isinstance(v, str) and v in arrays.files}
    shared = lambda k: k in named or k.startswith(prefixes or ("\0",))  # noqa: E731
    kept = [k for k in arrays.files if k in kept_arrays or shared(k)]
    first: dict[bytes, str] = {}  # an array that several cases have is kept once
    kind = {k: f"{arrays[k].dtype}{arrays[k].shape}".encode() for k in kept}
    same = {k: first.setdefault(kind[k] + arrays[k].tobytes(), k) for k in kept}
    same = {k: other for k, other in same.items() if k != other}
    np.savez_compressed(HERE / f"{family}.npz", **{k: arrays[k] for k in kept if k not in same})
    smaller = {"extra": text.get("extra", {}), "cases": cases, "same": same}
    (HERE / f"{family}.json").write_text(json.dumps(smaller))
    size = sum((HERE / f"{family}.{e}").stat().st_size for e in ("npz", "json"))
    print(f"{family}: {len(cases)} of {len(text['cases'])} cases, {size / 1e3:.0f} kB")


if __name__ == "__main__":
    for name in FAMILIES:
        choose(pathlib.Path(sys.argv[1]), name)
    for name in NETWORKS:
        choose_networks(pathlib.Path(sys.argv[1]), name)
