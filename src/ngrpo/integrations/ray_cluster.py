"""Reaching a Ray cluster, and how many workers it has room for."""

import socket
import subprocess
import sys
from dataclasses import dataclass

from ngrpo.errors import ConfigError, MissingExtraError

try:
    import ray
except ImportError as error:
    raise MissingExtraError(f'Ray is not installed: pip install "ngrpo[ray]" ({error}).') from error

PROBE_S = 5.0
"""How long a machine may take to answer."""

JOIN_S = 120.0
"""How long joining a cluster may take."""


@dataclass(frozen=True)
class RayCluster:
    """A cluster that this process is connected to.

    Attributes:
        num_workers: Processes that work at the same time: one per GPU where GPUs are used, else one per CPU.
        on_gpus: Whether each worker has a GPU of its own.
    """

    num_workers: int
    on_gpus: bool

    @property
    def share(self) -> dict[str, int]:
        """What Ray sets aside for one worker."""
        return {"num_gpus": 1} if self.on_gpus else {"num_cpus": 1}

    def close(self) -> None:
        """Ends the connection, and with it a cluster that was started for it."""
        ray.shutdown()


def connect(address: str, *, device: str = "auto", num_cpus: int | None = None) -> RayCluster:
    """Connects to a Ray cluster.

    Args:
        address: `local` starts Ray on this machine and ends it afterwards; `auto` is the cluster that runs on this
            machine; `HOST:PORT` is the head that `ray start --head` printed.
        device: As `model.device`: `cpu` leaves GPUs alone.
        num_cpus: Of `local`: how many to use. Default: all.

    Raises:
        ConfigError: Nobody answers there, it is not Ray, or another version of Ray or Python.
    """
    _probe(address)
    options = {"num_cpus": num_cpus} if address == "local" else {}
    try:
        ray.init(address=address, log_to_driver=False, configure_logging=False, include_dashboard=False, **options)
    # Ray has no error of its own for this: no cluster, another version, a wrong token are each of another kind.
    except Exception as error:
        ray.shutdown()
        raise _refusal(address, str(error).strip() or type(error).__name__) from error
    found = ray.cluster_resources()
    num_gpus = int(found.get("GPU", 0))
    on_gpus = device != "cpu" and num_gpus > 0
    num_workers = num_gpus if on_gpus else int(found.get("CPU", 0))
    if num_workers == 0:
        ray.shutdown()
        raise ConfigError(f"the Ray cluster at {address!r} has no CPU. Add a machine: ray start --address={address}.")
    return RayCluster(num_workers, on_gpus)


def check_imports(error: BaseException) -> None:
    """Raises if a task or an actor has ended because its machine has no ngrpo; of this Ray's text alone tells.

    Raises:
        ConfigError: It is so.
    """
    text = str(error)
    if "failed to import on the worker" in text:
        raise ConfigError(
            f"a Ray worker cannot import ngrpo ({text.strip().splitlines()[-1].strip()}). Install this version of "
            "ngrpo on every machine of the cluster, in the Python that ray start was called with."
        ) from error


def _probe(address: str) -> None:
    """Sees whether the cluster of a head can be joined from here.

    First whether somebody listens, which takes seconds where Ray would try for minutes. Then another process joins:
    on a machine that is none of the cluster Ray does not raise an error, it ends the process.
    """
    if address in ("local", "auto"):
        return
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or "/" in host:
        raise ConfigError(f"--ray {address!r} is none of local, auto and HOST:PORT (as ray start --head prints it).")
    try:
        socket.create_connection((host, int(port)), timeout=PROBE_S).close()
    except (OSError, OverflowError) as error:
        raise ConfigError(
            f"nobody answers at {address} ({error}). Start the head there (ray start --head --port={port}) or mend the "
            "address given to --ray."
        ) from None
    try:
        tried = subprocess.run(
            [sys.executable, "-P", "-c", _JOIN, address], capture_output=True, text=True, timeout=JOIN_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise _refusal(address, f"no answer in {JOIN_S:g} s") from None
    if tried.returncode and (reason := tried.stdout.strip()):
        raise _refusal(address, reason)
    if tried.returncode:  # ended by Ray
        raise ConfigError(
            f"this machine is no part of the Ray cluster at {address}. Call the command on one that is, or add this "
            f"one (ray start --address={address})."
        )


_JOIN = """
import sys, ray
try:
    ray.init(address=sys.argv[1], log_to_driver=False, configure_logging=False)
except Exception as error:
    print(error)
    sys.exit(1)
"""


def _refusal(address: str, reason: str) -> ConfigError:
    """Why a cluster was not joined, and what to do."""
    first_line = reason.splitlines()[0].rstrip(".:")
    if address == "local":
        return ConfigError(
            f"Ray did not start on this machine: {first_line}. The machine may be too busy: try again, or go without "
            "--ray."
        )
    return ConfigError(
        f"cannot join the Ray cluster at {address!r}: {first_line}. Start one (ray start --head) with the same Python "
        f"and Ray {ray.__version__}, and give what it prints. If it says that token authentication is enabled, set "
        "RAY_AUTH_MODE=token here too, with the same ~/.ray/auth_token. Or give --ray local."
    )
