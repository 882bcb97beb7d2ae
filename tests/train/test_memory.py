"""Memory runs out: fewer tokens at a time from then on, the same gradient, and one line that says so."""

import os
import platform
import subprocess
import sys

import pytest
import torch
from update_helpers import TEMPERATURE, exact_policy, gradient, make_rows, method, reference_of, take_step

from ngrpo import objectives
from ngrpo.errors import ConfigError
from ngrpo.policy import recompute_activations
from ngrpo.train.memory import is_out_of_memory
from ngrpo.train.step import logprobs_of

MEMORY_ERRORS = {
    "cuda": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    "cpu": RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
    "python": MemoryError(),
}


def limit_forward(policy, max_tokens, error=MEMORY_ERRORS["cuda"]) -> list[int]:
    """From now on the model has no room for longer passes; the sizes of those it was asked for."""
    sizes = []

    def refuse(module, inputs, output):
        sizes.append(inputs[0].shape[:-1].numel())
        if sizes[-1] > max_tokens:
            raise error

    # The second layer, so that there is a graph when it happens.
    policy.model.model.layers[1].mlp.register_forward_hook(refuse)
    return sizes


@pytest.mark.parametrize("name", ["ngrpo", "grpo", "psr with kl and entropy"])
@pytest.mark.parametrize("error", MEMORY_ERRORS)
def test_the_gradient_is_that_of_enough_memory(name, error, way, capsys):
    policy, objective = exact_policy(), method(name)
    rows, reference = make_rows(policy, objective), reference_of(objective)
    whole = take_step(policy, objective, rows, reference=reference)
    expected = gradient(policy).clone()
    sizes = limit_forward(policy, 40, MEMORY_ERRORS[error])
    parts = take_step(policy, objective, rows, reference=reference)
    assert (gradient(policy) - expected).norm() <= 1e-10 * expected.norm()
    assert parts.loss == pytest.approx(whole.loss, rel=1e-10)
    assert (parts.num_tokens, parts.num_positive_tokens) == (whole.num_tokens, whole.num_positive_tokens)
    assert policy.max_pass_tokens <= 40
    said = capsys.readouterr().err.splitlines()
    assert len(said) == sum(size > 40 for size in sizes) >= 1
    assert f"From now on at most {policy.max_pass_tokens} tokens at a time (update.max_microbatch_tokens)" in said[-1]
    # It is remembered: nothing fails any more.
    sizes.clear()
    take_step(policy, objective, rows, reference=reference)
    assert max(sizes) <= 40
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("place", ["backward", "after some microbatches"])
def test_what_was_added_before_memory_ran_out_is_not_counted_twice(place, way):
    policy, objective = exact_policy(), method("ngrpo")
    rows = make_rows(policy, objective)
    budget = 10**9 if place == "backward" else 40
    whole = take_step(policy, objective, rows, max_tokens=budget)
    expected = gradient(policy).clone()
    calls = []

    def fail_once(*_):
        calls.append(1)
        # Behind the output layer's own gradient, or in the third microbatch.
        if len(calls) == (1 if place == "backward" else 3):
            raise MEMORY_ERRORS["cpu"]

    policy.model.model.layers[0].mlp.register_full_backward_hook(fail_once)
    again = take_step(policy, objective, rows, max_tokens=budget)
    assert (gradient(policy) - expected).norm() <= 1e-10 * expected.norm()
    assert (again.num_tokens, again.loss) == (whole.num_tokens, pytest.approx(whole.loss, rel=1e-10))


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated:FutureWarning")
def test_a_row_that_does_not_fit_alone_has_its_activations_recomputed(way, capsys):
    policy, objective = exact_policy(), method("ngrpo")
    rows = make_rows(policy, objective)
    take_step(policy, objective, rows)
    expected = gradient(policy).clone()
    layer = policy.model.model.layers[1]

    def refuse(*_):
        if torch.is_grad_enabled() and not layer.gradient_checkpointing:
            raise MEMORY_ERRORS["cuda"]

    layer.mlp.register_forward_hook(refuse)
    take_step(policy, objective, rows)
    assert (gradient(policy) - expected).norm() <= 1e-10 * expected.norm()
    assert "over 1 rows" in (said := capsys.readouterr().err)
    assert "From now on activations are recomputed (model.gradient_checkpointing)" in said.splitlines()[-1]


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated:FutureWarning")
def test_a_row_that_never_fits_is_a_clear_error(way):
    policy, objective = exact_policy(), method("ngrpo")
    rows = make_rows(policy, objective)
    recompute_activations(policy.model)
    limit_forward(policy, 4)  # what a first look at the model takes
    weights = [parameter.clone() for parameter in policy.trainable_parameters()]
    with pytest.raises(ConfigError, match=r"one row of \d+ tokens.*gradient_checkpointing = true.*model\.lora"):
        take_step(policy, objective, rows, optimizer=torch.optim.SGD(policy.trainable_parameters(), lr=1.0))
    assert all(torch.equal(one, other) for one, other in zip(weights, policy.trainable_parameters(), strict=True))


def test_log_probabilities_too_are_taken_in_smaller_passes(way):
    policy = exact_policy()
    pairs = [(row.prompt_ids, row.completion_ids) for row in make_rows(policy, method("grpo"))]
    expected = logprobs_of(policy, pairs, temperature=TEMPERATURE, max_microbatch_tokens=10**9)
    limit_forward(policy, 50)
    found = logprobs_of(policy, pairs, temperature=TEMPERATURE, max_microbatch_tokens=10**9)
    for one, other in zip(found, expected, strict=True):
        assert one == pytest.approx(other, abs=1e-12)
    limit_forward(policy, 4)
    with pytest.raises(ConfigError, match="does not fit into the memory of cpu even alone"):
        logprobs_of(policy, pairs, temperature=TEMPERATURE, max_microbatch_tokens=10**9)


def test_other_errors_are_not_taken_for_want_of_memory(way):
    policy, objective = exact_policy(), objectives.get("grpo")
    limit_forward(policy, 1, RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        take_step(policy, objective, make_rows(policy, objective))
    assert policy.max_pass_tokens is None
    assert all(map(is_out_of_memory, MEMORY_ERRORS.values()))


# --- what is freed stays at hand ---

COUNT_FAULTS = """
import resource, torch
from ngrpo.train.memory import keep_freed_memory
keep_freed_memory()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for rounds in (2, 10):  # the first two are not counted
    before = faults()
    for _ in range(rounds):
        [torch.zeros(2**20) for _ in range(8)]  # 32 MiB, freed at once
print(faults() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries are left as they are")
@pytest.mark.parametrize(
    ("setting", "is_kept"),
    [
        ({}, True),
        ({"MALLOC_TRIM_THRESHOLD_": "131072"}, False),
        ({"GLIBC_TUNABLES": "glibc.malloc.trim_threshold=131072"}, False),
    ],
)
def test_freed_memory_is_kept_unless_the_environment_says_otherwise(setting, is_kept):
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("MALLOC_", "GLIBC_"))}
    done = subprocess.run(
        [sys.executable, "-c", COUNT_FAULTS], env=clean | setting, capture_output=True, text=True, check=True
    )
    pages = 10 * 2**25 // os.sysconf("SC_PAGESIZE")
    assert int(done.stdout) < pages / 20 if is_kept else int(done.stdout) > pages / 2
