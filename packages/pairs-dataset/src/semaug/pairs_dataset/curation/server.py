"""The curation page's server: on loopback alone, behind a token, for one set of pairs and their images."""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from semaug.artifacts.errors import ArtifactError, InvalidOption, MissingDependency, OutputError, UnreadableImage
from semaug.artifacts.schemas import TAGS, SemanticPair, Tag
from semaug.pairs_dataset.curation.agreement import agreements
from semaug.pairs_dataset.curation.images import ShownImages
from semaug.pairs_dataset.curation.journal import Choice, Journal, VerdictRefused
from semaug.pairs_dataset.curation.progress import summarise

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK = "127.0.0.1"
MAX_BODY = 16_384
PAGE = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/curate.css": ("curate.css", "text/css; charset=utf-8"),
    "/curate.js": ("curate.js", "text/javascript; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class _Wanted(BaseModel):
    """Which pairs a page asks for."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    class_name: str = Field(default="", max_length=500)
    score: str = Field(default="", max_length=100, pattern=r"^([a-z][a-z0-9_]*)?$")
    low: float | None = None
    high: float | None = None
    skipped: bool = False


class _Asking(BaseModel):
    """What every request of a page says."""

    model_config = ConfigDict(extra="forbid")

    curator: str = Field(min_length=1, max_length=100)
    tab: str = Field(min_length=1, max_length=100)
    choice: _Wanted = _Wanted()

    def wanted(self) -> Choice:
        """The choice as the journal takes it."""
        return Choice(**self.choice.model_dump())


class _Undoing(_Asking):
    request: str = Field(min_length=1, max_length=100)


class _Judging(_Undoing):
    pair_id: str = Field(min_length=1, max_length=500)
    verdict: Literal["accept", "reject", "skip"]
    tags: tuple[Tag, ...] = ()


@dataclass(frozen=True, slots=True)
class Desk:
    """What the page's requests come down to: plain values in, plain values out."""

    journal: Journal
    images: ShownImages
    per_class: int = 0

    def next(self, asking: _Asking) -> dict[str, Any]:
        """The pair to judge and the one after it, both leased to the tab, with the progress."""
        pairs = self.journal.lease(
            asking.curator, asking.tab, count=2, choice=asking.wanted(), per_class=self.per_class
        )
        shown = [self._shown(pair) for pair in pairs] + [None, None]
        return {"pair": shown[0], "upcoming": shown[1], "progress": self._progress(asking.curator)}

    def verdict(self, judging: _Judging) -> dict[str, Any]:
        """Keep a verdict, then as ``next``."""
        outcome = self.journal.judge(
            judging.pair_id, judging.curator, judging.verdict, judging.tags, tab=judging.tab, request=judging.request
        )
        return {"outcome": outcome, **self.next(judging)}

    def undo(self, undoing: _Undoing) -> dict[str, Any]:
        """Take the last verdict back; ``pair`` is None where there was none."""
        pair = self.journal.undo(undoing.curator, tab=undoing.tab, request=undoing.request)
        shown = None if pair is None else self._shown(pair) | {"verdict": pair.verdict, "tags": list(pair.tags)}
        return {"pair": shown, "progress": self._progress(undoing.curator)}

    def release(self, asking: _Asking) -> dict[str, Any]:
        """Let go of the tab's pairs."""
        self.journal.release(asking.curator, asking.tab)
        return {"progress": self._progress(asking.curator)}

    def about(self) -> dict[str, Any]:
        """What does not change while the page is open, and the agreement between curators so far."""
        return {
            "tags": list(TAGS),
            "per_class": self.per_class,
            "scores": {name: list(ends) for name, ends in self.journal.score_ranges().items()},
            "agreement": [asdict(row) for row in agreements(self.journal.judgements())],
        }

    def _shown(self, pair: SemanticPair) -> dict[str, Any]:
        sides = {
            side: {"number": self.images.number(key), "key": key, "boxes": self.images.boxes(key)}
            for side, key in (("a", pair.image_a), ("b", pair.image_b))
        }
        return {
            "pair_id": pair.pair_id, "class_name": pair.class_name, "scores": dict(pair.scores), "images": sides,
            "provenance": pair.provenance,
        }  # fmt: skip

    def _progress(self, curator: str) -> dict[str, Any]:
        classes = self.journal.progress()
        total, pace = summarise(classes, self.per_class), self.journal.pace(curator)
        return {
            "classes": [asdict(row) for row in classes],
            "total": asdict(total),
            "skipped": self.journal.skipped(curator),
            "seconds_left": None if pace is None else pace * total.verdicts_left,
        }


def make_app(desk: Desk, *, token: str, hosts: tuple[str, ...]) -> ASGIApp:
    """The whole ASGI application: the routes behind ``Guard``. Raises ``MissingDependency`` without Starlette."""
    try:
        from starlette.applications import Starlette
        from starlette.routing import Route
    except ImportError as error:
        raise MissingDependency("curating needs starlette; pip install 'semaug-pairs-dataset[curate]'") from error
    routes = [Route(path, _page(*found)) for path, found in PAGE.items()]
    routes.append(Route("/image/{number}", _image(desk.images)))
    routes.append(Route("/api/about", _answering(lambda _: desk.about(), None)))
    actions: Mapping[str, tuple[Callable[[Any], Any], type[_Asking]]] = {
        "next": (desk.next, _Asking), "verdict": (desk.verdict, _Judging), "undo": (desk.undo, _Undoing),
        "release": (desk.release, _Asking),
    }  # fmt: skip
    routes += [Route(f"/api/{name}", _answering(*parts), methods=["POST"]) for name, parts in actions.items()]
    return Guard(Starlette(routes=routes), token, hosts)


class Guard:
    """Lets a request through only where its Host, its Origin, its token and its content type are ours.

    A foreign Host is a name that was rebound to loopback; a foreign Origin, or one that a fetch calls cross-site, is
    another page's doing. Every answer carries ``HEADERS``.
    """

    def __init__(self, app: ASGIApp, token: str, hosts: tuple[str, ...]) -> None:
        self._app, self._token = app, token.encode()
        self._hosts = {host.encode() for host in hosts}
        self._origins = {b"http://" + host for host in self._hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        refusal = self._refusal(scope)
        if refusal is not None:
            await _refuse(*refusal)(scope, receive, _with_headers(send))
            return
        rest = "/" + scope["path"].split("/", 2)[2]
        await self._app(
            {**scope, "path": rest, "raw_path": rest.encode(), "root_path": ""}, receive, _with_headers(send)
        )

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        headers = [(name.lower(), value) for name, value in scope["headers"]]
        given = {n: [v for name, v in headers if name == n] for n in (b"host", b"origin", b"sec-fetch-site")}
        if len(given[b"host"]) != 1 or given[b"host"][0].lower() not in self._hosts:
            return 421, "this server answers to its own address alone"
        parts = scope["path"].split("/", 2)
        if len(parts) < 3 or not secrets.compare_digest(parts[1].encode(), self._token):
            return 403, "the address lacks the right token; open the one that `semaug pairs curate` printed"
        if any(origin not in self._origins for origin in given[b"origin"]):
            return 403, "another site asked"
        opened = not parts[2] and dict(headers).get(b"sec-fetch-dest") == b"document"  # a link to the page itself
        if any(site not in (b"same-origin", b"none") for site in given[b"sec-fetch-site"]) and not opened:
            return 403, "another site asked"
        return self._refusal_of_write(scope["method"], dict(headers), given[b"origin"])

    def _refusal_of_write(
        self, method: str, headers: dict[bytes, bytes], origin: list[bytes]
    ) -> tuple[int, str] | None:
        if method in ("GET", "HEAD"):
            return None
        if not origin:
            return 403, "a request that changes something must name its Origin"
        if headers.get(b"content-type", b"").split(b";")[0].strip().lower() != b"application/json":
            return 415, "send application/json"
        length = headers.get(b"content-length", b"")
        if b"transfer-encoding" in headers or not length.isdigit() or int(length) > MAX_BODY:
            return 413, f"send at most {MAX_BODY} bytes, and say how many"
        return None


def _with_headers(send: Send) -> Send:
    extra = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            named = {name for name, _ in message["headers"]}
            default = [] if b"cache-control" in named else [(b"cache-control", b"no-store")]
            message = {**message, "headers": [*message["headers"], *extra, *default]}
        await send(message)

    return sending


def _refuse(status: int, error: str) -> Response:
    from starlette.responses import JSONResponse

    return JSONResponse({"error": error}, status)


def _page(name: str, media_type: str) -> Callable[[Request], Response]:
    from starlette.responses import Response

    content = (files("semaug.pairs_dataset.curation") / "page" / name).read_bytes()
    return lambda _: Response(content, media_type=media_type)


def _image(images: ShownImages) -> Callable[[Request], Response]:
    from starlette.responses import Response

    def answer(request: Request) -> Response:
        text = request.path_params["number"]
        try:
            number = int(text) if text.isascii() and text.isdigit() and len(text) < 12 else -1
            data = images.jpeg(number, whole=request.query_params.get("whole") == "1")
        except KeyError:
            return _refuse(404, "no pair has this image")
        except UnreadableImage as error:
            return _refuse(422, str(error))
        return Response(data, media_type="image/jpeg", headers={"Cache-Control": "private, max-age=3600, immutable"})

    return answer


def _answering(act: Callable[[Any], Any], schema: type[_Asking] | None) -> Callable[..., Any]:
    from starlette.concurrency import run_in_threadpool
    from starlette.responses import JSONResponse

    async def answer(request: Request) -> Response:
        try:
            asked = None if schema is None else schema.model_validate_json(await request.body())
            return JSONResponse(await run_in_threadpool(act, asked))
        except ValidationError as error:
            first = error.errors()[0]
            return _refuse(422, f"{'.'.join(map(str, first['loc']))}: {first['msg']}")
        except VerdictRefused as error:
            return _refuse(409, str(error))
        except InvalidOption as error:
            return _refuse(422, str(error))
        except ArtifactError as error:
            return _refuse(503, str(error))

    return answer


@dataclass(frozen=True, slots=True)
class Address:
    """A bound socket on loopback, and the page's address with its token."""

    socket: socket.socket
    token: str

    @classmethod
    def bind(cls, port: int = 0, token: str = "") -> Address:
        """Bind to ``port`` of 127.0.0.1 (0: any that is free); raises ``OutputError`` where it is taken."""
        bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            bound.bind((LOOPBACK, port))
            bound.listen(128)
        except OSError as error:
            bound.close()
            raise OutputError(f"cannot listen on {LOOPBACK}:{port}: {error.strerror}; choose another --port") from error
        return cls(bound, token or secrets.token_urlsafe(32))

    @property
    def port(self) -> int:
        """The port that was bound."""
        port: int = self.socket.getsockname()[1]
        return port

    @property
    def hosts(self) -> tuple[str, ...]:
        """The Host headers that are ours."""
        return f"{LOOPBACK}:{self.port}", f"localhost:{self.port}"

    @property
    def url(self) -> str:
        """What to open in a browser."""
        return f"http://{LOOPBACK}:{self.port}/{self.token}/"


def token_in(path: Path) -> str:
    """The token that ``path`` holds, so that a page stays valid when its server is started anew; made at first.

    Only its owner may read the file; raises ``InvalidOption`` where others can, or where it holds no token.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        token = path.read_text().strip()
        if path.stat().st_mode & 0o077 or len(token) < 32 or not token.replace("-", "").replace("_", "").isalnum():
            raise InvalidOption(f"{path} is no token that you alone can read; remove it, and it is made anew") from None
        return token
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}; choose another --token-file") from error
    with os.fdopen(descriptor, "w") as file:
        file.write(token := secrets.token_urlsafe(32))
    return token


def serve(desk: Desk, address: Address, on_ready: Callable[[str], None] = lambda _: None) -> None:
    """Serve the page until a signal ends it; ``on_ready`` gets its address. Raises ``MissingDependency``."""
    try:
        import uvicorn
    except ImportError as error:
        raise MissingDependency("curating needs uvicorn; pip install 'semaug-pairs-dataset[curate]'") from error
    app = make_app(desk, token=address.token, hosts=address.hosts)
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, lifespan="off", server_header=False, proxy_headers=False,
        ws="none", timeout_graceful_shutdown=2, h11_max_incomplete_event_size=MAX_BODY,
    )  # fmt: skip
    on_ready(address.url)  # the socket listens already, so nobody is turned away
    uvicorn.Server(config).run(sockets=[address.socket])
