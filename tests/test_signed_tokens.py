"""JSON Web Tokens: as good as API keys where the operator wants them, and nothing else gets in as one."""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from fastapi.testclient import TestClient

from service import cli, installation
from service.app import create_app
from service.config import InvalidSettings, Settings
from service.installation import IncompleteInstall
from service.signed_tokens import Tokens
from service.stores import open_tokens
from tests.fakes import FakeEncoder
from tests.guarded import Guarded, bearer, guarded
from tests.problems import assert_problem
from tests.test_auth import EXPECTED, PARAMETERS, refusal

SECRET = b"a secret of sixty-four bytes, so that HS512 has nothing to say too"
RSA = rsa.generate_private_key(65537, 2048)
ED25519 = ed25519.Ed25519PrivateKey.generate()
ANOTHER = rsa.generate_private_key(65537, 2048)
Private = rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey


def public(key: Private) -> bytes:
    """A key's public half in PEM."""
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def claims(**more: Any) -> dict[str, Any]:
    """Claims that are good for reading; None leaves one out."""
    now = time.time()
    said = {"sub": "ann", "scope": "read", "aud": "momoseek", "iat": now, "exp": now + 3600, **more}
    return {name: value for name, value in said.items() if value is not None}


def token(key: Any = SECRET, algorithm: str = "HS256", headers: Any = None, **more: Any) -> str:
    """A signed token."""
    return jwt.encode(claims(**more), key, algorithm, headers)


def forged(header: dict[str, Any], key: bytes | None = None) -> str:
    """A token with any header, signed by HMAC with any bytes, or with nothing behind the last dot."""
    parts = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in (header, claims())]
    text = b".".join(parts)
    signature = b"" if key is None else hmac.digest(key, text, hashlib.sha256)
    return (text + b"." + base64.urlsafe_b64encode(signature).rstrip(b"=")).decode()


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """A server with keys that takes tokens of HS256 too."""
    folder = tmp_path_factory.mktemp("tokens")
    (folder / "secret").write_bytes(SECRET + b"\n")
    with guarded(folder, metrics_open=False, jwt_secret_file=str(folder / "secret")) as locked:
        yield locked


CALLERS: dict[str, Callable[[], str]] = {
    "read": lambda: token(scope="read"),
    "write": lambda: token(scope="openid write profile"),
    "admin": lambda: token(scope="read admin"),
    "own": lambda: token(scope="admin", collections=["c", "d"]),
    "other": lambda: token(scope="admin", collections=["other"]),
    "wrong": lambda: token(SECRET[::-1]),
    "expired": lambda: token(exp=time.time() - 60),
}


@pytest.mark.parametrize("caller", CALLERS)
@pytest.mark.parametrize("route", EXPECTED)
def test_a_token_opens_what_a_key_of_its_scope_and_collections_opens(
    locked: Guarded, route: str, caller: str
) -> None:
    method, _, template = route.partition(" ")
    body: dict[str, Any] = {} if method == "GET" else {"json": {}}
    path = template.format(**PARAMETERS)
    reply = locked.api.request(method, path, headers=bearer(CALLERS[caller]()), **body)
    code = refusal("wrong" if caller == "expired" else caller, EXPECTED[route])
    if code is None:
        assert reply.status_code not in (401, 403)
        assert reply.status_code < 500
        return
    expected = "token_invalid" if code == "key_invalid" else code
    assert_problem(reply, 401 if expected == "token_invalid" else 403, expected)


@pytest.mark.parametrize(
    "presented",
    [
        forged({"alg": "none", "typ": "JWT"}),
        forged({"alg": "None"}),
        forged({"alg": "none"}, SECRET),
        forged({"typ": "JWT"}, SECRET),
        forged({"alg": ""}, SECRET),
        forged({"alg": ["HS256"]}, SECRET),
        forged({"alg": "HS256"}, b""),
        forged({"alg": "HS256"}, b"HS256"),
        forged({"alg": "HS512"}, SECRET),
        forged({"alg": "RS256"}, SECRET),
        forged({"alg": "HS256", "crit": ["exp"], "exp": 1}, SECRET),
        forged({"alg": "HS256", "jwk": {"kty": "oct", "k": "AAAA"}}, b"\0\0\0"),
        forged({"alg": "HS256", "jku": "http://127.0.0.1/keys", "kid": "../../../dev/null"}, b""),
        token(RSA, "RS256"),
        token(ED25519, "EdDSA"),
        token(algorithm="HS384"),
        token()[:-2],
        token()[:-1] + "=",
        token() + "x",
        token().replace(".", "..", 1)[:-1],
        "a.b.c",
        "..",
        "e30.e30.e30",
        "a." + "b" * 9000 + ".c",
        token(sub="x" * 6000),
        token(exp=time.time() - 31),
        token(exp=None),
        token(exp="tomorrow"),
        token(nbf=time.time() + 3600),
        token(nbf="x"),
        token(aud="another service"),
        token(aud=["another", "and one more"]),
        token(aud=None),
        token(sub=None),
        token(sub=""),
        token(sub="a b"),
        token(sub="a\nb"),
        token(scope=None),
        token(scope=""),
        token(scope="readwrite Admin root"),
        token(scope=["admin"]),
        token(collections=[]),
        token(collections=["*"]),
        token(collections="c"),
        token(collections=[1]),
    ],
)
def test_what_is_not_signed_for_here_and_now_is_refused(locked: Guarded, presented: str) -> None:
    for headers in (bearer(presented), {"X-API-Key": presented}):
        reply = locked.api.get("/v1/models", headers=headers)
        assert reply.status_code == 401
        assert reply.json()["code"] in ("token_invalid", "key_invalid")
        assert reply.headers["www-authenticate"].endswith('error="invalid_token"')


@pytest.mark.parametrize(
    "good",
    [
        token(),
        token(exp=time.time() + 3600, nbf=time.time() + 20),  # clocks differ a little
        token(aud=["another", "momoseek"]),
        token(iat=None, iss="https://login.example", email="ann@shop.example"),
        token(headers={"kid": "2026-11"}),
        token(sub="google-oauth2|103547991597142817347"),
    ],
)
def test_a_good_token_gets_in(locked: Guarded, good: str) -> None:
    assert locked.api.get("/v1/models", headers=bearer(good)).status_code == 200


@pytest.mark.parametrize(("key", "algorithm"), [(RSA, "RS256"), (ED25519, "EdDSA")])
def test_public_keys_verify_their_own_algorithm_only(tmp_path: Path, key: Any, algorithm: str) -> None:
    file = tmp_path / "public.pem"
    file.write_bytes(public(key))
    settings = Settings(data_dir=tmp_path / "data", worker=False, jwt_public_key_file=str(file))
    with TestClient(create_app(settings, cast(Any, FakeEncoder()))) as api:

        def status(presented: str) -> int:
            return api.get("/v1/models", headers=bearer(presented)).status_code

        assert status(token(key, algorithm)) == 200
        assert status(token(ANOTHER, "RS256")) == 401
        assert status(token(key, "RS512" if key is RSA else algorithm, exp=0)) == 401
        # The public key is known to everybody: as a secret of HMAC it would sign anything.
        for secret in (public(key), public(key).strip(), public(key) + b"\n"):
            assert status(forged({"alg": "HS256"}, secret)) == 401
            assert status(forged({"alg": algorithm}, secret)) == 401
        assert status(forged({"alg": "none"})) == 401


def test_where_tokens_are_taken_nobody_comes_in_without_even_before_the_first_key(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(SECRET)
    settings = Settings(data_dir=tmp_path / "data", worker=False, jwt_secret_file=str(tmp_path / "secret"))
    with TestClient(create_app(settings, cast(Any, FakeEncoder()))) as api:
        assert_problem(api.get("/v1/models"), 401, "key_missing")
        admin = bearer(token(scope="admin"))
        made = api.post("/v1/keys", json={"name": "first", "scope": "read"}, headers=admin).json()
        assert api.get("/v1/models", headers=bearer(made["key"])).status_code == 200


def test_where_they_are_not_a_token_is_an_unknown_key(tmp_path: Path) -> None:
    with guarded(tmp_path) as locked:
        assert_problem(locked.api.get("/v1/models", headers=bearer(token())), 401, "key_invalid")


def test_a_holder_is_limited_and_named_in_the_audit_log_as_a_key_is(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "secret").write_bytes(SECRET)
    more: dict[str, Any] = {"jwt_secret_file": str(tmp_path / "secret"), "max_requests_per_minute": 1}
    with guarded(tmp_path, **more) as locked:
        caplog.clear()
        write = bearer(token(scope="write"))
        assert locked.api.put("/v1/collections/d", headers=write).status_code == 201
        # Another token of the same holder does not bring another minute's worth.
        assert_problem(locked.api.get("/v1/models", headers=bearer(token(jti="2"))), 429, "rate_limited")
        assert locked.api.get("/v1/models", headers=bearer(token(sub="bob"))).status_code == 200
    lines = [json.loads(record.message) for record in caplog.records if record.name == "momoseek.audit"]
    assert [(line["key"], line["status"]) for line in lines] == [("jwt:ann", 201)]


def private_pem(key: Private) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


@pytest.mark.parametrize(
    ("setting", "content", "told"),
    [
        ("jwt_secret_file", b"too short", "fewer than 32 bytes"),
        ("jwt_secret_file", b" \n" * 40, "fewer than 32 bytes"),
        ("jwt_secret_file", public(RSA), "PEM"),
        ("jwt_public_key_file", SECRET, "no public key"),
        ("jwt_public_key_file", b"", "no public key"),
        ("jwt_public_key_file", private_pem(ED25519), "no public key"),
        ("jwt_public_key_file", public(ec.generate_private_key(ec.SECP256R1())), "neither RSA"),
        ("jwt_public_key_file", public(rsa.generate_private_key(65537, 1024)), "neither RSA"),
    ],
)
def test_a_key_that_is_none_or_too_weak_stops_the_start(
    tmp_path: Path, setting: str, content: bytes, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "key"
    file.write_bytes(content)
    flag = "--" + setting.replace("_", "-")
    with pytest.raises(SystemExit) as stopped:
        cli.main(["serve", "--port", "0", "--data-dir", str(tmp_path / "data"), flag, str(file)])
    assert stopped.value.code == 2
    shown = capsys.readouterr().err
    assert told in " ".join(shown.split())
    assert "sixty-four" not in shown


def test_two_ways_to_sign_are_one_too_many(tmp_path: Path) -> None:
    with pytest.raises(InvalidSettings):
        open_tokens(Settings(jwt_secret_file="a", jwt_public_key_file="b"))
    with pytest.raises(FileNotFoundError):
        open_tokens(Settings(jwt_secret_file=str(tmp_path / "absent")))


def test_a_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.signed_tokens.is_installed", lambda name: name != "pyjwt")
    with pytest.raises(IncompleteInstall, match=r"momoseek\[jwt\]"):
        Tokens.of_secret(tmp_path / "secret", "momoseek")
    assert not installation.is_installed("a-package-that-is-not-there")
