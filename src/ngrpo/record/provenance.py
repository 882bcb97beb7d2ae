"""What a result was made with: versions, source revision, machine."""

import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import ngrpo

PACKAGES = (
    "torch", "transformers", "tokenizers", "datasets", "numpy", "math-verify", "sympy", "peft", "reasoning-gym", "vllm",
)  # fmt: skip


def provenance() -> dict[str, Any]:
    """Versions, git revision of the source where it is a checkout, hardware, and the command line.

    Returns:
        JSON-safe: `ngrpo`, `python`, `packages`, `git_revision`, `hardware`, `command`.
    """
    import torch

    hardware: dict[str, Any] = {
        "system": platform.system(),
        "machine": platform.machine(),
        "num_cpus": os.cpu_count(),
        "num_threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }
    return {
        "ngrpo": ngrpo.__version__,
        "python": platform.python_version(),
        "packages": {name: version for name in PACKAGES if (version := _version(name)) is not None},
        "git_revision": git_revision(Path(ngrpo.__file__).parent),
        "hardware": hardware,
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
    }


def git_revision(folder: Path) -> str | None:
    """The commit a folder of source is at, with `+changes` where tracked files differ; None outside a checkout."""
    try:
        if not _git(folder, "ls-files", "."):  # installed inside a checkout of something else
            return None
        commit = _git(folder, "rev-parse", "HEAD")
        return commit + ("+changes" if _git(folder, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True, text=True, timeout=10)
    return done.stdout.strip()


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
