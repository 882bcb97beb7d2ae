"""From a run file to a run of verl: data, reward and overrides into the run folder, then the command."""

import json
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from ngrpo.config import RunConfig, load_config, resolved, to_toml
from ngrpo.errors import DataError, RunFolderError
from ngrpo.integrations.verl_config import LaunchFiles, Machines, hydra_arguments, translate
from ngrpo.integrations.verl_data import write_prompts
from ngrpo.integrations.verl_keys import KEYS
from ngrpo.policy import load_tokenizer
from ngrpo.train.assemble import load_data, note, training_room
from ngrpo.train.run_folder import check_same_settings, folder_of, start_folder

SCRIPT = "launch.sh"
MAIN = "verl.trainer.main_ppo"


def arguments_for(config: RunConfig, machines: Machines, extra: Sequence[str] = ()) -> list[str]:
    """What `python -m verl.trainer.main_ppo` is given for a run.

    Args:
        config: A checked configuration.
        machines: Where it runs.
        extra: Overrides of the user's own, in Hydra's words; they come last and win.

    Raises:
        ConfigError: As `translate`.
    """
    return [*hydra_arguments(translate(config, LaunchFiles(absolute_folder(config)), machines)), *extra]


def absolute_folder(config: RunConfig) -> Path:
    """The run folder, as other processes on other machines can find it."""
    return folder_of(config).absolute()


def explain(config: RunConfig) -> list[tuple[str, str, str]]:
    """What becomes of each key that the run sets or leaves at its default: key, its fate in a word, and verl's keys.

    Example:
        >>> from ngrpo.config import load_config
        >>> [row for row in explain(load_config("paper/ngrpo")) if row[0] == "optim.lr"]
        [('optim.lr', 'translated', 'actor_rollout_ref.actor.optim.lr')]
    """
    settings = resolved(config)
    rows = []
    for key, fate in KEYS.items():
        if _is_there(settings, key):
            rows.append((key, fate.fate, "; ".join(part for part in (", ".join(fate.keys), fate.why) if part)))
    return rows


def prepare(config: RunConfig, arguments: Sequence[str], *, resume: bool) -> Path:
    """Writes the run folder: run.toml, reward.json, train.parquet, validation.parquet, launch.sh.

    Args:
        config: A checked configuration.
        arguments: Of verl's main program.
        resume: The folder is there, data and all; verl goes on at its newest checkpoint. Settings may change that
            may where `ngrpo train` resumes.

    Returns:
        The script, which holds the command.

    Raises:
        UserError: The folder, the tokenizer, rows or reward cannot be used; or the run to go on with had others.
    """
    files = LaunchFiles(absolute_folder(config))
    if resume:
        if not files.train.is_file():
            raise RunFolderError(
                f"{files.folder} holds no run of verl: it has no {files.train.name}. Leave out --resume."
            )
        # The prompts stay as they were written, so other settings of them would have no effect.
        check_same_settings({"config": resolved(load_config(files.run))}, config, files.folder)
    else:
        start_folder(files.folder)
        _write_data(config, files)
    files.run.write_text(to_toml(config), encoding="utf-8")
    _write_judge(config, files)
    script = files.folder / SCRIPT
    lines = [f"exec {shlex.quote(sys.executable)} -m {MAIN}", *(shlex.quote(argument) for argument in arguments)]
    script.write_text("#!/bin/sh\n" + " \\\n  ".join(lines) + ' \\\n  "$@"\n', encoding="utf-8")
    return script


def start(script: Path) -> NoReturn:
    """Becomes the command: Ctrl-C, SIGTERM and the exit code are its own, and verl has the time it needs to end."""
    sys.stdout.flush()
    os.execv("/bin/sh", ["/bin/sh", str(script)])


def _is_there(settings: Mapping[str, Any], key: str) -> bool:
    """Whether the sections that a key is in are: model.lora, critic and validation may be left out."""
    node: Any = settings
    for part in key.split("."):
        if node is None:
            return False
        node = node[part]
    return True


def _write_data(config: RunConfig, files: LaunchFiles) -> None:
    """Prompts."""
    tokenizer = load_tokenizer(config.model.path)
    room = training_room(config, tokenizer)
    validation = config.validation
    sections = {"train": (config.data, files.train, "data")}
    if validation is not None:
        # verl has one length for all prompts, and drops no longer ones from a file that is written already.
        bound = min(config.data.max_prompt_tokens, validation.data.max_prompt_tokens or config.data.max_prompt_tokens)
        data = validation.data.model_copy(update={"max_prompt_tokens": bound})
        sections["validation"] = (data, files.validation, "validation.data")
    found = {}
    for split, (data, _, name) in sections.items():
        found[split], reward = load_data(data, config.reward, tokenizer, room, name)
        reward.close()
    if len(found["train"]) < config.rollout.num_prompts_per_step:
        raise DataError(
            f"{config.data.source} has {len(found['train'])} prompts, fewer than rollout.num_prompts_per_step = "
            f"{config.rollout.num_prompts_per_step}: verl has no step smaller than that. Lower it."
        )
    for split, (data, path, _) in sections.items():
        write_prompts(found[split].prompts, path, data=data, reward=config.reward, split=split, tokenizer=tokenizer)
        note(f"{path}: {len(found[split])} prompts.")


def _write_judge(config: RunConfig, files: LaunchFiles) -> None:
    """The judge's settings, and those of the data that it may need."""
    # One process of its own judges for each of verl's reward workers: reward.num_workers is the number of those.
    judge = resolved(config)["reward"] | {"num_workers": 1, "name": _absolute(config.reward.name)}
    for term in judge["shaping"]:
        term["name"] = _absolute(term["name"])
    data = {"train": config.data.model_dump(mode="json")}
    if config.validation is not None:
        data["validation"] = config.validation.data.model_dump(mode="json")
    files.reward.write_text(json.dumps({"reward": judge, "data": data}, indent=1), encoding="utf-8")


def _absolute(name: str) -> str:
    """A judge's name; a file of the user's is found from any working folder."""
    file, colon, function = name.rpartition(":")
    return f"{os.path.abspath(os.path.expanduser(file))}:{function}" if colon and file.endswith(".py") else name
