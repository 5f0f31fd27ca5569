"""Who may use the studio: a login page with sessions by cookie, and HTTP Basic for commands."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from studio.accounts import LIFE, LONGEST, Accounts, Sessions, Throttle
from studio.guard import Refusal, Scope
from studio.markup import text


@dataclass(frozen=True)
class Login:
    """The door of a studio with accounts: everything but its own two routes wants one of them.

    Attributes:
        cookie: the name of the session's cookie. Cookies don't know ports: two studios on a machine need two.
    """

    accounts: Accounts
    cookie: str = "pigment"
    sessions: Sessions = field(default_factory=Sessions)
    throttle: Throttle = field(default_factory=Throttle)

    async def let_in(self, scope: Scope, receive: Any, send: Any, root: str) -> bool:
        """Whether a request may pass (`scope["pigment.user"]` says whose it is); else it is answered here.

        Raises:
            Refusal: it has no login, or a wrong one.
        """
        from starlette.requests import HTTPConnection, Request
        from starlette.responses import RedirectResponse

        connection = HTTPConnection(scope)
        headers = connection.headers
        token = connection.cookies.get(self.cookie, "")
        user = self.sessions.user(token) if token else None
        path = scope["path"].rstrip("/")
        if scope["type"] == "http" and path in ("/login", "/logout"):
            request = Request(scope, receive)
            answer = await (self._login if path == "/login" else self._logout)(request, user, token, root)
            await answer(scope, receive, send)
            return False
        if user is None and "authorization" in headers:
            user = self._basic(headers["authorization"], _address(scope))
        if user is not None:
            scope["pigment.user"] = user
            return True
        if scope["type"] == "http" and scope["method"] == "GET" and "text/html" in headers.get("accept", ""):
            await RedirectResponse(f"{root}/login", 303, {"Cache-Control": "no-store"})(scope, receive, send)
            return False
        # A browser would ask for the password in a window of its own.
        asks = () if "sec-fetch-mode" in headers else ((b"www-authenticate", b'Basic realm="Pigment"'),)
        raise Refusal(401, "refused: log in first", asks)

    def check(self, name: str, password: str, address: str) -> bool:
        """Whether that is somebody's password.

        Raises:
            Refusal: too many wrong ones; the line says for how long.
        """
        wait = self.throttle.wait(address, name)
        if wait > 0:
            seconds = str(int(wait) + 1)
            line = f"too many wrong passwords; try again in {seconds} s"
            raise Refusal(429, line, ((b"retry-after", seconds.encode()),))
        if len(name) <= LONGEST and len(password) <= LONGEST and self.accounts.know(name, password):
            self.throttle.right(address, name)
            return True
        self.throttle.wrong(address, name[:LONGEST])
        return False

    def _basic(self, header: str, address: str) -> str | None:
        """Whose name and password an Authorization header holds; None when nobody's."""
        kind, _, coded = header.partition(" ")
        if kind.lower() != "basic" or len(coded) > 4 * LONGEST:
            return None
        try:
            name, _, password = base64.b64decode(coded.strip(), validate=True).decode("utf-8").partition(":")
        except (binascii.Error, UnicodeDecodeError):
            return None
        return name if self.check(name, password, address) else None

    async def _login(self, request: Any, user: str | None, token: str, root: str) -> Any:
        from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse

        html = "text/html" in request.headers.get("accept", "")
        kept = {"Cache-Control": "no-store"}
        if request.method in ("GET", "HEAD"):
            if user is not None:
                return RedirectResponse(f"{root}/", 303, kept)
            return HTMLResponse(page(root), headers={**kept, **PAGE_POLICY})
        if request.method != "POST":
            raise Refusal(405, "refused: the login takes GET and POST", ((b"allow", b"GET, HEAD, POST"),))
        name, password = await _form(request)
        status, line = 401, "That name and password don't belong together."
        try:
            right = self.check(name, password, _address(request.scope))
        except Refusal as refusal:
            if not html:
                raise
            right, status, line = False, refusal.status, f"{refusal.line[0].upper()}{refusal.line[1:]}."
        if not right:
            if html:
                return HTMLResponse(page(root, line, name), status, {**kept, **PAGE_POLICY})
            raise Refusal(401, "refused: that name and password don't belong together")
        self.sessions.end(token)
        answer = (
            RedirectResponse(f"{root}/", 303, kept) if html else JSONResponse({"success": True}, 200, kept)
        )
        answer.set_cookie(
            self.cookie, self.sessions.begin(name), max_age=int(LIFE), path=f"{root}/", httponly=True,
            samesite="lax", secure=request.scope.get("scheme") == "https",
        )  # fmt: skip
        return answer

    async def _logout(self, request: Any, user: str | None, token: str, root: str) -> Any:
        from starlette.responses import RedirectResponse

        if request.method != "POST":
            raise Refusal(405, "refused: the logout takes POST", ((b"allow", b"POST"),))
        self.sessions.end(token)
        answer = RedirectResponse(f"{root}/login", 303, {"Cache-Control": "no-store"})
        answer.delete_cookie(self.cookie, path=f"{root}/")
        return answer


async def _form(request: Any) -> tuple[str, str]:
    """The name and password of a form's request; empty where it holds none."""
    if (
        request.headers.get("content-type", "").partition(";")[0].strip()
        != "application/x-www-form-urlencoded"
    ):
        raise Refusal(415, "refused: send the login as a form: curl --data-urlencode username=… …/login")
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > 8 * LONGEST:
            raise Refusal(413, "refused: that is too long for a login")
    fields = parse_qs(body.decode("utf-8", "replace"), keep_blank_values=True)
    return fields.get("username", [""])[0].strip(), fields.get("password", [""])[0]


def _address(scope: Scope) -> str:
    client = scope.get("client")
    return str(client[0]) if client else "?"


ICON = (
    "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 44 32'%3E"
    "%3Ccircle cx='14' cy='13' r='11' fill='%23e4572e'/%3E"
    "%3Ccircle cx='28' cy='13' r='11' fill='%233f45bd' fill-opacity='.82'/%3E"
    "%3Ccircle cx='21' cy='21' r='10' fill='%23f2b134' fill-opacity='.82'/%3E%3C/svg%3E"
)
"""The picture in a browser's tab; nobody has to log in for it."""


def head(signed_in: bool) -> str:
    """What the page's own head gets: the icon and, where there are accounts, the way out."""
    link = f'<link rel="icon" href="{ICON}">'
    if not signed_in:
        return link
    script = (Path(__file__).parent / "js" / "signout.js").read_text(encoding="utf-8")
    return f"{link}<script>{script}</script>"


PAGE_POLICY = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
}


def page(root: str, line: str = "", name: str = "") -> str:
    """The login page; nothing in it comes from elsewhere. line: what went wrong. name: what was typed."""
    template = (Path(__file__).parent / "login.html").read_text(encoding="utf-8")
    told = f'<p role="alert">{text(line)}</p>' if line else ""
    here = {"@icon@": ICON, "@root@": text(root), "@told@": told, "@name@": text(name[:200])}
    for mark, value in here.items():
        template = template.replace(mark, value)
    return template
