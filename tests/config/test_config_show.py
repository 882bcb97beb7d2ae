import json
import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ngrpo.config import RunConfig, diff, load_config, preset_names, resolved, to_toml


def test_resolved_says_everything_and_survives_json():
    config = load_config("tiny", ["model.lora.rank=4", "objective.params.clip_low=0.2"])
    tables = json.loads(json.dumps(resolved(config), allow_nan=False))
    assert tables["optim"]["betas"] == [0.9, 0.999]
    assert tables["data"]["limit"] is None
    assert tables["model"]["lora"] == {"rank": 4, "alpha": 32.0, "target_modules": "all-linear"}
    assert RunConfig.model_validate(tables) == config


@pytest.mark.parametrize("name", preset_names())
def test_what_is_shown_is_a_run_file_that_says_the_same(name, tmp_path):
    config = load_config(name)
    (tmp_path / "run.toml").write_text(to_toml(config))
    assert load_config(tmp_path / "run.toml") == config


@given(
    st.text(min_size=1),
    st.dictionaries(
        st.text(alphabet="ab.\"' ", min_size=1),
        st.text() | st.integers() | st.lists(st.booleans()) | st.dictionaries(st.text(), st.text()),
    ),
)
def test_awkward_text_and_keys_are_shown_faithfully(text, params):
    config = load_config("tiny").model_dump()
    config["data"]["template"] = text
    config["objective"]["params"] = params
    config["validation"]["data"]["params"] = params
    config = RunConfig.model_validate(config)
    assert RunConfig.model_validate(tomllib.loads(to_toml(config))) == config


def test_each_setting_is_shown_under_its_meaning_and_none_is_left_out():
    text = to_toml(load_config("tiny", ["objective.params.clip_low=0.2"]))
    assert text.startswith("# Where the run lives.\n[run]\n# Folder of this run below `run.dir`.\nname = ")
    assert "\n# Peak learning rate.\nlr = 0.0001\n" in text
    assert (
        "\n\n# Parameters of that method; `ngrpo objectives NAME` lists them.\n[objective.params]\nclip_low = 0.2\n"
        in text
    )
    assert "limit = " not in text
    assert "[model.lora]" not in text
    assert text.endswith("\n")
    assert not text.endswith("\n\n")


def test_lists_of_tables_are_shown_and_read_back(tmp_path):
    length = '{name="length", weight=-0.5, params={budget_tokens=4, span_tokens=2}}'
    config = load_config("tiny", [f'reward.shaping=[{length}, {{name="one_box", weight=1}}]'])
    (tmp_path / "run.toml").write_text(to_toml(config))
    assert load_config(tmp_path / "run.toml") == config
    assert RunConfig.model_validate(json.loads(json.dumps(resolved(config)))) == config
    (tmp_path / "own.toml").write_text(
        '[model]\npath = "m"\n[data]\nsource = "world:countdown"\n[reward]\n'
        '[[reward.shaping]]\nname = "length"\nweight = -0.5\nparams = { budget_tokens = 4, span_tokens = 2 }\n'
        '[[reward.shaping]]\nname = "one_box"\nweight = 1\n'
    )
    assert load_config(tmp_path / "own.toml").reward == config.reward


def test_parameters_that_are_none_in_python_are_left_out_too():
    config = load_config("tiny").model_dump()
    config["objective"]["params"] = {"a": None, "b": {"c": None, "d": 1}}
    text = to_toml(RunConfig.model_validate(config))
    assert tomllib.loads(text)["objective"]["params"] == {"b": {"d": 1}}


def test_diff_lists_what_differs_in_order_with_none_for_unset():
    a = {"x": 1, "s": {"same": [1], "only_a": "v", "off": False}, "empty": {}}
    b = {"s": {"same": [1], "off": 0, "only_b": 2.0}, "t": {"unset": None}, "x": 2}
    assert diff(a, b) == [("x", 1, 2), ("s.only_a", "v", None), ("s.off", False, 0), ("s.only_b", None, 2.0)]
    assert diff(a, a) == []


def test_diff_of_an_optional_section_lists_its_settings():
    with_validation = resolved(load_config("tiny"))
    without = resolved(load_config("tiny", ["validation=none"]))
    keys = [key for key, _, other in diff(with_validation, without) if other is None]
    assert "validation.data.source" in keys
    assert all(key.startswith("validation.") for key in keys)


def test_a_configuration_does_not_change_after_loading():
    config = load_config("tiny")
    with pytest.raises(ValueError, match="frozen"):
        config.optim.lr = 1.0
