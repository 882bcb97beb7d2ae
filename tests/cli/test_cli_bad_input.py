"""Bad input: one clear message on standard error, exit code 2, no model loaded, a traceback only with --debug."""

import json
import re
import signal

import pytest

TINY = ("train", "tiny", "validation=none")


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


ONE_SAMPLE = "rollout.num_samples_per_prompt=1"
GOOD_ROW = {"prompt": "1,2=3:", "gold": "1+2"}

TRAIN_MISTAKES = [
    # Settings.
    (["optim.lrr=1"], r"there is no setting optim\.lrr \(got 1\)\. Did you mean optim\.lr\?"),
    (["train.num_steps=many"], r"train\.num_steps must be a whole number, at least 1, got \"many\""),
    (["train.num_steps=0"], r"train\.num_steps must be a whole number, at least 1, got 0"),
    (["train.num_steps"], r"'train\.num_steps' is not an override\. Write key=value"),
    (["rollout.top_p=0.9"], r"rollout\.top_p = 0\.9 .* cut the distribution"),
    (["optim.warmup_steps=80"], r"optim\.warmup_steps = 80 is not below train\.num_steps = 80"),
    # Method.
    (["objective.name=nrgpo"], r"no objective is named 'nrgpo'\. Did you mean 'ngrpo'\?"),
    (["objective.params.clip_lw=1"], r"ngrpo has no parameter 'clip_lw'\. Did you mean 'clip_low'\?"),
    (["objective.name=grpo", ONE_SAMPLE], r"groups of 1 .*grpo needs at least 2 completions"),
    (["objective.params.virtual_reward=0.5"], r"virtual_reward 0\.5 is below the best reward 1"),
    # Data.
    (["data.source=nothing.jsonl"], r"there is no file nothing\.jsonl \(data\.source"),
    (["data.source=empty.jsonl"], r"empty\.jsonl is empty: 0 bytes"),
    (["data.source=blank.jsonl"], r"blank\.jsonl"),
    (["data.source=torn.jsonl"], r"torn\.jsonl line 2, the last one, is cut off"),
    (["data.source=gaps.jsonl"], r"gaps\.jsonl: 1 of 2 rows cannot be used: row 2, field 'gold': the gold is empty"),
    (["data.source=long.jsonl"], r"long\.jsonl.*the prompt is too long \(it has 150 tokens"),
    (["data.source=world:chess"], r"there is no world 'chess'"),
    (["data.source=gym:chess_problem"], r"chess_problem"),
    (["reward.name=nothing.py:score"], r"there is no file nothing\.py"),
    (["reward.name=reward.py:score"], r"reward\.py has no function 'score'\. It has: judge"),
    (["reward.name=broken.py:score"], r"importing broken\.py failed: SyntaxError"),
    # Model.
    (["model.path=nowhere"], r"no model folder at 'nowhere' \(model\.path\)"),
    (["model.path=endless"], r"the tokenizer of 'endless' has no end-of-sequence token"),
    (["rollout.max_completion_tokens=200"], r"max_completion_tokens = 200 leaves no room for a prompt"),
    # Run folder.
    (["run.dir=blank.jsonl/runs"], r"cannot make the run folder blank\.jsonl/runs/tiny: Not a directory"),
    (["run.name=taken"], r"runs/taken exists already\. Go on with that run \(--resume\)"),
    (["--resume"], r"runs/tiny holds no run: its run\.json cannot be read"),
]


@pytest.fixture
def mistakes(tmp_path, noise):
    """A current folder full of things that cannot be used."""
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "blank.jsonl").write_text("\n")
    (tmp_path / "torn.jsonl").write_text(json.dumps(GOOD_ROW) + '\n{"prompt": "1,')
    write(tmp_path / "gaps.jsonl", GOOD_ROW, {**GOOD_ROW, "gold": " "})
    write(tmp_path / "long.jsonl", {"prompt": "x" * 150, "gold": "1"})
    (tmp_path / "reward.py").write_text("def judge(**_):\n    return []\n")
    (tmp_path / "broken.py").write_text("def broken(:\n")
    (tmp_path / "runs" / "taken").mkdir(parents=True)
    (tmp_path / "runs" / "taken" / "run.json").write_text("{}")
    endless = tmp_path / "endless"
    endless.mkdir()
    for path in noise.iterdir():
        (endless / path.name).write_bytes(path.read_bytes())
    settings = json.loads((endless / "tokenizer_config.json").read_text())
    (endless / "tokenizer_config.json").write_text(json.dumps({**settings, "eos_token": None}))
    return tmp_path


@pytest.mark.parametrize(("arguments", "message"), TRAIN_MISTAKES, ids=[" ".join(case[0]) for case in TRAIN_MISTAKES])
def test_train_refuses(refused, mistakes, no_models, noise, arguments, message):
    model = [] if any(text.startswith("model.path") for text in arguments) else [f"model.path={noise}"]
    steps = [] if any("rollout.max_completion_tokens" in text for text in arguments) else [
        "rollout.max_completion_tokens=60"
    ]  # fmt: skip
    told = refused(*TINY, *model, *steps, *arguments)
    assert re.search(message, told), told
    assert not list(mistakes.glob("runs/tiny/*"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "nothing.toml"], r"there is no run file nothing\.toml\. Check the path, or name a preset"),
        (["train", "."], r"\. is a folder, not a run file"),
        (["train", "bad.toml"], r"bad\.toml, line 1 is not TOML"),
        (["train", "lean.toml"], r"model\.path is required and not given"),
        (["config", "check", "tiny", "objective.name=grpo", ONE_SAMPLE], r"tiny: objective: .*at least 2 completions"),
        (["config", "show", "nothing.toml"], r"there is no run file"),
        (["config", "diff", "tiny", "runs/taken"], r"run\.json"),
        (["objectives", "nrgpo"], r"no objective is named 'nrgpo'"),
        (["explain", "--rewards", "0,one"], r"--rewards '0,one' must be numbers separated by commas"),
        (["explain", "--rewards", "0,nan"], r"reward 1 is nan\. Rewards must be finite"),
        (["explain", "--rewards", ""], r"--rewards '' must be numbers"),
        (["explain", "--objective", "ngrpo", "--rewards", "0,2"], r"virtual_reward 1 is below the best reward 2"),
        (["explain", "--objective", "ngrpo", "--rewards", "0,1", "num_virtual"], r"'num_virtual' is not key=value"),
        (["explain", "--objective", "ngrpo", "--rewards", "0,1", "num_virtal=2"], r"no parameter 'num_virtal'"),
        (["explain", "--rewards", "1", "--objective", "grpo"], r"grpo needs at least 2 completions"),
        (["export", "nothing", "--to", "model"], r"nothing holds no run"),
        (["export", "runs/taken", "--to", "model"], r"runs/taken holds no run: its run\.json lacks config, data"),
    ],
)  # fmt: skip
def test_other_commands_refuse(refused, mistakes, no_models, arguments, message):
    (mistakes / "bad.toml").write_text("name = ngrpo\n")
    (mistakes / "lean.toml").write_text("[data]\nsource = 'world:countdown'\n")
    told = refused(*arguments)
    assert re.search(message, told), told


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--ks", "1,512", "--samples", "8"], r"pass@512 needs at least 512 samples per prompt, got --samples 8"),
        (["--ks", "2,1"], r"--ks 2,1 must be rising whole numbers from 1 on"),
        (["--ks", "0,1"], r"--ks 0,1 must be rising whole numbers from 1 on"),
        (["--ks", "one"], r"--ks 'one' must be whole numbers separated by commas"),
        (["data.limt=3"], r"there is no setting data\.limt.*Did you mean data\.limit\?"),
        (["optim.lr=3"], r"optim\.lr is of no use here"),
        (["--engine", "abacus"], r"--engine 'abacus' is none of native, vllm, gold"),
        (["--engine", "vllm"], r"engine 'vllm' needs a GPU and vllm: pip install"),
        (["--precision", "float16"], r"--precision 'float16' is none of auto, float32, float64, bfloat16"),
        (["--device", "abacus"], r"'abacus' is not usable here"),
        (["--max-completion-tokens", "200"], r"--max-completion-tokens = 200 leaves no room for a prompt"),
        (["--out", "blank.jsonl/eval"], r"cannot write the evaluation folder blank\.jsonl/eval: Not a directory"),
        (["--out", "runs"], r"runs exists and holds no evaluation"),
        (["data.source=gaps.jsonl"], r"row 2, field 'gold': the gold is empty"),
    ],
)
@pytest.mark.usefixtures("mistakes", "no_models")
def test_eval_refuses(refused, noise, arguments, message):
    limit = [] if "--max-completion-tokens" in arguments else ["--max-completion-tokens", "20"]
    told = refused("eval", noise, "--data", "world:countdown", *limit, *arguments, "data.size=2")
    assert re.search(message, told), told


@pytest.mark.parametrize(
    ("model", "data", "message"),
    [
        ("nowhere", "world:countdown", r"no model folder at 'nowhere'"),
        ("endless", "world:countdown", r"the tokenizer of 'endless' has no end-of-sequence token"),
        ("noise", "nothing.jsonl", r"there is no file nothing\.jsonl"),
        ("noise", "empty.jsonl", r"empty\.jsonl is empty"),
        ("noise", "long.jsonl", r"the prompt is too long"),
        ("world:chess", "world:countdown", r"there is no world 'chess'"),
    ],
)
@pytest.mark.usefixtures("mistakes", "no_models")
def test_eval_refuses_models_and_data(refused, noise, model, data, message):
    told = refused("eval", noise if model == "noise" else model, "--data", data, "--max-completion-tokens", "60")
    assert re.search(message, told), told


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"--plugin 'plugin\.py' is not a file"),
        ("1 / 0", r"--plugin 'plugin\.py' raised ZeroDivisionError: division by zero"),
        ("raise SystemExit(0)", r"--plugin 'plugin\.py' raised SystemExit: 0"),
        ("def broken(:", r"--plugin 'plugin\.py' raised SyntaxError"),
        ("import nothing_of_that_name", r"raised ModuleNotFoundError: No module named 'nothing_of_that_name'"),
        (
            "from ngrpo import objectives\n@objectives.register('grpo')\ndef grpo(): ...",
            r"an objective named 'grpo' exists already",
        ),
        (
            "from ngrpo import objectives\n@objectives.register('mine')\ndef mine(): ...",
            r"mine was registered with a function that returned None, not an Objective",
        ),
        (
            "from dataclasses import replace\nfrom ngrpo import objectives\n@objectives.register('mine')\ndef mine():\n"
            "    return replace(objectives.get('grpo'), advantage=lambda batch: batch.rewards.nothing)",
            r"raised AttributeError: 'Tensor' object has no attribute 'nothing'",
        ),
    ],
    ids=["missing", "raises", "exits", "no Python", "imports nothing", "taken", "no objective", "breaks when used"],
)
@pytest.mark.parametrize("command", ["train", "explain"])
@pytest.mark.usefixtures("no_models", "own_catalog")
def test_a_plugin_that_cannot_be_used(refused, mistakes, noise, command, text, message):
    if text is not None:
        (mistakes / "plugin.py").write_text(text)
    arguments = {
        "train": [*TINY, f"model.path={noise}", "objective.name=mine"],
        "explain": ["explain", "--rewards", "0,1", "--objective", "mine"],
    }[command]
    told = refused(*arguments, "--plugin", "plugin.py")
    assert re.search(message, told), told


@pytest.fixture
def own_catalog(monkeypatch):
    """What a plugin registers is forgotten after the test."""
    from ngrpo.objectives import registry

    monkeypatch.setattr(registry, "_METHODS", dict(registry._METHODS))


def test_a_base_model_is_not_built_for_a_run_that_cannot_start(refused, tmp_path, monkeypatch):
    monkeypatch.setattr("ngrpo.lab.base.cached_base", lambda **_: pytest.fail("a base model was built"))
    assert "no objective is named" in refused("train", "tiny", "objective.name=nrgpo")
    (tmp_path / "runs" / "tiny").mkdir(parents=True)
    (tmp_path / "runs" / "tiny" / "run.json").write_text("")
    assert "exists already" in refused("train", "tiny")
    assert "holds no run" in refused("train", "tiny", "--resume")


# --- the top level ---


@pytest.mark.parametrize("place", [0, 1, 3])
def test_debug_shows_the_traceback_wherever_it_stands(ngrpo, place):
    arguments = ["explain", "--rewards", "0,one"]
    told = ngrpo(*arguments[:place], "--debug", *arguments[place:])
    assert told.code == 2
    assert "Traceback (most recent call last)" in told.err
    assert told.err.rstrip().endswith("error: --rewards '0,one' must be numbers separated by commas, such as 0,0,0,1.")


def test_a_bug_is_one_line_and_exit_code_1(ngrpo, monkeypatch):
    monkeypatch.setattr("ngrpo.objectives.names", lambda: 1 / 0)
    told = ngrpo("objectives")
    assert (told.code, told.out) == (1, "")
    assert told.err == (
        "internal error: ZeroDivisionError: division by zero (run again with --debug for the traceback)\n"
    )
    assert "Traceback" in ngrpo("objectives", "--debug").err


def test_a_full_disk_is_no_bug(ngrpo, monkeypatch):
    def full():
        raise OSError(28, "No space left on device", "runs/tiny/metrics.jsonl")

    monkeypatch.setattr("ngrpo.objectives.names", full)
    told = ngrpo("objectives")
    assert told.code == 1
    assert told.err == "error: [Errno 28] No space left on device: 'runs/tiny/metrics.jsonl'\n"


def test_ctrl_c_is_130_and_says_how_to_go_on(ngrpo, monkeypatch):
    monkeypatch.setattr("ngrpo.objectives.names", lambda: signal.raise_signal(signal.SIGINT))
    told = ngrpo("objectives")
    assert told.code == 130
    assert told.err == (
        "interrupted: the same command goes on where files were written (ngrpo train: with --resume).\n"
    )


def test_markup_in_a_message_is_text(refused):
    assert refused("objectives", "[red]x[/blue] :smile:").startswith("no objective is named '[red]x[/blue] :smile:'")


def test_usage_errors_of_the_command_line_itself(ngrpo):
    for arguments in (["trian"], ["train"], ["eval", "--nothing"], ["train", "tiny", "--nothing"], ["explain"]):
        told = ngrpo(*arguments)
        assert (told.code, told.out) == (2, "")
        assert "Usage: " in told.err
