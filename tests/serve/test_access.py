"""Who may ask, what is said to those who may not, and that people are seen by pseudonyms where that is wanted."""

from __future__ import annotations

import hashlib
import json
import time
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from stream.config import ConfigError
from stream.serve.access import Access
from stream.serving import check_access
from tests.serve.rig import Rig, config, intent

KEY = "k" * 24
MASKED = "m" * 24
KEYS = f"""
mask_secret = "a secret that nobody knows"
[[serve.keys]]
name = "ops"
secret = "{KEY}"
[[serve.keys]]
name = "shop-floor"
sha256 = "{hashlib.sha256(MASKED.encode()).hexdigest().upper()}"
mask = true
"""
ISSUER = "https://login.example"
TOKENS = f"""
[serve.jwt]
issuer = "{ISSUER}"
audience = "nowcart"
jwks = "{ISSUER}/keys"
"""


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@pytest.fixture(scope="module")
def signing() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def claims(**more: Any) -> dict[str, Any]:
    return {"iss": ISSUER, "aud": "nowcart", "sub": "eva", "exp": time.time() + 300, **more}


def token(key: Any, given: dict[str, Any], **header: Any) -> str:
    return jwt.encode(given, key, algorithm=header.pop("algorithm", "RS256"), headers={"kid": "one", **header})


class Keys:
    """The issuer's keys, and how often somebody asked for them."""

    def __init__(self, signing: rsa.RSAPrivateKey) -> None:
        key = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(signing.public_key()))
        self.body: bytes | None = json.dumps(
            {"keys": [{**key, "kid": "one", "use": "sig", "alg": "RS256"}, {"kty": "oct", "k": "AAAA"}]}
        ).encode()
        self.asked = 0

    def __call__(self, url: str) -> bytes:
        self.asked += 1
        assert url == f"{ISSUER}/keys"
        if self.body is None:
            raise OSError("the issuer is away")
        return self.body


def test_only_those_with_a_key_are_let_in() -> None:
    with Rig(config(KEYS)) as rig:
        assert rig.get("/v1/overview", bearer(KEY)).status == 200
        assert rig.get("/v1/overview", {"X-API-Key": MASKED}).status == 200
        for headers in (
            {},
            bearer("x" * 24),
            bearer(KEY[:-1]),
            bearer(""),
            {"X-API-Key": KEY + "k"},
            {"Authorization": f"Basic {KEY}"},
            bearer("é" * 30),
        ):
            for path in ("/v1/overview", "/v1/stream", "/v1/items/a/demand", "/v1/nowhere", "/nowhere"):
                answer = rig.get(path, {name: value.encode().decode("latin-1") for name, value in headers.items()})
                assert answer.status == 401, (path, headers)
                assert answer.headers["WWW-Authenticate"].startswith("Bearer")
                assert answer.headers["Content-Type"] == "application/problem+json"
                assert KEY not in answer.body.decode()
        for path in ("/", "/page/app.js", "/openapi.json", "/healthz", "/readyz"):
            assert rig.get(path).status == 200, path


def test_tokens_of_the_issuer_are_taken_and_no_others(signing: rsa.RSAPrivateKey) -> None:
    settings = config(TOKENS)
    stranger = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    public = signing.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    with Rig(settings, access=Access(settings.serve, Keys(signing))) as rig:
        assert rig.get("/v1/overview", bearer(token(signing, claims()))).status == 200
        wrong = {
            "expired": token(signing, claims(exp=time.time() - 60)),
            "not yet": token(signing, claims(nbf=time.time() + 600)),
            "audience": token(signing, claims(aud="elsewhere")),
            "issuer": token(signing, claims(iss="https://evil.example")),
            "no end": token(signing, {k: v for k, v in claims().items() if k != "exp"}),
            "stranger": token(stranger, claims()),
            "unknown key": token(signing, claims(), kid="two"),
            "none": jwt.encode(claims(), "", algorithm="none", headers={"kid": "one"}),
            # The public key as an HMAC secret: the attack for which algorithms are not the token's to choose.
            "confused": hmac_token(public),
            "cut": token(signing, claims())[:-4],
            "garbage": "a.b.c",
            "empty": "..",
            "huge": "a." + "b" * 8000 + ".c",
        }
        for name, presented in wrong.items():
            answer = rig.get("/v1/overview", bearer(presented))
            assert answer.status == 401, name
            assert b"Traceback" not in answer.body


def hmac_token(secret: bytes) -> str:
    import base64
    import hmac

    def part(data: bytes) -> bytes:
        return base64.urlsafe_b64encode(data).rstrip(b"=")

    signed = part(json.dumps({"alg": "HS256", "kid": "one"}).encode()) + b"." + part(json.dumps(claims()).encode())
    return (signed + b"." + part(hmac.new(secret, signed, "sha256").digest())).decode()


def test_the_issuer_is_not_asked_again_and_again(signing: rsa.RSAPrivateKey) -> None:
    import asyncio

    now = [1000.0]
    keys = Keys(signing)
    access = Access(config(TOKENS).serve, keys, lambda: now[0])

    def ask(presented: str) -> str:
        try:
            return asyncio.run(access.who(f"Bearer {presented}", None)).name
        except Exception as error:  # noqa: BLE001 — which one is what the test is about
            return type(error).__name__

    good = token(signing, claims())
    keys.body, kept = None, keys.body
    assert [ask(good) for _ in range(3)] == ["Unsure"] * 3
    assert keys.asked == 1
    keys.body, now[0] = kept, now[0] + 11
    assert ask(good) == "eva"
    assert [ask(token(signing, claims(), kid=f"k{n}")) for n in range(20)] == ["Refused"] * 20
    assert keys.asked == 2
    now[0] += 11
    assert ask(token(signing, claims(), kid="new")) == "Refused"
    assert keys.asked == 3
    keys.body, now[0] = None, now[0] + 4000  # the keys are old, and the issuer is away: those we have still hold
    assert ask(good) == "eva"


def test_a_stream_ends_with_its_token(signing: rsa.RSAPrivateKey) -> None:
    settings = config(TOKENS)
    with Rig(settings, access=Access(settings.serve, Keys(signing))) as rig:
        stream = rig.stream("topics=spikes", bearer(token(signing, claims(exp=time.time() - 10))))  # the leeway is 30 s
        assert [event.name for event in stream.take(1)] == ["expired"]
        assert stream.next() is None


def test_whoever_sees_pseudonyms_sees_nothing_else() -> None:
    with Rig(config(KEYS)) as rig:
        stream = rig.stream("topics=intent", bearer(MASKED)).joined()
        open_stream = rig.stream("topics=intent", bearer(KEY)).joined()
        rig.give("intent", [intent("s-1", 0.5), intent("s-2", 0.6)])
        listed = rig.json("/v1/sessions", bearer(MASKED))["sessions"]
        alias = listed[0]["record"]["session"]
        assert alias.startswith("~")
        streamed = stream.take(2)
        assert [event.data["session"] for event in streamed] == [listed[1]["record"]["session"], alias]
        assert rig.json(f"/v1/sessions/{alias}/intent", bearer(MASKED))["record"] == listed[0]["record"]
        for got in (json.dumps(listed), json.dumps([event.data for event in streamed])):
            assert "s-1" not in got
            assert "s-2" not in got
            assert "user of" not in got
        assert rig.get("/v1/sessions/s-1/intent", bearer(MASKED)).status == 404  # or it would tell who is there
        assert rig.get("/v1/stream?topics=intent&session=s-1", bearer(MASKED)).status == 404
        assert rig.get(f"/v1/sessions/{alias}/intent", bearer(KEY)).status == 404
        assert rig.json("/v1/sessions/s-2/intent", bearer(KEY))["record"]["user"] == "user of s-2"
        assert open_stream.take(1)[0].data["session"] == "s-1"
        one = rig.stream(f"topics=intent&session={alias}", bearer(MASKED)).joined()
        rig.give("intent", [intent("s-1", 0.55), intent("s-2", 0.65)])
        assert one.take(1)[0].data["p_purchase"] == 0.65
        for each in (stream, open_stream, one):
            each.close()


def test_without_keys_it_answers_to_this_machine_alone() -> None:
    with Rig() as rig:
        for host in ("localhost", "127.0.0.1:80", "[::1]:8080", f"localhost:{rig.port}"):
            assert rig.get("/v1/overview", {"Host": host}).status == 200, host
        for host in ("evil.example", "evil.example:8080", "localhost.evil.example", "10.0.0.7", ""):
            assert rig.get("/v1/overview", {"Host": host}).status == 403, host
    check_access(config('host = "::1"').serve)
    for host in ("0.0.0.0", "::", "192.168.1.7", "shop.example"):
        with pytest.raises(ConfigError, match=r"asked for a key: add \[\[serve.keys\]\]"):
            check_access(config(f'host = "{host}"').serve)
        check_access(config(f'host = "{host}"\n{KEYS}').serve)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[[serve.keys]]\nname = "a"', r"serve.keys\[0\].secret or serve.keys\[0\].sha256 must be given"),
        ('[[serve.keys]]\nname = "a"\nsecret = "tooshort!"', "at least 16 characters; got 9 characters"),
        ('[[serve.keys]]\nname = "a"\nsecret = 7', "got no text"),
        ('[[serve.keys]]\nname = "a"\nsha256 = "abc"', "64 hexadecimal digits"),
        ('[[serve.keys]]\nname = "a b"\nsecret = "0123456789abcdef"', "letters, digits"),
        (f'[[serve.keys]]\nname = "a"\nsecret = "{KEY}"\nmask = true', "serve.mask_secret is missing"),
        (f'[[serve.keys]]\nname = "a"\nsecret = "{KEY}"\n[[serve.keys]]\nname = "a"\nsecret = "{MASKED}"', 'got "a" twice'),
        ('[serve.jwt]\nissuer = "http://login.example"\naudience = "x"', "https"),
        ('[serve.jwt]\nissuer = "https://login.example"', "serve.jwt.audience is missing"),
        ('cors = ["*"]', "serve.cors must be origins"),
        ('engine_metrics = "file:///etc/passwd"', "http or https URL"),
        ("prot = 80", "did you mean serve.port"),
        ("history = 1", "from 2 to 10000"),
    ],
)
def test_what_is_wrong_in_the_configuration_is_said_and_no_secret_with_it(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        config(text)
    assert KEY not in str(caught.value)
    assert "tooshort!" not in str(caught.value)


def test_secrets_do_not_stand_in_the_configuration() -> None:
    shown = repr(config(KEYS))
    assert KEY not in shown
    assert "nobody knows" not in shown
