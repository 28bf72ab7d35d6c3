"""Attacks on tokens: whatever is not byte for byte what a key of ours signed is refused (past failures 1 to 9, 29)."""

import base64
import hashlib
import hmac
import json
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from garrison.core.clock import ManualClock
from garrison.identity.signing import jose
from garrison.identity.signing.jose import (
    ALGORITHMS,
    MAX_TOKEN_BYTES,
    TokenRefused,
    VerifyingKey,
    generate_key,
    import_public,
    load_private,
    peek,
    private_bytes,
    public_jwk,
    sign,
    verify,
    verify_with,
)
from tests.identity.conftest import Client, OpenProcess, Process

KEYS = {name: VerifyingKey(f"k-{name}", name, generate_key(name)) for name in ("RS256", "ES256", "EdDSA")}
KEYS["HS256"] = VerifyingKey("k-HS256", "HS256", load_private(b"s" * 32, "HS256"))
BY_KID = {key.kid: key for key in KEYS.values()}
EMAIL = "ada@example.com"


def b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def unb64(segment: str) -> bytes:
    return base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4))


def refused(token: str | bytes, find: Callable[[str], VerifyingKey | None] = BY_KID.get) -> str:
    raw = token.encode() if isinstance(token, str) else token
    with pytest.raises(TokenRefused) as caught:
        verify(raw, find, typ="at+jwt")
    return caught.value.code


def token(name: str = "RS256", header: dict[str, Any] | None = None, claims: dict[str, Any] | None = None) -> str:
    return sign({"typ": "at+jwt", **(header or {})}, claims or {"sub": "acc_1"}, KEYS[name])


def rewritten(made: str, header: bytes | None = None, body: bytes | None = None, signature: bytes | None = None) -> str:
    parts = made.split(".")
    return ".".join(
        part if new is None else b64(new) for part, new in zip(parts, (header, body, signature), strict=True)
    )


@pytest.mark.parametrize("name", ALGORITHMS)
def test_what_a_key_signed_is_right_and_nothing_else(name: str) -> None:
    made = token(name)
    assert verify(made.encode(), BY_KID.get, typ="at+jwt").claims == {"sub": "acc_1"}
    body = json.dumps({"sub": "acc_2"}).encode()
    assert refused(rewritten(made, body=body)) == "signature"
    assert refused(rewritten(made, signature=b"\x00" * len(unb64(made.split(".")[2])))) == "signature"
    assert refused(rewritten(made, signature=b"x")) == "signature"
    other = VerifyingKey(f"k-{name}", name, KEYS[name].key if name == "HS256" else generate_key(name))
    if name != "HS256":
        assert refused(sign({"typ": "at+jwt"}, {"sub": "acc_1"}, other)) == "signature"


@pytest.mark.parametrize(
    "alg", ["none", "None", "NONE", "nOnE", "", "HS384", "RS512", "PS256", "ES256K", 7, None, ["RS256"]]
)
@pytest.mark.parametrize("signature", ["", "AA", "kept"])
def test_no_algorithm_but_the_keys_own(alg: Any, signature: str) -> None:
    """CVE-2026-28802 was a regression: so each case, each release."""
    made = token()
    header = json.dumps({"alg": alg, "kid": "k-RS256", "typ": "at+jwt"}).encode()
    head, body, last = rewritten(made, header=header).split(".")
    refused(f"{head}.{body}.{last if signature == 'kept' else signature}")


@pytest.mark.parametrize("said", ALGORITHMS)
@pytest.mark.parametrize("of", ALGORITHMS)
def test_of_all_pairs_only_the_equal_one_passes(said: str, of: str) -> None:
    """CVE-2026-48523: one took the header's algorithm, the other the key's."""
    head = b64(json.dumps({"alg": said, "kid": f"k-{of}", "typ": "at+jwt"}).encode())
    body = b64(b'{"sub":"acc_1"}')
    signature = b64(jose._MODELS[said].sign(f"{head}.{body}".encode(), KEYS[said].key))
    made = f"{head}.{body}.{signature}"
    if said == of:
        assert verify(made.encode(), BY_KID.get, typ="at+jwt").kid == f"k-{of}"
    else:
        assert refused(made) == "alg"


def test_a_public_key_is_nobodys_shared_secret() -> None:
    """2015: HS256 with the RSA public key, in whatever encoding, as the secret."""
    public: Any = KEYS["RS256"].key.get_op_key("verify")
    secrets = [
        public.public_bytes(encoding, form)
        for encoding in (Encoding.PEM, Encoding.DER)
        for form in (PublicFormat.SubjectPublicKeyInfo, PublicFormat.PKCS1)
    ]
    secrets += [one.strip() for one in secrets]
    secrets += [public.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)]
    secrets += [json.dumps(public_jwk(KEYS["RS256"].key), separators=s).encode() for s in ((",", ":"), (", ", ": "))]
    for secret in secrets:
        for kid in ("k-RS256", "k-HS256"):
            head = b64(json.dumps({"alg": "HS256", "kid": kid, "typ": "at+jwt"}).encode())
            body = b64(b'{"sub":"acc_1"}')
            signature = b64(hmac.digest(secret, f"{head}.{body}".encode(), hashlib.sha256))
            assert refused(f"{head}.{body}.{signature}") in ("alg", "signature")


@pytest.mark.parametrize(
    "header",
    [
        {"crit": ["x"]},
        {"crit": []},
        {"crit": "x"},
        {"b64": False},
        {"zip": "DEF"},
        {"jwk": public_jwk(KEYS["ES256"].key)},
        {"jku": "https://evil.example.com/jwks"},
        {"x5u": "https://evil.example.com/cert"},
        {"x5c": ["MII"]},
        {"x5t": "abc"},
        {"cty": "JWT"},
        {"kid": "../../dev/null"},
        {"kid": "' OR 1=1 --"},
        {"kid": "https://evil.example.com/key"},
        {"kid": "k" * 1_000_000},
        {"kid": ""},
        {"kid": 7},
        {"kid": None},
        {"typ": "JWT"},
        {"typ": "session+jwt"},
        {"typ": "dpop+jwt"},
        {"typ": None},
        {"typ": 7},
    ],
)
def test_headers_that_would_let_a_token_choose(header: dict[str, Any]) -> None:
    refused(token(header=header))


def test_the_media_types_long_form_and_case_are_the_same_type() -> None:
    for typ in ("at+jwt", "AT+JWT", "application/at+jwt"):
        assert verify(token(header={"typ": typ}).encode(), BY_KID.get, typ="at+jwt").claims


def test_forms_that_are_no_compact_token() -> None:
    head, body, last = token().split(".")
    for wrong in (
        "",
        "..",
        ".",
        head,
        f"{head}.{body}",
        f"{head}.{body}.",
        f".{body}.{last}",
        f"{head}..{last}",
        f"{head}.{body}.{last}.",
        f"{head}.{body}.{last}.{last}",
        f"{head}.{body}.{last}=",
        f"{head}=.{body}.{last}",
        f" {head}.{body}.{last}",
        f"{head}.{body}.{last}\n",
        f"{head}.{body}.{last[:-1]}+",
        f"{head}.{body}.{last}" + "A" * 9000,
        "ey" * 5000,
    ):
        refused(wrong)


def signed_as_spelt(head: str, body: str, name: str = "HS256") -> str:
    """Return a token whose signature is right for these two segments as they are spelt."""
    signature = jose._MODELS[name].sign(f"{head}.{body}".encode(), KEYS[name].key)
    return f"{head}.{body}.{b64(signature)}"


def read_as_ours(raw: bytes) -> None:
    verify(raw, BY_KID.get, typ="at+jwt")


def read_as_foreign(raw: bytes) -> None:
    header, _ = peek(raw)
    verify_with(raw, header, BY_KID[header.kid])


READERS = pytest.mark.parametrize("read", [read_as_ours, read_as_foreign])
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


def spellings(segment: str) -> list[str]:
    """Return what else decodes to the same bytes where nobody looks at the bits that are left over."""
    return [
        segment[:-1] + other
        for other in ALPHABET
        if other != segment[-1] and unb64(segment[:-1] + other) == unb64(segment)
    ]


@READERS
@pytest.mark.parametrize("over", [2, 3])
@pytest.mark.parametrize("segment", [0, 1])
def test_bits_left_over_are_refused_even_where_they_are_signed(
    read: Callable[[bytes], None], segment: int, over: int
) -> None:
    head = json.dumps({"alg": "HS256", "kid": "k-HS256", "typ": "at+jwt"})
    parts = [b64((text + " " * more).encode()) for text in (head, '{"sub":"a"}') for more in range(3)]
    canonical = next(part for part in parts[segment * 3 : segment * 3 + 3] if len(part) % 4 == over)
    made = [parts[0], parts[3]]
    made[segment] = canonical
    read(signed_as_spelt(*made).encode())
    others = spellings(canonical)
    assert len(others) == {2: 15, 3: 3}[over]
    for other in others:
        made[segment] = other
        with pytest.raises(TokenRefused) as caught:
            read(signed_as_spelt(*made).encode())
        assert caught.value.code == "malformed"


@READERS
@pytest.mark.parametrize(("name", "over"), [("ES256", 2), ("HS256", 3)])
def test_a_signature_has_one_spelling(read: Callable[[bytes], None], name: str, over: int) -> None:
    head, body, last = token(name).split(".")
    assert len(last) % 4 == over
    for other in spellings(last):
        with pytest.raises(TokenRefused) as caught:
            read(f"{head}.{body}.{other}".encode())
        assert caught.value.code == "malformed"


@READERS
@pytest.mark.parametrize("segment", [0, 1, 2])
def test_no_byte_beyond_the_alphabet_of_urls_in_any_segment(read: Callable[[bytes], None], segment: int) -> None:
    """The standard alphabet (`+ /`), padding, white space, and all else that decoders are known to skip."""
    parts = [part.encode() for part in token("HS256").split(".")]
    whole, beyond = parts[segment], [bytes([one]) for one in range(256) if chr(one) not in ALPHABET]
    assert {b"+", b"/", b"=", b" ", b"\n", b"\r", b"\t", b"\x00", b"."} < set(beyond)
    for one in (*beyond, b"==", b"====", b"\r\n"):
        for at in (0, len(whole) // 2, len(whole) - 1, len(whole)):
            for rest in (at, at + len(one)):  # put in, and in the place of another
                parts[segment] = whole[:at] + one + whole[rest:]
                with pytest.raises(TokenRefused) as caught:
                    read(b".".join(parts))
                assert caught.value.code == "malformed", (one, at)


@READERS
@pytest.mark.parametrize("length", [0, 1, 5])
@pytest.mark.parametrize("segment", [0, 1, 2])
def test_no_bytes_are_spelt_so(read: Callable[[bytes], None], segment: int, length: int) -> None:
    parts = token("HS256").split(".")
    parts[segment] = "A" * length
    with pytest.raises(TokenRefused) as caught:
        read(".".join(parts).encode())
    assert caught.value.code == "malformed"


def test_of_all_spellings_one_is_canonical() -> None:
    for front in ("", "A", "AAAA", "AAAA_"):
        for one in ALPHABET:
            for last in ALPHABET:
                segment = front + one + last
                try:
                    found = jose._decoded(segment.encode())
                except TokenRefused:
                    assert len(segment) % 4 == 1 or b64(unb64(segment)) != segment
                else:
                    assert b64(found) == segment


def test_a_token_has_at_most_8_kib() -> None:
    made = [token("HS256", claims={"sub": "a" * length}).encode() for length in range(5900, 6200)]
    read_as_ours(max((one for one in made if len(one) <= MAX_TOKEN_BYTES), key=len))
    assert refused(min((one for one in made if len(one) > MAX_TOKEN_BYTES), key=len)) == "too_long"
    assert {MAX_TOKEN_BYTES, MAX_TOKEN_BYTES + 1} & {len(one) for one in made}


@pytest.mark.parametrize(
    "body",
    [
        b'{"sub":"acc_1","sub":"acc_2"}',
        b'{"sub":"acc_1","\\u0073ub":"acc_2"}',
        b'\xef\xbb\xbf{"sub":"acc_1"}',
        b'["sub"]',
        b'"sub"',
        b"null",
        b"{}x",
        b"{'sub':1}",
        b'{"sub":NaN}',
        b'{"sub":Infinity}',
        b"\xff\xfe{}",
        b'{"a":' * 20 + b"1" + b"}" * 20,
        b'{"a":' + b"[" * 1000 + b"]" * 1000 + b"}",
        b'{"a":' + b"1" * 5000 + b"}",
        b'{"sub":"\\ud800"}',
        b'{"\\uDFFF":1}',
    ],
)
def test_payloads_that_two_readers_would_read_differently(body: bytes) -> None:
    head = token().partition(".")[0]
    signed = f"{head}.{b64(body)}"
    signature = b64(jose._MODELS["RS256"].sign(signed.encode(), KEYS["RS256"].key))
    assert refused(f"{signed}.{signature}") == "malformed"


def test_duplicate_members_of_the_header_are_refused() -> None:
    header = b'{"alg":"RS256","alg":"none","kid":"k-RS256","typ":"at+jwt"}'
    signed = f"{b64(header)}.{token().split('.')[1]}"
    signature = b64(jose._MODELS["RS256"].sign(signed.encode(), KEYS["RS256"].key))
    assert refused(f"{signed}.{signature}") == "malformed"


def test_psychic_signatures() -> None:
    """CVE-2022-21449: r = s = 0 was right for every message; so the edges of the group's order, too."""
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    edges = [0, 1, order - 1, order, order + 1, 2**256 - 1]
    made = token("ES256")
    for r in edges:
        for s in edges:
            assert refused(rewritten(made, signature=r.to_bytes(32, "big") + s.to_bytes(32, "big"))) == "signature"
    assert refused(rewritten(made, signature=b"")) == "malformed"


def test_small_order_points_of_ed25519() -> None:
    for point in (
        "0100000000000000000000000000000000000000000000000000000000000000",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "0000000000000000000000000000000000000000000000000000000000000080",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    ):
        for scalar in (b"\x00" * 32, b"\x01" + b"\x00" * 31):
            assert refused(rewritten(token("EdDSA"), signature=bytes.fromhex(point) + scalar)) == "signature"


@pytest.mark.parametrize(
    "jwk",
    [
        {"kty": "oct", "k": "AAAA"},
        {"kty": "RSA"},
        {"kty": "RSA", "n": "AQAB", "e": "AQAB"},
        {"kty": "EC", "crv": "P-384", "x": "AA", "y": "AA"},
        {"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"},
        {"kty": "OKP", "crv": "X25519", "x": "AA"},
        {"kty": ["RSA"]},
        {},
    ],
)
@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA", "HS256", "none"])
def test_keys_that_do_not_fit_their_algorithm_are_refused(jwk: dict[str, Any], algorithm: str) -> None:
    with pytest.raises(ValueError, match=r"key|bits"):
        import_public(jwk, algorithm)


@pytest.mark.parametrize(
    ("algorithm", "name", "size"),
    [
        ("RS256", "n", 190_000),
        ("RS256", "e", 256),
        ("RS256", "e", 190_000),
        ("ES256", "x", 190_000),
        ("EdDSA", "x", 190_000),
    ],
)
def test_a_key_with_a_member_that_costs_whoever_reads_or_uses_it_is_not_even_read(
    algorithm: str, name: str, size: int
) -> None:
    jwk = {**public_jwk(KEYS[algorithm].key), name: b64(b"\xff" * size)}
    with pytest.raises(ValueError, match="a member is too long"):
        import_public(jwk, algorithm)


@pytest.mark.parametrize("name", ["RS256", "ES256", "EdDSA"])
def test_a_private_key_survives_being_put_away(name: str) -> None:
    again = load_private(private_bytes(KEYS[name].key), name)
    assert jose.thumbprint(again) == jose.thumbprint(KEYS[name].key)
    assert "d" not in public_jwk(again)


MADE = {token(name): name for name in ALGORITHMS}


@given(st.data())
def test_no_other_bytes_than_the_signed_ones_verify(data: st.DataObject) -> None:
    """CVE-2022-23529 and its kin: mutate anything anywhere."""
    whole = data.draw(st.sampled_from(sorted(MADE))).encode()
    at = data.draw(st.integers(0, len(whole)))
    cut = data.draw(st.integers(0, 3))
    put = data.draw(st.binary(max_size=3) | st.sampled_from([b".", b"=", b"A", b"-", b"_", b"\n", b" "]))
    changed = whole[:at] + put + whole[at + cut :]
    if changed != whole:
        refused(changed)


# Through the guard

pytestmark = pytest.mark.anyio


def own(process: Process, claims: dict[str, Any], **header: Any) -> str:
    return sign({"typ": "at+jwt", **header}, claims, process.keyring.signing)


def claims_of(access: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(unb64(access.split(".")[1]))
    return found


@pytest.fixture
async def phone(client: Client) -> Client:
    await client.sign_up(EMAIL)
    await client.sign_in(EMAIL, deliver="token")
    assert await client.is_signed_in()
    return client


async def test_claims_that_are_not_those_of_an_access_token_in_force(phone: Client, clock: ManualClock) -> None:
    process, right = phone.process, claims_of(phone.token)
    now = int(clock.now())
    wrong: list[dict[str, Any]] = [
        {"iss": "https://elsewhere.example.com"},
        {"iss": right["iss"] + "/"},
        {"aud": "https://elsewhere.example.com"},
        {"aud": ["https://elsewhere.example.com"]},
        {"aud": {right["aud"]: 1}},
        {"aud": None},
        {"exp": now},
        {"exp": now - 1},
        {"exp": "2999"},
        {"exp": 10**400},
        {"exp": True},
        {"iat": -(10**400)},
        {"exp": None},
        {"iat": now + 61},
        {"iat": None},
        {"nbf": now + 61},
        {"nbf": "x"},
        {"sub": "acc_" + "0" * 24},
        {"sub": None},
        {"sid": "ses_" + "0" * 24},
        {"sid": None},
        {"sid": 7},
        {"sid": ["x"]},
    ]
    for change in wrong:
        made = own(process, {name: value for name, value in {**right, **change}.items() if value is not None})
        reply = await process.call("GET", "/auth/session", headers={"authorization": f"Bearer {made}"})
        assert (reply.status, reply.code) == (401, "invalid_token"), change
        assert reply.header(b"www-authenticate") == 'Bearer error="invalid_token"'
    for change in (
        {"aud": ["x", right["aud"]]},
        {"iat": now + 60},
        {"nbf": now + 60},
        {"exp": now + 1},
        {"roles": ["admin"]},
    ):
        assert await Client(process, token=own(process, {**right, **change})).is_signed_in(), change
    shown = await Client(process, token=own(process, {**right, "roles": ["admin"], "scope": "all"})).call(
        "GET", "/auth/session"
    )
    assert shown.body["account"]["roles"] == ["member"], "what a person may do, the store says"


async def test_a_token_of_another_environment_is_refused(phone: Client, open_process: OpenProcess) -> None:
    stranger = VerifyingKey(phone.process.keyring.signing.kid, "ES256", generate_key("ES256"))
    for key in (stranger, stranger._replace(kid="another")):
        made = sign({"typ": "at+jwt"}, claims_of(phone.token), key)
        assert not await Client(phone.process, token=made).is_signed_in()


async def test_a_token_of_an_ended_session_is_refused_by_a_process_that_has_just_started(
    phone: Client, open_process: OpenProcess
) -> None:
    stolen = phone.token
    await phone.call("POST", "/auth/sign-out")
    async with open_process() as fresh:
        assert not await Client(fresh, token=stolen).is_signed_in()


async def test_sessions_of_others_cannot_be_named(phone: Client) -> None:
    bob = Client(phone.process)
    await bob.sign_up("bob@example.com")
    await bob.sign_in("bob@example.com", deliver="token")
    mixed = {**claims_of(phone.token), "sid": claims_of(bob.token)["sid"]}
    assert not await Client(phone.process, token=own(phone.process, mixed)).is_signed_in()
