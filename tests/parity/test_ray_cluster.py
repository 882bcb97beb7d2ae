"""Clusters that somebody else started (`ray start`): joined, refused, used over two hosts, left as they were."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import warnings
from contextlib import contextmanager
from pathlib import Path

import pytest
import ray_helpers  # noqa: F401  sets how Ray starts

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    ray = pytest.importorskip("ray", reason="Ray is not installed here")

from ngrpo.errors import ConfigError
from ngrpo.integrations.ray_cluster import connect
from ngrpo.record import read_jsonl

pytestmark = pytest.mark.filterwarnings("ignore")  # Ray's and its dependencies' own

START_S = 120.0


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def ray_start(*options, prefix=(), environment=()):
    """`ray start --block` until the end of the block."""
    folder = tempfile.mkdtemp(prefix="ray", dir="/tmp")  # sockets have short names
    program = [*prefix, sys.executable, "-c", "from ray.scripts.scripts import main; main()", "start", "--block"]
    with Path(folder, "log").open("w") as log:
        process = subprocess.Popen(
            [*map(str, [*program, "--num-cpus", 1, "--disable-usage-stats", *options])],
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, **dict(environment)},
        )
    try:
        yield process, Path(folder)
    finally:
        process.send_signal(signal.SIGTERM)  # it ends what it started; `ray stop` would end other people's clusters
        process.wait(timeout=60)
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def head(host=None, **options):
    """A head with one CPU; its address."""
    host, port = host or ray.util.get_node_ip_address(), free_port()
    more = ("--node-ip-address", host, "--port", port, "--include-dashboard", "false")
    with ray_start("--head", *more, **options) as (process, folder):
        wait_until(lambda: "Ray runtime started" in (folder / "log").read_text(), process, folder / "log")
        yield f"{host}:{port}"


def wait_until(holds, process, log):
    deadline = time.monotonic() + START_S
    while not holds():
        if process.poll() is not None or time.monotonic() > deadline:
            pytest.fail(f"ray start did not: {log.read_text()[-1000:]}")
        time.sleep(0.2)


@pytest.fixture(scope="module")
def address():
    with head() as found:
        yield found


def start(model_folder, place, *options, prefix=(), samples=8):
    command = ["eval", model_folder, "--data", "world:countdown", "--samples", samples, "--max-completion-tokens", 8]
    command += ["--precision", "float64", "--out", "e", *options, "data.size=12"]
    return subprocess.Popen(
        [*map(str, [*prefix, sys.executable, "-m", "ngrpo", *command])],
        cwd=place,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process):
    try:
        err = process.communicate(timeout=200)[1]
    finally:
        process.kill()
    return process.returncode, err


def rows_of(folder):
    rows = read_jsonl(folder / "samples.jsonl")
    return sorted((row["prompt"], row["sample"], row["completion"], row["tokens"], row["correct"]) for row in rows)


@pytest.fixture(scope="module")
def plain(model_folder, tmp_path_factory):
    """The rows of one process without Ray, of as many samples as asked for."""
    found = {}

    def rows(samples):
        if samples not in found:
            place = tmp_path_factory.mktemp("plain")
            code, told = ended(start(model_folder, place, samples=samples))
            assert code == 0, told
            found[samples] = rows_of(place / "e")
        return found[samples]

    return rows


def test_an_evaluation_on_a_cluster_of_others_that_goes_on_living(model_folder, tmp_path, address, plain):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        code, told = ended(start(model_folder, tmp_path / name, "--ray", address))
        assert code == 0, told
        assert "Ray: 1 workers, one per CPU." in told
        assert rows_of(tmp_path / name / "e") == plain(8)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_driver_that_is_ended_loses_nothing_and_nothing_is_there_twice(
    model_folder, tmp_path, address, plain, number
):
    process = start(model_folder, tmp_path, "--ray", address, samples=200)
    samples = tmp_path / "e" / "samples.jsonl"
    deadline = time.monotonic() + 120
    while not (samples.exists() and samples.stat().st_size):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(number)
    assert ended(process)[0] == {signal.SIGKILL: -signal.SIGKILL, signal.SIGINT: 130}[number]
    assert samples.read_bytes().count(b"\n") < 12 * 200
    code, told = ended(start(model_folder, tmp_path, "--ray", address, samples=200))
    assert code == 0, told
    assert rows_of(tmp_path / "e") == plain(200)


def test_another_version_is_refused(address, monkeypatch):
    connect(address).close()
    monkeypatch.setattr(ray, "__version__", "2.0.0")
    with pytest.raises(ConfigError, match=r"cannot join the Ray cluster at .*: Version mismatch.*Ray 2\.0\.0"):
        connect(address)


def test_auto_is_the_cluster_that_is_there(address, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", address)  # other people's may be there, too
    cluster = connect("auto")
    assert (cluster.num_workers, cluster.on_gpus) == (1, False)
    cluster.close()


def test_a_cluster_that_wants_a_token_is_refused_with_advice():
    with (
        head(environment={"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 32}) as address,
        pytest.raises(ConfigError, match=r"cannot join the Ray cluster .*set RAY_AUTH_MODE=token here too"),
    ):
        connect(address)


def test_a_machine_without_the_package_is_said(model_folder, tmp_path):
    broken = tmp_path / "broken"
    (broken / "ngrpo").mkdir(parents=True)
    (broken / "ngrpo" / "__init__.py").write_text("raise ModuleNotFoundError(\"No module named 'ngrpo'\")")
    with head(environment={"PYTHONPATH": str(broken)}) as address:
        code, told = ended(start(model_folder, tmp_path, "--ray", address))
    assert code == 2
    assert (
        "error: a Ray worker cannot import ngrpo (ModuleNotFoundError: No module named 'ngrpo'). Install this" in told
    )


# --- two hosts --------------------------------------------------------------------------------------------------------

HERE, THERE = "10.87.0.1", "10.87.0.2"


def ip(*words):
    return subprocess.run(["ip", *words], capture_output=True, text=True, check=False)


@pytest.fixture
def host():
    """The name of a network namespace with two addresses: of its own, HERE, and, through a cable, one THERE."""
    if not shutil.which("ip"):
        pytest.skip("no ip command: network namespaces cannot be made")
    one, two = f"ngrpo{os.getpid()}a", f"ngrpo{os.getpid()}b"
    try:
        for name in (one, two):
            made = ip("netns", "add", name)
            if made.returncode:
                pytest.skip(f"network namespaces are not allowed here: {made.stderr.strip()}")
        cable = ip("link", "add", "eth0", "netns", one, "type", "veth", "peer", "name", "eth0", "netns", two)
        if cable.returncode:
            pytest.skip(f"no veth pair: {cable.stderr.strip()}")
        for name, address in ((one, HERE), (two, THERE)):
            for words in (("addr", "add", f"{address}/24", "dev", "eth0"), ("link", "set", "eth0", "up"),
                          ("link", "set", "lo", "up")):  # fmt: skip
                done = ip("-n", name, *words)
                assert done.returncode == 0, done.stderr
        yield one, two
    finally:
        for name in (one, two):
            ip("netns", "del", name)


def test_an_evaluation_over_two_hosts_whose_second_is_lost(host, model_folder, tmp_path, plain):
    """A head in one network namespace, a worker in another; the worker's host is killed while it samples."""
    here, there = (("ip", "netns", "exec", name) for name in host)
    with head(HERE, prefix=here) as address:
        more = ("--address", address, "--node-ip-address", THERE)
        with ray_start(*more, prefix=there) as (other, folder):
            wait_until(lambda: "Ray runtime started" in (folder / "log").read_text(), other, folder / "log")
            process = start(model_folder, tmp_path, "--ray", address, prefix=here, samples=200)
            samples = tmp_path / "e" / "samples.jsonl"
            wait_until(lambda: samples.exists() and samples.stat().st_size, process, folder / "log")
            os.killpg(other.pid, signal.SIGKILL)
            code, told = ended(process)
    assert code == 0, told
    assert "Ray: 2 workers, one per CPU." in told
    assert rows_of(tmp_path / "e") == plain(200)


def test_a_machine_that_is_not_of_the_cluster_is_refused(host, model_folder, tmp_path):
    """Ray itself would end the process."""
    here, there = (("ip", "netns", "exec", name) for name in host)
    # Another machine has no sockets of the head's among its files.
    there = (*there, "sh", "-c", 'mount -t tmpfs none /tmp/ray && exec "$@"', "sh")
    with head(HERE, prefix=here) as address:
        code, told = ended(start(model_folder, tmp_path, "--ray", address, prefix=there))
    assert code == 2
    assert f"error: this machine is no part of the Ray cluster at {address}. Call the command on one that is" in told
    assert not (tmp_path / "e").exists()
