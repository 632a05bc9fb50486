"""An S3 store on a loopback port for tests, by moto, which counts what it is asked for."""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

Request = tuple[str, str, int, int]
"""Method, key, bytes sent to the store, bytes it sent."""


@dataclass(slots=True)
class S3Store:
    """A running server: ``requests`` is what came in, ``on_request`` is called before each with method and path."""

    url: str
    requests: list[Request] = field(default_factory=list)
    on_request: Callable[[str, str], None] | None = None

    def clear(self) -> None:
        """Forget the requests so far."""
        self.requests.clear()

    def count(self, *methods: str) -> int:
        """Requests of these methods, or all."""
        return sum(1 for request in self.requests if not methods or request[0] in methods)

    def methods(self) -> dict[str, int]:
        """Requests by method."""
        return dict(Counter(request[0] for request in self.requests))

    def sent(self) -> int:
        """Bytes that were written to the store."""
        return sum(request[2] for request in self.requests)

    def received(self) -> int:
        """Bytes that were read from the store."""
        return sum(request[3] for request in self.requests)


@contextmanager
def s3_store(bucket: str = "bucket") -> Iterator[S3Store]:
    """Serve one bucket, with AWS's variables set for this process and its children."""
    from moto.s3.models import s3_backends
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Quiet(WSGIRequestHandler):
        protocol_version = "HTTP/1.1"  # connections are kept, as a real store keeps them

        def log(self, *_: Any) -> None:
            return None

    s3_backends.reset()  # what an earlier store of this process holds
    store = S3Store("")
    application = _Counted(DomainDispatcherApplication(create_backend_app), store)
    server = make_server("127.0.0.1", 0, application, threaded=True, request_handler=Quiet)
    store.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        with environment(store.url):
            _make_bucket(bucket)
            store.clear()
            yield store
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def environment(url: str, **more: str) -> Iterator[None]:
    """AWS's variables for a store at ``url``."""
    wanted = {
        "AWS_ENDPOINT_URL": url, "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true", "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1", **more,
    }  # fmt: skip
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    forget_connections()
    try:
        yield
    finally:
        forget_connections()
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def forget_connections() -> None:
    """Make the next use of a store read the environment anew."""
    from s3fs import S3FileSystem

    for instance in list(S3FileSystem._cache.values()):
        if instance._s3 is not None:
            S3FileSystem.close_session(instance.loop, instance._s3creator)
    S3FileSystem.clear_instance_cache()


def _make_bucket(bucket: str) -> None:
    from semaug.artifacts.places import filesystem

    filesystem("s3").mkdir(bucket)


class _Counted:
    """A WSGI application that notes every request."""

    def __init__(self, application: Any, store: S3Store) -> None:
        self._application, self._store = application, store

    def __call__(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        if self._store.on_request is not None:
            self._store.on_request(method, path)
        body = [bytes(part) for part in self._application(environ, start)]
        sent = int(environ.get("CONTENT_LENGTH") or 0)
        self._store.requests.append((method, path, sent, 0 if method == "HEAD" else sum(map(len, body))))
        return body
