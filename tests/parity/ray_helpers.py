"""What tests on a Ray cluster share."""

import os

from ngrpo.errors import ConfigError

# Ray lets its workers wait for every other process of the machine; on a busy one tests would take for ever.
os.environ.setdefault("RAY_worker_niceness", "0")

# Else a cluster has a token or none, depending on whether somebody on this machine ever started one.
os.environ["RAY_AUTH_MODE"] = "disabled"


def local_cluster(*, num_cpus):
    """A cluster here. Ray gives its own processes half a minute to start: a busy machine may need another try."""
    from ngrpo.integrations.ray_cluster import connect

    for _ in range(3):
        try:
            return connect("local", num_cpus=num_cpus)
        except ConfigError as error:
            refusal = error
    raise refusal
