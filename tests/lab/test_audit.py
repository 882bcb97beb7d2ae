from dataclasses import replace

import pytest

from ngrpo import worlds
from ngrpo.errors import DataError
from ngrpo.lab import audit as audit_module
from ngrpo.lab import setups
from ngrpo.lab.audit import audit
from ngrpo.worlds import Demonstration
from ngrpo.worlds.world import Row


@pytest.mark.parametrize(
    ("world", "one", "other"),
    [("countdown", "3,5,7,2=14:", "2,7,3,5=14:"), ("overtrained", "3,5,7,2=14:", "2,7,3,5=14:"),
     ("misconception", "85+47=", "47+85="), ("gym_chain_sum_hard", "120-300+700=", "700+120-300=")],
)  # fmt: skip
def test_the_order_of_numbers_makes_no_other_problem(world, one, other):
    assert worlds.get(world).canonical(one) == worlds.get(world).canonical(other)


@pytest.mark.parametrize(
    ("world", "one", "other"),
    [("countdown", "3,5,7,2=14:", "3,5,7,2=15:"), ("countdown", "3,5,7=7:", "3,3,5=7:"),
     ("misconception", "85+47=", "84+48="), ("gym_chain_sum_easy", "1-5=", "5-1=")],
)  # fmt: skip
def test_other_problems_stay_others(world, one, other):
    assert worlds.get(world).canonical(one) != worlds.get(world).canonical(other)


@pytest.mark.parametrize("name", setups.names())
def test_no_world_leaks(name, monkeypatch):
    monkeypatch.setattr(audit_module, "MAX_DEMONSTRATIONS", 512)
    told = audit(setups.get(name))
    assert (told["num_shared"], told["num_shared_with_train"]) == (0, 0)
    shown, train, validation, test = told["splits"].values()
    assert (shown["num_rows"], validation["num_rows"], test["num_rows"]) == (512, 128, 128)
    assert train["num_rows"] >= train["num_problems"] >= 128


@pytest.mark.parametrize(
    ("one", "other"),
    [("warm", "train"), ("warm", "validation"), ("warm", "test"), ("train", "validation"), ("train", "test"),
     ("validation", "test")],
)  # fmt: skip
def test_a_leak_between_any_two_parts_is_refused_and_shown(one, other, monkeypatch):
    """A world whose parts have a problem each, but for two that have one in two orders."""
    own = {"warm": "1,1,1=3:", "train": "2,2,2=6:", "validation": "3,3,3=9:", "test": "4,4,4=12:"}
    own |= {one: "3,5,7,2=14:", other: "7,5,3,2=14:"}

    def rows(split, size, seed):
        return [Row(id=f"{split}/{place}", prompt=own[split], gold="x") for place in range(size)]

    def shown(size, seed):
        return [Demonstration(own["warm"], "x")] * size

    leaky = replace(worlds.get("countdown"), name="leaky", generate=rows, demonstrate=shown)
    monkeypatch.setitem(worlds._WORLDS, "leaky", leaky)
    setup = setups.get("countdown")
    setup = replace(setup, world="leaky", warm_start=replace(setup.warm_start, world="leaky"))
    with pytest.raises(DataError, match=r"1 of 1 problems .*'7,5,3,2=14:' is '3,5,7,2=14:' there"):
        audit(setup)


def test_prompts_that_an_arm_trains_on_are_audited_too(monkeypatch):
    """They may be each other's, and nobody else's."""
    own = {"warm": "1,1,1=3:", "train": "2,2,2=6:", "train_hard": "2,2,2=6:", "validation": "3,3,3=9:"}
    own |= {"test": "3,5,7,2=14:", "train_leaky": "7,5,3,2=14:"}

    def rows(split, size, seed):
        return [Row(id=f"{split}/{place}", prompt=own[split], gold="x") for place in range(size)]

    def shown(size, seed):
        return [Demonstration(own["warm"], "x")] * size

    world = replace(worlds.get("countdown"), name="some", splits=tuple(own), generate=rows, demonstrate=shown)
    monkeypatch.setitem(worlds._WORLDS, "some", world)
    setup = setups.get("countdown")
    setup = replace(setup, world="some", warm_start=replace(setup.warm_start, world="some"))
    train = audit_module.splits_of(setup)[0]
    hard, leaky = (train.model_copy(update={"split": split}) for split in ("train_hard", "train_leaky"))
    assert [name for name in audit(setup, [train, hard, hard])["splits"] if "train" in name] == [
        "world:some train seed 0",
        "world:some train_hard seed 0",
    ]
    with pytest.raises(DataError, match=r"world:some test seed 0 are among those of world:some train_leaky seed 0"):
        audit(setup, [train, hard, leaky])
