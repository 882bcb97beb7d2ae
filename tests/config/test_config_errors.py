import re

import pytest

from ngrpo.config import RunConfig, load_config
from ngrpo.config.problems import nearest_key
from ngrpo.errors import ConfigError, UserError

GOOD = '[model]\npath = "m"\n[data]\nsource = "d.jsonl"\n'


@pytest.fixture
def complaint(tmp_path, monkeypatch):
    """The message for a run file with this text, and these overrides."""
    monkeypatch.chdir(tmp_path)

    def complain(text, *overrides):
        (tmp_path / "run.toml").write_bytes(text if isinstance(text, bytes) else text.encode())
        with pytest.raises(ConfigError) as caught:
            load_config("run.toml", overrides)
        assert caught.value.__suppress_context__ or caught.value.__context__ is None
        return str(caught.value)

    return complain


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        # Unknown keys.
        ("[rollout]\ntemprature = 0.9", "there is no setting rollout.temprature (got 0.9). Did you mean rollout.temp"),
        ("[optim]\nlearning_rate = 0.1", "there is no setting optim.learning_rate (got 0.1). Did you mean optim.lr?"),
        ("[optm]\nlr = 0.1", "there is no setting optm (got {lr = 0.1}). Did you mean optim?"),
        ("[objective]\nddof = 0", "there is no setting objective.ddof (got 0). Did you mean objective.params.ddof?"),
        ("[refill]\nwhatever = 1", "no setting refill.whatever (got 1). Settings of refill: max_batches, max_empty_st"),
        ("[zzz]", "there is no setting zzz (got {}). Sections: run, model, data, reward, rollout, refill, objective"),
        # Types, strict: no value is turned into another.
        ('[train]\nnum_steps = "80"', 'train.num_steps must be a whole number, at least 1, got "80". Write 80.'),
        ("[train]\nnum_steps = 80.0", "train.num_steps must be a whole number, at least 1, got 80.0. Write 80."),
        ("[train]\nnum_steps = 80.5", "train.num_steps must be a whole number, at least 1, got 80.5."),
        ("[train]\nnum_steps = true", "train.num_steps must be a whole number, at least 1, got true."),
        ("[optim]\nlr = true", "optim.lr must be a number, above 0, got true."),
        ('[optim]\nlr = ".5"', 'optim.lr must be a number, above 0, got ".5". Write 0.5.'),
        ("[record]\ntensorboard = 1", "record.tensorboard must be true or false, got 1."),
        ('[record]\ntensorboard = "True"', 'record.tensorboard must be true or false, got "True". Write true.'),
        ("[run]\nname = 3", 'run.name must be text, not empty, got 3. Write "3".'),
        ('[run]\nname = ""', 'run.name must be text, not empty, got "".'),
        ('[optim]\nschedule = "cosin"', 'must be one of "constant", "linear", "cosine", got "cosin". Write "cosine".'),
        (
            "[optim]\nbetas = [0.9]",
            "optim.betas must be a list of 2, each a number, at least 0 and below 1, got [0.9].",
        ),
        ("[optim]\nbetas = [0.9, 1.0]", "optim.betas must be a list of 2, each a number, at least 0 and below 1, got "),
        ('[optim]\nbetas = [0.9, "x"]', 'below 1, got [0.9, "x"].'),
        ('[reward]\nallow_execution = "a"', 'reward.allow_execution must be a list, each text, got "a". Write ["a"].'),
        ("optim = 3", "optim must be a table, got 3. Did you mean optim.lr?"),
        ('optim = "x"', 'optim must be a table, got "x". Make it a table: [optim] in a file, optim.lr=... on the com'),
        ("[objective]\nparams = 3", "objective.params must be a table, got 3. Make it a table: [objective.params] in"),
        # Bounds.
        ("[optim]\nlr = 0.0", "optim.lr must be a number, above 0, got 0.0."),
        ("[rollout]\ntop_p = 1.5", "rollout.top_p must be a number, above 0 and at most 1, got 1.5."),
        ("[rollout]\nnum_samples_per_prompt = 0", "num_samples_per_prompt must be a whole number, at least 1, got 0."),
        # Not finite, not JSON.
        ("[optim]\nlr = nan", "optim.lr must be finite, got nan. Write an ordinary number."),
        ("[optim]\nlr = 1e999", "optim.lr must be finite, got inf. Write an ordinary number."),
        ("[objective.params]\nx = [1, [-inf]]", "objective.params.x must be finite, got [1, [-inf]]."),
        (
            "[objective.params]\nx = 2024-01-01",
            "objective.params.x must not be a date or a time, got 2024-01-01. Quote",
        ),
        ("[objective.params]\nx = 10:20:00", "objective.params.x must not be a date or a time, got 10:20:00."),
        # Missing.
        (
            "[validation]\nevery_steps = 5",
            "validation.data.source is required and not given (A .parquet or .jsonl file",
        ),
    ],
)
def test_each_mistake_of_a_file_has_its_sentence(complaint, lines, message):
    told = complaint(f"{lines}\n{GOOD}" if "=" in lines.split("\n")[0] else f"{GOOD}{lines}")
    assert message in told
    assert told.startswith("run.toml: ")
    assert "\n" not in told


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("nonsense", "'nonsense' is not an override. Write key=value, such as optim.lr=1e-6."),
        ("=3", "'=3' is not an override."),
        ("optim..lr=3", "'optim..lr=3' is not an override."),
        ("optim.lrr=3", "there is no setting optim.lrr (got 3). Did you mean optim.lr?"),
        ("optm.lr=3", "there is no setting optm.lr (got 3). Did you mean optim.lr?"),
        ("lr=3", "there is no setting lr (got 3). Did you mean optim.lr?"),
        ("optim.lrr=none", 'there is no setting optim.lrr (got "none"). Did you mean optim.lr?'),
        ("optim.lr=fast", 'optim.lr must be a number, above 0, got "fast".'),
        ("optim.lr.x=1", "optim.lr must be a number, above 0, got {x = 1}."),
        ("optim.lr=inf", "optim.lr must be finite, got inf."),
        ("model=some/model", 'model must be a table, got "some/model". Did you mean model.path?'),
        ("model.lora.target_modules=q", 'must be a list, each text, or "all-linear", got "q". Write ["q"].'),
        ("model.path=", 'model.path must be text, not empty, got "".'),
        ("objective.params.x=\udcff", "objective.params.x must be Unicode text, got '\\udcff'."),
        ("validation.every_steps=5", "validation.data.source is required and not given"),
        ("validation={}", "validation.data.source is required and not given"),
        ("reward.shaping=x", 'reward.shaping must be a list of tables with name, weight, params, got "x".'),
        ("reward.shaping={name='a'}", 'got {name = "a"}.'),
        ("reward.shaping=[3]", "item 1 of reward.shaping must be a table with name, weight, params, got 3."),
        (
            "reward.shaping=[{name='a', weight=1}, {name='b', weight='x'}]",
            'weight in item 2 of reward.shaping must be a number, got "x".',
        ),
        (
            "reward.shaping=[{name='a', weight=1, wait=2}]",
            "item 1 of reward.shaping has no setting wait (got 2). Did you mean weight?",
        ),
        (
            "reward.shaping=[{name='a', weight=1, x=2}]",
            "item 1 of reward.shaping has no setting x (got 2). It may have: name, weight, params.",
        ),
        ("reward.shaping=[{name='a'}]", "item 1 of reward.shaping lacks weight (What the term is multiplied with"),
        ("reward.shaping=[{name='a', weight=nan}]", "reward.shaping must be finite"),
        (
            "reward.shaping=[{name='a', weight=1, params=3}]",
            "params in item 1 of reward.shaping must be a table, got 3",
        ),
        ("reward.shaping.weight=1", "reward.shaping must be a list of tables with name, weight, params"),
        ("reward.profile=lenent", 'reward.profile must be one of "strict", "lenient", "paper", got "lenent".'),
    ],
)
def test_each_mistake_of_an_override_blames_the_command_line(complaint, override, message):
    told = complaint(GOOD, override)
    assert message in told
    assert told.startswith("the command line: ")
    assert "\n" not in told


def test_all_mistakes_are_told_at_once_each_with_its_place(complaint):
    told = complaint('[model]\npth = "m"\n[optim]\nlr = -1.0\nbetas = [nan, nan]\n', "train.num_steps=ten", "x=1")
    lines = told.split("\n")
    assert lines[0] == "7 problems in the configuration:"
    assert sorted(line.split(" (")[0].split(", got")[0] for line in lines[1:]) == [
        "  run.toml: data.source is required and not given",
        "  run.toml: model.path is required and not given",
        "  run.toml: optim.betas must be finite",
        "  run.toml: optim.lr must be a number, above 0",
        "  run.toml: there is no setting model.pth",
        "  the command line: there is no setting x",
        "  the command line: train.num_steps must be a whole number, at least 1",
    ]


def test_nothing_of_pydantic_shows(complaint):
    told = complaint("[model]\npath = 3\n[optim]\nlr = 'x'\nlrr = 1\n")
    assert not re.search(r"pydantic|https?://|type=|input_value|Traceback|Extra inputs", told)


def test_what_is_missing_says_how_to_give_it(complaint):
    told = complaint('[data]\nsource = "d.jsonl"\n')
    assert told == (
        "run.toml: model.path is required and not given (A Hugging Face model folder, a run folder (its newest "
        "checkpoint), a hub name, or `world:countdown`). Add path = ... to [model], or model.path=... on the "
        "command line."
    )


def test_what_the_file_never_had_is_missing_from_the_file_whatever_the_command_line_adds_beside_it(complaint):
    told = complaint('[model]\npath = "m"\n', "data.split=test")
    assert told.startswith("run.toml: data.source is required and not given")


def test_a_long_value_is_cut(complaint):
    told = complaint(f'{GOOD}[optim]\nlr = "{"x" * 500}"\n')
    assert len(told) < 200
    assert told.endswith("xxx....")


@pytest.mark.parametrize(
    ("key", "near"),
    [
        ("optim.weight_decy", "optim.weight_decay"),
        ("temperature", "rollout.temperature"),
        ("rollout.num_generations", "rollout.num_samples_per_prompt"),
        ("model.lora.rnk", "model.lora.rank"),
        ("validation.source", "data.source"),
        ("optm.weight_decy", "optim.weight_decay"),
        ("objective.clip_lo", "objective.params.clip_lo"),
        ("objective.nam", "objective.name"),
        ("qqqqq", None),
    ],
)
def test_nearest_key(key, near):
    assert nearest_key(key) == near


# Files that are no run files.


def test_a_missing_file_names_the_presets(tmp_path):
    with pytest.raises(
        ConfigError, match=r"there is no run file .*gone\.toml\. Check the path, or name a preset: .*ti"
    ):
        load_config(tmp_path / "gone.toml")
    with pytest.raises(ConfigError, match=r"there is no run file papper/ngrpo\. .*paper/ngrpo.*tiny"):
        load_config("papper/ngrpo")


def test_a_path_below_a_file_is_a_missing_file(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="there is no run file"):
        load_config(tmp_path / "file" / "run.toml")


def test_a_folder_is_not_a_run_file(tmp_path):
    with pytest.raises(ConfigError, match=r"is a folder, not a run file\. Give a \.toml file or a preset: gpu_1x"):
        load_config(tmp_path)


def test_a_name_that_no_file_can_have_is_a_config_error():
    with pytest.raises(ConfigError, match=r"x cannot be read: File name too long"):
        load_config("x" * 5000)


def test_a_preset_wins_over_a_folder_of_its_name_and_a_path_is_never_a_preset(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny").mkdir()
    assert load_config("tiny").run.name == "tiny"
    with pytest.raises(ConfigError, match="is a folder"):
        load_config("./tiny")


def test_an_unreadable_file_says_why(tmp_path, monkeypatch):
    file = tmp_path / "run.toml"
    file.write_text(GOOD)

    def denied(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("pathlib.Path.read_bytes", denied)
    with pytest.raises(ConfigError, match=r"run\.toml cannot be read: Permission denied\. Give a readable"):
        load_config(file)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[model]\npath = some/model\n", "run.toml, line 2 is not TOML: Invalid value at column 8 of `path = some/mod"),
        ("[model\n", "run.toml, line 1 is not TOML: "),
        ("a = 1\na = 2\n", "run.toml, line 2 is not TOML: Cannot overwrite a value at column 6 of `a = 2`. Text needs"),
        ("a = 1\r\n\r\nb = x\r\n", "run.toml, line 3 is not TOML: Invalid value at column 5 of `b = x`."),
        ('a = "open', "run.toml is not TOML: Unterminated string (at end of document). Mend it; text needs quotes."),
        (f"a = {'9' * 5000}", "run.toml is not TOML: Exceeds the limit"),
        ("a = " + "[" * 20000, "run.toml is nested too deeply for a run file."),
        (b"\x7fELF\xff\xfe", "run.toml is not a text file: byte 0xff at offset 4 is not UTF-8. A run file is TOML."),
        (b"PK\x03\x04\x00\x00", "run.toml is not a text file: it has a zero byte. A run file is TOML."),
        ("", "run.toml is empty. A run file sets at least model.path and data.source; `ngrpo config show tiny` shows"),
        ("# only a comment\n", "run.toml is empty."),
    ],
)
def test_what_is_not_toml_says_where(complaint, text, message):
    assert complaint(text).startswith(message)


def test_an_empty_file_is_enough_where_the_command_line_says_the_rest(tmp_path):
    (tmp_path / "run.toml").write_text("")
    assert load_config(tmp_path / "run.toml", ["model.path=m", "data.source=d"]).model.path == "m"


def test_a_byte_order_mark_is_no_mistake(tmp_path):
    (tmp_path / "run.toml").write_bytes(b"\xef\xbb\xbf" + GOOD.encode())
    assert load_config(tmp_path / "run.toml").model.path == "m"


# Settings that do not go together.


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["rollout.top_p=0.9"], r"rollout\.top_p = 0\.9 and rollout\.top_k = 0 cut .* Set rollout\.top_p = 1\.0"),
        (["rollout.top_k=5"], r"rollout\.top_p = 1\.0 and rollout\.top_k = 5 cut the distribution sampled from"),
        (
            ["rollout.num_prompts_per_step=3"],
            r"rollout\.num_prompts_per_step = 3 is below update\.num_updates_per_step = 4: .* make fewer updates",
        ),
        (["optim.warmup_steps=80"], r"optim\.warmup_steps = 80 is not below train\.num_steps = 80: .* train for more"),
    ],
)
def test_settings_that_do_not_go_together(overrides, message):
    with pytest.raises(ConfigError, match=rf"^the command line: {message}"):
        load_config("tiny", overrides)


def test_what_just_goes_together():
    config = load_config("tiny", ["rollout.num_prompts_per_step=4", "optim.warmup_steps=79"])
    assert config.rollout.num_prompts_per_step == config.update.num_updates_per_step
    assert load_config("tiny", ["optim.warmup_steps=0", "train.num_steps=1"]).train.num_steps == 1
    assert load_config("tiny", ["validation.top_p=0.9", "validation.top_k=3"]).validation.top_k == 3


def test_every_broken_rule_is_told_where_it_was_set(complaint):
    told = complaint(f"{GOOD}[rollout]\ntop_k = 5\n", "optim.warmup_steps=100")
    assert re.fullmatch(
        r"2 problems in the configuration:\n"
        r"  run\.toml: rollout\.top_p = 1\.0 and .*\n"
        r"  the command line: optim\.warmup_steps = 100 .*",
        told,
    )


def test_rules_hold_for_configurations_made_in_python_too():
    with pytest.raises(ValueError, match=r"optim\.warmup_steps = 9 is not below train\.num_steps = 9"):
        RunConfig(model={"path": "m"}, data={"source": "d"}, optim={"warmup_steps": 9}, train={"num_steps": 9})


def test_values_are_finite_in_configurations_made_in_python_too():
    with pytest.raises(ValueError, match="finite"):
        RunConfig(model={"path": "m"}, data={"source": "d"}, reward={"correct_at": float("nan")})


def test_a_config_error_is_the_users_and_exits_with_2():
    assert issubclass(ConfigError, UserError)
    assert issubclass(ConfigError, ValueError)
    assert ConfigError.exit_code == 2
