"""Answers from a server with OpenAI's chat completions, asked side by side and again where that makes sense.

The key is read from an environment variable when a request is sent; it is never stored, logged or shown.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import threading
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, urlsplit

from semaug.artifacts.errors import InvalidOption, SemaugError
from semaug.artifacts.files import writing
from semaug.artifacts.network import require_reachable
from semaug.artifacts.outside import parse_json

if TYPE_CHECKING:
    import httpx

_AGAIN = frozenset({408, 409, 425, 429})
_REMEDY = {
    401: "set the key's environment variable",
    403: "the key may not use this model",
    404: "check the address and the model's name",
}
_EXCERPT = 160


class EndpointError(SemaugError, RuntimeError):
    """A server that refused, or that gave no usable answer however often it was asked."""


@dataclass(frozen=True, slots=True)
class ChatAnswer:
    """What the server's model said, and whether it came to its end."""

    text: str
    ended: bool


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the server's model draws."""

    temperature: float
    top_p: float
    max_tokens: int


@dataclass(frozen=True, slots=True)
class Patience:
    """How long and how often a server is asked.

    A server that sends nothing for ``timeout_s``, or has not sent the whole answer by then, is asked again;
    ``connect_s`` bounds the wait for a connection. A request is sent up to ``attempts`` times. The wait before the
    n-th repeat is drawn from 0 to ``first_wait_s * 2**(n-1)`` and is no less than what the server's ``Retry-After``
    asks for; both count up to ``longest_wait_s``. An answer of more than ``largest_answer`` bytes is refused.
    """

    timeout_s: float = 120.0
    connect_s: float = 10.0
    attempts: int = 6
    first_wait_s: float = 1.0
    longest_wait_s: float = 60.0
    largest_answer: int = 1 << 20

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise InvalidOption(f"attempts is {self.attempts}; give 1 or more")
        for name in ("timeout_s", "connect_s", "first_wait_s", "longest_wait_s", "largest_answer"):
            if getattr(self, name) <= 0:
                raise InvalidOption(f"{name} is {getattr(self, name)}; give more than 0")

    def wait(self, repeat: int, asked_for: float | None) -> float:
        """Seconds before repeat number ``repeat``, from 1."""
        backoff = random.uniform(0, min(self.longest_wait_s, self.first_wait_s * 2.0 ** (repeat - 1)))
        return max(backoff, min(asked_for or 0.0, self.longest_wait_s))


class _Again(Exception):
    """A request that may do better next time."""

    def __init__(self, reason: str, after: float | None = None) -> None:
        super().__init__(reason)
        self.after = after


class ChatEndpoint:
    """Chat completions of one model at one server; threads ask side by side, ``concurrency`` at most.

    What was answered is kept, in memory and, with a ``journal``, in a file of JSON lines: after a failure, or a kill,
    the same questions are not asked twice.
    """

    def __init__(
        self,
        url: str,
        model: str,
        key_variable: str | None = None,
        concurrency: int = 8,
        patience: Patience | None = None,
        journal: Path | None = None,
    ) -> None:
        """``url``: the server's address, up to its ``/v1`` or whole; ``key_variable`` names the key's variable.

        Raises ``InvalidOption`` for an address that is none or holds a password, for an empty variable, and for a
        concurrency below 1; ``NetworkForbidden`` for another machine while offline.
        """
        if concurrency < 1:
            raise InvalidOption(f"concurrency is {concurrency}; give 1 or more")
        self._url, self._model, self._key_variable = chat_address(url), model, key_variable
        require_reachable(urlsplit(self._url).hostname or "", "the endpoint")
        self._concurrency, self._patience = concurrency, patience or Patience()
        self._key()
        self._known = _Journal(journal)
        self._client: httpx.Client | None = None

    def identity(self) -> dict[str, Any]:
        """The model's name; the address may change between runs, and a key is no part of any record."""
        return {"model": self._model, "revision": None, "digest": None, "served": "chat completions"}

    def answer(self, prompts: Sequence[str], seeds: Sequence[int], sampling: Sampling) -> list[ChatAnswer]:
        """One answer a prompt, in order.

        Raises ``EndpointError`` as soon as one prompt cannot be answered: at once for a refusal, else after its last
        attempt. Prompts that were not sent yet are left; answers that came, or still come, are kept.
        """
        bodies = [self._body(prompt, seed, sampling) for prompt, seed in zip(prompts, seeds, strict=True)]
        missing = {body for body in bodies if self._known.get(body) is None}
        if missing:
            self._ask_all([body for body in dict.fromkeys(bodies) if body in missing])
        return [self._kept(body) for body in bodies]

    def _kept(self, body: str) -> ChatAnswer:
        found = self._known.get(body)
        assert found is not None
        return found

    def _body(self, prompt: str, seed: int, sampling: Sampling) -> str:
        return json.dumps(
            {
                "model": self._model,
                "messages": [{"role": "user", "content": prompt}],
                "temperature": sampling.temperature,
                "top_p": sampling.top_p,
                "max_tokens": sampling.max_tokens,
                "seed": seed,
                "stream": False,
            },
            ensure_ascii=False,
        )

    def _ask_all(self, bodies: list[str]) -> None:
        stop = threading.Event()
        with ThreadPoolExecutor(min(self._concurrency, len(bodies))) as pool:
            asked: list[Future[None]] = [pool.submit(self._ask, body, stop) for body in bodies]
            try:
                wait(asked, return_when=FIRST_EXCEPTION)
            finally:
                stop.set()
                pool.shutdown(wait=True, cancel_futures=True)
        failed = [f for f in asked if not f.cancelled() and f.exception() is not None]
        for future in sorted(failed, key=lambda f: isinstance(f.exception(), _Stopped)):
            future.result()

    def _ask(self, body: str, stop: threading.Event) -> None:
        """Ask until there is an answer, and keep it."""
        reason = ""
        for attempt in range(1, self._patience.attempts + 1):
            if stop.is_set():
                raise _Stopped
            try:
                return self._known.keep(body, self._once(body))
            except _Again as again:
                reason = str(again)
                if attempt < self._patience.attempts and stop.wait(self._patience.wait(attempt, again.after)):
                    raise _Stopped from again
        raise EndpointError(
            f"{self._url}: no usable answer in {self._patience.attempts} attempts, the last: {reason}; "
            "see to the server and run the same command again"
        )

    def _once(self, body: str) -> ChatAnswer:
        import httpx

        headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
        key = self._key()
        if key:
            headers["Authorization"] = f"Bearer {key}"
        try:
            with self._open().stream("POST", self._url, content=body.encode(), headers=headers) as response:
                content = self._read(response)
                status, after = response.status_code, _retry_after(response.headers.get("Retry-After"))
        except httpx.TimeoutException as error:
            raise _Again(f"no answer in time ({type(error).__name__})") from error
        except httpx.RequestError as error:
            raise _Again(f"{type(error).__name__}: {_excerpt(str(error), key)}") from error
        if status in _AGAIN or status >= 500:
            raise _Again(f"status {status}: {_excerpt(content, key)}", after)
        if status != 200:
            remedy = _REMEDY.get(status, "the request is not one that this server takes")
            raise EndpointError(f"{self._url}: status {status}: {_excerpt(content, key)}; {remedy}")
        return _parsed(content, key)

    def _read(self, response: httpx.Response) -> str:
        """The whole answer; ``timeout_s`` holds for all of it, since a server may send a byte at a time."""
        encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
        if encoding not in ("", "identity"):  # a few compressed bytes can be any number of plain ones
            raise _Again(f"an answer compressed by {encoding[:20]!r}, which was not asked for")
        end, parts, size = time.monotonic() + self._patience.timeout_s, [], 0
        for part in response.iter_raw():
            parts.append(part)
            size += len(part)
            if size > self._patience.largest_answer:
                raise _Again(f"an answer of more than {self._patience.largest_answer} bytes")
            if time.monotonic() > end:
                raise _Again(f"an answer still coming after {self._patience.timeout_s:g} s")
        return b"".join(parts).decode("utf-8", "replace")

    def _open(self) -> httpx.Client:
        import httpx

        with _OPENING:
            if self._client is None:
                shown = self._patience
                limits = httpx.Limits(max_connections=self._concurrency, max_keepalive_connections=self._concurrency)
                timeout = httpx.Timeout(shown.timeout_s, connect=min(shown.connect_s, shown.timeout_s), pool=None)
                self._client = httpx.Client(timeout=timeout, limits=limits)
            return self._client

    def _key(self) -> str | None:
        if self._key_variable is None:
            return None
        key = os.environ.get(self._key_variable, "").strip()
        if not key:
            raise InvalidOption(f"the environment variable {self._key_variable} is not set; put the server's key there")
        return key

    def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            self._client.close()
            self._client = None


_OPENING = threading.Lock()


class _Stopped(Exception):
    """A request that was given up because another one failed."""


class _Journal:
    """Answers by the digest of their request: in memory, and appended to a file where one is given."""

    def __init__(self, path: Path | None) -> None:
        self._path, self._lock = path, threading.Lock()
        self._answers: dict[str, ChatAnswer] = dict(_journalled(path)) if path is not None and path.exists() else {}

    def get(self, body: str) -> ChatAnswer | None:
        """The answer to a request, None where it was not answered."""
        return self._answers.get(_digest(body))

    def keep(self, body: str, answer: ChatAnswer) -> None:
        """Keep the answer to a request."""
        digest = _digest(body)
        line = json.dumps({"request": digest, "text": answer.text, "ended": answer.ended}) + "\n"
        with self._lock:
            self._answers[digest] = answer
            if self._path is not None:
                self._append(self._path, line)

    def _append(self, path: Path, line: str) -> None:
        with writing(path), open(path, "a+b") as file:
            torn = file.tell() > 0 and not _ends_line(path)
            file.write(b"\n" * torn + line.encode())


def _ends_line(path: Path) -> bool:
    with open(path, "rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


def _journalled(path: Path) -> list[tuple[str, ChatAnswer]]:
    """The whole lines of a journal; a line that a kill tore is passed over, and its question asked again."""
    found = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            entry = parse_json(line)
            found.append((str(entry["request"]), ChatAnswer(_plain(str(entry["text"])), bool(entry["ended"]))))
        except (ValueError, KeyError, TypeError):
            continue
    return found


def _digest(body: str) -> str:
    return hashlib.blake2b(body.encode(), digest_size=16).hexdigest()


def chat_address(url: str) -> str:
    """The address of the chat completions of a server.

    Raises ``InvalidOption`` for what is no http address, and for one with a user, a password or a query, which would
    be written down.

    >>> chat_address("http://localhost:11434")
    'http://localhost:11434/v1/chat/completions'
    """
    parts = urlsplit(url.strip())
    if parts.scheme not in ("http", "https") or not parts.hostname or not _has_port(parts):
        raise InvalidOption(f"{url!r} is no address of a server; write http://host:port or https://host/v1")
    if parts.username or parts.password or parts.query:
        raise InvalidOption("the server's address holds a user, a password or a query; name the key's variable instead")
    path = parts.path.rstrip("/")
    if not path.endswith("/chat/completions"):
        path = f"{path or '/v1'}/chat/completions"
    return f"{parts.scheme}://{parts.netloc}{path}"


def _has_port(parts: SplitResult) -> bool:
    """Whether the port, where there is one, is a number that can be one."""
    try:
        return parts.port != 0
    except ValueError:
        return False


def _retry_after(value: str | None) -> float | None:
    """Seconds of a ``Retry-After`` header, in seconds or as a date."""
    if not value:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError, LookupError, OverflowError):
        return None


def _parsed(content: str, key: str | None) -> ChatAnswer:
    """The answer in a response of status 200."""
    try:
        answer = parse_json(content)
    except ValueError as error:
        raise _Again(f"an answer that is no JSON: {_excerpt(content, key)}") from error
    choices = answer.get("choices") if isinstance(answer, dict) else None
    if not isinstance(choices, list) or not choices:
        raise _Again(f"an answer without choices: {_excerpt(content, key)}")
    first = choices[0] if isinstance(choices[0], dict) else {}
    message = first.get("message")
    text = message.get("content") if isinstance(message, dict) else None
    if (text is not None and not isinstance(text, str)) or not isinstance(message, dict):
        raise _Again(f"an answer without a text: {_excerpt(content, key)}")
    return ChatAnswer(_plain(text or ""), first.get("finish_reason") != "length")


def _plain(text: str) -> str:
    """The text without halves of characters, which JSON can spell and no file can hold."""
    return text.encode("utf-8", "replace").decode()


def _excerpt(content: str, key: str | None) -> str:
    text = " ".join(content.split())
    if key:
        text = text.replace(key, "***")
    return text[:_EXCERPT] or "nothing"
