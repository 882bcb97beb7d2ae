"""vLLM's own source against what `rollout/vllm.py` asks of it, and against its stand-in: no GPU, nothing imported.

It runs wherever vLLM is installed, or its unpacked wheel is on PYTHONPATH.
"""

import ast
import importlib.util
from pathlib import Path

import pytest

from ngrpo.rollout import vllm as ours

SPEC = importlib.util.find_spec("vllm")
if SPEC is None:
    pytest.skip("vLLM's source is not here", allow_module_level=True)
SOURCE = Path(next(iter(SPEC.submodule_search_locations)))
STAND_IN = Path(__file__).parents[1] / "vllm_stand_in" / "vllm"


def parsed(file):
    return ast.parse(file.read_text(encoding="utf-8"))


def class_of(file, name):
    return next(node for node in ast.walk(parsed(file)) if isinstance(node, ast.ClassDef) and node.name == name)


def fields_of(file, name):
    """Annotated fields of a class, with their defaults as text."""
    body = [node for node in class_of(file, name).body if isinstance(node, ast.AnnAssign)]
    return {node.target.id: node.value and ast.unparse(node.value) for node in body}


def arguments_of(file, name, method):
    """Names of a method's arguments, without self."""
    found = next(n for n in class_of(file, name).body if isinstance(n, ast.FunctionDef) and n.name == method)
    return [each.arg for each in (*found.args.args, *found.args.kwonlyargs)][1:]


def calls_in_ours(name):
    """Keyword arguments with which the engine calls `name`."""
    calls = [node for node in ast.walk(parsed(Path(ours.__file__))) if isinstance(node, ast.Call)]
    [call] = [each for each in calls if ast.unparse(each.func).rpartition(".")[2] == name]
    return [keyword.arg for keyword in call.keywords]


def test_the_arguments_of_the_engine():
    known = fields_of(SOURCE / "engine" / "arg_utils.py", "EngineArgs")
    given = calls_in_ours("LLM")
    assert len(given) > 8
    assert set(given) <= known.keys()
    assert set(given) <= {*arguments_of(STAND_IN / "__init__.py", "LLM", "__init__")}


def test_the_sampling_parameters():
    known = fields_of(SOURCE / "sampling_params.py", "SamplingParams")
    assert set(calls_in_ours("SamplingParams")) <= known.keys()
    for name, default in fields_of(STAND_IN / "sampling_params.py", "SamplingParams").items():
        assert name in known
        if not default.startswith("field("):
            assert known[name] == default, name
    kinds = [ast.unparse(node.targets[0]) for node in class_of(SOURCE / "sampling_params.py", "RequestOutputKind").body
             if isinstance(node, ast.Assign)]  # fmt: skip
    assert "FINAL_ONLY" in kinds


@pytest.mark.parametrize(
    ("method", "used"),
    [("sleep", ["level"]), ("wake_up", ["tags"]), ("apply_model", ["func"]), ("reset_prefix_cache", [])],
)
def test_the_methods_of_the_engine(method, used):
    arguments = arguments_of(SOURCE / "entrypoints" / "llm.py", "LLM", method)
    assert arguments[: len(used)] == used
    assert set(arguments_of(STAND_IN / "__init__.py", "LLM", method)) <= set(arguments)


@pytest.mark.parametrize(
    ("method", "used"),
    [
        ("add_request", ["request_id", "prompt", "params"]),
        ("abort_request", ["request_ids"]),
        ("has_unfinished_requests", []),
        ("step", []),
    ],
)
def test_the_methods_of_the_inner_engine(method, used):
    arguments = arguments_of(SOURCE / "v1" / "engine" / "llm_engine.py", "LLMEngine", method)
    assert arguments[: len(used)] == used == arguments_of(STAND_IN / "__init__.py", "LLMEngine", method)


def test_the_outputs():
    known, stood_in = fields_of(SOURCE / "outputs.py", "CompletionOutput"), STAND_IN / "__init__.py"
    assert {"token_ids", "logprobs", "finish_reason"} <= fields_of(stood_in, "CompletionOutput").keys() <= known.keys()
    assert {"request_id", "outputs", "finished"} <= {*arguments_of(SOURCE / "outputs.py", "RequestOutput", "__init__")}
    assert fields_of(SOURCE / "logprobs.py", "Logprob") == fields_of(stood_in, "Logprob")


def test_what_the_texts_say():
    """Words that the engine gives or reads, where vLLM has them as literals."""
    model = (SOURCE / "config" / "model.py").read_text(encoding="utf-8")
    assert '"processed_logprobs"' in model
    assert "original_max_model_len" in model, "max_model_len = -1 may mean something else"
    assert '"stop", "length"' in (SOURCE / "v1" / "engine" / "__init__.py").read_text(encoding="utf-8")
    environment = (SOURCE / "envs.py").read_text(encoding="utf-8")
    for name in ours.ENVIRONMENT | ours.QUIET:
        assert f'"{name}"' in environment


def test_the_temperatures():
    source = (SOURCE / "sampling_params.py").read_text(encoding="utf-8")
    low, high = ours.TEMPERATURES
    assert (low, "_MAX_TEMP = 1e-2" in source) == (1e-2, True)
    assert f"self.temperature > {high}" in source
