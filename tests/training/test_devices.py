"""Several devices and several processes give the numbers of one; who is alone and who is not."""

import json
import shutil
import signal
import socket
import subprocess
import time

import jax
import numpy as np
import pytest
from helpers import one_of_two_processes as member
from helpers import scripts

from jaxdiff.training import checkpoint, devices, fit, hosts
from jaxdiff.training.leaves import is_sound


def explicit(port, number):
    return dict(zip(hosts.EXPLICIT, (f"127.0.0.1:{port}", "2", str(number)), strict=True))


def slurm(port, number):
    """What srun sets."""
    return {
        "SLURM_JOB_ID": "7", "SLURM_NTASKS": "2", "SLURM_STEP_NUM_TASKS": "2",
        "SLURM_STEP_NODELIST": "localhost", "SLURM_PROCID": str(number),
        "SLURM_LOCALID": str(number), "JAX_COORDINATOR_PORT": str(port),
    }  # fmt: skip


def open_mpi(port, number):
    """What mpirun sets."""
    return {
        "OMPI_MCA_orte_hnp_uri": "4096.0;tcp://127.0.0.1:1", "OMPI_COMM_WORLD_SIZE": "2",
        "OMPI_COMM_WORLD_RANK": str(number), "OMPI_COMM_WORLD_LOCAL_RANK": str(number),
        "JAX_COORDINATOR_PORT": str(port),
    }  # fmt: skip


def two_processes(job, folder, launcher=explicit):
    """Start two processes that share a job."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = []
    for number in range(2):
        more = launcher(port, number)
        command = scripts.command("one_of_two_processes.py", job, folder)
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        started.append(subprocess.Popen(command, env=scripts.environment(2, **more), **pipes))
    return started


def finish(processes):
    """Wait for them; return their exit codes and what they wrote to stderr."""
    try:
        texts = [process.communicate(timeout=240)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [process.returncode for process in processes], texts


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """The folder in which two processes have trained and sampled."""
    folder = tmp_path_factory.mktemp("shared")
    codes, texts = finish(two_processes("train", folder))
    assert codes == [0, 0], "\n".join(text[-3000:] for text in texts)
    return folder


@pytest.mark.slow
def test_two_processes_give_the_numbers_of_one(shared, tmp_path):
    alone = member.everything(tmp_path / "alone")
    for number in range(2):
        with np.load(shared / f"process-{number}.npz") as made:
            assert set(made) == set(alone)
            for name, x in alone.items():
                near = 2e-5 if "samples" in name else 1e-9  # samples are in float32
                np.testing.assert_allclose(made[name], x, rtol=near, atol=near / 10, err_msg=name)
    # what two processes wrote, one reads; what was split or copied, it places otherwise
    longer = member.STEPS + 2
    expected = fit(member.method(), member.Data(), num_updates=longer, progress=False)
    for way, other in zip(member.WAYS, ("pmap", "pmap", "fsdp"), strict=True):
        shutil.copytree(shared / way, tmp_path / way)
        assert checkpoint.all_steps(tmp_path / way) == [member.STEPS]
        resumed = fit(
            member.method(), member.Data(), num_updates=longer, checkpoint=tmp_path / way,
            parallel=other, progress=False,
        )  # fmt: skip
        close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-11)  # noqa: E731
        jax.tree.map(close, resumed[1:4], expected[1:4])
    np.testing.assert_array_equal(checkpoint.load_params(shared / "params.npz")[0]["w"], [0, 1, 2])


@pytest.mark.slow
def test_a_flipped_bit_in_a_piece_that_no_process_held_whole_is_found(shared):
    folder = shared / "fsdp"
    leaves, _ = checkpoint._read_record(folder, member.STEPS)
    pieces = {leaf.path: leaf.crc for leaf in leaves if not isinstance(leaf.crc, int)}
    assert len(pieces["params.first.in"]) == 4
    whole = checkpoint.restore(folder, jax.eval_shape(state)).state
    (spoilt,) = (leaf for leaf in leaves if leaf.path == "params.first.in")
    x = np.array(whole.params["first"]["in"])
    assert is_sound(spoilt, x)
    for at in (0, x.size // 2, x.size - 1):
        bad = x.copy()
        bad.view(np.uint64).reshape(-1)[at] ^= 1
        assert not is_sound(spoilt, bad)


def state():
    from jaxdiff.training import init_state

    return init_state(member.method(), jax.random.key(0))


@pytest.mark.slow
def test_a_signal_to_one_process_stops_and_saves_both(tmp_path):
    both = two_processes("long", tmp_path)
    deadline = time.monotonic() + 120
    while not (tmp_path / "running").exists() and both[1].poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    both[1].send_signal(signal.SIGTERM)
    codes, texts = finish(both)
    assert codes == [143, 143], "\n".join(text[-3000:] for text in texts)
    (step,) = checkpoint.all_steps(tmp_path / "long")
    assert step > 0 and step % 5 == 0
    assert all(f"stopped after {step} updates" in text for text in texts)


@pytest.mark.slow
@pytest.mark.parametrize("launcher, kind", [(slurm, "slurm"), (open_mpi, "ompi")])
def test_processes_of_a_launcher_meet(tmp_path, launcher, kind):
    codes, texts = finish(two_processes("meet", tmp_path, launcher))
    assert codes == [0, 0], "\n".join(text[-3000:] for text in texts)
    for number in range(2):
        assert (tmp_path / f"process-{number}").read_text() == str([kind, kind])


@pytest.mark.slow
def test_every_kind_of_player_on_eight_devices():
    difference = json.loads(scripts.last_line("multidevice_players.py", devices=8))
    assert len(difference) == 12
    for name, value in difference.items():  # part of dmd2 is in float32
        assert value < (1e-6 if "dmd2" in name else 1e-12), (name, value)


# --- who started us


@pytest.mark.parametrize(
    "variables, kind",
    [
        ({}, None),
        ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4"}, None),  # in an allocation, not by srun
        ({"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "1"}, "slurm"),
        ({"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}, None),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, "ompi"),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "0"}, "k8s"),
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, "tpu"),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, None),
        ({"JAX_PROCESS_ID": "0"}, "explicit"),
        ({"JAXDIFF_HOSTS": "on"}, "requested"),
        ({"JAXDIFF_HOSTS": "off", "OMPI_COMM_WORLD_SIZE": "2"}, None),
    ],
)
def test_who_started_the_process(variables, kind):
    assert hosts.launched(variables) == kind


@pytest.mark.parametrize(
    "values, message",
    [
        (("10.0.0.1:1234", "2", ""), "JAX_PROCESS_ID must be set"),
        (("10.0.0.1", "2", "0"), "host:port"),
        (("10.0.0.1:1234", "2", "2"), "0 to JAX_NUM_PROCESSES - 1"),
        (("10.0.0.1:1234", "two", "1"), "0 to JAX_NUM_PROCESSES - 1"),
    ],
)
def test_explicit_variables_that_do_not_fit_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        hosts.connect(dict(zip(hosts.EXPLICIT, values, strict=True)))


def test_one_process_is_all_there_is():
    assert hosts.connect({}) is None and hosts.is_main_process()
    assert hosts.gather([1, "a"]) == [[1, "a"]] and hosts.anyone(True) and not hosts.anyone(False)
    hosts.wait_for_all("here")


# --- over a batch


def shifted(given, batch, *, by):
    return {"sum": given[None] + batch["x"] + by, "row": batch["x"][:, 0]}


@pytest.mark.parametrize("parallel", ["jit", "fsdp", "pmap"])
def test_a_function_of_a_batch_of_any_size(parallel):
    run = devices.over_batch(shifted, np.ones(3), parallel=parallel, by=2.0)
    for count in (1, 5):
        x = np.arange(3.0 * count).reshape(count, 3)
        out = run({"x": x})
        np.testing.assert_array_equal(out["sum"], x + 3.0)
        np.testing.assert_array_equal(out["row"], x[:, 0])


def test_devices_that_there_are_not():
    assert devices.first_devices(None) is None
    assert devices.first_devices(1) == jax.devices()[:1]
    for count in (0, jax.device_count() + 1):
        with pytest.raises(ValueError, match=f"{count} devices were requested"):
            devices.first_devices(count)
    with pytest.raises(ValueError, match='parallel is "jit", "fsdp" or "pmap"'):
        devices.over_batch(shifted, parallel="pjit")
