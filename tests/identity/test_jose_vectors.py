"""Keys, tokens and signatures that nobody here made: RFC 7515 A.2 and A.3, RFC 8037 A.4, and Project Wycheproof's JWS
vectors (C2SP/wycheproof, `json_web_signature_test.json`: the groups of the algorithms we take, each with its one valid
token and what it says must be refused). Then every padding of an RSA signature that is not the one padding.

Payloads of these vectors are no JSON objects, and nothing is read before a signature was right: so what is valid is
refused as `malformed`, the payload, and what is not valid is refused before that.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from garrison.identity.signing import jose
from garrison.identity.signing.jose import Header, TokenRefused, VerifyingKey, generate_key, import_public, verify_with
from tests.identity.test_dpop import b64

Vector = tuple[str, Mapping[str, str], str]

EXAMPLE = "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ"
RFC: tuple[Vector, ...] = (
    (
        "RS256",
        {
            "kty": "RSA",
            "n": "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yR"
            "T-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-U"
            "To7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkM"
            "Ls91kzk2PAcDTW9gb54h4FRWyuXpoQ",
            "e": "AQAB",
        },
        f"eyJhbGciOiJSUzI1NiJ9.{EXAMPLE}.cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_l"
        "F5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Q"
        "e7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98r"
        "qVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw",
    ),
    (
        "ES256",
        {
            "kty": "EC",
            "crv": "P-256",
            "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
            "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
        },
        f"eyJhbGciOiJFUzI1NiJ9.{EXAMPLE}.DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-"
        "Kg6NU1Q",
    ),
)
WYCHEPROOF: tuple[Vector, ...] = (
    (
        "ES256",
        {
            "kty": "EC",
            "crv": "P-256",
            "x": "04N0xi21hshyvBp7I167sbE_bXqyqkAPfefdklMO7wY",
            "y": "UI8exy-C06a7DUnjIdENkxeFtHM4-l_41LqEw9nVgmw",
        },
        "eyJhbGciOiJFUzI1NiIsImtpZCI6ImtpZC1lYy1zaWduIn0.Zm9v.5cA0OHyMP7ezamUd5c9kV-FrGxdx4hbGXOdplQkutrqWrte5P-pAvsE3V"
        "e6xSyU3YDQwUHjVVOtvcrEbbnZ8yA",
    ),
    (
        "RS256",
        {
            "kty": "RSA",
            "n": "kqGboBfAWttWPCA-0cGRgsY6SaYoIARt0B_PkaEcIq9HPYNdu9n6UuWHuuTHrjF_ZoQW97r5HaAorNvrMEGTGdxCHZdEtkHvN"
            "VVmrtxT"
            "BLiQCbCozXhFoIrVcr3qUBrdGnNn_M3jJi7Wg7p_-x62nS5gNG875oyheRkutHsQXikFZwsN3q_TsPNOVlCiHy8mxzaFTUQGm-X8UY"
            "exFyA"
            "ivlDSjgDJLAZSWfxd7k9Gxuwa3AUfQqQcVcegmgKGCaErQ3qQbh1x7WB6iopE3_-GZ8HMAVtR9AmrVscqYsnjhaCehfAI0iKKs8zXr"
            "8tISc0"
            "ORbaalrkk03H1ZrsEnDKEWQ",
            "e": "AQAB",
        },
        "eyJhbGciOiJSUzI1NiIsImtpZCI6ImtpZC1yc2Etc2lnbiJ9.Zm9v.HUwxI1-cZrZgcuOgBQ7G7NE-GrqK79l6GV1KT4DKXnSMFwC8pfZCzE7p"
        "mLE7mYpLCIvzC87yuOjuhT0uW5oe6aaAEtR978cm-q8dfly45flqMrd_ifhi9GCsMlyi8dpQ42Ou1etZljFZuWjfyk8CN1c5DaHRwhqjScAPIF"
        "p6xmzKIRUJ_xdQfUSfSlujLaixtScU518EoNP4oo1v7E8RAz6ZO4g2N4Xqs8OvSxYydcoTEg42QnLHe9JnXgI37Q5gSwinwaPsG3Ry56UYiLoL"
        "8mCUa74S51y02VsIgVmmGWgaXjM-i_lCiKQDBiBnvWlka4XhVuvd6ZWibM9cbCPtPg",
    ),
)
REFUSED_ES256 = {
    "symmetry confusion: the point as a shared secret": "eyJhbGciOiJIUzI1NiIsImtpZCI6ImtpZC1lYy1zaWduIn0.Zm9v.TgWtz"
    "2FIRu"
    "kBQ_mA5sgHa0Ybtgn7bl-YBPAi7Z0XdHU",
    "a key that came along": "eyJhbGciOiJFUzI1NiIsImtpZCI6ImtpZC1lYy1zaWduIiwiandrIjp7Imt0eSI6IkVDIiwia2lkIjoia2lkL"
    "WVjLX"
    "NpZ24iLCJ1c2UiOiJzaWciLCJhbGciOiJFUzI1NiIsIngiOiJNZG5UWkRJaERKYmZBU2RGcWFtY3BPMkNoOUdOS0sybTBNUWxoNDAyU3BvIiwi"
    "eSI6I"
    "jdhdko0bHFfV3l4LW5MUERCUTJZcHl0dUh5TWlvMDdCVXl2bDNqYUMtMVkiLCJjcnYiOiJQLTI1NiJ9fQ.Zm9v.4jmsollQD8ZxvySzXYnIEYA4fwa"
    "Zi2ZbC0aI1J4LYmW2Bn31NhKdjms2N6o51Dff5-InWXQF9m45VtTexl6yjg",
}


def _parts(change: Callable[[str, str, str], str]) -> Callable[[str], str]:
    return lambda token: change(*token.split("."))


WYCHEPROOFS: dict[str, Callable[[str], str]] = {
    "rejectsModifiedSignature": _parts(lambda head, body, last: f"{head}.{body}.X{last[1:]}"),
    "rejectsMissingSignature": _parts(lambda head, body, last: f"{head}.{body}."),
    "rejectsMissingSignatureAndSeparator": _parts(lambda head, body, last: f"{head}.{body}"),
    "rejectsModifiedPayload": _parts(lambda head, body, last: f"{head}.WG9v.{last}"),
    "rejectsMissingPayload": _parts(lambda head, body, last: f"{head}..{last}"),
    "rejectsMissingPayloadAndSeparator": _parts(lambda head, body, last: f"{head}.{last}"),
    "rejectsModifiedHeader": _parts(lambda head, body, last: f"{head.replace('ImtpZC', 'IlhpZC', 1)}.{body}.{last}"),
    "rejectsMissingHeader": _parts(lambda head, body, last: f".{body}.{last}"),
    "rejectsMissingHeaderAndSeparator": _parts(lambda head, body, last: f"{body}.{last}"),
    "rejectsMissingHeaderAndSignature": _parts(lambda head, body, last: f".{body}."),
    "rejectsMissingHeaderSignatureAndSeparators": _parts(lambda head, body, last: body),
    "rejectsEmptyString": lambda token: "",
    "rejectsExtraEmptyComponent": lambda token: token + ".",
    "rejectsExtraComponent": lambda token: token + ".foo",
    "rejectsNoneAlgorithmAndMissingSignature": _parts(
        lambda head, body, last: f"{b64(json.dumps({'alg': 'none', 'kid': 'kid-ec-sign'}).encode())}.{body}."
    ),
    "rejectsValidJsonSerialization": _parts(
        lambda head, body, last: json.dumps(
            {"payload": body, "signatures": [{"protected": head, "header": {"unknown": "x"}, "signature": last}]}
        )
    ),
}


def code_of(token: str, algorithm: str, jwk: Mapping[str, Any]) -> str:
    """Take the token through all that any token goes through, and return why it is refused; empty where it is not."""
    key = VerifyingKey("", algorithm, import_public(jwk, algorithm))
    raw = token.encode()
    try:
        head, _, _ = jose._split(raw)
        header = jose._read_header(head, jose._FOREIGN_NAMES, needs_kid=False)
        verify_with(raw, header, key)
    except TokenRefused as refused:
        return refused.code
    return ""


@pytest.mark.parametrize("vector", RFC, ids=["RFC 7515 A.2", "RFC 7515 A.3"])
def test_what_the_rfcs_signed_is_right(vector: Vector) -> None:
    algorithm, jwk, token = vector
    assert code_of(token, algorithm, jwk) == ""
    head, body, last = token.split(".")
    assert code_of(f"{head}.{body}.{'X' if last[0] != 'X' else 'Y'}{last[1:]}", algorithm, jwk) == "signature"


def test_what_rfc_8037_signed_is_right() -> None:
    jwk = {"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}
    token = (
        "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc.hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4"
        "ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg"
    )
    assert code_of(token, "EdDSA", jwk) == "malformed"
    assert code_of(token.replace(".hgy", ".hgz"), "EdDSA", jwk) == "signature"


@pytest.mark.parametrize("vector", WYCHEPROOF, ids=["ES256", "RS256"])
def test_wycheproofs_valid_token_is_refused_for_its_payload_alone(vector: Vector) -> None:
    algorithm, jwk, token = vector
    assert code_of(token, algorithm, jwk) == "malformed"


@pytest.mark.parametrize("name", list(WYCHEPROOFS))
@pytest.mark.parametrize("vector", WYCHEPROOF, ids=["ES256", "RS256"])
def test_wycheproofs_invalid_tokens_never_reach_a_payload(vector: Vector, name: str, monkeypatch: Any) -> None:
    algorithm, jwk, token = vector
    key = VerifyingKey("", algorithm, import_public(jwk, algorithm))
    raw = WYCHEPROOFS[name](token).encode()
    read: list[bytes] = []
    strict = jose.strict_object

    def reading(document: bytes) -> dict[str, Any]:
        read.append(document)
        return strict(document)

    monkeypatch.setattr(jose, "strict_object", reading)
    with pytest.raises(TokenRefused):
        verify_with(raw, Header(algorithm, "", ""), key)
    assert read == []
    assert code_of(raw.decode(), algorithm, jwk) in ("signature", "malformed", "alg", "header")


@pytest.mark.parametrize("name", list(REFUSED_ES256))
def test_wycheproofs_other_attacks_on_es256(name: str) -> None:
    algorithm, jwk, _ = WYCHEPROOF[0]
    assert code_of(REFUSED_ES256[name], algorithm, jwk) in ("alg", "header")


# PKCS #1 v1.5 has one right padding for each message (RFC 8017 section 9.2): whatever else was signed is refused.

SHA256_DER = bytes.fromhex("3031300d060960864801650304020105000420")
SHA1_DER = bytes.fromhex("3021300906052b0e03021a05000414")
SHA512_DER = bytes.fromhex("3051300d060960864801650304020305000440")


def _padded(
    inside: bytes, size: int, *, start: bytes = b"\x00\x01", fill: bytes = b"\xff", end: bytes = b"\x00"
) -> bytes:
    return start + fill * (size - len(start) - len(end) - len(inside)) + end + inside


def paddings(message: bytes, size: int) -> dict[str, bytes]:
    """Name → encoded message of `size` bytes; the first is right."""
    hashed = hashlib.sha256(message).digest()
    right = SHA256_DER + hashed
    without_null = bytes.fromhex("302f300b0609608648016503040201") + b"\x04\x20" + hashed
    long_length = bytes.fromhex("308131300d060960864801650304020105000420") + hashed
    long_null = bytes.fromhex("3032300e06096086480165030402010581000420") + hashed
    return {
        "right": _padded(right, size),
        "no hash, bare": _padded(hashed, size),
        "without NULL": _padded(without_null, size),
        "BER: long form of a length": _padded(long_length, size),
        "BER: long form of NULL": _padded(long_null, size),
        "another hash": _padded(SHA1_DER + hashlib.sha1(message).digest(), size),
        "a longer hash": _padded(SHA512_DER + hashlib.sha512(message).digest(), size),
        "the name of another hash": _padded(SHA512_DER[:-1] + b"\x20" + hashed, size),
        "garbage behind (Bleichenbacher 2006)": b"\x00\x01"
        + b"\xff" * 8
        + b"\x00"
        + right
        + b"\x5a" * (size - 11 - len(right)),
        "zeros behind": b"\x00\x01" + b"\xff" * 8 + b"\x00" + right + b"\x00" * (size - 11 - len(right)),
        "garbage in the parameters": _padded(
            bytes.fromhex("3041301d0609608648016503040201") + b"\x04\x10" + b"\x5a" * 16 + b"\x04\x20" + hashed, size
        ),
        "block type 0": _padded(right, size, start=b"\x00\x00", fill=b"\x00"),
        "block type 2": _padded(right, size, start=b"\x00\x02", fill=b"\x5a"),
        "first byte 1": _padded(right, size, start=b"\x01\x01"),
        "fill is not all ones": _padded(right, size, fill=b"\xfe"),
        "one byte of the fill is wrong": _padded(right, size).replace(
            b"\xff" * 20, b"\xff" * 9 + b"\x00" + b"\xff" * 10, 1
        ),
        "no separator": _padded(right, size, end=b""),
        "the hash of something else": _padded(SHA256_DER + hashlib.sha256(message + b"x").digest(), size),
    }


def test_of_all_paddings_of_an_rsa_signature_one_is_right() -> None:
    key = generate_key("RS256")
    private = key.get_op_key("sign")
    assert isinstance(private, rsa.RSAPrivateKey)
    numbers = private.private_numbers()
    n, size = numbers.public_numbers.n, private.key_size // 8
    verifying = VerifyingKey("", "RS256", key)
    signed = f"{b64(b'{}')}.{b64(b'{}')}"

    def accepted(signature: bytes) -> bool:
        try:
            verify_with(f"{signed}.{b64(signature)}".encode(), Header("RS256", "", ""), verifying)
        except TokenRefused:
            return False
        return True

    made = paddings(signed.encode(), size)
    assert all(len(encoded) == size for encoded in made.values())
    raw = {name: pow(int.from_bytes(encoded) % n, numbers.d, n) for name, encoded in made.items()}
    assert [name for name, value in raw.items() if accepted(value.to_bytes(size))] == ["right"]
    right = raw["right"]
    for spelling in (
        (right + n).to_bytes(size + 1),
        b"\x00" + right.to_bytes(size),
        right.to_bytes(size) + b"\x00",
        right.to_bytes(size)[:-1],
        (n - right).to_bytes(size),
        bytes(size),
        b"\x00" * (size - 1) + b"\x01",
        n.to_bytes(size),
        (n - 1).to_bytes(size),
        b"\xff" * size,
    ):
        assert not accepted(spelling)
