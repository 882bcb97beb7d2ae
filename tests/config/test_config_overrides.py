import copy

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ngrpo.config import RunConfig, load_config, resolved
from ngrpo.config.literals import to_literal
from ngrpo.config.overrides import apply_overrides
from ngrpo.errors import ConfigError

RUN_FILE = """
[model]
path = "some/model"
[data]
source = "some.jsonl"
limit = 5
[optim]
lr = 1e-4
[validation.data]
source = "held-out.jsonl"
"""


@pytest.fixture
def run_file(tmp_path):
    file = tmp_path / "run.toml"
    file.write_text(RUN_FILE)
    return file


def test_a_later_override_wins_over_an_earlier_one_and_over_the_file(run_file):
    assert load_config(run_file, ["optim.lr=1", "optim.lr=1e-6"]).optim.lr == 1e-6


def test_types_of_values(run_file):
    config = load_config(
        run_file,
        [
            "optim.lr=1",  # a whole number where a number is wanted
            "optim.betas=[0.8, 0.9]",  # a list where Python has a tuple
            "model.gradient_checkpointing=true",
            "reward.allow_execution=[\"a\", 'b']",
            "model.precision=float64",
        ],
    )
    assert (config.optim.lr, config.optim.betas) == (1.0, (0.8, 0.9))
    assert isinstance(config.optim.lr, float)
    assert config.model.gradient_checkpointing is True
    assert config.reward.allow_execution == ["a", "b"]
    assert config.model.precision == "float64"


def test_sections_that_are_not_there_are_made(run_file):
    config = load_config(run_file, ["model.lora.rank=8", "validation=none", "validation.data.source=other.jsonl"])
    assert config.model.lora.rank == 8
    assert config.validation.data.source == "other.jsonl"


def test_open_tables_take_keys_of_the_users_own(run_file):
    config = load_config(run_file, ["objective.params.clip_low=0.2", "data.params.min_terms=2", "data.params.deep.x=1"])
    assert config.objective.params == {"clip_low": 0.2}
    assert config.data.params == {"min_terms": 2, "deep": {"x": 1}}


def test_a_whole_section_can_be_given(run_file):
    assert load_config(run_file, ["optim={lr = 0.5}"]).optim.lr == 0.5


@pytest.mark.parametrize(
    ("override", "read", "value"),
    [
        ("optim.lr=none", lambda config: config.optim.lr, 1e-6),
        ("data.limit=none", lambda config: config.data.limit, None),
        ("validation=none", lambda config: config.validation, None),
        ("model.lora=none", lambda config: config.model.lora, None),
        ("objective.params.clip_low=none", lambda config: config.objective.params, {}),
        ("record.wandb=none", lambda config: config.record.wandb, "off"),
    ],
)
def test_none_lets_the_default_hold(run_file, override, read, value):
    assert read(load_config(run_file, ["objective.params.clip_low=0.2", override])) == value
    assert read(load_config(run_file, [override])) == value


def test_none_is_a_word_for_settings_that_are_always_text(run_file):
    # `data.template = "none"` is the bare prompt: an override must not turn it into the default silently.
    assert load_config(run_file, ["data.template=none"]).data.template == "none"
    assert load_config(run_file, ['data.subset="none"']).data.subset == "none"


@pytest.mark.parametrize("typed", ["2024", "1e-6", "true", "nan", "2024-01-01", "[1]", "{prompt}", "a=b", "x y"])
def test_free_text_settings_take_what_is_typed(run_file, typed):
    assert load_config(run_file, [f"run.name={typed}"]).run.name == typed
    assert load_config(run_file, [f"data.subset={typed}"]).data.subset == typed


def test_the_tree_given_is_not_changed():
    tree = {"optim": {"lr": 1.0}, "data": {"params": {"a": 1}}}
    before = copy.deepcopy(tree)
    apply_overrides(tree, ["optim.lr=2", "data.params.a=none", "data.params.b.c=3"])
    assert tree == before


@given(
    lr=st.floats(min_value=1e-12, max_value=1e3),
    limit=st.integers(min_value=1, max_value=10**30),
    flag=st.booleans(),
    name=st.text(min_size=1),
    names=st.lists(st.text(), max_size=3),
    params=st.dictionaries(st.text("abcdefgh", min_size=1), st.integers() | st.text() | st.booleans(), max_size=3),
)
def test_what_is_written_as_overrides_is_what_is_loaded(*, lr, limit, flag, name, names, params):
    config = load_config(
        "tiny",
        [
            f"optim.lr={to_literal(lr)}",
            f"data.limit={to_literal(limit)}",
            f"record.tensorboard={to_literal(flag)}",
            f"run.name={to_literal(name)}",
            f"reward.allow_execution={to_literal(names)}",
            *(f"objective.params.{key}={to_literal(value)}" for key, value in params.items()),
        ],
    )
    assert config.optim.lr == lr
    assert config.data.limit == limit
    assert config.record.tensorboard is flag
    assert config.run.name == name
    assert config.reward.allow_execution == names
    assert config.objective.params == params
    assert RunConfig.model_validate(resolved(config)) == config


SEGMENTS = st.sampled_from(["optim", "lr", "betas", "model", "lora", "rank", "validation", "data", "params", "foo"])
KEYS = st.lists(SEGMENTS, min_size=1, max_size=4).map(".".join)
TYPED = st.sampled_from(["1", "none", "{}", "{lr = 1}", "{foo = {lr = nan}}", "x", "[1]", "[0.5]", "[0.5, 0.9]", ""])


@given(st.lists(st.text(max_size=20) | st.builds("{}={}".format, KEYS, TYPED), max_size=6))
@settings(max_examples=300)
def test_no_override_breaks_anything_but_a_configuration(overrides):
    # Whatever is typed: a configuration, or a ConfigError. Never another exception.
    try:
        assert isinstance(load_config("tiny", overrides), RunConfig)
    except ConfigError as error:
        assert "the command line: " in str(error) or "preset tiny: " in str(error)  # noqa: PT017


def test_an_override_of_a_whole_table_takes_the_place_of_earlier_ones_below_it():
    with pytest.raises(ConfigError, match=r"^the command line: there is no setting foo \(got 3\)\."):
        load_config("tiny", ["foo.a=1", "foo=3"])
