"""Nothing is lost when a job is killed, and nothing gathers in a long run."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from jaxdiff.training import read_history

HERE = pathlib.Path(__file__).parent


def in_a_process(script, *arguments, **more):
    path = os.pathsep.join([str(HERE.parent), str(HERE), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": path, **more}
    command = [sys.executable, str(HERE / script), *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize("job", ["train", "distill", "search"])
def test_a_job_that_is_killed_eleven_times_ends_with_the_same_bits(job, tmp_path):
    cache = {
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    found = in_a_process("kills.py", job, 11, tmp_path, **cache)
    assert found["same"] and found["kills"] == 11, found


@pytest.mark.slow
def test_memory_is_flat_over_ten_thousand_steps(tmp_path):
    seen = in_a_process("long_run.py", tmp_path)
    assert len(seen) == 5 and max(seen[1:]) < seen[0] + 20, seen
    rows = read_history(tmp_path)
    assert [row["step"] for row in rows] == list(range(10, 10_001, 10))
