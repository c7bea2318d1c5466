"""Run scripts of this folder in processes of their own: devices are counted when jax starts."""

import os
import pathlib
import subprocess
import sys

HERE = pathlib.Path(__file__).parent


def environment(devices=None, **more):
    """Variables with which a script finds the tests and, if requested, simulated devices."""
    path = os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")])
    flags = os.environ.get("XLA_FLAGS", "")
    flags += f" --xla_backend_optimization_level=0 --xla_force_host_platform_device_count={devices}"
    simulated = {"XLA_FLAGS": flags} if devices else {}
    return {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": path, **simulated, **more}


def command(script, *arguments):
    return [sys.executable, "-W", "error", str(HERE / script), *map(str, arguments)]


def last_line(script, *arguments, devices=None, **more):
    """What a script that must succeed prints last."""
    done = subprocess.run(
        command(script, *arguments),
        env=environment(devices, **more),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.splitlines()[-1]
