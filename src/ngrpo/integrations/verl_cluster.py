"""Whether a Ray cluster answers, and whether verl finds our plug-in on every machine of it: asked before a start."""

import socket
import subprocess
import sys

from ngrpo.errors import ConfigError
from ngrpo.integrations.verl_status import ENTRY_POINT, PROBE

ANSWER_S = 300.0
"""How long the machines may take to import verl, seconds."""


def check_cluster(address: str) -> None:
    """Sees that a Ray cluster answers, and that each of its machines can load the plug-in.

    Args:
        address: `auto`, `host:port` or `ray://host:port`.

    Raises:
        ConfigError: The address has no port, nothing answers there, it is no cluster for this Ray; or a machine, by
            name, cannot load the plug-in.
    """
    check_address(address)
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    def complaint_of(program: str) -> str:  # a function inside: Ray sends its code, for machines without this package
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
        said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        return "" if done.returncode == 0 else said[-1]

    try:
        ray.init(address=address, log_to_driver=False)
    except Exception as error:  # no cluster, another version of Ray or Python, a wrong token: each of another kind
        raise ConfigError(
            f"cannot join the Ray cluster at {address} ({_first_line(error)}). Start one there (ray start --head) with "
            f"the same Python and Ray {ray.__version__}, or leave out --ray-address: verl starts Ray here."
        ) from error
    try:
        ask = ray.remote(num_cpus=0)(complaint_of)
        machines = [node for node in ray.nodes() if node["Alive"]]
        places = [NodeAffinitySchedulingStrategy(node["NodeID"], soft=False) for node in machines]
        answers = ray.get([ask.options(scheduling_strategy=place).remote(PROBE) for place in places], timeout=ANSWER_S)
    except ray.exceptions.RayError as error:
        raise ConfigError(
            f"the Ray cluster at {address} did not do a task ({_first_line(error)}). See `ray status`."
        ) from error
    finally:
        ray.shutdown()
    pairs = zip(machines, answers, strict=True)
    complaints = [f"{machine['NodeManagerAddress']}: {answer}" for machine, answer in pairs if answer]
    if complaints:
        raise ConfigError(
            "\n  ".join(["verl cannot load ngrpo's plug-in on every machine of the cluster:", *complaints])
            + f"\nInstall ngrpo and verl on each, as here; each must be able to import {ENTRY_POINT[1]}."
        )


def check_address(address: str, *, timeout_s: float = 5.0) -> None:
    """Sees that somebody listens at an address, in seconds: Ray itself would try for minutes.

    Args:
        address: `auto`, which is the cluster of this machine and not looked at, `host:port` or `ray://host:port`.
        timeout_s: How long to wait, seconds.

    Raises:
        ConfigError: The address has no port, or nothing answers there.
    """
    if address == "auto":
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise ConfigError(f"--ray-address {address!r} is none: give auto, host:6379 or ray://host:10001.")
    try:
        socket.create_connection((host, int(port)), timeout=timeout_s).close()
    except OSError as error:
        raise ConfigError(
            f"no Ray cluster answers at {address} ({error}). Start one there (ray start --head --port={port}), or look "
            "at the address with `ray status` on that machine."
        ) from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".:")
