"""An engine that answers what it is told to: the control that must score 1.0, and the fake of the tests."""

from collections.abc import Callable, Sequence

import torch

from ngrpo.errors import Interrupted
from ngrpo.policy import Policy, completion_logprobs, pad_rows
from ngrpo.rollout.engine import OnCompletions, SampleRequest, Sampling
from ngrpo.types import Completion


class ScriptedEngine:
    """Gives back prepared answers, with the log-probabilities the policy would have given them.

    Args:
        policy: Scores the answers, so that training on them has true old log-probabilities.
        answer: The text to answer a request with; its tokens get an end-of-sequence token, unless cut off.
        max_rows: Rows scored in one forward pass.
    """

    def __init__(self, policy: Policy, answer: Callable[[SampleRequest], str], *, max_rows: int = 512) -> None:
        self.policy = policy
        self.answer = answer
        self.max_rows = max_rows

    def sample(
        self,
        requests: Sequence[SampleRequest],
        sampling: Sampling,
        *,
        on_completions: OnCompletions | None = None,
        should_stop: Callable[[], bool] | None = None,
    ) -> list[Completion]:
        """Answers every request; see `Engine.sample`."""
        completions: list[Completion] = []
        for start in range(0, len(requests), self.max_rows):
            if should_stop is not None and should_stop():
                raise Interrupted("sampling was asked to stop")
            chunk = requests[start : start + self.max_rows]
            completions.extend(self._score(chunk, sampling))
            if on_completions is not None:
                on_completions(list(range(start, len(completions))), completions[start:])
        return completions

    @torch.inference_mode()
    def _score(self, requests: Sequence[SampleRequest], sampling: Sampling) -> list[Completion]:
        policy = self.policy
        policy.model.eval()
        texts = [self.answer(request) for request in requests]
        ids = [
            [*policy.tokenizer.encode(text, add_special_tokens=False), policy.eos_token_ids[0]][
                : sampling.max_completion_tokens
            ]
            for text in texts
        ]
        batch = pad_rows(
            [request.prompt.token_ids for request in requests],
            ids,
            pad_token_id=policy.pad_token_id,
            device=policy.device,
        )
        logprobs, entropies = completion_logprobs(
            policy, batch, temperature=sampling.temperature or 1.0, with_entropy=True
        )
        assert entropies is not None, "with_entropy was asked for"
        means = (entropies.where(batch.mask, 0.0).sum(-1) / batch.mask.sum(-1)).tolist()
        decoded = policy.tokenizer.batch_decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return [
            Completion(
                token_ids=tuple(row),
                logprobs=tuple(row_logprobs[: len(row)]),
                text=text,
                finish_reason="eos" if row[-1] in policy.eos_token_ids else "length",
                entropy_nats=entropy,
            )
            for row, row_logprobs, text, entropy in zip(ids, logprobs.tolist(), decoded, means, strict=True)
        ]
