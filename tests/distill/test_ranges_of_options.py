"""Numbers that mean nothing are refused when a method is made, by name, from Python and by name."""

import functools
from typing import Any

import pytest

from jaxdiff import distill
from jaxdiff.distill.parts.two_players import FakeScore, Penalty, discriminator_loss
from jaxdiff.ranges import Count, Positive, Range, in_range, range_of
from jaxdiff.recipes import RECIPES
from jaxdiff.recipes.choices import chosen

NAN = float("nan")
NOTHING: Any = None
WRONG = [
    (distill.easy_consistency, "q", 0.0), (distill.easy_consistency, "stage_updates", 0),
    (distill.consistency_distillation, "scales", 1), (distill.consistency_training, "decay", -1.0),
    (distill.improved_consistency, "std", 0.0), (distill.scd, "mean", NAN),
    (distill.scd, "c", -1.0), (distill.tract, "self_ema", NAN), (distill.boot, "beta", -1.0),
    (distill.truncated_consistency, "gap", -1.0), (distill.trajectory_operator, "cap", NAN),
    (distill.trajectory_consistency, "std", -1.0), (distill.inductive_moments, "k", NAN),
    (distill.feature_distillation, "temperature", 0.0), (distill.dmd, "every", 0),
    (distill.mean_flow, "c", -1.0), (distill.sida, "student_from", -1), (distill.ladd, "every", 0),
    (distill.ufogen, "reconstruction", NAN), (distill.sid, "scale", -1.0),
]  # fmt: skip


@pytest.mark.parametrize("method, name, value", WRONG)
def test_methods_refuse_numbers_out_of_range(method, name, value):
    with pytest.raises(ValueError, match=f"{method.__name__}: {name} must be .*, not {value}"):
        method(None, None, **{name: value})


@pytest.mark.parametrize(
    "method, name, value",
    [("easy_consistency", "stages", "0"), ("scd", "warmup", "-1"), ("sct", "c", "nan"),
     ("guided_distillation", "guidance_share", "-1"), ("truncated_consistency", "share", "1"),
     ("sid", "alpha", "nan")],
)  # fmt: skip
def test_choices_refuse_them_too(method, name, value):
    """easy_consistency with no stages was a division by zero."""
    with pytest.raises(ValueError, match=f"{name} of {method} should be"):
        chosen(method, RECIPES[method], {name: value})


def test_only_numbers_are_compared_and_signatures_stay():
    @in_range
    def made(model, *, rate: Positive = 1.0, count: Count | None = None, other: float = 0.0):
        """Return all."""
        return model, rate, count, other

    same: Any = lambda step: step  # noqa: E731
    assert made(1, rate=same, other=-1.0) == (1, same, None, -1.0)
    assert made.__name__ == "made" and range_of(Count | None) == Range(1)
    for given in ({"rate": 0}, {"count": 0}, {"rate": NAN}):
        with pytest.raises(ValueError, match="made: .* must be"):
            functools.partial(made, **given)(1)


@pytest.mark.parametrize("penalty", [Penalty(-1.0), Penalty(NAN), Penalty(1.0, size=0.0)])
def test_a_penalty_without_meaning_is_refused(penalty):
    """With a size of 0 it was 0 itself, whatever its factor."""
    with pytest.raises(ValueError, match="a penalty's factor is at least 0 and its size above 0"):
        discriminator_loss(NOTHING, FakeScore(), NOTHING, NOTHING, penalty)


def test_a_size_of_no_penalty_is_refused():
    with pytest.raises(ValueError, match="size=0.1 is of a penalty, whose factor is 0"):
        discriminator_loss(NOTHING, FakeScore(), NOTHING, NOTHING, Penalty(0.0, size=0.1))
