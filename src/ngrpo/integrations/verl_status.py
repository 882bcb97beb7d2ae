"""Whether verl is here, finds our plug-in, and can be started. Nothing of verl is imported into this process."""

import importlib.util
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, entry_points, version

from ngrpo.errors import ConfigError, MissingExtraError

TESTED = "0.9.1"
"""The version of verl that the tests run against; others may have moved what we hold on to."""

ENTRY_POINT = ("verl.plugins", "ngrpo.integrations.verl")
"""Group and module of the entry point by which verl finds us."""

INSTALL = 'pip install "ngrpo[verl]"'

SAMPLER = 'verl samples with it: pip install "verl[vllm]" on every machine with GPUs (docs/integrations_verl.md)'

PROBE = """
import warnings; warnings.simplefilter("ignore")
import ngrpo.integrations.verl
from verl.trainer.ppo.core_algos import ADV_ESTIMATOR_REGISTRY
assert "ngrpo" in ADV_ESTIMATOR_REGISTRY
"""
"""A program that ends well where verl can load the plug-in, in this process's Python or in a worker's."""


def verl_status() -> list[tuple[str, bool, str]]:
    """Everything besides its version that a run in verl needs of this machine.

    Returns:
        (what, whether it is there, what to do if not) for `ngrpo doctor`. Empty where verl is not installed.
    """
    if _version("verl") is None:
        return []
    antlr = _version("antlr4-python3-runtime") or "missing"
    complaint = plugin_complaint()
    return [
        (
            f"entry point {ENTRY_POINT[0]}",
            has_entry_point(),
            "install ngrpo with pip on every machine (an old installation has none: pip install -e . again); or set "
            f"VERL_USE_EXTERNAL_MODULES={ENTRY_POINT[1]} on each",
        ),
        ("plug-in loads", complaint is None, complaint or ""),
        ("transfer_queue", _is_here("transfer_queue"), f"the queue of verl's v1 trainer: {INSTALL}"),
        (
            f"antlr4 runtime {antlr}",
            antlr.startswith("4.9."),
            "Hydra wants 4.9: pip install antlr4-python3-runtime==4.9.3",
        ),
        ("vllm", _is_here("vllm"), SAMPLER),
    ]


def has_entry_point() -> bool:
    """Whether an installed distribution tells verl of our plug-in."""
    group, module = ENTRY_POINT
    return any(point.value == module for point in entry_points(group=group))


def plugin_complaint() -> str | None:
    """Why the plug-in cannot be loaded, or None. verl itself would be silent, and later not know the estimator."""
    done = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=False)
    said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
    return None if done.returncode == 0 else said[-1]


def require_verl() -> None:
    """Sees that a run can be started from here.

    Raises:
        MissingExtraError: verl is not installed.
        ConfigError: Another version than the tested one, or the plug-in cannot be loaded.
    """
    found = _version("verl")
    if found is None:
        raise MissingExtraError(f"this starts verl, which is not installed: {INSTALL}. --dry-run needs none.")
    if found != TESTED:
        raise ConfigError(
            f"verl {found} is installed, and this was tested with {TESTED}: names in its configuration, and what the "
            f"sampler overrides, may have moved. pip install verl=={TESTED}; --dry-run prints the command for any."
        )
    if complaint := plugin_complaint():
        raise ConfigError(f"verl cannot load ngrpo's plug-in: {complaint}. `ngrpo doctor` shows what is missing.")


def require_sampler() -> None:
    """Sees that verl can sample on this machine.

    Raises:
        MissingExtraError: vLLM is not installed.
    """
    if not _is_here("vllm"):
        raise MissingExtraError(f"vllm is not installed: {SAMPLER}. Or give --ray-address: a cluster that has it.")


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _is_here(module: str) -> bool:
    return importlib.util.find_spec(module) is not None
