"""Every key that a run file may have, as a committed snapshot: a change of the surface shows in the diff.

Regenerate it with `python tests/config/test_config_schema.py`, and add a line to CHANGELOG.md.
"""

import json
from pathlib import Path

from ngrpo.config import describe_fields

SNAPSHOT = Path(__file__).parent / "schema.json"


def schema():
    fields = ((field.key, field.type, "required" if field.required else field.default) for field in describe_fields())
    return {key: {"type": words, "default": default} for key, words, default in fields}


def as_text():
    # One key a line, so that a diff reads well.
    return "{\n" + ",\n".join(f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in schema().items()) + "\n}\n"


def test_the_keys_of_a_run_file_are_those_of_the_snapshot():
    assert SNAPSHOT.read_text() == as_text(), (
        "The keys, types or defaults of run files changed. If that is meant: run "
        "`python tests/config/test_config_schema.py`, look at the diff of schema.json, and add a line to CHANGELOG.md."
    )


def test_every_setting_says_what_it_means_in_one_line():
    for field in describe_fields():
        assert field.doc, f"{field.key} has no docstring"
        assert field.doc.endswith("."), f"the docstring of {field.key} is not a sentence: {field.doc!r}"
        assert "\n" not in field.doc, f"the docstring of {field.key} has more than one line"


def test_durations_and_counts_carry_their_unit_in_the_name():
    names = [field.key.rpartition(".")[2] for field in describe_fields()]
    assert not [name for name in names if name in ("steps", "tokens", "timeout", "seconds", "length")]


def test_descriptions_say_type_bounds_and_default():
    fields = {field.key: field for field in describe_fields()}
    assert fields["optim.lr"].type == "a number, above 0"
    assert fields["optim.betas"].type == "a list of 2, each a number, at least 0 and below 1"
    assert fields["optim.betas"].default == [0.9, 0.999]
    assert fields["model.lora.target_modules"].type == 'a list, each text, or "all-linear"'
    assert fields["data.subset"].type == "text"
    assert fields["objective.params"].type == "a table"
    assert (fields["model.path"].required, fields["validation.data.source"].required) == (True, True)
    assert (fields["data.limit"].required, fields["data.limit"].default) == (False, None)


if __name__ == "__main__":
    SNAPSHOT.write_text(as_text())
