"""NGRPO in one file: nothing but torch and a transformers model. Read it from top to bottom.

    python examples/02_single_file.py                      # half a minute on one core
    python examples/02_single_file.py --objective grpo     # the same without the virtual reward, and with GRPO's clip

The task: three digits and a target, `352=16:`, are to be answered by `3+5*2.`, an expression that has each digit once
and reaches the target when evaluated from left to right. A small Qwen2 first sees a few examples (the warm start: what
is never right by chance cannot be reinforced), then it practises.

Names end in their axes where that helps: P prompts, G completions of each prompt (a group). Every loss is minimised.
"""

import argparse
import json
import random
import re
from pathlib import Path

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import Qwen2Config, Qwen2ForCausalLM

# All that tells the methods apart here: imagined completions in each group, and how far a probability may move.
METHODS = {
    "ngrpo": {"num_virtual": 1, "clip_low": 0.16, "clip_high": 0.24},
    "grpo": {"num_virtual": 0, "clip_low": 0.2, "clip_high": 0.2},
}
SYMBOLS = "_.0123456789+-*=:"  # one token per character; its id is its place
PAD, EOS = SYMBOLS.index("_"), SYMBOLS.index(".")


def value_of(expression):
    """Evaluates digits and operators from left to right, like a pocket calculator."""
    total = int(expression[0])
    for operator, digit in zip(expression[1::2], map(int, expression[2::2]), strict=True):
        total = {"+": total + digit, "-": total - digit, "*": total * digit}[operator]
    return total


def make_problem(rng):
    """A prompt and one of its right answers, as token ids."""
    value = -1
    while not 0 <= value <= 99:
        digits = rng.choices("123456789", k=3)
        answer = digits[0] + rng.choice("+-*") + digits[1] + rng.choice("+-*") + digits[2]
        value = value_of(answer)
    rng.shuffle(digits)
    return [[SYMBOLS.index(symbol) for symbol in text] for text in (f"{''.join(digits)}={value:02d}:", answer + ".")]


def reward(prompt_ids, answer_ids):
    """1 for a right answer, 0 for any other. The form is checked first: a verifier trusts nothing that it reads."""
    prompt, answer = ("".join(SYMBOLS[token] for token in ids) for ids in (prompt_ids, answer_ids))
    is_expression = re.fullmatch(r"[1-9]([-+*][1-9]){2}\.", answer) is not None
    uses_digits_once = is_expression and sorted(answer[0:5:2]) == sorted(prompt[:3])
    return float(uses_digits_once and value_of(answer[:-1]) == int(prompt[4:6]))


def make_model(seed, **config):
    """A random Qwen2: equal seeds, equal weights."""
    torch.manual_seed(seed)
    return Qwen2ForCausalLM(Qwen2Config(bos_token_id=None, eos_token_id=EOS, pad_token_id=PAD, **config))


def make_optimizer(model, weight_decay=0.0):
    """AdamW. Weight decay pulls at matrices only: biases and norms are not to be pulled to zero."""
    matrices, others = ([p for p in model.parameters() if (p.ndim > 1) == is_matrix] for is_matrix in (True, False))
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups)


def completion_logprobs(model, prompts, completions):
    """The log-probability of every completion token, one completion after the other in a single row of numbers.

    Padding is on the right, where causal attention never looks: no attention mask is needed.
    """
    ids = pad_sequence([torch.tensor([*p, *c]) for p, c in zip(prompts, completions, strict=True)], batch_first=True)
    logprobs = model(input_ids=ids).logits[:, :-1].log_softmax(-1)  # what stands at a token is about the next one
    logprobs = logprobs.gather(-1, ids[:, 1:, None]).squeeze(-1)
    rows = zip(logprobs, map(len, prompts), map(len, completions), strict=True)
    return torch.cat([row[start - 1 : start - 1 + length] for row, start, length in rows])


@torch.no_grad()
def sample(model, prompts, num_samples, max_tokens=8):
    """Completions, `num_samples` for each prompt, and the log-probabilities that their tokens were sampled with.

    Prompts have one length here, so nothing is padded. Each is read once, then its cache is copied for its samples.
    """
    output = model(input_ids=torch.tensor(prompts), use_cache=True)
    cache, logits = output.past_key_values, output.logits[:, -1].repeat_interleave(num_samples, dim=0)
    cache.batch_repeat_interleave(num_samples)
    tokens, logprobs = [], []
    for _ in range(max_tokens):
        distribution = logits.log_softmax(-1)
        tokens.append(torch.multinomial(distribution.exp(), 1))
        logprobs.append(distribution.gather(-1, tokens[-1]))
        logits = model(input_ids=tokens[-1], past_key_values=cache, use_cache=True).logits[:, -1]
    tokens, logprobs = torch.cat(tokens, 1).tolist(), torch.cat(logprobs, 1).tolist()
    lengths = [(*row, EOS).index(EOS) + 1 for row in tokens]  # up to its end, or all of it where it has none
    return [[row[:length] for row, length in zip(rows, lengths, strict=True)] for rows in (tokens, logprobs)]


# ------------------------------------------------------------------------------------------------- NGRPO, from here on


def ngrpo_advantages(rewards_PG, *, num_virtual=1, virtual_reward=1.0, eps=1e-6):
    """How much better than its group each completion did, in standard deviations of the group: [P, G].

    NGRPO's idea: `num_virtual` imagined completions, which earned the best reward there is, join the mean and the
    standard deviation of each group. They have no tokens, and no loss. For rewards of 0 and 1 it follows:

    - All wrong: GRPO compares zeros with zeros, every advantage is 0, and a group that failed altogether teaches
      nothing. Here the mean lies above all of them: each gets -1 / sqrt(G + 1), so what was tried becomes less likely,
      and something else gets its chance.
    - Mixed: the right ones gain a little less, the wrong ones lose a little more. The sum is negative, no longer 0.
    - All right: as good as the imagined ones, so every advantage is 0.
    """
    virtual = torch.full((len(rewards_PG), num_virtual), virtual_reward, dtype=rewards_PG.dtype)
    values = torch.cat([rewards_PG, virtual], dim=1)
    advantages_PG = (rewards_PG - values.mean(1, keepdim=True)) / (values.std(1, keepdim=True) + eps)
    # The sum of seven 0.9 is not 6.3: without this line a rounding error, divided by eps, would be an advantage.
    return advantages_PG.masked_fill(values.amin(1, keepdim=True) == values.amax(1, keepdim=True), 0.0)


def token_loss(logprobs, old_logprobs, advantages, *, clip_low, clip_high):
    """PPO's clipped surrogate, per token, and whether a bound stopped the token's gradient: above, below.

    A token with a positive advantage is pushed up until it is 1 + clip_high times as likely as when it was sampled; one
    with a negative advantage, down to 1 - clip_low. NGRPO's virtual reward makes the pushes down stronger and more
    frequent; therefore its lower bound is the tighter one.
    """
    ratio = (logprobs - old_logprobs).exp()
    objective = torch.minimum(ratio * advantages, ratio.clamp(1 - clip_low, 1 + clip_high) * advantages)
    return -objective, (advantages > 0) & (ratio > 1 + clip_high), (advantages < 0) & (ratio < 1 - clip_low)


def update(model, optimizer, rows, *, clip_low, clip_high, max_grad_norm=1.0, rows_per_microbatch=64):
    """One optimiser step on rows of (prompt, completion, log-probabilities as sampled, advantage).

    The loss is a mean over all tokens of the step. They are counted before the step is cut into microbatches: with a
    mean in each microbatch, the weight of a token would depend on its neighbours.
    """
    num_tokens = sum(len(completion) for _, completion, _, _ in rows)
    # Zeros, not None: AdamW steps even where no row has an advantage (or none is left), so that momentum fades as it
    # does under any other method. To skip such steps would freeze it.
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    loss, counts = 0.0, torch.zeros(4)
    for start in range(0, len(rows), rows_per_microbatch):
        prompts, completions, old, advantages = zip(*rows[start : start + rows_per_microbatch], strict=True)
        logprobs = completion_logprobs(model, prompts, completions)
        old = logprobs.new_tensor([value for values in old for value in values])
        advantages = logprobs.new_tensor(advantages).repeat_interleave(torch.tensor([len(c) for c in completions]))
        losses, is_high, is_low = token_loss(logprobs, old, advantages, clip_low=clip_low, clip_high=clip_high)
        (losses.sum() / num_tokens).backward()
        loss += losses.sum().item() / num_tokens
        counts += torch.stack([each.sum() for each in (is_high, advantages > 0, is_low, advantages < 0)])
    grad_norm = torch.nn.utils.clip_grad_norm_(model.parameters(), max_grad_norm, error_if_nonfinite=True).item()
    optimizer.step()
    num_high, num_positive, num_low, num_negative = counts.tolist()
    fractions = {"clip_high_frac": num_high / max(1, num_positive), "clip_low_frac": num_low / max(1, num_negative)}
    return {"loss": loss, "grad_norm": grad_norm, **fractions}


def learn(model, optimizer, prompts, completions, logprobs, rewards_PG, *, num_virtual, num_updates, **options):
    """Several updates on one batch of completions, group after group; each update has its share of the groups.

    From the second on, the model is no longer the one that sampled: this is what the ratio and its bounds are for.
    """
    advantages = ngrpo_advantages(rewards_PG, num_virtual=num_virtual).flatten().tolist()
    rows = list(zip(prompts, completions, logprobs, advantages, strict=True))
    # A group that is all right has nothing to give but tokens to divide by. (The library samples others in its place.)
    is_kept_P = (rewards_PG < 1).any(dim=1)
    parts = torch.arange(len(rows)).view_as(rewards_PG)[is_kept_P].tensor_split(num_updates)
    return [update(model, optimizer, [rows[n] for n in part.flatten().tolist()], **options) for part in parts]


def set_rate(optimizer, peak, step, warmup_steps):
    """Warm-up is counted in rollout steps: counted in updates, it would starve methods that make fewer of them."""
    for group in optimizer.param_groups:
        group["lr"] = peak * min(1.0, (step + 1) / warmup_steps)


def train(method, *, num_steps, num_warm_steps, seed):
    """A warm start, then rollout steps of 32 prompts x 8 completions, 4 updates each. Prints how it goes."""
    rng = random.Random(seed)
    sizes = {"hidden_size": 64, "intermediate_size": 192, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = make_model(seed, vocab_size=len(SYMBOLS), num_key_value_heads=4, **sizes)
    optimizer = make_optimizer(model)
    for step in range(num_warm_steps):
        set_rate(optimizer, 4e-3, step, warmup_steps=20)
        prompts, answers = zip(*[make_problem(rng) for _ in range(128)], strict=True)
        optimizer.zero_grad()
        (-completion_logprobs(model, prompts, answers).mean()).backward()
        optimizer.step()
    optimizer, means = make_optimizer(model), []
    for step in range(num_steps):
        set_rate(optimizer, 2e-4, step, warmup_steps=5)
        drawn = [make_problem(rng)[0] for _ in range(32)]
        completions, logprobs = sample(model, drawn, 8)
        prompts = [prompt for prompt in drawn for _ in range(8)]
        rewards_PG = torch.tensor(list(map(reward, prompts, completions))).view(32, 8)
        updates = learn(model, optimizer, prompts, completions, logprobs, rewards_PG, num_updates=4, **METHODS[method])
        means.append(rewards_PG.mean().item())
        if (step + 1) % 10 == 0 or step + 1 == num_steps:
            all_wrong_frac = (rewards_PG == 0).all(dim=1).float().mean().item()
            numbers = {"reward": sum(means[-10:]) / len(means[-10:]), "all_wrong_frac": all_wrong_frac, **updates[-1]}
            print(f"step {step + 1:3d}", *(f"{name} {value:.3f}" for name, value in numbers.items()), sep="  ")


def golden_trace(script):
    """Rollout steps on scripted completions in float64: the numbers that a test of the package is held against."""
    model = make_model(script["seed"], **script["model"]).double()
    optimizer, steps = make_optimizer(model, script["weight_decay"]), []
    for step, groups in enumerate(script["steps"]):
        set_rate(optimizer, script["lr"], step, script["warmup_steps"])
        prompts = [group["prompt"] for group in groups for _ in group["completions"]]
        completions = [completion for group in groups for completion in group["completions"]]
        rewards_PG = torch.tensor([group["rewards"] for group in groups], dtype=torch.float64)
        with torch.no_grad():
            values = completion_logprobs(model, prompts, completions)
        old = [each.tolist() for each in values.split([len(completion) for completion in completions])]
        updates = learn(model, optimizer, prompts, completions, old, rewards_PG, **METHODS["ngrpo"], **script["update"])
        steps.append({"updates": updates, "parameter_sum": sum(p.sum().item() for p in model.parameters())})
    return steps


def main():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--objective", choices=METHODS, default="ngrpo")
    parser.add_argument("--steps", type=int, default=120, help="rollout steps")
    parser.add_argument("--warm-steps", type=int, default=150, help="supervised steps before them")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--trace", nargs=2, type=Path, metavar=("SCRIPT.json", "OUT.json"), help="make a golden trace")
    options = parser.parse_args()
    torch.set_num_threads(1)  # for matrices this small, a second thread costs more than it does
    if options.trace:
        script, out = options.trace
        out.write_text(json.dumps(golden_trace(json.loads(script.read_text())), indent=1) + "\n")
    else:
        train(options.objective, num_steps=options.steps, num_warm_steps=options.warm_steps, seed=options.seed)


if __name__ == "__main__":
    main()
