"""Bodies: read within their bounds, parsed strictly, checked before any parser, refused without repeating them."""

import asyncio
import contextlib
import json
import math
import time
import uuid
from collections.abc import Iterator
from typing import Annotated, Any, Literal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic_core import PydanticCustomError

from garrison.core.errors import Denied
from garrison.wire import body as body_module
from garrison.wire.answer import Message, Receive
from garrison.wire.body import MAX_ERRORS, MAX_POINTER, parse_json, problem_errors, read_body, validate
from garrison.wire.json_bounds import MAX_DEPTH, MAX_DIGITS, MAX_NAMES, check_json_bounds, check_json_text

CANARY = "canary-5f3a"
MEGABYTE = 1 << 20


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def pieces(*parts: bytes, end: Message | None = None) -> Receive:
    """A `receive` that gives the parts one by one, then `end`, or else closes the body with the last of them."""

    def messages() -> Iterator[Message]:
        for number, part in enumerate(parts, 1):
            yield {"type": "http.request", "body": part, "more_body": end is not None or number < len(parts)}
        if end is not None:
            yield end
        raise AssertionError("read on after the end")

    left = messages()

    async def receive() -> Message:
        return next(left)

    return receive


async def silent() -> Message:
    await asyncio.Event().wait()
    raise AssertionError


def bounds(body: bytes) -> str | None:
    try:
        check_json_bounds(body)
    except Denied as denied:
        return denied.detail
    return None


# Reading


@pytest.mark.anyio
async def test_a_body_is_read_whole_from_one_or_many_pieces() -> None:
    assert await read_body(pieces(b"abc"), 3, 3) == b"abc"
    assert await read_body(pieces(b"", b"ab", b"", b"c", b""), 3, None) == b"abc"
    assert await read_body(pieces(b""), 0, None) == b""


@pytest.mark.anyio
async def test_a_body_that_declares_itself_too_large_is_refused_before_a_byte_is_read() -> None:
    with pytest.raises(Denied) as refused:
        await read_body(silent, 3, 4)
    assert (refused.value.code, refused.value.headers) == ("body_too_large", ((b"connection", b"close"),))


@pytest.mark.anyio
@pytest.mark.parametrize("declared", [None, 1])
@pytest.mark.parametrize("parts", [(b"abcd",), (b"ab", b"cd", b"never read"), (b"abc", b"d", b"never read")])
async def test_a_body_that_grows_too_large_is_refused_at_once(declared: int | None, parts: tuple[bytes, ...]) -> None:
    receive = pieces(*parts)
    with pytest.raises(Denied) as refused:
        await read_body(receive, 3, declared)
    assert (refused.value.code, refused.value.headers) == ("body_too_large", ((b"connection", b"close"),))
    if len(parts) == 3:
        assert (await receive())["body"] == b"never read"


@pytest.mark.anyio
@pytest.mark.parametrize("parts", [(), (b"ab",), (b"ab", b"c")])
async def test_a_client_that_goes_away_in_the_middle_is_a_bad_request(parts: tuple[bytes, ...]) -> None:
    with pytest.raises(Denied) as refused:
        await read_body(pieces(*parts, end={"type": "http.disconnect"}), 10, None)
    assert refused.value.code == "bad_request"


@pytest.mark.anyio
@pytest.mark.parametrize("parts", [(), (b"ab",)])
async def test_a_body_that_trickles_is_given_up(parts: tuple[bytes, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body_module, "GRACE_S", 0.02)
    before = pieces(*parts, end={"type": "http.request"}) if parts else silent
    left = len(parts)

    async def receive() -> Message:
        nonlocal left
        left -= 1
        return await (before() if left >= 0 else silent())

    with pytest.raises(Denied) as refused:
        await read_body(receive, 1000, None)
    assert (refused.value.code, refused.value.headers) == ("request_timeout", ((b"connection", b"close"),))


@pytest.mark.anyio
async def test_what_has_arrived_buys_time_at_a_kilobyte_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body_module, "GRACE_S", 0.0)
    given_s: list[float | None] = []
    real = asyncio.timeout

    def noting(delay: float | None) -> Any:
        given_s.append(delay)
        return real(delay)

    monkeypatch.setattr(asyncio, "timeout", noting)
    assert len(await read_body(pieces(b"x" * 10_240, b"x" * 5_120, b""), 20_000, None)) == 15_360
    assert given_s == [pytest.approx(0.0), pytest.approx(10.0, abs=0.5), pytest.approx(15.0, abs=0.5)]
    assert body_module.BYTES_PER_S == 1024


def test_the_grace_is_ten_seconds() -> None:
    assert body_module.GRACE_S == 10.0


# Parsing


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b" ",
        b"\xef\xbb\xbf{}",
        b'{"a":1,"a":2}',
        b'{"a":1,"\\u0061":2}',
        b'[{"b":{"a":1,"a":1}}]',
        b"NaN",
        b"[Infinity]",
        b"-Infinity",
        b"1e999",
        b'{"a":-1e999}',
        b'"\\ud800"',
        b'{"\\udfff":1}',
        b'"\xed\xa0\x80"',
        b'"\xff"',
        b'"\xc0\xaf"',
        b"{'a':1}",
        b"[1,]",
        b"{} {}",
        b"01",
        b"[1] // x",
        b'"\x00"',
        b'"\n"',
        '{"a":1}'.encode("utf-16"),
        '{"a":1}'.encode("utf-16-be"),
        '{"a":1}'.encode("utf-32"),
        b"[" * 100_000,
        b"1" * 5000,
    ],
)
def test_what_is_not_strict_json_is_refused(text: bytes) -> None:
    with pytest.raises(Denied) as refused:
        parse_json(text)
    assert refused.value.code == "bad_body"
    assert refused.value.detail


@pytest.mark.parametrize("text", [f'{{"{CANARY}":1,"{CANARY}":2}}', f'["{CANARY}"', f'"{CANARY}\\ud800"', CANARY])
def test_a_refusal_does_not_repeat_the_body(text: str) -> None:
    with pytest.raises(Denied) as refused:
        parse_json(text.encode())
    assert CANARY not in f"{refused.value!r} {refused.value.detail} {refused.value.fields}"
    assert refused.value.__suppress_context__


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(JSON, st.booleans())
@example("\U0001f600", True)
def test_what_is_strict_json_is_the_document(document: Any, ascii_only: bool) -> None:
    text = json.dumps(document, ensure_ascii=ascii_only).encode()
    assert parse_json(text) == document
    check_json_text(text.replace(b"\x00", b""))
    assert bounds(text) is None


@given(st.binary(max_size=200) | st.text('[]{}",:\\u0de1 NaIfty-+.\x00', max_size=200).map(str.encode))
def test_no_bytes_make_the_parser_do_anything_but_parse_or_refuse(text: bytes) -> None:
    with contextlib.suppress(Denied):
        json.dumps(parse_json(text), allow_nan=False, ensure_ascii=False).encode()


# Bounds


@pytest.mark.parametrize("opening", ["[", '{"a":'])
def test_depth_is_bounded(opening: str) -> None:
    closing = "]" if opening == "[" else "}"
    for depth in (MAX_DEPTH, MAX_DEPTH + 1):
        text = (opening * depth + "1" + closing * depth).encode()
        assert (bounds(text) is None) == (depth == MAX_DEPTH)
        wide = b"[" + b",".join([text] * 300) + b"]"
        assert (bounds(wide) is None) == (depth < MAX_DEPTH)
    assert bounds(b"[" + b"[],{}," * 5000 + b"1]") is None
    assert bounds(b"[" * 5000) is not None


def test_depth_is_counted_across_slices() -> None:
    shallow = b"[],"
    deep = b"[" * (MAX_DEPTH + 1)
    for before in range(2040, 2056):
        assert bounds(shallow * before + deep) is not None, before
    assert bounds(b"[" * 20 + shallow * 3000 + b"[" * 12 + b"]" * 32) is None
    assert bounds(b"[" * 20 + shallow * 3000 + b"[" * 13 + b"]" * 33) is not None


def test_names_are_bounded_in_total() -> None:
    def document(count: int) -> bytes:
        half = {f"k{n}": 1 for n in range(count // 2)}
        rest = {f"k{n}": "a:b" for n in range(count - count // 2)}
        return json.dumps([half, rest]).encode()

    assert bounds(document(MAX_NAMES)) is None
    assert bounds(document(MAX_NAMES + 1)) is not None


@pytest.mark.parametrize("shape", ["{}", "-{}", "[1,{}]", '{{"a":{}}}', "[1, {} ]", "-{}e5", "0.{}"])
def test_digits_of_a_number_are_bounded(shape: str) -> None:
    others = sum(character.isdigit() for character in shape.replace("[1,", ""))
    for digits in (MAX_DIGITS, MAX_DIGITS + 1):
        text = shape.format("1" * (digits - others)).encode()
        assert (bounds(text) is None) == (digits == MAX_DIGITS), text
    many = ",".join(["1" * MAX_DIGITS] * 50)
    assert bounds(f"[{many}]".encode()) is None
    assert bounds(f"[{many},{'1' * (MAX_DIGITS + 1)}]".encode()) is not None


@pytest.mark.parametrize(
    "inside", ["[" * 40, "{" * 40, ":" * 2000, "1" * 200, '\\"[' * 40, "\\\\" * 50, '\\\\\\"' * 50]
)
def test_what_stands_in_a_string_is_not_counted(inside: str) -> None:
    assert bounds(f'{{"{inside}": "{inside}", "x": ["{inside}"]}}'.encode()) is None


@pytest.mark.parametrize("string", ['"\\\\"', '"\\\\\\\\"', '"a\\"\\\\"', '""', '"\\""', '"[\\\\"'])
def test_no_string_hides_what_follows_it(string: str) -> None:
    deep = "[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1)
    assert bounds(f"[{string},{deep}]".encode()) is not None
    assert bounds(f"[{string},{'1' * 101}]".encode()) is not None


def depth_of(document: Any) -> int:
    children = document.values() if isinstance(document, dict) else document if isinstance(document, list) else None
    return 0 if children is None else 1 + max(map(depth_of, children), default=0)


def names_of(document: Any) -> int:
    if isinstance(document, dict):
        return len(document) + sum(map(names_of, document.values()))
    return sum(map(names_of, document)) if isinstance(document, list) else 0


@given(JSON, st.integers(0, 40), st.booleans())
def test_the_bounds_agree_with_the_parser_on_documents(document: Any, more: int, objects: bool) -> None:
    for _ in range(more):
        document = {'"]}\\': document} if objects else [document, "[{\\"]
    text = json.dumps(document).encode()
    expected = len(text) > MAX_DEPTH and (depth_of(document) > MAX_DEPTH or names_of(document) > MAX_NAMES)
    assert (bounds(text) is not None) == expected


@given(st.binary(max_size=400) | st.text('[]{}",:\\1-e \x00', max_size=400).map(str.encode))
def test_no_bytes_make_the_bounds_do_anything_but_pass_or_refuse(text: bytes) -> None:
    for check in (check_json_bounds, check_json_text):
        with contextlib.suppress(Denied):
            check(text)


@given(st.text('[]{}",:\\1-e ', max_size=300))
def test_what_passes_the_bounds_never_takes_a_parser_deeper(text: str) -> None:
    raw = ("[" * 20 + text).encode()
    if bounds(raw) is not None:
        return
    try:
        document = json.loads(raw)
    except ValueError:
        return
    assert depth_of(document) <= MAX_DEPTH


@pytest.mark.parametrize("text", [b"\xef\xbb\xbf{}", b'"\x00"', b'"\xff"', "[]".encode("utf-16-le"), b"\xff\xfe[\x00"])
def test_a_body_for_the_app_is_utf8_text_without_a_mark(text: bytes) -> None:
    with pytest.raises(Denied) as refused:
        check_json_text(text)
    assert refused.value.code == "bad_body"


WORST = {
    "empty strings": b'""' * (MEGABYTE // 2),
    "one string": b'"' + b"a" * MEGABYTE + b'"',
    "backslashes": b'"' + b"\\" * MEGABYTE,
    "quotes escaped": b'"' + b'\\"' * (MEGABYTE // 2),
    "flat brackets": b"[" + b"[]" * (MEGABYTE // 2),
    "deep as allowed": (b"{" * MAX_DEPTH + b"}" * MAX_DEPTH) * (MEGABYTE // 64),
    "brackets and strings": b'[""]' * (MEGABYTE // 4),
    "long numbers": (b"1" * MAX_DIGITS + b",") * (MEGABYTE // 101),
    "signs": b"-" * MEGABYTE,
    "a run and then numbers": b"-" * 101 + b"," + b"1," * (MEGABYTE // 2),
}


@pytest.mark.alone
@pytest.mark.parametrize("name", WORST)
def test_a_megabyte_of_the_worst_is_checked_in_linear_time(name: str) -> None:
    """Under 35 ms where measured; a regular expression for each token took up to 350."""
    fastest = math.inf
    for _ in range(3):
        started = time.process_time()
        bounds(WORST[name])
        fastest = min(fastest, time.process_time() - started)
    assert fastest < 0.1


# Validation


class Inner(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")
    number: int


class Tagged(BaseModel):
    kind: Literal["a"]


class Other(BaseModel):
    kind: Literal["b"]


class Body(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", hide_input_in_errors=True)

    a: list[Inner] = []
    by_name: dict[str, int] = {}
    choice: Literal["x", "y"] = "x"
    id: Annotated[uuid.UUID | None, Field(strict=False)] = None
    tagged: Annotated[Tagged | Other, Field(discriminator="kind")] | None = None
    number: str | None = None
    own: str | None = None

    @field_validator("number")
    @classmethod
    def _number(cls, value: str) -> str:
        int(value)
        return value

    @field_validator("own")
    @classmethod
    def _own(cls, value: str) -> str:
        raise PydanticCustomError("own_rule", "this is said by its author")


def refusal(document: Any, model: type[BaseModel] = Body) -> list[dict[str, str]]:
    with pytest.raises(Denied) as refused:
        validate(model, document)
    assert refused.value.code == "validation"
    assert refused.value.__suppress_context__
    found: list[dict[str, str]] = refused.value.fields["errors"]
    return found


def test_a_valid_document_becomes_the_model() -> None:
    assert validate(Body, {"a": [{"number": 1}]}).a == [Inner(number=1)]


def test_errors_say_where_and_what() -> None:
    found = refusal({"a": [{"number": 1}, {"number": "1"}], "more": 1, "choice": "z"})
    assert [(one["in"], one["pointer"], one["code"]) for one in found] == [
        ("body", "/a/1/number", "int_type"),
        ("body", "/choice", "literal_error"),
        ("body", "/more", "extra_forbidden"),
    ]
    assert "'x' or 'y'" in found[1]["detail"]
    assert refusal([])[0]["pointer"] == ""


def test_pointers_are_escaped() -> None:
    assert refusal({"by_name": {"a/b~c": "x"}})[0]["pointer"] == "/by_name/a~1b~0c"
    assert refusal({"by_name": {"": "x"}})[0]["pointer"] == "/by_name/"


@pytest.mark.parametrize(
    "document",
    [
        {"choice": CANARY},
        {"id": CANARY},
        {"tagged": {"kind": CANARY}},
        {"number": CANARY},
        {"by_name": {"a": CANARY}},
        {"a": [{"number": CANARY}]},
        {"a": CANARY},
        CANARY,
        [CANARY],
    ],
)
def test_no_error_repeats_the_value(document: Any) -> None:
    found = refusal(document)
    assert found
    assert CANARY not in json.dumps(found)
    with pytest.raises(ValidationError) as raw:
        Body.model_validate(document)
    with_input = [{**one, "loc": ("body", *one["loc"])} for one in raw.value.errors()]
    assert CANARY not in json.dumps(problem_errors(with_input))  # as FastAPI hands them on: with input and context


def test_what_one_of_our_models_says_is_told() -> None:
    assert refusal({"own": "x"}) == [
        {"in": "body", "pointer": "/own", "code": "own_rule", "detail": "this is said by its author"}
    ]


def test_an_apps_own_error_is_told_unless_it_was_made_with_something() -> None:
    plain = {"loc": ("body", "a"), "type": "blank", "msg": "a title is not blank"}
    assert problem_errors([plain])[0]["detail"] == "a title is not blank"
    made = {**plain, "msg": f"{CANARY} is not blank", "ctx": {"value": CANARY}}
    assert problem_errors([made])[0] == {
        "in": "body",
        "pointer": "/a",
        "code": "blank",
        "detail": "Value is not valid",
    }


@pytest.mark.parametrize(
    ("loc", "place", "pointer"),
    [
        (("body", "a", 0), "body", "/a/0"),
        (("query", "x"), "query", "/x"),
        (("header", "x-a"), "header", "/x-a"),
        (("cookie", "x"), "header", "/x"),
        (("body",), "body", ""),
        ((), "body", ""),
    ],
)
def test_fastapis_places_become_ours(loc: tuple[Any, ...], place: str, pointer: str) -> None:
    found = problem_errors([{"loc": loc, "type": "missing", "msg": "Field required", "input": CANARY}])
    assert found == [{"in": place, "pointer": pointer, "code": "missing", "detail": "Field required"}]


def test_the_number_of_errors_and_the_length_of_pointers_are_bounded() -> None:
    assert len(refusal({"a": [{}] * (MAX_ERRORS + 1)})) == MAX_ERRORS
    long = "n" * 100_000
    found = refusal({"by_name": {long: "x", long[1:]: "x"}, "a": [{long: 1}]})
    assert all(len(one["pointer"]) <= MAX_POINTER for one in found)
    assert found[0]["pointer"] == "/a/0/number"
    assert {one["pointer"] for one in found[1:]} == {"/a/0", "/by_name"}
