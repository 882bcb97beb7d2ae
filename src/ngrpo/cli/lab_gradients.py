"""`ngrpo lab gradients`: options to live objects, then tables."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ngrpo.cli.plugins import Plugins, load_plugins
from ngrpo.errors import ConfigError

if TYPE_CHECKING:
    from ngrpo.config import RunConfig

LR, WORLD_LR = 1e-6, 1e-4
"""Learning rate of the update where none is given: that of a run file, and that of the tiny worlds."""


def gradients(
    settings: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="key=value", help="Settings of a run file's sections model, data and reward: data.split=test."
        ),
    ] = None,
    model: Annotated[
        str, typer.Option(help="A model or run folder, a hub name, or a tiny world's base: world:countdown.")
    ] = "world:countdown",
    data: Annotated[
        str | None, typer.Option(help="As data.source of a run file: FILE, world:..., gym:.... Default: the model's.")
    ] = None,
    method: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME[:key=value,...]", help="A method of `ngrpo objectives`; repeatable. Default: six."),
    ] = None,
    groups: Annotated[int, typer.Option(min=1, help="Groups wanted of each kind.")] = 32,
    group_size: Annotated[int, typer.Option(min=1, help="Completions of each prompt.")] = 8,
    max_prompts: Annotated[
        int | None, typer.Option(min=1, help="Most prompts sampled to find them. Default: 16 times --groups.")
    ] = None,
    temperature: Annotated[float, typer.Option(help="Sampling temperature, above 0.")] = 1.0,
    max_completion_tokens: Annotated[
        int | None, typer.Option(min=1, help="Longest completion. Default: 1024; in a tiny world what it needs.")
    ] = None,
    parts: Annotated[int, typer.Option(min=1, help="Parts that a batch is cut into, for intervals.")] = 8,
    lr: Annotated[
        float | None, typer.Option(help="Learning rate of the Adam step. Default: 1e-4 in a tiny world, else 1e-6.")
    ] = None,
    sgd_norm: Annotated[
        float | None, typer.Option(help="L2 norm of the SGD step. Default: as far as Adam's first step goes.")
    ] = None,
    gold_column: Annotated[
        str | None, typer.Option(help="Column with a full solution. Default: in a tiny world its gold, else none.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the prompts' order and of the samples.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, mps.")] = "auto",
    precision: Annotated[str, typer.Option(help="auto, float32, float64, bfloat16.")] = "auto",
    max_microbatch_tokens: Annotated[
        int, typer.Option(min=1, help="Most tokens in a pass. Changes memory, not the numbers.")
    ] = 16384,
    max_rows: Annotated[int, typer.Option(min=1, help="Completions decoded at the same time at most.")] = 512,
    folder: Annotated[Path | None, typer.Option(help="Where everything goes. Default: runs/gradients/MODEL.")] = None,
    plugin: Plugins = None,
) -> None:
    """Look at the gradient on groups that are all wrong, mixed and all right, of several methods, on any model.

    Groups are sampled once and kept: after Ctrl-C the same command goes on with those it has. In the same folder other
    methods and learning rates are tried on the same groups.

    For example:

    `ngrpo lab gradients --model world:countdown`

    `ngrpo lab gradients --model Qwen/Qwen2.5-0.5B --data math.jsonl --groups 16`

    `ngrpo lab gradients --method grpo --method ngrpo --method ngrpo:num_virtual=2 --folder runs/two_virtual`

    `ngrpo lab gradients --model my/model --data math500 --method grpo --method ngrpo model.lora.rank=16`
    """
    from rich.console import Console

    from ngrpo.cli.evaluation import slug
    from ngrpo.cli.models import local_model
    from ngrpo.lab.gradient_methods import DEFAULT_METHODS, make_methods
    from ngrpo.lab.gradient_tables import as_rich, tables
    from ngrpo.lab.gradients import GradientOptions, run_gradients

    load_plugins(plugin)
    source = data if data is not None else model
    if data is None and not model.startswith("world:"):
        raise ConfigError(f"--model {model!r} is no tiny world, so --data has to say what it is asked.")
    options = GradientOptions(
        methods=tuple(method or DEFAULT_METHODS),
        num_groups=groups,
        max_prompts=max_prompts or 16 * groups,
        num_parts=parts,
        sgd_norm=sgd_norm,
        gold_column=gold_column,
    )
    if sgd_norm is not None and not 0 < sgd_norm < float("inf"):
        raise ConfigError(f"--sgd-norm must be a finite number above 0, got {sgd_norm}.")
    config = _config(
        {
            "model": {"path": model, "device": device, "precision": precision},
            "data": {"source": source, "size": max(1000, options.max_prompts)},
            "rollout": {
                "num_samples_per_prompt": group_size,
                "temperature": temperature,
                "max_completion_tokens": max_completion_tokens or _longest(source),
                "max_rows": max_rows,
            },
            "update": {"max_microbatch_tokens": max_microbatch_tokens},
            "optim": {"lr": lr if lr is not None else WORLD_LR if source.startswith("world:") else LR},
            "run": {"seed": seed},
        },
        settings or [],
    )
    make_methods(options.methods, config)  # what is wrong with one is said before a base model is built
    own = config.model.model_copy(update={"path": local_model(config.model.path)})
    place = folder or Path("runs") / "gradients" / slug(model)
    told = run_gradients(
        place,
        config.model_copy(update={"model": own}),
        options,
        model=model,
        command=[Path(sys.argv[0]).name, *sys.argv[1:]],
    )
    out = Console(highlight=False)
    for table in tables(told):
        out.print(as_rich(table))
    out.print(f"numbers and tables: {place}", soft_wrap=True)


def _longest(source: str) -> int:
    """Longest completion where none is given."""
    from ngrpo import worlds

    scheme, _, name = source.partition(":")
    return worlds.get(name).max_completion_tokens if scheme == "world" else 1024


def _config(start: dict[str, dict[str, Any]], settings: list[str]) -> "RunConfig":
    """A run's configuration from what the options say, with model.*, data.* and reward.* laid over it.

    Raises:
        ConfigError: A setting is unknown, of another section, or cannot be.
    """
    from ngrpo.config import Data, Model, Optim, Reward, Rollout, Run, RunConfig, Update, load_sections
    from ngrpo.config.rules import broken_rules

    kinds = {"model": Model, "data": Data, "reward": Reward, "rollout": Rollout, "update": Update, "optim": Optim,
             "run": Run}  # fmt: skip
    for setting in settings:
        if not setting.startswith(("model.", "data.", "reward.")):
            raise ConfigError(
                f"{setting!r} cannot be set here: model.*, data.* and reward.* can, and there are options."
            )
    config = RunConfig.model_construct(
        **load_sections({name: (kind, start.get(name, {})) for name, kind in kinds.items()}, settings)
    )
    if broken := broken_rules(config):
        raise ConfigError("\n".join(broken))
    return config
