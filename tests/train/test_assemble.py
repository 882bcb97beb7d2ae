"""Mistakes are found before a model is loaded, and said in one sentence; what is right becomes live objects."""

import json
from dataclasses import replace

import pytest
import torch
from run_helpers import forbid_models, short_config

from ngrpo import objectives
from ngrpo.errors import ConfigError, DataError, MissingExtraError, ModelError, RewardError, RunFolderError
from ngrpo.objectives import registry
from ngrpo.rollout.scripted import ScriptedEngine
from ngrpo.train import assemble


@pytest.fixture
def method(monkeypatch):
    """Registers a method under the name `mine`, for this test only."""
    monkeypatch.setattr(registry, "_METHODS", dict(registry._METHODS))

    def register(advantage):
        @objectives.register("mine")
        def mine():
            """A method of one's own."""
            return replace(objectives.get("grpo"), advantage=advantage)

    return register


MISTAKES = [
    # error, what the message says, settings
    (ConfigError, r"no objective is named 'nrgpo'\. Did you mean 'ngrpo'\?", ["objective.name=nrgpo"]),
    (ConfigError, r"ngrpo has no parameter 'clip_lw'\. Did you mean 'clip_low'\?", ["objective.params.clip_lw=0.1"]),
    (ConfigError, r"clip_low of ngrpo must be float, got 'small'", ["objective.params.clip_low=small"]),
    (
        ConfigError,
        r"budget_tokens must be 1 or more, got 0",
        ["objective.name=dr_grpo", "objective.params.budget_tokens=0"],
    ),
    (
        ConfigError,
        r"'grpo' cannot train on groups of 1 \(rollout\.num_samples_per_prompt\).*grpo needs at least 2 completions",
        ["objective.name=grpo", "rollout.num_samples_per_prompt=1"],
    ),
    (
        ConfigError,
        r"cannot train on groups of 4 .* rewards from 0 to 1: virtual_reward 0\.5 is below the best reward 1",
        ["objective.params.virtual_reward=0.5", "reward.name=world"],
    ),
    (
        ConfigError,
        r"num_virtual must be 0 or more, got -1",
        ["objective.params.num_virtual=-1"],
    ),
    (DataError, r"there is no world 'chess'\. The worlds are: countdown", ["data.source=world:chess"]),
    (DataError, r"there is no file .*nothing\.jsonl", ["data.source={folder}/nothing.jsonl"]),
    (DataError, r"empty\.jsonl is empty", ["data.source={folder}/empty.jsonl"]),
    (DataError, r"blank\.jsonl", ["data.source={folder}/blank.jsonl"]),
    (DataError, r"row 2.*'gold': the gold is empty.*on_bad_row", ["data.source={folder}/gaps.jsonl"]),
    (DataError, r"row 1.*prompt is too long.*has 80 tokens", ["data.source={folder}/long.jsonl"]),
    (DataError, r"prompt is too long", ["data.max_prompt_tokens=3"]),
    (DataError, r"no column 'riddle'", ["data.source={folder}/gaps.jsonl", "data.prompt_column=riddle"]),
    (ConfigError, r"none of auto, math, exact, numeric, choice, world, gym, or", ["reward.name=best"]),
    (ConfigError, r"'gym' judges prompts of a gym: source", ["reward.name=gym"]),
    (RewardError, r"there is no file .*nothing\.py", ["reward.name={folder}/nothing.py:score"]),
    (RewardError, r"has no function 'score'", ["reward.name={folder}/broken.py:score"]),
    (ModelError, r"no model folder at '.*nowhere'", ["model.path={folder}/nowhere"]),
    (ModelError, r"cannot load a .* from '.*empty_folder'", ["model.path={folder}/empty_folder"]),
    (ModelError, r"has no end-of-sequence token, so no completion could ever end", ["model.path={folder}/endless"]),
    (
        ConfigError,
        r"rollout\.max_completion_tokens = 64 leaves no room for a prompt: .* was made for 64 tokens",
        ["rollout.max_completion_tokens=64"],
    ),
    (RunFolderError, r"cannot make the run folder .*Not a directory.*run\.dir", ["run.dir={folder}/empty.jsonl/runs"]),
    (RunFolderError, r"cannot make the run folder .*File name too long", ["run.name=" + "x" * 300]),
    (
        RunFolderError,
        r"taken exists already\. Go on with that run \(--resume\)",
        ["run.dir={folder}", "run.name=taken"],
    ),
    (RunFolderError, r"broken\.py exists already", ["run.dir={folder}", "run.name=broken.py"]),
]


@pytest.fixture(scope="module")
def mistakes(base, tmp_path_factory):
    """A folder of things that cannot be used."""
    folder = tmp_path_factory.mktemp("mistakes")
    rows = {
        "empty": "",
        "blank": "\n\n",
        "gaps": '{"prompt": "1,2=3:", "gold": "1+2"}\n{"prompt": "1,2=3:", "gold": ""}\n',
        "long": json.dumps({"prompt": "1," * 40, "gold": "1"}) + "\n",
    }
    for name, text in rows.items():
        (folder / f"{name}.jsonl").write_text(text)
    (folder / "broken.py").write_text("raise_later = 1\n")
    (folder / "empty_folder").mkdir()
    (folder / "taken").mkdir()
    (folder / "taken" / "note.txt").write_text("mine")
    endless = folder / "endless"
    endless.mkdir()
    for path in base.iterdir():
        (endless / path.name).write_bytes(path.read_bytes())
    settings = json.loads((endless / "tokenizer_config.json").read_text())
    (endless / "tokenizer_config.json").write_text(json.dumps({**settings, "eos_token": None}))
    return folder


@pytest.mark.parametrize(("error", "message", "overrides"), MISTAKES, ids=[str(case[2][0]) for case in MISTAKES])
def test_a_mistake_is_said_before_a_model_is_loaded(runs, base, mistakes, monkeypatch, error, message, overrides):
    forbid_models(monkeypatch)
    config = short_config(runs, base, *(text.replace("{folder}", str(mistakes)) for text in overrides))
    with pytest.raises(error, match=message) as told:
        assemble(config)
    assert told.value.exit_code == 2
    assert list(runs.glob("run/*")) == []  # at most an empty folder, which is no run


def test_mended_the_same_command_starts(runs, base, mistakes):
    with pytest.raises(DataError):
        assemble(short_config(runs, base, f"data.source={mistakes}/empty.jsonl"))
    assemble(short_config(runs, base)).close()


@pytest.mark.parametrize("name", ["a\0b", "../run", "deep/er"])
def test_names_of_all_kinds(runs, base, name):
    config = short_config(runs, base)
    config = config.model_copy(update={"run": config.run.model_copy(update={"name": name})})
    if "\0" in name:
        with pytest.raises(RunFolderError, match="null byte"):
            assemble(config)
    else:
        run = assemble(config)
        run.close()
        assert (runs / name / "run.json").is_file()


def test_a_folder_without_permission_is_said(runs, base, monkeypatch):
    monkeypatch.setattr("os.access", lambda path, mode: not str(path).endswith("/run"))
    with pytest.raises(RunFolderError, match=r"cannot be written to\. Choose another run\.dir"):
        assemble(short_config(runs, base))


@pytest.mark.parametrize(
    ("module", "override", "message"),
    [
        ("wandb", "record.wandb=offline", r'record\.wandb needs wandb: pip install "ngrpo\[wandb\]"'),
        ("peft", "model.lora.rank=2", r'model\.lora needs peft: pip install "ngrpo\[lora\]"'),
    ],
)
def test_a_missing_extra_is_said_before_anything_is_loaded(runs, base, monkeypatch, module, override, message):
    from importlib import util

    forbid_models(monkeypatch)
    find = util.find_spec
    monkeypatch.setattr(util, "find_spec", lambda name, *rest: None if name == module else find(name, *rest))
    with pytest.raises(MissingExtraError, match=message):
        assemble(short_config(runs, base, override))


@pytest.mark.parametrize(
    ("advantage", "message"),
    [
        (lambda batch: 1 / 0, r"cannot train .*it raised ZeroDivisionError: division by zero"),
        (lambda batch: torch.zeros(3, 2), r"returned the shape \[3, 2\] for 4 completions"),
        (lambda batch: torch.zeros(4, 2), r"advantages of shape \[4, 2\] to 4 completions of one token each"),
    ],
)
def test_a_method_of_ones_own_that_cannot_work_is_said(runs, base, monkeypatch, method, advantage, message):
    forbid_models(monkeypatch)
    method(advantage)
    with pytest.raises(ConfigError, match=message):
        assemble(short_config(runs, base, "objective.name=mine"))


def test_a_method_of_ones_own_is_assembled(runs, base, method):
    method(lambda batch: batch.rewards - 0.5)
    run = assemble(short_config(runs, base, "objective.name=mine"))
    run.close()
    assert run.objective.name == "mine"


def test_validation_prompts_are_bound_by_their_own_settings(runs, base):
    """A bound for the training prompts is none for the others, and the other way around."""
    file = runs.parent
    file.mkdir(exist_ok=True)
    (file / "short.jsonl").write_text('{"prompt": "1,2=3:", "gold": "1+2"}\n')
    options = [f"data.source={file}/short.jsonl", "data.max_prompt_tokens=6"]
    run = assemble(short_config(runs, base, *options))  # validation prompts of the world are longer than 6
    run.close()
    assert max(len(prompt.token_ids) for prompt in run.validation.prompts) > 6
    with pytest.raises(DataError, match="too long"):
        assemble(short_config(runs / "other", base, "validation.data.max_prompt_tokens=6"))


def test_settings_become_live_objects(runs, base):
    options = [
        "rollout.engine=gold", "rollout.temperature=0.5", "objective.params.kl_coef=0.1", "optim.betas=[0.8, 0.9]",
        "optim.eps=1e-5", "validation.temperature=0", "validation.every_steps=7", "record.num_groups_per_step=2",
    ]  # fmt: skip
    run = assemble(short_config(runs, base, *options))
    run.close()
    assert isinstance(run.engine, ScriptedEngine)
    assert (run.sampling.max_completion_tokens, run.sampling.temperature) == (10, 0.5)
    assert run.reference.model is not run.policy.model
    pairs = zip(run.reference.model.parameters(), run.policy.model.parameters(), strict=True)
    assert all(torch.equal(reference, policy) for reference, policy in pairs)
    assert not any(parameter.requires_grad for parameter in run.reference.model.parameters())
    assert (run.validation.sampling.temperature, run.validation.every_steps, run.validation.num_samples) == (0.0, 7, 2)
    assert (len(run.prompts), len(run.validation.prompts), run.prompt_choice.order.num_prompts) == (24, 4, 24)
    assert run.optimizer.defaults["betas"] == (0.8, 0.9)
    assert run.optimizer.defaults["eps"] == 1e-5
    assert run.recorder.num_groups_per_step == 2


def test_without_a_term_for_it_no_reference_is_loaded(runs, base):
    run = assemble(short_config(runs, base, "validation=none"))
    run.close()
    assert run.reference is None
    assert run.validation is None


def test_an_adapter_belongs_to_the_seed_of_the_run(runs, base):
    pytest.importorskip("peft")

    def adapter(name, seed):
        torch.manual_seed(len(name))  # whatever the caller did before
        run = assemble(short_config(runs / name, base, "model.lora.rank=2", f"run.seed={seed}"))
        run.close()
        return torch.cat([parameter.flatten() for parameter in run.policy.trainable_parameters()])

    one, same, other = adapter("one", 1), adapter("the same", 1), adapter("other", 2)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_the_callers_random_numbers_are_left_alone(runs, base):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    assemble(short_config(runs, base)).close()
    assert torch.equal(torch.rand(3), expected)


def test_a_model_with_settings_of_its_own_is_told_that_they_are_ignored(runs, base, tmp_path, capsys):
    import shutil

    own = shutil.copytree(base, tmp_path / "own")
    (own / "generation_config.json").write_text('{"temperature": 0.6, "do_sample": true, "eos_token_id": 1}')
    assemble(short_config(runs, own)).close()
    told = capsys.readouterr().err
    assert "generation_config is ignored" in told
    assert "'temperature': 0.6" in told
