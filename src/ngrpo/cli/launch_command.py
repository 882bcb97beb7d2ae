"""`ngrpo launch`: a run file in another trainer."""

from typing import Annotated

import typer

app = typer.Typer(
    name="launch",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Run a run file in another trainer, on many GPUs.",
)


@app.callback()
def _launch() -> None:
    """Run a run file in another trainer, on many GPUs."""


@app.command()
def verl(
    source: Annotated[str, typer.Argument(metavar="RUN.toml|PRESET", help="A run file, or a preset: paper/ngrpo.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="key=value", help="Settings laid over the file: optim.lr=1e-6.")
    ] = None,
    gpus: Annotated[int, typer.Option(min=1, help="GPUs of each machine.")] = 8,
    nodes: Annotated[int, typer.Option(min=1, help="Machines.")] = 1,
    ray_address: Annotated[
        str | None, typer.Option(help="A running Ray cluster: auto, host:6379. Default: verl starts Ray here.")
    ] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option(
            "--verl", metavar="KEY=VALUE", help="A setting of verl's own, in Hydra's words. Repeatable; wins."
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the command; write and start nothing.")] = False,
    keys: Annotated[bool, typer.Option("--keys", help="Print what becomes of each key; start nothing.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in the folder.")] = False,
) -> None:
    """Train with verl: the run file becomes verl's settings, and verl's main program is started with them.

    Prompts, the judge's settings and the command go to the run folder, `runs/NAME`; so does what verl makes.

    For example:

    `ngrpo launch verl paper/ngrpo --dry-run`

    `ngrpo launch verl paper/ngrpo --gpus 8`

    `ngrpo launch verl run.toml optim.lr=2e-6 --nodes 2 --ray-address auto`

    `ngrpo launch verl run.toml --verl actor_rollout_ref.rollout.gpu_memory_utilization=0.7`
    """
    import shlex

    from ngrpo.cli.models import local_model
    from ngrpo.config import load_config
    from ngrpo.errors import ConfigError
    from ngrpo.integrations import verl_launch
    from ngrpo.integrations.verl_cluster import check_cluster
    from ngrpo.integrations.verl_config import Machines
    from ngrpo.integrations.verl_status import require_sampler, require_verl

    config = load_config(source, overrides or [])
    if not config.model.path.startswith("world:"):
        model = config.model.model_copy(update={"path": local_model(config.model.path)})
        config = config.model_copy(update={"model": model})
    if nodes > 1 and ray_address is None:
        raise ConfigError(
            f"--nodes {nodes} needs a Ray cluster of that many machines: `ray start --head` on one, `ray start "
            "--address=HOST:6379` on the others, then --ray-address auto here."
        )
    for each in setting or []:
        if "=" not in each and not each.startswith("~"):
            raise ConfigError(f"--verl {each!r} sets nothing. Give KEY=VALUE in Hydra's words, or ~KEY to remove one.")
    arguments = verl_launch.arguments_for(config, Machines(nodes, gpus, ray_address), setting or [])
    if keys:
        for key, fate, text in verl_launch.explain(config):
            typer.echo(f"{key}\t{fate}\t{text}")
        return
    if dry_run:
        typer.echo(" \\\n  ".join([f"python -m {verl_launch.MAIN}", *(shlex.quote(each) for each in arguments)]))
        return
    require_verl()
    if ray_address is None:
        require_sampler()
    else:
        check_cluster(ray_address)
    script = verl_launch.prepare(config, arguments, resume=resume)
    typer.echo(f"starting {script}", err=True)
    verl_launch.start(script)
