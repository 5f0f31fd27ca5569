"""Accounts, sessions and the login page: no way in without a password, and wrong ones cost time."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from pipelines.errors import ConfigError
from studio.accounts import (
    FREE_TRIES,
    IDLE,
    LONGEST_WAIT,
    MOST,
    SIEGE,
    SPAN,
    Accounts,
    Sessions,
    Throttle,
)
from studio.guard import Guard, Hosts
from studio.login import Login

HTML = {"accept": "text/html,*/*"}
ANA = {"username": "ana", "password": "correct horse"}


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def door(**options: Any) -> TestClient:
    app = FastAPI(openapi_url=None)

    @app.api_route("/{path:path}", methods=["GET", "POST"])
    def inside(path: str) -> str:
        return "inside"

    accounts = Accounts.of({"ana": "correct horse", "ben": "battery staple"})
    login = Login(accounts, throttle=options.pop("throttle", Throttle()))
    guard = Guard(app, Hosts.of("127.0.0.1"), login, **options)
    return TestClient(guard, base_url="http://127.0.0.1:7860", follow_redirects=False)


def test_nothing_passes_without_a_login() -> None:
    closed = door()
    answer = closed.get("/files/x")
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Basic")
    assert closed.post("/queue/join", headers=HTML).status_code == 401
    assert "www-authenticate" not in closed.get("/parts", headers={"sec-fetch-mode": "cors"}).headers
    assert closed.get("/", headers=HTML).headers["location"] == "/login"
    assert closed.get("/loginx").status_code == 401


def test_a_browser_logs_in_and_out() -> None:
    browser = door()
    shown = browser.get("/login", headers=HTML)
    assert shown.status_code == 200
    assert "script" not in shown.text
    assert shown.headers["content-security-policy"].startswith("default-src 'none'")
    wrong = browser.post("/login", data={**ANA, "password": "<b>wrong"}, headers=HTML)
    assert wrong.status_code == 401
    assert 'role="alert"' in wrong.text
    assert 'value="ana"' in wrong.text
    right = browser.post("/login", data=ANA, headers=HTML)
    assert (right.status_code, right.headers["location"]) == (303, "/")
    cookie = right.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=lax" in cookie
    assert "Secure" not in cookie
    assert browser.get("/").json() == "inside"
    assert browser.get("/login", headers=HTML).headers["location"] == "/"
    token = browser.cookies["pigment"]
    assert browser.get("/logout").status_code == 405
    assert browser.post("/logout").headers["location"] == "/login"
    assert browser.get("/", headers={"cookie": f"pigment={token}"}).status_code == 401


def test_https_makes_the_cookie_secure_and_the_root_path_its_path() -> None:
    proxied = door(root_path="/pigment")
    proxied.base_url = "https://127.0.0.1:7860"
    answer = proxied.post("/pigment/login", data=ANA, headers=HTML)
    assert answer.headers["location"] == "/pigment/"
    assert "Secure" in answer.headers["set-cookie"]
    assert "Path=/pigment/" in answer.headers["set-cookie"]
    assert 'action="/pigment/login"' in door(root_path="/pigment").get("/login", headers=HTML).text


def test_what_is_typed_is_shown_as_text() -> None:
    shown = door().post("/login", data={"username": '"><script>@told@', "password": "x"}, headers=HTML).text
    assert "<script>" not in shown
    assert "&quot;&gt;&lt;script&gt;" in shown


def test_commands_log_in_by_basic_or_by_form() -> None:
    command = door()
    assert command.get("/x", auth=("ben", "battery staple")).json() == "inside"
    for pair in (("ben", "wrong"), ("nobody", "battery staple"), ("", "")):
        assert command.get("/x", auth=pair).status_code == 401
    for header in ("Basic", "Basic !!", "Bearer abc", "Basic " + "A" * 9000):
        assert command.get("/x", headers={"authorization": header}).status_code == 401
    answer = command.post("/login", data=ANA)
    assert answer.json() == {"success": True}
    assert command.get("/x").json() == "inside"
    assert door().post("/login", json=ANA).status_code == 415
    assert door().post("/login", data={**ANA, "more": "x" * 20000}).status_code == 413


def test_wrong_passwords_cost_more_and_more_time() -> None:
    clock = Clock()
    throttled = door(throttle=Throttle(clock))
    for _ in range(FREE_TRIES):
        assert throttled.post("/login", data={**ANA, "password": "x"}).status_code == 401
    answer = throttled.post("/login", data=ANA)
    assert answer.status_code == 429, "the right one waits as well, or it could be told from a wrong one"
    assert answer.headers["retry-after"] == "2"
    assert throttled.get("/x", auth=("ana", "correct horse")).status_code == 429
    assert "try again in 2 s" in throttled.post("/login", data=ANA, headers=HTML).text
    clock.now += 1.1
    assert throttled.post("/login", data={**ANA, "password": "x"}).status_code == 401
    clock.now += 1.1
    assert throttled.post("/login", data=ANA).status_code == 429
    clock.now += 1.1
    assert throttled.post("/login", data=ANA).status_code == 200


def test_a_network_waits_and_others_do_not() -> None:
    throttle = Throttle(Clock())
    for _ in range(FREE_TRIES + 3):
        throttle.wrong("2001:db8::1", "ana")
    assert throttle.wait("2001:db8::ffff", "ana") == 8, "an IPv6 network is one person's"
    assert throttle.wait("2001:db8:1::1", "ana") == throttle.wait("10.0.0.1", "ana") == 0
    throttle.right("2001:db8::1", "ana")
    assert throttle.wait("2001:db8::1", "ana") == 0
    for _ in range(FREE_TRIES):
        throttle.wrong("::ffff:10.0.0.1", "ana")
    assert throttle.wait("10.0.0.1", "ana") == 1
    assert throttle.wait("::ffff:192.168.1.1", "ana") == 0, "not all IPv4 ones are one network"
    for number in range(30):
        throttle.wrong(f"2001:db8:2:{number:x}::1", "ana")
    assert throttle.wait("2001:db8:2:ff::1", "ana") > 0, "one person may have 65,536 such networks"


def test_an_account_of_ones_own_gives_no_more_tries_at_anothers() -> None:
    throttle = Throttle(Clock())
    for _ in range(FREE_TRIES):
        throttle.wrong("10.0.0.1", "ana")
        throttle.right("10.0.0.1", "ben")
    assert throttle.wait("10.0.0.1", "ana") == 1


def test_wrong_passwords_from_everywhere_lock_nobody_out() -> None:
    clock = Clock()
    throttle = Throttle(clock)
    throttle.right("10.0.0.1", "ana")
    for number in range(SIEGE):
        throttle.wrong(f"10.1.{number}.1", "ana")
    assert throttle.wait("10.2.0.1", "ana") == 0, "the first try of a new address"
    throttle.wrong("10.2.0.1", "ana")
    assert throttle.wait("10.2.0.1", "ana") == LONGEST_WAIT, "and its only one"
    for number in range(MOST):
        throttle.wrong(f"10.3.{number}.1" if number < 256 else f"10.4.{number - 256}.1", "ana")
    assert throttle.wait("10.0.0.1", "ana") == 0, "she was here before"
    assert throttle.wait("10.0.0.1", "ben") == throttle.wait("10.9.0.1", "ana") == SPAN
    clock.now += SPAN + 1
    assert throttle.wait("10.9.0.1", "ana") == 0


def test_sessions_end() -> None:
    clock = Clock()
    sessions = Sessions(clock)
    token = sessions.begin("ana")
    clock.now += IDLE - 1
    assert sessions.user(token) == "ana"
    clock.now += IDLE - 1
    assert sessions.user(token) == "ana", "it is in use"
    clock.now += IDLE + 1
    assert sessions.user(token) is None
    assert sessions.user("other") is None


def test_accounts_from_a_pair_and_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert Accounts.read("ana:pass:word9").know("ana", "pass:word9")
    file = tmp_path / "accounts"
    file.write_text("# people\nana:correct horse\n\nben:battery staple\n", encoding="utf-8")
    file.chmod(0o600)
    accounts = Accounts.read(str(file))
    assert accounts.know("ben", "battery staple")
    assert not accounts.know("ben", "correct horse")
    assert not accounts.know("# people", "")
    assert capsys.readouterr().err == ""
    if os.name == "posix":
        file.chmod(0o644)
        Accounts.read(str(file))
        assert "chmod 600" in capsys.readouterr().err
    assert "correct horse" not in repr(accounts)
    for wrong, line in {
        "nowhere": "neither", "ana:short": "at least", ":password1": "form", "ana:": "at least",
    }.items():  # fmt: skip
        with pytest.raises(ConfigError, match=line):
            Accounts.read(wrong)
    file.write_text("# nobody\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="names nobody"):
        Accounts.read(str(file))
