"""The commands as a user types them: what they print, and that help tells the truth."""

import json
import re
import shlex
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import typer.main

from ngrpo.cli import doctor
from ngrpo.cli.main import app
from ngrpo.objectives import registry
from ngrpo.record import read_jsonl


def all_commands():
    """Every command by its words: ("config", "show")."""
    root = typer.main.get_command(app)
    found = {}
    for name, command in root.commands.items():
        if hasattr(command, "commands"):
            found |= {(name, sub): each for sub, each in command.commands.items()}
        else:
            found[name,] = command
    return found


COMMANDS = all_commands()


def examples_of(command):
    return re.findall(r"`(ngrpo [^`]*)`", command.help)


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_help_of_every_command_has_examples(ngrpo, words):
    told = ngrpo(*words, "--help")
    assert (told.code, told.err) == (0, "")
    assert re.search(rf"Usage: .* {' '.join(words)} ", told.out)
    assert "For example" in told.out
    assert f"ngrpo {' '.join(words)}" in told.out.partition("For example")[2]


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_examples_in_help_are_commands_that_exist(words):
    examples = examples_of(COMMANDS[words])
    assert any(example.split()[1 : 1 + len(words)] == list(words) for example in examples)
    for example in examples:
        line = shlex.split(example.partition(" > ")[0])[1:]
        named = next(each for each in COMMANDS if tuple(line[: len(each)]) == each)
        with COMMANDS[named].make_context(" ".join(named), line[len(named) :]) as context:  # parsed, not run
            assert context.params


def test_help_without_arguments_and_version(ngrpo):
    told = ngrpo("--help")
    assert told.code == 0
    assert all(words[0] in told.out for words in COMMANDS)
    assert re.fullmatch(r"ngrpo \d+\.\d+\.\d+\n", ngrpo("--version").out)


# --- the catalog ---


def test_explain_json_has_exactly_the_keys_of_the_design(ngrpo):
    told = json.loads(ngrpo("explain", "--objective", "ngrpo", "--rewards", "0,0,0,1", "--json").out)
    assert list(told) == ["objective", "rewards", "advantages", "kept", "mean", "std", "clip_low", "clip_high"]
    assert told["objective"] == "ngrpo"
    assert told["rewards"] == [0.0, 0.0, 0.0, 1.0]
    # With the virtual 1: mean 2/5, squared deviations 3 x 0.16 + 2 x 0.36 = 1.2 over 4.
    assert told["mean"] == pytest.approx(0.4)
    assert told["std"] == pytest.approx(0.3**0.5)
    assert told["advantages"] == pytest.approx([-0.4 / 0.3**0.5] * 3 + [0.6 / 0.3**0.5], rel=1e-5)
    assert (told["kept"], told["clip_low"], told["clip_high"]) == (True, 0.16, 0.24)


def test_explain_with_parameters(ngrpo):
    one = ["explain", "--objective", "ngrpo", "--rewards", "0,0"]
    told = json.loads(ngrpo(*one, "num_virtual=2", "clip_low=0.3", "--json").out)
    assert (told["mean"], told["clip_low"]) == (0.5, 0.3)


def test_explain_in_words(ngrpo):
    told = ngrpo("explain", "--objective", "grpo", "--rewards", "0,0,0,0")
    assert told.out.splitlines()[:2] == [
        "grpo  mean 0.0000  std 0.0000  the group enters the update",
        "ratio clipped to [1 - 0.2, 1 + 0.2]",
    ]
    assert told.out.count("+0.0000") == 4
    assert "is dropped by the filter" in ngrpo("explain", "--objective", "ngrpo", "--rewards", "1,1").out
    assert "by its labels" in ngrpo("explain", "--objective", "ngrpo", "--rewards", "0.5,0.2").out
    assert "std -" in ngrpo("explain", "--objective", "reinforce", "--rewards", "1").out


def test_objectives_lists_all_and_shows_one(ngrpo):
    told = ngrpo("objectives").out
    methods = json.loads(ngrpo("objectives", "--json").out)
    assert {"ngrpo", "grpo", "dapo", "dr_grpo", "psr", "nsr", "w_reinforce", "rloo", "reinforce"} <= {
        method["name"] for method in methods
    }
    assert all(method["name"] in told and method["source"].split()[-1] in told for method in methods)
    one = ngrpo("objectives", "dapo").out
    assert one.startswith("dapo  ")
    assert "arXiv 2503.14476" in one
    assert re.search(r"dual_clip +float \| None +10\.0", one)
    assert "group_filter: KeepKinds(all_wrong=False, all_right=False)" in one


def test_the_list_of_methods_is_short_and_fits_the_screen(ngrpo, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    told = ngrpo("objectives").out
    methods = json.loads(ngrpo("objectives", "--json").out)
    lines = [line.rstrip() for line in told.splitlines()]
    assert max(map(len, lines)) <= 80
    assert len(lines) <= 3 * len(methods) + 1
    assert all(method["source"] in " ".join(told.split()) for method in methods)


PLUGIN = '''
from dataclasses import replace
from ngrpo import objectives

@objectives.register("half", source="[notes] :smile:")
def half(*, centre: float = 0.5):
    """Reward minus [a half]."""
    return replace(objectives.get("grpo"), advantage=lambda batch: batch.rewards - centre)
'''


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "_METHODS", dict(registry._METHODS))
    (tmp_path / "half.py").write_text(PLUGIN)
    return "half.py"


def fresh(monkeypatch):
    """Forgets the plugin, which a process registers once."""
    monkeypatch.setattr(registry, "_METHODS", {key: value for key, value in registry._METHODS.items() if key != "half"})


def test_a_method_of_ones_own_is_known_to_every_command(ngrpo, plugin, noise, monkeypatch):
    told = ngrpo("explain", "--objective", "half", "--rewards", "0,1", "--json", "--plugin", plugin, "centre=0.25")
    assert json.loads(told.out)["advantages"] == [-0.25, 0.75]
    fresh(monkeypatch)
    assert "Reward minus [a half].  [notes] :smile:" in ngrpo("objectives", "half", "--plugin", plugin).out
    fresh(monkeypatch)
    assert "[notes] :smile:" in ngrpo("objectives", "--plugin", plugin).out
    fresh(monkeypatch)
    assert (
        "half (centre = 0.25)"
        in ngrpo(
            "config", "check", "tiny", "objective.name=half", "objective.params.centre=0.25", "--plugin", plugin
        ).out
    )
    fresh(monkeypatch)
    options = short("runs", noise)
    told = ngrpo("train", "tiny", *options, "objective.name=half", "--plugin", plugin)
    assert told.code == 0, told.err
    groups = read_jsonl_here("runs/tiny/groups.jsonl")
    assert {value for group in groups for value in group["advantages"]} <= {-0.5, 0.5}


def read_jsonl_here(path):
    from pathlib import Path

    return read_jsonl(Path(path))


# --- train, export, eval ---


def short(runs, model, *more):
    return [
        f"run.dir={runs}", f"model.path={model}", "data.size=8", "rollout.num_prompts_per_step=2",
        "rollout.num_samples_per_prompt=2", "rollout.max_completion_tokens=8", "update.num_updates_per_step=1",
        "optim.warmup_steps=0", "train.num_steps=2", "validation.every_steps=1", "validation.num_samples=2",
        "validation.data.size=2", "record.tensorboard=false", *more,
    ]  # fmt: skip


def test_train_then_export_then_eval(ngrpo, noise, tmp_path):
    options = short("runs", noise)
    told = ngrpo("train", "tiny", *options)
    assert told.code == 0, told.err
    assert told.out == (
        "runs/tiny: 2 steps, 8 completions\n"
        "  step 0: validation pass@1 0.000\n"
        "  step 2: validation pass@1 0.000\n"
        "model: runs/tiny/checkpoints/step_000002 (a Hugging Face folder)\n"
        "next:  ngrpo eval runs/tiny/checkpoints/step_000002 --data ...\n"
    )
    assert "exists already" in ngrpo("train", "tiny", *options).err
    told = ngrpo("train", "tiny", *options, "train.num_steps=3", "--resume")
    assert told.out.startswith("runs/tiny: 3 steps, 12 completions\n")
    described = json.loads((tmp_path / "runs/tiny/run.json").read_text())
    assert described["command"][:3] == ["ngrpo", "train", "tiny"]
    assert [row["step"] for row in described["resumed"]] == [2]

    told = ngrpo("export", "runs/tiny", "--to", "models/[bold]mine", "--step", "2")
    assert told.out == "wrote models/[bold]mine from runs/tiny/checkpoints/step_000002\n"

    command = ["eval", "models/[bold]mine", "--data", "world:countdown", "--samples", 4, "--max-completion-tokens", 8]
    first = ngrpo(*command, "data.size=3")
    assert first.code == 0, first.err
    assert "nothing to do" not in first.err
    lines = first.out.splitlines()
    assert lines[0] == ("models/[bold]mine on countdown: 3 prompts x 4 samples, temperature 1, top-p 1, seed 0")
    assert re.search(r"^pass@4 +0\.0 +0\.0 to 56\.\d ", first.out, re.MULTILINE)  # three prompts say little
    assert lines[-1] == "samples and summary: evals/models-[bold]mine--world-countdown"
    samples = (tmp_path / "evals/models-[bold]mine--world-countdown/samples.jsonl").read_bytes()

    again = ngrpo(*command, "data.size=3")
    assert again.out == first.out
    assert "nothing to do: every sample is in evals/models-[bold]mine--world-countdown already" in again.err
    assert (tmp_path / "evals/models-[bold]mine--world-countdown/samples.jsonl").read_bytes() == samples
    assert "holds another evaluation" in ngrpo(*command, "data.size=3", "--seed", 1).err
    told = json.loads(ngrpo(*command, "data.size=3", "--json").out)
    assert told["num_prompts"] == 3

    # Other weights under the same name are another model: their samples are not these.
    weights = tmp_path / "models/[bold]mine/model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    told = ngrpo(*command, "data.size=3")
    assert told.code == 2
    assert re.search(r"holds another evaluation:\n +weights: ", told.err)


def test_an_evaluation_cut_off_goes_on_and_ends_the_same(ngrpo, noise, tmp_path):
    command = ["eval", noise, "--data", "world:countdown", "--samples", 4, "--max-completion-tokens", 8, "data.size=4"]
    whole = ngrpo(*command, "--out", "whole")
    shutil_copy(tmp_path / "whole", tmp_path / "cut")
    lines = (tmp_path / "cut/samples.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "cut/samples.jsonl").write_text("".join(lines[:7]) + lines[7][:20])
    cut = ngrpo(*command, "--out", "cut")
    assert cut.out.replace("cut", "whole") == whole.out
    assert "nothing to do" not in cut.err

    def rows(name):
        found = [json.loads(line) for line in (tmp_path / name / "samples.jsonl").read_text().splitlines()]
        return sorted((row["prompt"], row["sample"], row["completion"]) for row in found)

    assert rows("cut") == rows("whole")


def shutil_copy(one, other):
    import shutil

    shutil.copytree(one, other)


MATH_ROWS = [
    {"problem": "What is 6 x 7?", "answer": "42"},
    {"problem": r"Half of a third [/red] :smile: \boxed{9} <|im_end|> \u0000", "answer": r"\frac{1}{6}"},
    {"problem": "Wie groß ist die Menge aller reellen Zahlen über 3?\n\n" + "\t" * 3, "answer": r"(3, \infty)"},
]


def test_the_gold_engine_trains_and_evaluates_at_1_on_math(ngrpo, noise, tmp_path):
    rows = "".join(json.dumps(row) + "\n" for row in MATH_ROWS)
    (tmp_path / "math.jsonl").write_text(rows)
    options = [
        f"model.path={noise}", "data.source=math.jsonl", "validation=none", "rollout.engine=gold",
        "rollout.max_completion_tokens=40", "rollout.num_prompts_per_step=3", "update.num_updates_per_step=1",
        "optim.warmup_steps=0", "train.num_steps=2", "objective.name=grpo",
    ]  # fmt: skip
    told = ngrpo("train", "tiny", *options)
    assert told.code == 0, told.err
    trained = [row for row in read_jsonl(tmp_path / "runs/tiny/metrics.jsonl") if "reward/mean" in row]
    assert [row["reward/mean"] for row in trained] == [1.0, 1.0]
    sample = read_jsonl(tmp_path / "runs/tiny/samples.jsonl")[0]
    assert sample["completion"].startswith(r"\boxed{")

    command = ["eval", noise, "--data", "math.jsonl", "--samples", 2, "--max-completion-tokens", 40]
    told = ngrpo(*command, "--engine", "gold", "--out", "gold")
    assert re.search(r"^pass@1 +100\.0 +\d+\.\d to 100\.0", told.out, re.MULTILINE)
    told = ngrpo(*command, "--out", "native")  # noise gets nothing right
    assert re.search(r"^pass@1 +0\.0 +0\.0 to \d+\.\d", told.out, re.MULTILINE)


def test_the_gold_engine_evaluates_at_1_on_the_tiny_world(ngrpo, noise):
    command = ["eval", noise, "--data", "world:countdown", "--engine", "gold", "--max-completion-tokens", 12]
    told = ngrpo(*command, "--samples", 2, "data.size=5")
    assert re.search(r"^pass@2 +100\.0 +\d+\.\d to 100\.0", told.out, re.MULTILINE)


def test_text_that_looks_like_markup_trains(ngrpo, noise, tmp_path):
    rows = [
        {"prompt": text, "gold": "1"}
        for text in (
            "[/]",
            "[bold red]x",
            ":smile:",
            "\x1b[31mred",
            "a\0b",
            "{prompt}",
            "%s %d",
            "</s>",
            "\u202eabc",
            "🙂",
        )
    ]
    (tmp_path / "hostile.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = short("runs", noise, "data.source=hostile.jsonl", "validation=none", "reward.name=math")
    told = ngrpo("train", "tiny", *options, "run.name=[/red] [x]", "rollout.num_prompts_per_step=10")
    assert told.code == 0, told.err
    assert "[/red] [x] 2/2 step" in told.err
    samples = read_jsonl(tmp_path / "runs/[/red] [x]/samples.jsonl")
    assert {row["prompt_text"] for row in samples} <= {row["prompt"] for row in rows}


def test_doctor(ngrpo):
    told = json.loads(ngrpo("doctor", "--json").out)
    assert {"ngrpo", "python", "packages", "num_cpus", "memory_gib", "gpu", "disk_free_gib", "extras"} <= told.keys()
    assert ngrpo("doctor").out.startswith("ngrpo ")


def test_doctor_has_versions_ranges_and_commands_of_all_extras(ngrpo, monkeypatch):
    installed = {"trl": "1.16.2", "verl": "0.8.0"}

    def version(name):
        if name not in installed:
            raise metadata.PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr(doctor.metadata, "version", version)
    asked = ['trl<1.17,>=1.16; extra == "trl"', 'verl==0.9.1; extra == "verl"', 'ray>=2.41; extra == "ray"', "torch"]
    monkeypatch.setattr(doctor.metadata, "requires", lambda name: asked)
    rows = [("entry point", True, "x"), ("vllm", False, "pip install [it]")]
    monkeypatch.setattr(doctor, "verl_status", lambda: rows)
    lines = {line.split()[0]: line for line in ngrpo("doctor").out.splitlines() if line[:1].strip()}
    told = json.loads(ngrpo("doctor", "--json").out)
    assert {"trl", "verl", "vllm", "ray"} <= told["extras"].keys() <= lines.keys()
    assert told["extras"]["trl"] == {
        "installed": "1.16.2", "supported": "<1.17,>=1.16", "ok": True, "told": "1.16.2 (supported: <1.17,>=1.16)",
    }  # fmt: skip
    assert told["extras"]["verl"]["told"] == '0.8.0 (supported: ==0.9.1): pip install "ngrpo[verl]"'
    assert told["extras"]["ray"] == {
        "installed": None, "supported": ">=2.41", "ok": False, "told": 'missing: pip install "ngrpo[ray]"',
    }  # fmt: skip
    assert told["verl"][1] == {"what": "vllm", "ok": False, "fix": "pip install [it]"}
    out = ngrpo("doctor").out
    assert "entry point: yes" in out
    assert "vllm: no: pip install [it]" in out


def test_extras_that_doctor_names_are_those_of_the_package():
    pyproject = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))
    extras = pyproject["project"]["optional-dependencies"]
    for distribution, (extra, _) in doctor.EXTRAS.items():
        assert any(re.match(rf"{distribution}\b", line) for line in extras[extra]), extra
    assert {extra for extra, _ in doctor.EXTRAS.values()} == extras.keys() - {"dev"}


def test_lab_base_builds_a_base_of_few_steps(ngrpo, tmp_path):
    told = ngrpo("lab", "base", "--out", "weak", "--steps", 2)
    assert (told.code, told.out) == (0, "weak\n"), told.err
    assert json.loads((tmp_path / "weak/base.json").read_text())["recipe"]["num_steps"] == 2
    assert "exists and is not an empty folder" in ngrpo("lab", "base", "--out", "weak", "--steps", 2).err


def test_the_tiny_world_brings_its_own_model(ngrpo, monkeypatch, noise):
    monkeypatch.setattr("ngrpo.lab.base.cached_base", lambda **_: (noise, True))
    options = [text for text in short("runs", noise) if not text.startswith("model.path")]
    told = ngrpo("train", "tiny", *options)
    assert told.code == 0, told.err
    assert "base model: cached, reused" in told.err
    told = ngrpo("eval", "world:countdown", "--data", "world:countdown", "--max-completion-tokens", 4, "data.size=1")
    assert told.code == 0, told.err
