"""Nothing is lost when a job is killed, and nothing gathers in a long run."""

import json

import pytest
from helpers.scripts import last_line

from jaxdiff.training import read_history


@pytest.mark.slow
@pytest.mark.parametrize(("job", "kills"), [("train", 11), ("distill", 4), ("search", 4)])
def test_a_job_that_is_killed_again_and_again_ends_with_the_same_bits(job, kills, tmp_path):
    cache = {
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    found = json.loads(last_line("kill_and_resume.py", job, kills, tmp_path, **cache))
    assert found["same"] and found["kills"] == kills, found


@pytest.mark.slow
def test_memory_is_flat_over_ten_thousand_steps(tmp_path):
    seen = json.loads(last_line("long_run_memory.py", tmp_path))
    assert len(seen) == 5 and max(seen[1:]) < seen[0] + 20, seen
    rows = read_history(tmp_path)
    assert [row["step"] for row in rows] == list(range(10, 10_001, 10))
