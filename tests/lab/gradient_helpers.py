"""What tests of gradients share: groups of random completions under an exact model, a configuration, naive formulas."""

import math
from dataclasses import replace

import torch

from helpers import EOS, make_prompts, small_policy, with_exact_norms
from ngrpo.config import load_config
from ngrpo.lab.gradient_batches import sort_groups
from ngrpo.lab.gradient_measure import measure
from ngrpo.lab.gradient_methods import make_methods
from ngrpo.types import Completion, Group, Outcome

TEMPERATURE = 0.7
# By group: mixed, all wrong, all right, all wrong, mixed, all wrong.
LABELS = [[1, 0, 0, 1], [0, 0, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0], [0, 0, 0, 1], [0, 0, 0, 0]]
SIX = ("grpo", "ngrpo", "dapo", "psr", "nsr", "w_reinforce")


def exact_policy():
    """A policy that is float64 in every respect."""
    return with_exact_norms(small_policy(torch.float64))


def config_of(*overrides, group_size=4):
    settings = ("validation=none", f"rollout.num_samples_per_prompt={group_size}", f"rollout.temperature={TEMPERATURE}")
    return load_config("tiny", [*settings, *overrides])


def naive_logprobs(policy, prompt_ids, completion_ids, temperature=TEMPERATURE):
    """[T, V] log-probabilities at each place of a completion: one sequence through the model, nothing else."""
    ids = torch.tensor([[*prompt_ids, *completion_ids]])
    logits = policy.model(input_ids=ids).logits[0, len(prompt_ids) - 1 : -1]
    return (logits / temperature).log_softmax(-1)


def naive_token_logprobs(policy, prompt_ids, completion_ids):
    return naive_logprobs(policy, prompt_ids, completion_ids)[range(len(completion_ids)), list(completion_ids)]


def make_groups(policy, labels=LABELS, *, seed=1):
    """Random completions of one to eight tokens; one in three is cut off."""
    random = torch.Generator().manual_seed(seed)
    prompts = make_prompts()
    groups = []
    for place, row in enumerate(labels):
        prompt = prompts[place % len(prompts)]
        prompt = replace(prompt, id=f"{prompt.id} {place}")
        completions = []
        for number in range(len(row)):
            length = int(torch.randint(1, 8, (1,), generator=random))
            ids = torch.randint(2, 18, (length,), generator=random).tolist()
            ids = ids if number % 3 == 2 else [*ids, EOS]
            with torch.no_grad():
                logprobs = naive_token_logprobs(policy, prompt.token_ids, ids)
            completions.append(
                Completion(tuple(ids), tuple(logprobs.tolist()), "text", "eos" if ids[-1] == EOS else "length")
            )
        groups.append(Group(prompt, tuple(completions), tuple(Outcome(float(each), bool(each)) for each in row)))
    return groups


def naive_advantages(name, rewards):
    """Each method's formula, written down anew: of one group."""
    if name in ("grpo", "dapo", "ngrpo"):
        everyone = [*rewards, *([1.0] if name == "ngrpo" else [])]
        mean = sum(everyone) / len(everyone)
        std = math.sqrt(sum((each - mean) ** 2 for each in everyone) / (len(everyone) - 1))
        return [(each - mean) / (std + 1e-6) for each in rewards]
    right, wrong = {"psr": (1.0, 0.0), "nsr": (0.0, -1.0), "w_reinforce": (0.1, -1.0)}[name]
    return [right if each else wrong for each in rewards]


def naive_gradient(policy, name, groups, parameters):
    """The policy gradient of a batch, completion by completion: minus the sum of A grad log p, over all tokens."""
    loss, num_tokens = 0.0, 0
    for group in groups:
        rewards = [outcome.value for outcome in group.outcomes]
        for completion, advantage in zip(group.completions, naive_advantages(name, rewards), strict=True):
            logprobs = naive_token_logprobs(policy, group.prompt.token_ids, completion.token_ids)
            loss = loss - advantage * logprobs.sum()
            num_tokens += len(completion.token_ids)
    return torch.cat([each.flatten() for each in torch.autograd.grad(loss / num_tokens, parameters)])


def measured(policy, groups, tmp_path, *, methods=SIX, num_groups=9, num_parts=2, gold_of=lambda _: None, **more):
    group_size = len(groups[0].outcomes)
    config = more.pop("config", None) or config_of(group_size=group_size)
    return measure(
        policy,
        make_methods(methods, config),
        groups,
        sort_groups(groups, num_groups),
        config,
        folder=tmp_path,
        num_parts=num_parts,
        sgd_norm=more.pop("sgd_norm", None),
        gold_of=gold_of,
        on_progress=lambda *_: None,
    )


def norm_of(told, method, batch):
    return next(each for each in told["norms"] if (each["method"], each["batch"]) == (method, batch))


def cosine_of(told, one, other):
    keys = ("method", "batch")
    pairs = ((tuple(each["a"][k] for k in keys), tuple(each["b"][k] for k in keys), each) for each in told["cosines"])
    return next(each for a, b, each in pairs if {a, b} == {one, other})
