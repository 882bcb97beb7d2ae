"""The engine around vLLM, by its stand-in: what vLLM is told and when, adapters, seeds, what is refused."""

import dataclasses
import os
import random
import tomllib
import warnings
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers import EOS, MAX_POSITIONS, make_prompts, small_policy
from model_kinds import kind_policy
from ngrpo.errors import ConfigError, MissingExtraError, ModelError, NumericsError
from ngrpo.rollout import SampleRequest, Sampling, engine_for, logprobs_are_exact, random_key, vllm
from ngrpo.rollout.engine import seed_of
from ngrpo.rollout.vllm import VllmEngine, check_vllm
from ngrpo.rollout.weights import named_weights

LIMIT = Sampling(6)


def requests(num_samples=2):
    return [
        SampleRequest(prompt, random_key(seed=0, stream=0, step=0, occurrence=place, sample=sample))
        for place, prompt in enumerate(make_prompts())
        for sample in range(num_samples)
    ]


def served(engine):
    """The stand-in's parameters by name."""
    return dict(engine._llm.llm_engine.model.named_parameters())


# --- what vLLM is told ---


def test_the_engine_of_that_name(vllm_stand_in):
    policy = small_policy()
    engine = engine_for("vllm", policy, max_rows=7, cache_gib=0.25, answers_are_boxed=True)
    assert isinstance(engine, VllmEngine)
    assert engine.policy is policy
    told = engine._llm.arguments
    assert (told["max_num_seqs"], told["kv_cache_memory_bytes"], told["dtype"]) == (7, 2**28, "float32")
    assert (told["enable_sleep_mode"], told["logprobs_mode"]) == (True, "processed_logprobs")
    assert not engine._llm.folder.exists(), "the folder with the configuration stayed behind"
    assert os.environ["VLLM_LOGGING_STREAM"] == "ext://sys.stderr"


def test_the_users_own_logging_stays(vllm_stand_in, monkeypatch):
    monkeypatch.setenv("VLLM_LOGGING_LEVEL", "DEBUG")
    VllmEngine(small_policy())
    assert os.environ["VLLM_LOGGING_LEVEL"] == "DEBUG"


def test_under_autocast_vllm_computes_in_its_dtype(vllm_stand_in):
    policy = dataclasses.replace(small_policy(), autocast_dtype=torch.bfloat16)
    engine = VllmEngine(policy)
    assert engine._llm.arguments["dtype"] == "bfloat16"
    with engine._awake():
        for name, weight in policy.model.named_parameters():
            assert torch.equal(served(engine)[name], weight.to(torch.bfloat16)), name


def test_engines_of_one_architecture_share_one_vllm_each_with_its_own_weights(vllm_stand_in):
    one, other = VllmEngine(small_policy(seed=0)), VllmEngine(small_policy(seed=1))
    assert one._llm is other._llm
    for engine in (one, other, one):
        with engine._awake():
            embedding = served(engine)["model.embed_tokens.weight"]
            assert torch.equal(embedding, engine.policy.model.model.embed_tokens.weight)
    assert VllmEngine(small_policy(), max_rows=3)._llm is not one._llm


def test_it_sleeps_but_while_it_samples(vllm_stand_in):
    engine = VllmEngine(small_policy())
    calls = engine._llm.calls
    cycle = ["wake ['weights']", "apply", "wake ['kv_cache']", "reset", "sleep 1"]
    assert calls == ["sleep 1", *cycle]
    calls.clear()
    during = []
    engine.sample(requests(), LIMIT, on_completions=lambda *_: during.append(list(calls)))
    assert calls == cycle
    assert {tuple(seen) for seen in during} == {tuple(cycle[:-1])}
    assert all(bool(weight.isnan().all()) for weight in served(engine).values())
    engine.sample([], LIMIT)
    assert calls == cycle


def test_it_sleeps_and_forgets_its_requests_after_an_error(vllm_stand_in):
    engine = VllmEngine(small_policy())

    def fail(*_):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        engine.sample(requests(), LIMIT, on_completions=fail)
    assert engine._llm.calls[-1] == "sleep 1"
    assert not engine._llm.llm_engine.has_unfinished_requests()


def test_each_request_as_vllm_gets_it(vllm_stand_in):
    policy = dataclasses.replace(small_policy(), eos_token_ids=(EOS, 7))
    engine, asked = VllmEngine(policy), requests()
    completions = engine.sample(asked, Sampling(6, 0.7, top_p=0.9, top_k=5))
    added = engine._llm.llm_engine.added
    assert [each.prompt for each in added] == [request.prompt.token_ids for request in asked]
    assert [each.params.seed for each in added] == [seed_of(request.key, num_bits=63) for request in asked]
    assert len({each.params.seed for each in added}) == len(asked)
    params = added[0].params
    assert (params.temperature, params.top_p, params.top_k, params.max_tokens) == (0.7, 0.9, 5, 6)
    assert params.stop_token_ids == [EOS, 7]
    assert 7 in {each.token_ids[-1] for each in completions if each.finish_reason == "eos"}


@pytest.mark.parametrize("num_bits", [31, 63])
def test_seeds_have_all_their_bits_and_no_more(num_bits):
    seeds = [seed_of((seed, 0, 0, 0, sample), num_bits=num_bits) for seed in range(20) for sample in range(20)]
    assert len(set(seeds)) == 400
    assert 0 <= min(seeds) < 2 ** (num_bits - 3)
    assert 2 ** (num_bits - 1) < max(seeds) < 2**num_bits


def test_the_random_numbers_of_the_process_go_on_as_they_were(vllm_stand_in):
    """Those of others: a reward of the user's may draw from them, and would be the same in every run."""

    policy = small_policy()
    drawn = []
    for make in (lambda: None, lambda: VllmEngine(policy)):
        random.seed(5)
        np.random.seed(5)  # noqa: NPY002
        torch.manual_seed(5)
        make()
        drawn.append((random.random(), np.random.rand(), float(torch.rand(()))))  # noqa: NPY002
    assert drawn[0] == drawn[1]


def test_the_entropy_is_estimated_from_the_tokens(vllm_stand_in):
    for completion in VllmEngine(small_policy()).sample(requests(), LIMIT):
        mean = -sum(completion.logprobs) / len(completion.logprobs)
        assert completion.entropy_nats == pytest.approx(mean)


def test_its_logprobs_are_never_taken_for_the_policys():
    policy = small_policy()
    half = dataclasses.replace(policy, autocast_dtype=torch.bfloat16)
    exact = {name: (logprobs_are_exact(name, policy), logprobs_are_exact(name, half)) for name in ("native", "vllm")}
    assert exact == {"native": (True, False), "vllm": (False, False)}


# --- weights ---


@pytest.mark.parametrize("kind", ["qwen2", "llama", "qwen3"])
def test_named_weights_are_those_of_a_model_folder(kind):
    """Tied ones once; whatever `state_dict` has besides is the same tensor by another name."""
    policy = kind_policy(kind, torch.float32)
    named = dict(named_weights(policy))
    state = policy.model.state_dict(keep_vars=True)
    assert all(state[name] is weight for name, weight in named.items())
    assert {id(weight) for weight in state.values()} == {id(weight) for weight in named.values()}
    assert len({id(weight) for weight in named.values()}) == len(named)


def adapted(policy, **settings):
    """With a LoRA adapter that changes something."""
    import peft

    options = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", "task_type": "CAUSAL_LM", **settings}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = peft.get_peft_model(policy.model, peft.LoraConfig(**options))
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return dataclasses.replace(policy, model=model.eval())


needs_peft = pytest.mark.skipif(find_spec("peft") is None, reason="needs peft")


@needs_peft
def test_an_adapter_is_added_to_the_weights_and_stays_beside_them(vllm_stand_in):
    plain = {name: weight.detach().clone() for name, weight in named_weights(small_policy())}
    policy = adapted(small_policy())
    before = {name: value.clone() for name, value in policy.model.state_dict().items()}
    engine = VllmEngine(policy)
    with engine._awake():
        loaded = {name: weight.clone() for name, weight in served(engine).items()}
    assert all(torch.equal(value, before[name]) for name, value in policy.model.state_dict().items())
    merged = dict(policy.model.merge_and_unload().named_parameters())
    assert loaded.keys() == merged.keys() == plain.keys()
    for name, weight in merged.items():
        torch.testing.assert_close(loaded[name], weight.detach())
    assert any(not torch.allclose(loaded[name], weight) for name, weight in plain.items())


@needs_peft
@pytest.mark.parametrize(
    ("settings", "where"),
    [
        ({"use_dora": True}, "q_proj"),
        ({"target_modules": ["embed_tokens"]}, "embed_tokens"),
        ({"target_modules": ["q_proj", "lm_head"]}, "lm_head"),
        ({"target_modules": ["q_proj"], "modules_to_save": ["norm"]}, "norm"),
    ],
    ids=["dora", "embedding", "tied head", "whole modules"],
)
@pytest.mark.filterwarnings("ignore")  # peft's own about tied weights
def test_an_adapter_that_cannot_be_added_is_refused_by_name(vllm_stand_in, settings, where):
    with pytest.raises(ModelError, match=rf"adapter on 'model\..*{where}|adapter on '{where}"):
        VllmEngine(adapted(small_policy(), **settings))


def test_weights_that_vllm_does_not_know_are_refused_by_name(vllm_stand_in):
    policy = small_policy()
    policy.model.model.layers[1].register_parameter("gate", torch.nn.Parameter(torch.ones(1)))
    with pytest.raises(
        ModelError, match=r"Qwen2ForCausalLM as the policy has them \(KeyError: 'model\.layers\.1\.gate'"
    ):
        VllmEngine(policy)


def test_weights_that_vllm_alone_has_are_refused_by_name(vllm_stand_in):
    policy = small_policy()
    del policy.model.model.norm.weight
    with pytest.raises(ModelError, match=r"1 weights that vLLM has.*'model\.norm\.weight' first: they would be random"):
        VllmEngine(policy)


def test_models_that_vllm_cannot_serve_are_refused(vllm_stand_in):
    class Homemade(type(small_policy().model)):
        pass

    policy = small_policy()
    policy.model.__class__ = Homemade
    with pytest.raises(ModelError, match=r"cannot serve a Homemade here: Model architectures \['Homemade'\] are not"):
        VllmEngine(policy)
    policy = small_policy()
    policy.model.config.num_experts = 8
    with pytest.raises(ModelError, match=r"mixture of experts \(num_experts\).*engine 'native'"):
        VllmEngine(policy)


def test_a_cache_without_room_is_said_and_one_with_little_room_shortens(vllm_stand_in):
    with pytest.raises(ModelError, match="cannot serve a Qwen2ForCausalLM here: Cannot auto-fit"):
        VllmEngine(small_policy(), cache_gib=1e-9)
    bytes_per_token = 2 * 2 * 2 * 8 * 4  # keys and values, layers, heads, head size, float32
    engine = VllmEngine(small_policy(), cache_gib=20 * bytes_per_token / 2**30)
    longest = max(len(request.prompt.token_ids) for request in requests())
    assert engine.sample(requests(), Sampling(20 - longest))
    with pytest.raises(ModelError, match=r"more than the 20 that.*raise rollout\.cache_gib"):
        engine.sample(requests(), Sampling(21 - longest))
    assert VllmEngine(small_policy())._llm.llm_engine.model_config.max_model_len == MAX_POSITIONS


# --- what goes wrong while sampling ---


@pytest.mark.parametrize("tag", ["weights", "kv_cache"])
def test_a_gpu_that_is_full_when_it_wakes_is_said_with_what_to_do(vllm_stand_in, monkeypatch, tag):
    engine, wake_up = VllmEngine(small_policy()), vllm_stand_in.LLM.wake_up

    def full(self, tags=None):
        if tags == [tag]:
            raise RuntimeError("CUDA Error: out of memory at cumem_allocator.cpp:139")
        wake_up(self, tags)

    monkeypatch.setattr(vllm_stand_in.LLM, "wake_up", full)
    with pytest.raises(ModelError, match=r"does not wake \(CUDA Error: out of memory at .*Lower rollout\.cache_gib"):
        engine.sample(requests(), LIMIT)


def test_broken_weights_are_noticed(vllm_stand_in):
    policy = small_policy()
    engine = VllmEngine(policy)
    with torch.no_grad():
        policy.model.model.norm.weight.fill_(torch.inf)
    with pytest.raises(NumericsError, match="not finite"):
        engine.sample(requests(), Sampling(6, 0.0))


def test_a_request_that_vllm_gave_up_is_an_error(vllm_stand_in, monkeypatch):
    engine = VllmEngine(small_policy())
    monkeypatch.setattr(vllm_stand_in.LLMEngine, "_advance", lambda self, request: "error")
    with pytest.raises(ModelError, match="gave up on a completion: error"):
        engine.sample(requests(), LIMIT)


# --- what is found before a model is loaded ---

FINE = {"device": "auto", "precision": "auto", "temperatures": [0.0, 0.01, 0.6, 2.0]}


def test_nothing_is_found_where_all_is_well(vllm_stand_in):
    check_vllm(**FINE)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"precision": "float64"}, r"no float64 \(model\.precision\)"),
        ({"temperatures": [1.0, 2.5]}, "from 0.01 to 2, not at 2.5"),
        ({"temperatures": [0.001]}, "not at 0.001"),
    ],
)
def test_what_vllm_cannot_do_is_refused(vllm_stand_in, change, said):
    with pytest.raises(ConfigError, match=said):
        check_vllm(**(FINE | change))


def test_other_devices_are_refused(vllm_stand_in, monkeypatch):
    monkeypatch.setattr(vllm, "resolve_device", lambda device: torch.device("cpu"))
    with pytest.raises(ConfigError, match=r"samples on a GPU, and model\.device = 'auto' is cpu here"):
        check_vllm(**FINE)
    monkeypatch.setattr(vllm, "resolve_device", torch.device)
    with pytest.raises(ConfigError, match="Set CUDA_VISIBLE_DEVICES=1"):
        check_vllm(**(FINE | {"device": "cuda:1"}))
    check_vllm(**(FINE | {"device": "cuda:0"}))


@pytest.mark.parametrize(
    ("version", "is_fine"),
    [("0.23.2", False), ("0.24.0", True), ("0.31.1rc2.dev3+g0a1b2c3", True), ("0.34.0", False), ("1.0", False)],
)
def test_other_versions_are_refused(vllm_stand_in, monkeypatch, version, is_fine):
    monkeypatch.setattr("importlib.metadata.version", lambda name: version)
    if is_fine:
        check_vllm(**FINE)
        return
    with pytest.raises(MissingExtraError, match=f"vllm {version} is installed.*0.24.*0.34.*ngrpo\\[vllm\\]"):
        check_vllm(**FINE)


@pytest.mark.skipif(find_spec("vllm") is not None, reason="vLLM is installed here")
def test_a_missing_extra_is_named():
    with pytest.raises(MissingExtraError, match=r"needs a GPU and vllm: pip install \"ngrpo\[vllm\]\""):
        check_vllm(**FINE)
    with pytest.raises(MissingExtraError, match="needs a GPU and vllm"):
        VllmEngine(small_policy())


def test_the_extra_asks_for_the_versions_that_are_accepted():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    low, high = (".".join(map(str, version)) for version in vllm.VERSIONS)
    assert project["optional-dependencies"]["vllm"] == [f"vllm>={low},<{high}"]
