"""Sampling from a server that speaks the OpenAI completions protocol: vLLM, SGLang, `transformers serve` and others.

One call per completion, so that each has a seed of its own and is known as soon as it ends; servers batch calls that
come together. For evaluation: such a server has weights of its own.
"""

import json
import math
import os
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from ngrpo.errors import ConfigError, Interrupted, NgrpoError
from ngrpo.record import console
from ngrpo.rollout.engine import OnCompletions, SampleRequest, Sampling, seed_of
from ngrpo.types import Completion, FinishReason

UNKNOWN_TOKEN = -1
"""In place of the id of a token: a server says how many it sampled, not which."""

FINISH_REASONS: dict[str, FinishReason] = {"stop": "eos", "length": "length"}
"""Ours by theirs; whatever else a completion ended of, it is no sample."""

MOST_TRIES = 6
"""Calls for one completion, before the evaluation is stopped; the waits between come to about half a minute."""

LONGEST_WAIT_S = 30.0
"""Between two tries, whatever the server asks for."""

PROBE_S = 10.0
"""How long a server may take to say that it is there."""

LOOK_S = 0.5
"""Seconds between two looks at whether to stop."""

PASSING = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
"""Status codes that may go away."""


class ServerEngine:
    """Samples from a server; an `Engine`.

    A completion has as many tokens as the server counted, of unknown ids, and neither log-probabilities nor entropy:
    those that servers give are not always of the distribution that was sampled from. Seeds make a server's samples
    independent; that they repeat is the server's promise, not ours.

    Args:
        url: Of the protocol's root, `http://host:8000/v1`.
        model: Its name there.
        tokenizer: The model's: decides whether a prompt goes as text or as token ids.
        num_at_once: Calls under way at the same time.
        timeout_s: How long one completion may take, in seconds.
        first_wait_s: Before the second try of a call; doubled each time.
    """

    def __init__(
        self,
        url: str,
        model: str,
        tokenizer: Any,
        *,
        num_at_once: int = 64,
        timeout_s: float = 1800.0,
        first_wait_s: float = 1.0,
    ) -> None:
        self.url, self.model, self.tokenizer = url.rstrip("/"), model, tokenizer
        self.num_at_once, self.timeout_s, self.first_wait_s = num_at_once, timeout_s, first_wait_s
        self._is_suspect = False

    def sample(
        self,
        requests: Sequence[SampleRequest],
        sampling: Sampling,
        *,
        on_completions: OnCompletions | None = None,
        should_stop: Callable[[], bool] | None = None,
    ) -> list[Completion]:
        """Samples every request; see `Engine.sample`.

        Raises:
            Interrupted: `should_stop` said so.
            ConfigError: The server refuses the call.
            NgrpoError: It does not answer any more.
        """
        placed: list[Completion | None] = [None] * len(requests)
        has_ended = threading.Event()
        try:
            told = self._call_for_all(requests, sampling, has_ended)
            num_missing = len(requests)
            while num_missing:
                if should_stop is not None and should_stop():
                    raise Interrupted("sampling was asked to stop")
                try:
                    item = told.get(timeout=LOOK_S)
                except queue.Empty:
                    continue
                if isinstance(item, BaseException):
                    raise item
                index, completion = item
                placed[index] = completion
                num_missing -= 1
                if on_completions is not None:
                    on_completions([index], [completion])
        finally:
            has_ended.set()
        if sampling.temperature > 0 and not self._is_suspect and are_alike(requests, placed):
            self._is_suspect = True  # said once
            console().print(
                f"{self.url} answers the same whenever it is asked the same: does it sample? Some servers take from "
                "the model's generation_config.json (do_sample) whether they do.",
                markup=False,
                soft_wrap=True,
            )
        return placed  # type: ignore[return-value]

    def _call_for_all(
        self, requests: Sequence[SampleRequest], sampling: Sampling, has_ended: threading.Event
    ) -> "queue.SimpleQueue[Any]":
        """Begins to call, several at a time; the queue gets (index, completion) of each, or an error."""
        todo: queue.SimpleQueue[int] = queue.SimpleQueue()
        told: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for index in range(len(requests)):
            todo.put(index)

        def work() -> None:
            while not has_ended.is_set():
                try:
                    index = todo.get_nowait()
                    told.put((index, self._complete(requests[index], sampling, has_ended)))
                except queue.Empty:
                    return
                except BaseException as error:  # noqa: BLE001  raised by the thread that asked for the samples
                    told.put(error)
                    return

        # Daemons, so that a call under way does not keep a program that was stopped from ending.
        for _ in range(min(self.num_at_once, len(requests))):
            threading.Thread(target=work, name="completion", daemon=True).start()
        return told

    def _complete(self, request: SampleRequest, sampling: Sampling, has_ended: threading.Event) -> Completion:
        body: dict[str, Any] = {
            "model": self.model,
            "prompt": self._prompt(request),
            "max_tokens": sampling.max_completion_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "seed": seed_of(request.key, num_bits=31),
        }
        if sampling.top_k:  # not of the protocol, though most servers know it: those that do not refuse it
            body["top_k"] = sampling.top_k
        answer = self._call(body, has_ended)
        try:
            return read_completion(answer, sampling.max_completion_tokens)
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise NgrpoError(
                f"{self.url}/completions gave no completion but {json.dumps(answer)[:300]} ({error!r}). It must speak "
                "the OpenAI completions protocol."
            ) from error

    def _prompt(self, request: SampleRequest) -> str | list[int]:
        """The text, where the server makes the same tokens of it as we do; else these."""
        prompt = request.prompt
        ids = tuple(self.tokenizer(prompt.text)["input_ids"])  # a server adds special tokens, as this does
        return prompt.text if ids == prompt.token_ids else list(prompt.token_ids)

    def _call(self, body: Mapping[str, Any], has_ended: threading.Event) -> Any:
        """One answer, after as many tries as it takes and is reasonable."""
        wait_s = self.first_wait_s
        for num_tries in range(1, MOST_TRIES + 1):
            asked_for = 0.0
            try:
                return ask(f"{self.url}/completions", body, self.timeout_s)
            except HTTPError as error:
                complaint = f"{error.code} {error.reason}: {_body_of(error)}"
                if error.code not in PASSING:
                    advice = ". Give the name that it has there with --model." if error.code == 404 else ""
                    raise ConfigError(
                        f"{self.url} refuses to sample from {self.model!r}: {complaint}{advice}"
                    ) from None
                asked_for = _retry_after(error)
            except (URLError, HTTPException, OSError, ValueError) as error:
                complaint = str(getattr(error, "reason", error)) or type(error).__name__
            if num_tries == MOST_TRIES or has_ended.wait(min(LONGEST_WAIT_S, max(wait_s, asked_for))):
                break
            wait_s *= 2
        raise NgrpoError(
            f"{self.url} gave no completion in {num_tries} tries; the last: {complaint}. Every sample that ended is "
            "on disk: the same command goes on when the server is back."
        )


def read_completion(answer: Any, max_tokens: int) -> Completion:
    """The first choice of an answer of `/completions`.

    Args:
        answer: The JSON.
        max_tokens: That were asked for at most.

    Raises:
        KeyError: It is no such answer.
        IndexError: It has no choice.
        TypeError: It is built otherwise.
        ValueError: The completion was not finished, or is longer than was asked for.

    Example:
        >>> choice = {"text": "4", "finish_reason": "stop"}
        >>> read_completion({"choices": [choice], "usage": {"completion_tokens": 2}}, 8).token_ids
        (-1, -1)
    """
    choice = answer["choices"][0]
    text, reason = choice["text"], choice["finish_reason"]
    num_tokens = (answer.get("usage") or {}).get("completion_tokens") or 0
    if not isinstance(text, str) or not isinstance(num_tokens, int):
        raise TypeError("text is no string, or completion_tokens no number")
    if reason not in FINISH_REASONS:
        raise ValueError(f"finish_reason is {reason!r}")
    if not 0 <= num_tokens <= max_tokens:
        raise ValueError(f"{num_tokens} tokens, where {max_tokens} were asked for at most")
    return Completion(
        token_ids=(UNKNOWN_TOKEN,) * num_tokens,
        logprobs=(),
        text=text,
        finish_reason=FINISH_REASONS[reason],
        entropy_nats=math.nan,
    )


def are_alike(requests: Sequence[SampleRequest], completions: Sequence[Completion | None]) -> bool:
    """Whether prompts that were sampled several times have one completion each, and there are several such prompts."""
    texts: dict[str, set[str]] = {}
    for request, completion in zip(requests, completions, strict=True):
        assert completion is not None
        texts.setdefault(request.prompt.id, set()).add(completion.text)
    return 2 <= len(texts) < len(requests) and all(len(found) == 1 for found in texts.values())


def check_server(url: str) -> None:
    """Sees that a server answers, before anything is sampled.

    Args:
        url: As for `ServerEngine`.

    Raises:
        ConfigError: It is no address, nobody answers, or the key is refused.
    """
    try:
        parts = urlsplit(url)
        is_address = parts.scheme in ("http", "https") and bool(parts.netloc) and not parts.query
    except ValueError:
        is_address = False
    if not is_address:
        raise ConfigError(f"--server {url!r} is no address. Give one like http://localhost:8000/v1.")
    models = f"{url.rstrip('/')}/models"
    try:
        ask(models, None, PROBE_S)
    except HTTPError as error:
        if error.code in (401, 403):
            raise ConfigError(
                f"{url} refuses the key ({error.code} {error.reason}). Set OPENAI_API_KEY to the server's."
            ) from None
        if error.code == 404:
            advice = "." if parts.path.rstrip("/") else f": {url.rstrip('/')}/v1?"
            raise ConfigError(f"{models} is not there (404). --server needs the path of the API{advice}") from None
    except (URLError, HTTPException, OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise ConfigError(
            f"no OpenAI-compatible server answers at {url} ({reason}). Start it, or mend --server."
        ) from None


def ask(url: str, body: Mapping[str, Any] | None, timeout_s: float) -> Any:
    """The JSON that a URL answers with.

    Args:
        url: The address.
        body: Sent as JSON; None asks without.
        timeout_s: Seconds until it is given up.

    Raises:
        HTTPError: The server said no.
        OSError: It said nothing.
        ValueError: It said something else than JSON.
    """
    headers = {"Content-Type": "application/json"}
    if key := os.environ.get("OPENAI_API_KEY"):
        headers["Authorization"] = f"Bearer {key}"
    data = None if body is None else json.dumps(body).encode()
    with urlopen(Request(url, data=data, headers=headers), timeout=timeout_s) as response:
        return json.loads(response.read())


def _body_of(error: HTTPError) -> str:
    """What a server wrote below its status, in one line."""
    try:
        return " ".join(error.read().decode("utf-8", "replace").split())[:500]
    except (OSError, HTTPException):
        return ""


def _retry_after(error: HTTPError) -> float:
    """Seconds that a server asks to wait; 0 where it asks for none (or names a date)."""
    text = error.headers.get("Retry-After", "")
    return float(text) if text.isdecimal() else 0.0
