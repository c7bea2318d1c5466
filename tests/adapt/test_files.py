"""Adapters of every kind as files: written, known by their names, read back, put into a base."""

import jax
import numpy as np
import pytest

from jaxdiff.adapt import (
    LowRank,
    SpectralShift,
    TextualInversion,
    Together,
    Whole,
    custom_diffusion,
    kind_of,
    load_adapter,
    prepare,
    save_adapter,
    with_adapter,
)
from jaxdiff.denoisers import denoiser
from jaxdiff.pretrained.safetensors import read_header
from jaxdiff.pretrained.saving import write_tensors

RNG = np.random.default_rng(0)
ADAPTERS = {
    "lora": LowRank(1, layers="*kernel"),
    "dora": LowRank(2, layers="out*", dora=True),
    "svdiff": SpectralShift("*kernel"),
    "whole": Whole("out*"),
    "custom": custom_diffusion((1,), 2),
    "textual-inversion": TextualInversion((1,)),
}


def base(out=2):
    draw = lambda *shape: RNG.standard_normal(shape).astype(np.float32)  # noqa: E731
    return {
        "encoder": {"tokens": {"embedding": draw(5, 3)}},
        "cross": {"k": {"kernel": draw(3, 2)}, "v": {"kernel": draw(3, 2)}},
        "out": {"kernel": draw(2, out)},
    }


def network(params, x, label, cond=None, *, key=None):
    return x @ params["out"]["kernel"]


@pytest.mark.parametrize("kind", ADAPTERS)
def test_files_are_read_back(kind, tmp_path):
    adapter, params, path = ADAPTERS[kind], base(), tmp_path / "x.safetensors"
    shapes = jax.eval_shape(lambda b: adapter.init(jax.random.key(0), prepare(adapter, b)), params)
    small = jax.tree.map(lambda a: RNG.standard_normal(a.shape).astype(a.dtype), shapes)
    token = "<cat>" if kind in ("custom", "textual-inversion") else ""
    save_adapter(path, params, adapter, small, token=token)
    assert kind_of(path) == {"dora": "lora"}.get(kind, kind)
    found = load_adapter(path, params)
    assert (found.kind, found.token) == (kind, token)
    jax.tree.map(np.testing.assert_array_equal, found.small, small)
    made = [a.apply(prepare(a, params), small) for a in (adapter, found.adapter)]
    jax.tree.map(np.testing.assert_array_equal, *made)
    if token:
        return
    D, _ = with_adapter(denoiser(network, params), path, 0.5)
    half = jax.tree.map(lambda a, b: (a + b) / 2, params, made[0])
    near = lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5)  # noqa: E731
    jax.tree.map(near, D.args[0], half)


def test_what_does_not_fit_is_named_and_nothing_is_written(tmp_path):
    params, path = base(), tmp_path / "x.safetensors"
    whole, shift = Whole("out*"), SpectralShift("out*")
    small = {"out/kernel": np.ones((2, 2), np.float32)}
    with pytest.raises(ValueError, match=r"out/kernel has shape \(2, 2\), where \(2, 3\) is"):
        save_adapter(path, base(3), whole, small)
    with pytest.raises(ValueError, match="is saved with its text, others without"):
        save_adapter(path, params, whole, small, token="<cat>")
    both = Together((whole, whole))
    with pytest.raises(ValueError, match="a Together has no file"):
        save_adapter(path, params, both, {"0": small, "1": small})
    assert not list(tmp_path.iterdir())
    save_adapter(path, params, shift, {"out/kernel": np.ones(2, np.float32)})
    assert read_header(path)[0]["spectral/out/kernel"][0] == (2,)
    with pytest.raises(ValueError, match="no parameter fits"):
        load_adapter(path, {"cross": params["cross"]})
    write_tensors(path, {"emb_params": np.ones((1, 3), np.float32)}, {})
    with pytest.raises(ValueError, match="does not say its token"):
        with_adapter(denoiser(network, params), path)
    write_tensors(path, {"a.b": np.ones(2)}, {})
    with pytest.raises(ValueError, match="is no adapter that is read: .*a.b is no change"):
        load_adapter(path, params)
    write_tensors(path, {"a.b": np.ones(2)}, {"format": "jaxdiff adapter", "kind": "other"})
    with pytest.raises(ValueError, match="of the kind 'other', which is not known"):
        load_adapter(path, params)
    write_tensors(path, {"x/b": np.ones(2)}, {"format": "jaxdiff adapter", "kind": "whole"})
    with pytest.raises(ValueError, match="is damaged"):
        load_adapter(path, params)
