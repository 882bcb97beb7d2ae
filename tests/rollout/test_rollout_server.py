"""Sampling from an OpenAI-compatible server, played by one of the standard library that says what a test wants."""

import json
import math
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from helpers import make_prompt, make_prompts, small_tokenizer
from ngrpo.errors import ConfigError, Interrupted, NgrpoError
from ngrpo.evaluate.runner import made_by
from ngrpo.record import append_lines, read_jsonl
from ngrpo.rollout import SampleRequest, Sampling, random_key
from ngrpo.rollout.engine import seed_of
from ngrpo.rollout.server import MOST_TRIES, ServerEngine, check_server


class Handler(BaseHTTPRequestHandler):
    """Answers with what the server's `say(body)` gives: (status, headers, JSON)."""

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.bodies.append(body)
        self.server.keys.append(self.headers.get("Authorization"))
        self._answer(*self.server.say(body))

    def do_GET(self):
        self._answer(*self.server.models)

    def _answer(self, status, headers, answer):
        data = json.dumps(answer).encode()
        if status == "hang up":
            return
        if status == "cut off":
            headers, data, status = {"Content-Length": len(data)}, data[:5], 200
        elif status == "garbage":
            data, status = b"<html>", 200
        self.send_response(status)
        for name, value in {"Content-Length": len(data), **headers}.items():
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


def completed(text, reason="stop", num_tokens=3):
    return 200, {}, {"choices": [{"text": text, "finish_reason": reason}], "usage": {"completion_tokens": num_tokens}}


def echo(body):
    """A completion that says its seed."""
    return completed(str(body["seed"]))


@pytest.fixture
def server():
    found = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found.bodies, found.keys, found.say, found.models = [], [], echo, (200, {}, {"data": []})
    found.url = f"http://127.0.0.1:{found.server_port}/v1"
    thread = threading.Thread(target=found.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield found
    found.shutdown()
    thread.join()
    found.server_close()


def engine_at(server, **options):
    return ServerEngine(server.url, "tiny", small_tokenizer(), **{"num_at_once": 4, "first_wait_s": 0.01, **options})


def requests_of(count):
    return [
        SampleRequest(prompt, random_key(seed=0, stream=1, step=0, occurrence=place, sample=sample))
        for place, prompt in enumerate(make_prompts())
        for sample in range(count)
    ]


def test_every_request_is_asked_once_with_a_seed_of_its_own_and_answers_go_where_they_belong(server, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "open sesame")
    requests, told = requests_of(5), []
    completions = engine_at(server).sample(
        requests, Sampling(7, 0.6, top_p=0.9), on_completions=lambda *ended: told.append(ended)
    )
    assert [each.text for each in completions] == [str(seed_of(request.key, num_bits=31)) for request in requests]
    assert len({each.text for each in completions}) == len(requests)
    assert sorted(index for (index,), _ in told) == list(range(len(requests)))
    assert all(completions[index] is completion for (index,), (completion,) in told)
    assert len(server.bodies) == len(requests)
    assert set(server.keys) == {"Bearer open sesame"}
    body = next(body for body in server.bodies if body["seed"] == seed_of(requests[0].key, num_bits=31))
    assert body == {
        "model": "tiny", "prompt": requests[0].prompt.text, "max_tokens": 7, "temperature": 0.6, "top_p": 0.9,
        "seed": body["seed"],
    }  # fmt: skip


def test_what_a_server_says_of_a_completion_is_kept_and_nothing_is_made_up(server):
    def say(body):
        counts = {"usage": {"completion_tokens": 2}} if body["seed"] == seed_of((0,), num_bits=31) else {}
        return 200, {}, {"choices": [{"text": "4", "finish_reason": "length"}], **counts}

    server.say = say
    prompt = make_prompt("1,2=3:")
    given, bare = engine_at(server).sample([SampleRequest(prompt, (0,)), SampleRequest(prompt, (1,))], Sampling(2))
    assert (given.token_ids, given.logprobs, given.finish_reason) == ((-1, -1), (), "length")
    assert bare.token_ids == ()
    assert math.isnan(given.entropy_nats)
    assert made_by(given) == {"finish_reason": "length", "tokens": 2}
    assert made_by(bare) == {"finish_reason": "length"}


def test_a_server_that_does_not_sample_is_told_of(server, capsys):
    """It ignores seed and temperature."""
    engine_at(server).sample(requests_of(2), Sampling(4))
    assert capsys.readouterr().err == ""
    server.say = lambda body: completed(body["prompt"])
    for sampling, is_told in ((Sampling(4), True), (Sampling(4, temperature=0.0), False)):
        engine_at(server).sample(requests_of(2), sampling)
        assert ("answers the same whenever it is asked the same: does it sample?" in capsys.readouterr().err) == is_told


@pytest.mark.parametrize("text", ["\ud800 [bold]", "\x00\u2028\r\n", "\U0001f600" * 1000, ""])
def test_any_text_reaches_the_disk(server, tmp_path, text):
    server.say = lambda body: completed(text)
    (completion,) = engine_at(server).sample([SampleRequest(make_prompt("1,2=3:"), (0,))], Sampling(4))
    assert completion.text == text
    append_lines(tmp_path / "x.jsonl", [{"text": completion.text}])
    assert read_jsonl(tmp_path / "x.jsonl") == [{"text": text}]


def test_a_prompt_that_the_server_would_encode_otherwise_goes_as_token_ids(server):
    prompt = make_prompt("1,2=3:")
    doubled = type(prompt)(prompt.id, prompt.text, (1, *prompt.token_ids), prompt.gold)
    engine_at(server).sample([SampleRequest(doubled, (0,))], Sampling(3, top_k=5))
    assert server.bodies[0]["prompt"] == [1, *prompt.token_ids]
    assert server.bodies[0]["top_k"] == 5


@pytest.mark.parametrize("trouble", [429, 500, 503, "hang up", "cut off", "garbage"])
def test_what_may_pass_is_asked_again_and_nothing_is_lost(server, trouble):
    seen = set()

    def say(body):
        if body["seed"] in seen:
            return echo(body)
        seen.add(body["seed"])
        return trouble, {"Retry-After": "0"}, {"error": "busy"}

    server.say = say
    completions = engine_at(server).sample(requests_of(2), Sampling(4))
    assert [each.text for each in completions] == [str(seed_of(request.key, num_bits=31)) for request in requests_of(2)]
    assert len(server.bodies) == 2 * len(completions)


def test_a_server_that_stays_broken_is_given_up_and_what_ended_was_told(server):
    first = seed_of(requests_of(1)[0].key, num_bits=31)
    server.say = lambda body: echo(body) if body["seed"] == first else (503, {}, {"error": "no memory"})
    told = []
    message = rf"gave no completion in {MOST_TRIES} tries; the last: 503 .*no memory.*the same command goes on"
    with pytest.raises(NgrpoError, match=message):
        engine_at(server, num_at_once=1).sample(
            requests_of(1), Sampling(4), on_completions=lambda indices, _: told.extend(indices)
        )
    assert told == [0]


@pytest.mark.parametrize(
    ("say", "error", "message"),
    [
        (lambda body: (404, {}, {"error": "no tiny"}), ConfigError, r"from 'tiny': 404 .*no tiny.* with --model\."),
        (lambda body: (400, {}, {"error": "seed"}), ConfigError, r"refuses to sample from 'tiny': 400 .*seed"),
        (lambda body: (200, {}, {"choices": []}), NgrpoError, r"gave no completion but .*choices.*OpenAI"),
        (lambda body: (200, {}, {"message": 1}), NgrpoError, r"gave no completion but .*KeyError"),
        (lambda body: (200, {}, ["choices"]), NgrpoError, r"gave no completion but .*TypeError"),
        (lambda body: completed(None), NgrpoError, r"gave no completion but .*text is no string"),
        (lambda body: completed("4", reason="abort"), NgrpoError, r"gave no completion but .*finish_reason is 'abort'"),
        (lambda body: completed("4", num_tokens=10**12), NgrpoError, r"1000000000000 tokens, where 4 were asked for"),
        (lambda body: completed("4", num_tokens="3"), NgrpoError, r"completion_tokens no number"),
    ],
)  # fmt: skip
def test_what_will_not_pass_is_said_at_once(server, say, error, message):
    server.say = say
    with pytest.raises(error, match=message):
        engine_at(server, num_at_once=1).sample(requests_of(1), Sampling(4))
    assert len(server.bodies) == 1


def test_sampling_stops_when_asked(server):
    with pytest.raises(Interrupted, match="asked to stop"):
        engine_at(server).sample(requests_of(1), Sampling(4), should_stop=lambda: True)


def test_a_server_is_looked_for_first(server):
    check_server(server.url)
    for status, message in (
        (401, r"refuses the key \(401 .*Set OPENAI_API_KEY"),
        (404, r"/models is not there \(404\)"),
    ):
        server.models = (status, {}, {})
        with pytest.raises(ConfigError, match=message):
            check_server(server.url)
    with pytest.raises(ConfigError, match=r"the path of the API\.$"):  # it has one
        check_server(server.url)
    with pytest.raises(ConfigError, match=r"the path of the API: http://127\.0\.0\.1:\d+/v1\?$"):
        check_server(server.url.removesuffix("/v1"))


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://127.0.0.1:1/v1", r"no OpenAI-compatible server answers at http://127\.0\.0\.1:1/v1 .*refused"),
        ("http://127.0.0.1:port/v1", r"no OpenAI-compatible server answers at .*nonnumeric port"),
        ("http://a b/v1", r"no OpenAI-compatible server answers at http://a b/v1 "),
        ("http://./v1", r"no OpenAI-compatible server answers at http://\./v1 "),
        ("localhost:8000", r"--server 'localhost:8000' is no address"),
        ("file:///etc/passwd", r"--server 'file:///etc/passwd' is no address"),
        ("http://[::1", r"--server 'http://\[::1' is no address"),
        ("", r"--server '' is no address"),
    ],
)
def test_addresses_that_are_none(url, message):
    with pytest.raises(ConfigError, match=message):
        check_server(url)
