"""`ngrpo doctor`: what this machine can do, and what is missing for what."""

import importlib.util
import json
import os
import shutil

import typer
from rich.console import Console
from rich.table import Table

from ngrpo.lab.base import cache_folder
from ngrpo.record import provenance

EXTRAS = {
    "reasoning_gym": ("gym", "data.source = gym:TASK: a hundred procedural tasks"),
    "peft": ("lora", "model.lora: training an adapter"),
    "wandb": ("wandb", "record.wandb: logging to Weights & Biases"),
    "vllm": ("vllm", "rollout.engine = vllm: sampling with vLLM, on a GPU"),
}


def report(*, as_json: bool) -> None:
    """Prints versions, hardware, disk space and extras."""
    import torch

    found = provenance()
    extras = {name: importlib.util.find_spec(name) is not None for name in EXTRAS}
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
    for name, (extra, purpose) in EXTRAS.items():
        state = "yes" if extras[name] else f'missing: pip install "ngrpo\\[{extra}]"'
        table.add_row(name, f"{state}  [dim]{purpose}[/]")
    Console(highlight=False).print(table, soft_wrap=True)
