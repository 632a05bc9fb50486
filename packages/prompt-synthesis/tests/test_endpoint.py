"""The endpoint against a real local server that answers well, slowly, wrongly, or not at all."""

import json
import logging
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from semaug.artifacts.errors import InvalidOption
from semaug.prompt_synthesis.endpoint import ChatEndpoint, EndpointError, Patience, Sampling, chat_address
from semaug.prompt_synthesis.rewriting import EndpointRewriter, Rewrite, RewriteSettings

HURRIED = Patience(timeout_s=30.0, attempts=3, first_wait_s=0.01, longest_wait_s=0.05)
SAMPLING = Sampling(0.5, 0.9, 20)
SECRET = "sk-not-to-be-seen"


class Server(ThreadingHTTPServer):
    """Answers each request with ``reply(handler, body, n)``, n counting from 1; keeps what it was asked."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, reply: Callable) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.reply, self.lock = reply, threading.Lock()
        self.bodies: list[dict] = []
        self.headers: list[dict] = []
        self.now = self.most = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    @property
    def prompts(self) -> list[str]:
        return [body["messages"][0]["content"] for body in self.bodies]

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hung up is part of the tests."""


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.bodies.append(body)
            self.server.headers.append({"path": self.path, **self.headers})
            self.server.now += 1
            self.server.most = max(self.server.most, self.server.now)
            number = len(self.server.bodies)
        try:
            self.server.reply(self, body, number)
        finally:
            with self.server.lock:
                self.server.now -= 1

    def send(self, content: str | bytes, status: int = 200, **headers: str) -> None:
        data = content.encode() if isinstance(content, str) else content
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def say(self, text: str | None, reason: str = "stop") -> None:
        self.send(json.dumps({"choices": [{"message": {"content": text}, "finish_reason": reason}]}))

    def log_message(self, *_: object) -> None:
        """Silent."""


def echo(handler: Handler, body: dict, _: int) -> None:
    handler.say("Said: " + body["messages"][0]["content"].splitlines()[-1].removesuffix(" →") + ".")


@pytest.fixture
def serve() -> Iterator[Callable[[Callable], Server]]:
    running = []

    def start(reply: Callable) -> Server:
        server = Server(reply)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        running.append(server)
        return server

    yield start
    for server in running:
        server.shutdown()
        server.server_close()


def ask(server: Server, prompts: list[str], **options: object) -> list[str]:
    endpoint = ChatEndpoint(server.url, "tiny", **{"patience": HURRIED, **options})
    try:
        return [a.text for a in endpoint.answer(prompts, list(range(len(prompts))), SAMPLING)]
    finally:
        endpoint.close()


def test_the_request_is_a_chat_completion(serve):
    server = serve(echo)
    assert ask(server, ["a cat →"]) == ["Said: a cat."]
    assert server.headers[0]["path"] == "/v1/chat/completions"
    assert server.bodies[0] == {
        "model": "tiny",
        "messages": [{"role": "user", "content": "a cat →"}],
        "temperature": 0.5,
        "top_p": 0.9,
        "max_tokens": 20,
        "seed": 0,
        "stream": False,
    }
    assert "Authorization" not in server.headers[0]


def test_answers_keep_their_order_and_requests_their_number(serve):
    def slow(handler, body, number):
        time.sleep(0.05 * (number % 3))
        echo(handler, body, number)

    server = serve(slow)
    prompts = [f"caption {i} →" for i in range(12)]
    assert ask(server, prompts, concurrency=3) == [f"Said: caption {i}." for i in range(12)]
    assert 2 <= server.most <= 3
    assert sorted(server.prompts) == sorted(prompts)


def status(code: int, **headers: str) -> Callable:
    return lambda handler, body, number: handler.send('{"error": {"message": "busy"}}', code, **headers)


def hang_up(handler: Handler, body: dict, number: int) -> None:
    handler.connection.shutdown(socket.SHUT_RDWR)


def sleep(handler: Handler, body: dict, number: int) -> None:
    time.sleep(1.5)


def drip(handler: Handler, body: dict, number: int) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    for _ in range(40):
        handler.wfile.write(b" ")
        time.sleep(0.05)


def says(content: str) -> Callable:
    return lambda handler, body, number: handler.send(content)


TROUBLES = {
    "429": (status(429), "status 429: .*busy"),
    "503": (status(503), "status 503"),
    "500": (status(500), "status 500"),
    "hung up": (hang_up, "RemoteProtocolError|ReadError"),
    "slow": (sleep, "no answer in time"),
    "dripping": (drip, "an answer still coming after 1 s"),
    "no json": (says("<html>busy</html>"), "no JSON: <html>busy</html>"),
    "nothing": (says(""), "no JSON: nothing"),
    "a list": (says("[]"), "without choices"),
    "no choices": (says('{"choices": []}'), "without choices"),
    "no message": (says('{"choices": [{}]}'), "without a text"),
    "no text": (says('{"choices": [{"message": {"content": [1]}}]}'), "without a text"),
    "oversize": (says('{"choices": [' + " " * 5000), "more than 4096 bytes"),
}


@pytest.mark.parametrize("trouble", TROUBLES)
def test_trouble_is_waited_out(serve, trouble):
    bad, _ = TROUBLES[trouble]
    server = serve(lambda handler, body, number: (bad if number == 1 else echo)(handler, body, number))
    late = trouble in ("slow", "dripping")
    patience = Patience(1.0 if late else 30.0, 10.0, 5, 0.01, 0.05, largest_answer=4096)
    assert ask(server, ["a cat →"], patience=patience) == ["Said: a cat."]
    assert len(server.bodies) == 2 or (late and len(server.bodies) > 2)  # a busy machine may be late once more
    assert server.bodies[0] == server.bodies[1]


@pytest.mark.parametrize("trouble", TROUBLES)
def test_trouble_that_stays_is_one_line(serve, trouble):
    bad, reason = TROUBLES[trouble]
    server = serve(bad)
    patience = Patience({"slow": 0.2, "dripping": 1.0}.get(trouble, 30.0), 10.0, 2, 0.01, 0.05, largest_answer=4096)
    with pytest.raises(EndpointError, match=f"no usable answer in 2 attempts, the last: .*{reason}") as caught:
        ask(server, ["a cat →"], patience=patience)
    assert "\n" not in str(caught.value)
    assert len(server.bodies) == 2


@pytest.mark.parametrize("code", [400, 401, 403, 404, 422, 307])
def test_a_refusal_is_not_repeated(serve, code):
    server = serve(status(code, Location="http://127.0.0.1:1/elsewhere"))
    with pytest.raises(EndpointError, match=f"status {code}: .*busy"):
        ask(server, ["a cat →"])
    assert len(server.bodies) == 1


def test_no_server_at_all_is_one_line():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    endpoint = ChatEndpoint(url, "tiny", patience=HURRIED)
    with pytest.raises(EndpointError, match=r"3 attempts, the last: ConnectError: .* run the same command again"):
        endpoint.answer(["a"], [0], SAMPLING)
    endpoint.close()


def test_one_failure_stops_the_rest_and_loses_nothing(serve, tmp_path):
    good = [True]

    def reply(handler, body, number):
        if "caption 7 " in body["messages"][0]["content"] and good[0]:
            time.sleep(0.2)
            return handler.send("no", 400)
        return echo(handler, body, number)

    server, journal = serve(reply), tmp_path / "answers.jsonl"
    prompts = [f"caption {i} →" for i in range(40)]
    endpoint = ChatEndpoint(server.url, "tiny", concurrency=2, patience=HURRIED, journal=journal)
    with pytest.raises(EndpointError, match="status 400: no"):
        endpoint.answer(prompts, [0] * 40, SAMPLING)
    answered = [line for line in journal.read_text().splitlines() if line]
    assert len(answered) >= 7
    good[0] = False
    endpoint.close()
    with open(journal, "a") as file:
        file.write('{"request": "torn by a ki')
    again = ChatEndpoint(server.url, "tiny", concurrency=2, patience=HURRIED, journal=journal)
    found = again.answer(prompts, [0] * 40, SAMPLING)
    assert [a.text for a in found] == [f"Said: caption {i}." for i in range(40)]
    counts = Counter(server.prompts)
    assert {p: n for p, n in counts.items() if n > 1} == {"caption 7 →": 2}
    again.close()
    third = ChatEndpoint(server.url, "tiny", patience=HURRIED, journal=journal)
    assert third.answer(prompts, [0] * 40, SAMPLING) == found  # the line after the torn one is whole
    assert len(server.prompts) == 41


def test_the_server_may_ask_for_time(serve):
    server = serve(
        lambda handler, body, number: (
            status(429, Retry_After="0.3")
            if number == 1
            else status(503, Retry_After=formatdate(0))
            if number == 2
            else echo
        )(handler, body, number)
    )
    started = time.monotonic()
    patience = Patience(first_wait_s=0.001, longest_wait_s=0.5, attempts=3)
    assert ask(server, ["a cat →"], patience=patience) == ["Said: a cat."]
    assert 0.3 <= time.monotonic() - started < 30


def test_waits_grow_up_to_their_bound_and_are_drawn():
    patience = Patience(first_wait_s=1.0, longest_wait_s=8.0)
    for repeat, bound in [(1, 1), (2, 2), (4, 8), (9, 8)]:
        waits = [patience.wait(repeat, None) for _ in range(200)]
        assert 0 <= min(waits) < 0.3 * bound
        assert 0.7 * bound < max(waits) <= bound
    assert patience.wait(1, 3600.0) == 8.0
    assert patience.wait(1, 5.0) == 5.0


def test_the_key_is_sent_and_never_kept(serve, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("TINY_KEY", SECRET)
    caplog.set_level(logging.DEBUG)
    server = serve(echo)
    journal = tmp_path / "answers.jsonl"
    endpoint = ChatEndpoint(server.url, "tiny", key_variable="TINY_KEY", journal=journal, patience=HURRIED)
    endpoint.answer(["a cat →"], [0], SAMPLING)
    assert server.headers[0]["Authorization"] == f"Bearer {SECRET}"
    kept = [journal.read_text(), json.dumps(endpoint.identity()), repr(vars(endpoint)), caplog.text]
    assert not any(SECRET in text for text in kept)
    endpoint.close()
    telltale = serve(lambda handler, body, number: handler.send(f"the key {SECRET} is unknown", 401))
    with pytest.raises(EndpointError, match=r"the key \*\*\* is unknown; set the key's environment variable"):
        ask(telltale, ["a"], key_variable="TINY_KEY")
    monkeypatch.delenv("TINY_KEY")
    with pytest.raises(InvalidOption, match="the environment variable TINY_KEY is not set"):
        ChatEndpoint(server.url, "tiny", key_variable="TINY_KEY")


@pytest.mark.parametrize(
    ("given", "asked"),
    [
        ("http://localhost:8000", "http://localhost:8000/v1/chat/completions"),
        ("http://localhost:8000/", "http://localhost:8000/v1/chat/completions"),
        ("https://a.example/v1/", "https://a.example/v1/chat/completions"),
        ("https://a.example/openai/v1/chat/completions", "https://a.example/openai/v1/chat/completions"),
    ],
)
def test_addresses(given, asked):
    assert chat_address(given) == asked


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("localhost:8000", "no address of a server"),
        ("ftp://a.example", "no address of a server"),
        ("http://localhost:port", "no address of a server"),
        ("https://user:secret@a.example", "holds a user"),
        ("https://a.example/v1?key=secret", "holds a user"),
    ],
)
def test_addresses_that_are_refused(given, message):
    with pytest.raises(InvalidOption, match=message) as caught:
        chat_address(given)
    assert "secret" not in str(caught.value)


def test_bad_options_are_refused():
    with pytest.raises(InvalidOption, match="concurrency is 0"):
        ChatEndpoint("http://localhost", "tiny", concurrency=0)
    with pytest.raises(InvalidOption, match="attempts is 0"):
        Patience(attempts=0)
    with pytest.raises(InvalidOption, match=r"timeout_s is 0"):
        Patience(timeout_s=0)


def test_captions_are_rewritten_by_a_server(serve):
    def reply(handler, body, number):
        caption = body["messages"][0]["content"].splitlines()[-1].removesuffix(" →")
        if caption == "silence":
            handler.say(None)
        elif caption == "cut":
            handler.say("A text that is c", "length")
        else:
            handler.say(f'Sure:\n"{caption.capitalize()}, again."')

    server = serve(reply)
    rewriter = EndpointRewriter(ChatEndpoint(server.url, "tiny", patience=HURRIED), RewriteSettings(max_attempts=2))
    found = rewriter.rewrite(["a cat", "silence", "cut"], ["0", "1", "2"], [1, 1, 1], seed=5)
    assert [r.text for r in found] == ["A cat, again.", "silence", "A text that is c"]
    assert [(r.truncated, r.flagged, r.attempts) for r in found] == [
        (False, False, 1),
        (False, True, 2),
        (True, False, 1),
    ]
    assert len(server.bodies) == 4
    silent = [body["seed"] for body in server.bodies if "silence" in body["messages"][0]["content"]]
    assert len(set(silent)) == 2
    assert all(0 <= body["seed"] < 2**31 for body in server.bodies)
    assert isinstance(found[0], Rewrite)
    assert rewriter.rewrite(["a cat", "silence", "cut"], ["0", "1", "2"], [1, 1, 1], seed=5) == found
    assert len(server.bodies) == 4  # nothing is asked twice
    assert "127.0.0.1" not in json.dumps(rewriter.identity())
    rewriter.close()
