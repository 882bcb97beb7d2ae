"""`ngrpo doctor`: what this machine can do, and what is missing for what."""

import json
import os
import shutil
from importlib import metadata
from typing import Any

import typer
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ngrpo.integrations.verl_status import verl_status
from ngrpo.lab.base import cache_folder
from ngrpo.record import provenance

EXTRAS = {
    "reasoning-gym": ("gym", "data.source = gym:TASK: a hundred procedural tasks"),
    "peft": ("lora", "model.lora: training an adapter"),
    "wandb": ("wandb", "record.wandb: logging to Weights & Biases"),
    "trl": ("trl", "ngrpo.integrations.trl: the objectives in TRL's trainer"),
    "verl": ("verl", "ngrpo launch verl: the objectives in verl, on many GPUs"),
    "vllm": ("vllm", "rollout.engine = vllm: sampling with vLLM, on a GPU"),
    "ray": ("ray", "ngrpo eval --ray, ngrpo lab ... --ray: many processes and machines"),
}
"""Distributions: the extra that installs each, and what it is for."""


def report(*, as_json: bool) -> None:
    """Prints versions, hardware, disk space and extras."""
    import torch

    found = provenance()
    extras = {name: _state_of(name, extra) for name, (extra, _) in EXTRAS.items()}
    verl = [{"what": what, "ok": ok, "fix": fix} for what, ok, fix in verl_status()]
    gpu = None
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        gpu = {"name": properties.name, "memory_gib": round(properties.total_memory / 2**30, 1)}
    memory_gib = round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    facts = {
        "ngrpo": found["ngrpo"],
        "python": found["python"],
        "packages": found["packages"],
        "num_cpus": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "memory_gib": memory_gib,
        "gpu": gpu,
        "mps": torch.backends.mps.is_available(),
        "disk_free_gib": round(shutil.disk_usage(".").free / 2**30, 1),
        "cache": str(cache_folder()),
        "extras": extras,
        "verl": verl,
    }
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
        return
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_row("ngrpo", f"{facts['ngrpo']}, Python {facts['python']}")
    table.add_row("packages", ", ".join(f"{name} {version}" for name, version in found["packages"].items()))
    table.add_row("processors", f"{facts['num_cpus']} ({facts['torch_threads']} threads used), {memory_gib} GiB memory")
    table.add_row("GPU", f"{gpu['name']}, {gpu['memory_gib']} GiB" if gpu else "none: training runs on the processor")
    table.add_row("arithmetic", "bfloat16 autocast, float32 weights" if gpu else "float32")
    table.add_row("disk", f"{facts['disk_free_gib']} GiB free here; tiny base models in {facts['cache']}")
    for name, (_, purpose) in EXTRAS.items():
        table.add_row(name, f"{escape(extras[name]['told'])}  [dim]{purpose}[/]")
    for row in verl:
        table.add_row("verl", escape(f"{row['what']}: {'yes' if row['ok'] else 'no: ' + row['fix']}"))
    Console(highlight=False).print(table, soft_wrap=True)


def _state_of(distribution: str, extra: str) -> dict[str, Any]:
    """Installed version, supported range, whether the one is in the other, and a sentence on it."""
    supported, command = _supported(distribution, extra), f'pip install "ngrpo[{extra}]"'
    try:
        installed = metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return {"installed": None, "supported": str(supported), "ok": False, "told": f"missing: {command}"}
    is_fine = supported.contains(installed, prereleases=True)
    told = f"{installed} (supported: {supported or 'any'})" + ("" if is_fine else f": {command}")
    return {"installed": installed, "supported": str(supported), "ok": is_fine, "told": told}


def _supported(distribution: str, extra: str) -> SpecifierSet:
    """What our own installation asks for in an extra; anything where it was made before there was that extra."""
    try:
        asked = [Requirement(line) for line in metadata.requires("ngrpo") or []]
    except metadata.PackageNotFoundError:  # run from source
        asked = []
    for each in asked:
        if each.name == distribution and each.marker is not None and each.marker.evaluate({"extra": extra}):
            return each.specifier
    return SpecifierSet()
