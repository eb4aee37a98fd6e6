"""This module serves the explorer's page on this machine alone, to whoever has the address with its token."""

from __future__ import annotations

import asyncio
import json
import secrets
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Annotated, Any

import uvicorn
from pydantic import ConfigDict, Field, StringConstraints, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from gradsam_exp.errors import InputError, first_line
from gradsam_exp.explorer.choices import State, Value
from gradsam_exp.explorer.desk import Desk, Work
from gradsam_exp.explorer.page import render
from gradsam_exp.explorer.views import STRIP, Explorer
from gradsam_exp.registry import first_problem

LOOPBACK = "127.0.0.1"
HOSTS = (LOOPBACK, "localhost")
KINDS = ("picture", "upload", "figure", "pinned", "sample", "strip", "names", "all")
"""Of requests, the most urgent first."""
MOST_BYTES = 1_000_000  # of a request that is no picture
TOKEN = "x-token"
_SAFE = {
    "cache-control": "no-store",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}


@dataclass(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class Question:
    """Holds what the page asks.

    Attributes:
        page: tells one open page from another.
        state: what is chosen there.
        other: the setting that the state is compared with.
        key: the knob along which the strip goes, and its ``values``.
        varied: values of a sweep, by key.
    """

    page: Annotated[str, StringConstraints(max_length=40)]
    state: State = State()
    other: State | None = None
    key: Annotated[str, StringConstraints(max_length=100)] = ""
    values: Annotated[list[Value], Field(max_length=STRIP)] = Field(default_factory=list)
    varied: Annotated[dict[str, list[Value]], Field(max_length=10)] = Field(default_factory=dict)


_QUESTION = TypeAdapter(Question)


class Guard:
    """Refuses who does not come from this page: another host or origin in the headers, or a wrong token.

    A page elsewhere could ask for addresses of this machine, under a name of its own that leads here (DNS
    rebinding): such a request has that name as its host.
    """

    def __init__(self, app: ASGIApp, token: str, port: int) -> None:
        self.app, self.token = app, token
        self.hosts = {f"{host}:{port}" for host in HOSTS}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 400, 401 or 403, or hand the request on."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        headers, request = Headers(scope=scope), Request(scope)
        host, origin = headers.get("host", ""), headers.get("origin")
        given = headers.get(TOKEN) or request.query_params.get("token") or ""
        refused = None
        if host not in self.hosts:
            refused = PlainTextResponse("the explorer answers on this machine only", 400, _SAFE)
        elif origin is not None and origin != f"http://{host}":
            refused = PlainTextResponse("the explorer answers its own page only", 403, _SAFE)
        elif not secrets.compare_digest(given.encode(), self.token.encode()):
            refused = PlainTextResponse(
                "open the address that the terminal shows: its token is missing", 401, _SAFE
            )
        await (refused or self.app)(scope, receive, send)


def application(explorer: Explorer, token: str, port: int, *, most_upload: int) -> ASGIApp:
    """Make the ASGI application: the page at ``/``, answers below ``/ask/``, pictures to ``/upload``.

    Answers are lines of JSON, see `Desk`.

    Args:
        most_upload: bytes of a picture.
    """
    desk = Desk(KINDS)
    works: dict[str, Callable[[Question], Work]] = {
        "picture": lambda asked: explorer.picture(asked.state),
        "pinned": lambda asked: explorer.picture(asked.state),
        "sample": lambda asked: explorer.sample(asked.state, asked.other),
        "all": lambda asked: explorer.sample(asked.state, asked.other, everything=True),
        "strip": lambda asked: explorer.strip(asked.state, asked.key, asked.values),
        "figure": lambda asked: explorer.figure(asked.state),
        "names": lambda asked: explorer.names(),
    }

    async def page(request: Request) -> Response:
        nonce = secrets.token_urlsafe(16)
        policy = (
            f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; img-src data: blob:; "
            "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        )
        return HTMLResponse(render(explorer, nonce), headers={**_SAFE, "content-security-policy": policy})

    async def ask(request: Request) -> Response:
        kind = request.path_params["kind"]
        if kind not in works:
            return PlainTextResponse("there is no such question", 404, _SAFE)
        try:
            asked = _QUESTION.validate_json(await _body(request, MOST_BYTES))
        except ValidationError as error:
            return JSONResponse({"error": first_problem(error)}, 422, _SAFE)
        except InputError as error:
            return JSONResponse({"error": str(error)}, 413, _SAFE)
        return _answer(desk, kind, asked.page, works[kind](asked))

    async def sweep(request: Request) -> Response:
        try:
            asked = _QUESTION.validate_json(await _body(request, MOST_BYTES))
            return JSONResponse({"command": explorer.choices.sweep(asked.state, asked.varied)}, headers=_SAFE)
        except (ValidationError, InputError) as error:
            return JSONResponse({"error": first_line(error)}, 422, _SAFE)

    async def upload(request: Request) -> Response:
        try:
            content = await _body(request, most_upload)
        except InputError as error:
            return JSONResponse({"error": str(error)}, 413, _SAFE)
        name = request.query_params.get("name", "picture")[:200]
        return _answer(desk, "upload", request.query_params.get("page", "")[:40], explorer.upload(name, content))

    routes = [
        Route("/", page),
        Route("/ask/{kind:str}", ask, methods=["POST"]),
        Route("/sweep", sweep, methods=["POST"]),
        Route("/upload", upload, methods=["POST"]),
    ]
    return Guard(Starlette(routes=routes), token, port)


async def _body(request: Request, most: int) -> bytes:
    """Read a request's body; an `InputError` if it is too large, before all of it is here."""
    content = bytearray()
    try:
        async for part in request.stream():
            content += part
            if len(content) > most:
                raise InputError(f"more than {most / 1e6:.0f} MB: make it smaller, or give task.max_upload_mb")
    except ClientDisconnect as error:
        raise InputError("the browser has gone") from error
    return bytes(content)


def _answer(desk: Desk, kind: str, page: str, work: Work) -> Response:
    """Stream what is told as lines of JSON; whoever hangs up is not worked for any longer."""
    loop, told = asyncio.get_running_loop(), asyncio.Queue[dict[str, Any]]()

    def tell(message: dict[str, Any]) -> None:
        with suppress(RuntimeError):  # the server has ended
            loop.call_soon_threadsafe(told.put_nowait, message)

    async def lines() -> AsyncIterator[bytes]:
        asked = desk.ask(kind, page, work, tell)
        try:
            while True:
                message = await told.get()
                yield json.dumps(message, allow_nan=False, separators=(",", ":")).encode() + b"\n"
                if message.keys() & {"answer", "error", "dropped"}:
                    return
        finally:
            desk.drop(asked)

    return StreamingResponse(lines(), media_type="application/x-ndjson", headers=_SAFE)


def listen(port: int) -> socket.socket:
    """Open a socket for this machine alone; port 0 takes any that is free.

    Raises:
        InputError: the port is in use, or not allowed.
    """
    opened = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        opened.bind((LOOPBACK, port))
    except OSError as error:
        opened.close()
        raise InputError(
            f"task.port={port} cannot be used ({error.strerror}): give another, or 0 for any"
        ) from error
    return opened


def serve(app: ASGIApp, opened: socket.socket) -> None:
    """Serve until Ctrl-C or a signal, which is then raised as anywhere in the program."""
    settings = uvicorn.Config(
        app, lifespan="off", log_config=None, access_log=False, timeout_graceful_shutdown=1, server_header=False
    )
    uvicorn.Server(settings).run(sockets=[opened])
