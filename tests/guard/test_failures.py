"""What breaks inside is told inside, without what the request carried, and what is the client's mistake is 400."""

import json
import random
import string
import time

import pytest

from garrison.guard.body import KEPT_BYTES
from garrison.guard.failures import is_broken_json, redacted
from garrison.wire.call import Call


def call(body: bytes = b"", **headers: str) -> Call:
    made = Call({"type": "http", "method": "POST", "headers": [], "query_string": b""})
    made.headers = {name.encode(): value.encode() for name, value in headers.items()}
    made.seen = [body]
    return made


def test_words_of_the_request_are_taken_out_the_longest_first() -> None:
    text = redacted("oops hunter22-long and hunter22, not mine", call(b'{"a": "hunter22", "b": "hunter22-long"}'))
    assert text == "oops [redacted] and [redacted], not mine"


def test_a_request_of_too_many_words_costs_the_exceptions_text_and_not_a_secret() -> None:
    decoys = " ".join(f"decoy-{number:08}" for number in range(3000))
    assert "hunter22" not in redacted("oops hunter22 oops", call(f"{decoys} hunter22".encode()))


@pytest.mark.parametrize("beginning", ["", "Traceback"])
@pytest.mark.parametrize("secret", ["", "hunter22"])
def test_the_largest_body_of_words_holds_up_nobody(beginning: str, secret: str) -> None:
    """Each word was looked for in the exception's text: 1.7 s for every request that made an app fail."""
    dice = random.Random(1)
    letters = "".join(dice.choices(string.ascii_lowercase, k=1 << 20))
    words = " ".join([secret, *(beginning + letters[at : at + 12] for at in range(0, 1 << 20, 12))])
    text = f"Traceback {''.join(dice.choices('0123456789 ', k=32_000))} hunter22"
    began = time.process_time()
    told = redacted(text, call(words.encode()))
    assert time.process_time() - began < 0.7
    assert told == text if not beginning and not secret else "hunter22" not in told


@pytest.mark.parametrize("body", [b"{not json", b"", b"[" * 100_000, b'{"a": "\xff"}', b"[" + b"9" * 5000 + b"]"])
def test_a_body_that_is_no_json_is_the_clients_mistake(body: bytes) -> None:
    with pytest.raises((ValueError, RecursionError)) as raised:
        json.loads(body)
    assert is_broken_json(call(body), raised.value)


@pytest.mark.parametrize("body", [b'{"a": 1}' * 20_000, b'"' + b"\xff" * 150_000])
def test_so_is_a_long_one_of_which_the_beginning_is_kept(body: bytes) -> None:
    with pytest.raises((json.JSONDecodeError, UnicodeDecodeError)) as raised:
        json.loads(body)
    made = call(body)
    made.seen = [body[:KEPT_BYTES]]
    assert is_broken_json(made, raised.value)
    made.seen = [b"another" + body[:KEPT_BYTES]]
    assert not is_broken_json(made, raised.value)


def test_the_apps_own_mistakes_stay_the_apps() -> None:
    form = call(b"a=b&c=d")
    for error in (ValueError("the app's"), RecursionError("the app's"), KeyError("x")):
        assert not is_broken_json(form, error)
    with pytest.raises(json.JSONDecodeError) as other:
        json.loads("{another document")
    assert not is_broken_json(form, other.value)
    assert not is_broken_json(call(), other.value)
    for source in ("json.loads(s)", "int(s)"):
        with pytest.raises(ValueError, match="digits") as digits:
            eval(source, {"json": json, "s": "9" * 5000})
        assert not is_broken_json(form, digits.value)
        assert is_broken_json(call(b"9" * 5000), digits.value) == ("json" in source)
