import json

import pytest
from typer.testing import CliRunner

from ngrpo.cli.config_commands import app
from ngrpo.config import load_config, preset_names, resolved, to_toml
from ngrpo.errors import ConfigError, RunFolderError


def run(*arguments):
    result = CliRunner().invoke(app, list(arguments), env={"COLUMNS": "200"})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_show_prints_a_run_file(tmp_path):
    shown = run("show", "tiny", "optim.lr=3e-4", "objective.params.clip_low=0.2")
    (tmp_path / "run.toml").write_text(shown.stdout)
    expected = load_config("tiny", ["optim.lr=3e-4", "objective.params.clip_low=0.2"])
    assert shown.stdout == to_toml(expected)
    assert load_config(tmp_path / "run.toml") == expected


def test_show_prints_json():
    assert json.loads(run("show", "tiny", "--json", "train.num_steps=9").stdout)["train"] == {"num_steps": 9}


def test_check_says_ok_and_what_the_run_would_do():
    told = run("check", "tiny", "train.num_steps=10", "model.lora.rank=4", "objective.params.clip_low=0.2")
    assert told.exit_code == 0
    assert [line.strip() for line in told.stdout.splitlines()] == [
        "ok",
        "objective   ngrpo (clip_low = 0.2)",
        "model       world:countdown, LoRA of rank 4",
        "data        world:countdown, split train",
        "each step   32 prompts x 8 = 256 completions",
        "of at most 12 tokens; 4 updates of 8 groups",
        "in all      10 steps, 40 updates",
        "2,560 completions, more where a group filter asks for refills",
        "validation  every 20 steps, 8 completions per prompt of world:countdown, split validation",
        "writes to   runs/tiny",
    ]


def test_check_says_when_updates_are_not_of_one_size_and_nothing_is_validated():
    told = run("check", "tiny", "update.num_updates_per_step=5", "validation=none").stdout
    assert "5 updates of 6 to 7 groups" in told  # 32 = 6 + 6 + 6 + 7 + 7
    assert "validation  none" in told


def test_check_raises_every_mistake_and_exits_with_2():
    with pytest.raises(
        ConfigError, match=r"2 problems in the configuration:\n.*optim\.lr .*\n.*train\.num_steps"
    ) as error:
        run("check", "tiny", "optim.lr=0", "train.num_steps=0")
    assert error.value.exit_code == 2


@pytest.mark.parametrize("name", preset_names())
def test_check_finds_every_preset_in_order_its_method_included(name):
    assert run("check", name).stdout.startswith("ok\n")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("objective.name=nrgpo", r"^tiny: objective: no objective is named 'nrgpo'\. Did you mean 'ngrpo'\?"),
        (
            "objective.params.clip_lw=0.2",
            r"^tiny: objective: ngrpo has no parameter 'clip_lw'\. Did you mean 'clip_low'",
        ),
    ],
)
def test_check_asks_the_catalog_of_methods(override, message):
    with pytest.raises(ConfigError, match=message):
        run("check", "tiny", override)


def test_check_knows_methods_of_a_plugin(tmp_path, monkeypatch):
    from ngrpo.objectives import registry

    monkeypatch.setattr(registry, "_METHODS", dict(registry._METHODS))  # forgotten after this test
    plugin = tmp_path / "mine.py"
    plugin.write_text("from ngrpo import objectives\nobjectives.register('mine', lambda: objectives.get('grpo'))\n")
    assert "objective   mine\n" in run("check", "tiny", "objective.name=mine", "--plugin", str(plugin)).stdout


def test_diff_of_presets_is_a_table():
    table = run("diff", "paper/grpo", "paper/ngrpo").stdout
    rows = [[cell.strip() for cell in line.split("│")[1:4]] for line in table.splitlines() if "│" in line]
    assert ["objective.params.clip_low", "0.2", "0.16"] in rows
    assert ["objective.params.num_virtual", "not set", "1"] in rows
    assert not any(row[0].startswith("optim.") for row in rows)


def test_diff_of_the_same_says_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny").mkdir()  # a folder called like a preset is reached as ./tiny
    told = run("diff", "tiny", "tiny")
    assert told.stdout == "tiny and tiny have the same settings.\n"
    assert told.exit_code == 0


def test_diff_reads_run_folders_even_of_another_version(tmp_path):
    settings = resolved(load_config("tiny"))
    settings["optim"]["lr"] = 0.5
    settings["gone"] = {"setting": "[bold]markup[/bold]"}
    (tmp_path / "run.json").write_text(json.dumps({"config": settings}))
    told = run("diff", "tiny", str(tmp_path)).stdout
    assert "0.0001" in told
    assert "0.5" in told
    assert '"[bold]markup[/bold]"' in told


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"is not a run folder: it has no run\.json\. Give a run folder, a run file or a preset"),
        ("{", r"run\.json cannot be read as the record of a run: JSONDecodeError"),
        ("[]", r"run\.json cannot be read as the record of a run: TypeError"),
        ("{}", r"run\.json cannot be read as the record of a run: KeyError\('config'\)"),
        ('{"config": 3}', r'run\.json has no settings under "config", got 3'),
    ],
)
def test_diff_refuses_folders_that_are_no_runs(tmp_path, content, message):
    if content is not None:
        (tmp_path / "run.json").write_text(content)
    with pytest.raises(RunFolderError, match=message):
        run("diff", "tiny", str(tmp_path))


def test_diff_of_a_missing_file_is_a_config_error(tmp_path):
    with pytest.raises(ConfigError, match="there is no run file"):
        run("diff", "tiny", str(tmp_path / "gone.toml"))


@pytest.mark.parametrize("command", ["show", "check", "diff"])
def test_every_command_has_help_with_an_example(command):
    told = run(command, "--help")
    assert told.exit_code == 0
    assert f"ngrpo config {command} " in told.stdout
