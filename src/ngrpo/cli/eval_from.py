"""`ngrpo eval --from`: samples that exist already, judged without a model."""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from ngrpo.cli.evaluation import EvalOptions, data_notes, judge_settings, read_settings
from ngrpo.errors import ConfigError
from ngrpo.evaluate import EvaluationSettings, Summary
from ngrpo.evaluate.folder import SAMPLES, SETTINGS, check_free, read_described
from ngrpo.evaluate.regrade import file_fingerprint, grade, survey_file, survey_folder
from ngrpo.rollout import reward_for
from ngrpo.train.assemble import load_data


def grade_given(options: EvalOptions, source: Path) -> tuple[Path, Summary]:
    """Judges the samples of a file, or of an evaluation folder of ours, into `--out`.

    Raises:
        ConfigError: An option does not fit.
        UserError: As for `survey_file` and `grade`.
    """
    options = _checked(options)
    assert options.out is not None, "checked"
    check_free(options.out)
    own = own_folder(source)
    return options.out, _grade_file(options, source) if own is None else _grade_folder(options, own)


def own_folder(source: Path) -> Path | None:
    """The evaluation folder of ours that a path means: itself, or that of its samples.jsonl; None for other files."""
    folder = source.parent if source.name == SAMPLES else source
    return folder if (folder / SETTINGS).is_file() else None


def _checked(options: EvalOptions) -> EvalOptions:
    if options.out is None:
        raise ConfigError("--from needs --out: the folder that the verdicts go to.")
    if given := [name for name, value in options.sampling.items() if value is not None]:
        option = "model" if given[0] == "served_as" else given[0].replace("_", "-")
        raise ConfigError(f"--{option} is of no use with --from, whose samples are made already. Remove it.")
    if options.preset is not None or len(options.data) > 1:
        raise ConfigError("--from takes no --preset, and at most one --data, which has the golds. Remove the rest.")
    if options.model is not None and "=" in options.model:  # without a model, its place is taken by a setting
        return replace(options, model=None, settings=(options.model, *options.settings))
    return options


def _grade_file(options: EvalOptions, source: Path) -> Summary:
    """A file of another program; golds are its own, or those of --data."""
    fingerprint = file_fingerprint(source)
    if options.data:
        data, judge = read_settings(options.data[0], options)
        prompts, reward = load_data(data, judge, NoTokenizer(), None)
    else:
        data, judge = read_settings(str(source), options)
        prompts, reward = None, reward_for(judge, data)
    with closing(reward):
        surveyed = survey_file(source, prompts)
        settings = EvaluationSettings(
            model=options.model or "",
            data=surveyed.prompts.name,
            fingerprint=surveyed.prompts.fingerprint,
            num_prompts=len(surveyed.prompts),
            num_samples=surveyed.even_num_samples,
            ks=options.ks or (),
            temperature=None,
            top_p=None,
            top_k=None,
            max_completion_tokens=None,
            seed=None,
            reward=judge.name,
            engine="",
            precision="",
            judge=judge_settings(judge),
            source=data.source if options.data else "",
            graded_from=str(source),
            samples_fingerprint=fingerprint,
            notes=data_notes(data, surveyed.prompts),
        )
        return grade(options.out, settings, surveyed, reward)


def _grade_folder(options: EvalOptions, folder: Path) -> Summary:
    """An evaluation of ours: its samples and data stay, verdicts are made anew, by default as they were made."""
    if options.data or options.model is not None or options.out.resolve() == folder.resolve():
        raise ConfigError(
            f"{folder} is an evaluation folder: it has its own model and data. Give --from without them, and another "
            "folder as --out."
        )
    old = read_described(folder)["settings"]
    if old["source"].startswith("gym:"):
        raise ConfigError(
            "answers to reasoning-gym tasks cannot be judged later: their rows are not kept. Sample again."
        )
    data, judge = read_settings(old["source"] or str(folder), options, {"name": old["reward"], **old["judge"]})
    with closing(reward_for(judge, data)) as reward:
        changed: dict[str, Any] = {
            "ks": options.ks or tuple(old["ks"]),
            "reward": judge.name,
            "judge": judge_settings(judge),
            "graded_from": str(folder),
            "samples_fingerprint": file_fingerprint(folder / SAMPLES),
            "notes": tuple(old["notes"]),
        }
        return grade(options.out, EvaluationSettings(**{**old, **changed}), survey_folder(folder), reward)


class NoTokenizer:
    """In place of a model's tokenizer where problems are read and no model is: every text is one token."""

    bos_token_id = eos_token_id = None

    def __call__(self, texts: Sequence[str], **_: Any) -> dict[str, list[list[int]]]:
        """Encodes nothing."""
        return {"input_ids": [[0] for _ in texts]}
