import pytest

from ngrpo.config import Data, Reward, load_sections
from ngrpo.errors import ConfigError

SECTIONS = {"data": (Data, {"source": "math.jsonl", "split": "test"}), "reward": (Reward, {})}


def test_sections_start_from_their_values_and_take_overrides():
    sections = load_sections(SECTIONS, ["data.limit=7", "data.split=train", "reward.timeout_s=1"])
    assert list(sections) == ["data", "reward"]
    assert sections["data"] == Data(source="math.jsonl", split="train", limit=7)
    assert sections["reward"] == Reward(timeout_s=1)
    assert SECTIONS["data"][1] == {"source": "math.jsonl", "split": "test"}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optim.lr=1", r"^the command line: optim\.lr is of no use here\. What can be set is in data and reward\.$"),
        ("model.lora=3", r"^the command line: model\.lora is of no use here\."),
        ("data.lmit=1", r"^the command line: there is no setting data\.lmit \(got 1\)\. Did you mean data\.limit\?$"),
        ("data.limit=0", r"^the command line: data\.limit must be a whole number, at least 1, got 0\.$"),
        ("data=none", r"^the command line: data\.source is required and not given"),
        ("nonsense", r"^the command line: 'nonsense' is not an override\."),
    ],
)
def test_mistakes_are_told_as_for_run_files(override, message):
    with pytest.raises(ConfigError, match=message):
        load_sections(SECTIONS, [override])
