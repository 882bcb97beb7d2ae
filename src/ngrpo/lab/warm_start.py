"""The training loop of a warm start: supervised, from random weights, float32, one thread.

The same rows and numbers give the same weights, bit for bit. For matrices this small a second thread gains little on a
quiet machine and loses several times as much on a busy one.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ngrpo.lab.setups import WarmStart
from ngrpo.train.schedule import learning_rate
from ngrpo.worlds import Demonstration

if TYPE_CHECKING:
    import torch
    from transformers import Qwen2ForCausalLM, Qwen2Tokenizer

OnStep = Callable[[int, int, float], None]

# Twice what a prompt and its completion need, so that a template around the prompt still fits.
MAX_POSITIONS = 64

WEIGHT_DECAY = 0.01
MAX_GRAD_NORM = 1.0
FINAL_LR_FRAC = 0.1
WARMUP_DIVISOR = 20  # a twentieth of the steps


def architecture(hidden_size: int) -> dict[str, Any]:
    """What a `Qwen2Config` of this width is made with."""
    return {
        "hidden_size": hidden_size,
        "intermediate_size": 3 * hidden_size,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "max_position_embeddings": MAX_POSITIONS,
        "tie_word_embeddings": True,
    }


def new_model(tokenizer: "Qwen2Tokenizer", seed: int, *, hidden_size: int = 64) -> "Qwen2ForCausalLM":
    """Make a Qwen2 with random weights, leaving the caller's random state as it was."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(
        **architecture(hidden_size),
        vocab_size=len(tokenizer),
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        attn_implementation="sdpa",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Qwen2ForCausalLM(config)


def train(
    model: "Qwen2ForCausalLM",
    tokenizer: "Qwen2Tokenizer",
    shown: Sequence[Demonstration],
    warm_start: WarmStart,
    on_step: OnStep | None,
) -> list[float]:
    """Train on each demonstration once, in their order, and return the loss of every step, in nats per token."""
    import torch

    optimizer = torch.optim.AdamW(model.parameters(), lr=warm_start.lr, weight_decay=WEIGHT_DECAY, fused=True)
    model.train()
    losses = []
    for step in range(warm_start.num_steps):
        of_step = shown[step * warm_start.rows_per_step : (step + 1) * warm_start.rows_per_step]
        num_tokens = sum(len(each.completion) - each.num_unlearned + 1 for each in of_step)
        loss_sum = 0.0
        for input_ids, is_target in batches(of_step, tokenizer):
            batch_loss = summed_loss(model, input_ids, is_target)
            (batch_loss / num_tokens).backward()
            loss_sum += batch_loss.item()
        torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_GRAD_NORM)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(
                step,
                peak=warm_start.lr,
                num_steps=warm_start.num_steps,
                warmup_steps=warm_start.num_steps // WARMUP_DIVISOR,
                schedule="cosine",
                min_lr_frac=FINAL_LR_FRAC,
            )
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss_sum / num_tokens)
        if on_step is not None:
            on_step(step + 1, warm_start.num_steps, losses[-1])
    model.eval()
    return losses


def batches(shown: Sequence[Demonstration], tokenizer: "Qwen2Tokenizer") -> list[tuple["torch.Tensor", "torch.Tensor"]]:
    """Cut demonstrations into right-padded batches by the length of their completion, which leaves little padding.

    Returns:
        For each length: token ids [N, T] and the mask [N, T] of the tokens that are learned.
    """
    import torch

    vocabulary = tokenizer.get_vocab()  # one token per character: a look-up is all that encoding does
    by_length = defaultdict(list)
    for each in shown:
        by_length[len(each.completion)].append(each)
    found = []
    for _, alike in sorted(by_length.items()):
        texts = [each.prompt + each.completion for each in alike]
        ids = [[vocabulary[character] for character in text] + [tokenizer.eos_token_id] for text in texts]
        width = max(map(len, ids))
        input_ids = torch.tensor([row_ids + [tokenizer.pad_token_id] * (width - len(row_ids)) for row_ids in ids])
        first = torch.tensor([len(each.prompt) + each.num_unlearned for each in alike])[:, None]
        end = torch.tensor([len(row_ids) for row_ids in ids])[:, None]
        position = torch.arange(width)
        found.append((input_ids, (first <= position) & (position < end)))
    return found


def summed_loss(model: "Qwen2ForCausalLM", input_ids: "torch.Tensor", is_target: "torch.Tensor") -> "torch.Tensor":
    """Sum of -log p over the target tokens.

    No attention mask: padding is on the right, where causal attention never sees it, and without a mask tensor
    the fused causal kernel runs.
    """
    import torch

    hidden = model.model(input_ids=input_ids, use_cache=False).last_hidden_state
    logits = model.lm_head(hidden[:, :-1][is_target[:, 1:]])
    return torch.nn.functional.cross_entropy(logits, input_ids[:, 1:][is_target[:, 1:]], reduction="sum")
