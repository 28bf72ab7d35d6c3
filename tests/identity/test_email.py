"""Addresses: what is refused, and that the normal form is one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from garrison.identity.accounts.email import PATTERN, find_key, parse_email

ATOMS = st.text("abcdefghijklmnopqrstuvwxyzABCXYZ0123456789!#$%&'*+/=?^_`{|}~-", min_size=1, max_size=20)
LABELS = st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9]{0,10}[A-Za-z0-9])?", fullmatch=True)
ADDRESSES = st.builds(
    lambda atoms, labels, top: ".".join(atoms) + "@" + ".".join([*labels, top]),
    st.lists(ATOMS, min_size=1, max_size=3),
    st.lists(LABELS, min_size=1, max_size=4),
    st.sampled_from(["com", "ORG", "de", "test"]),
)


@pytest.mark.parametrize(
    ("typed", "key"),
    [
        ("Ada.Lovelace@Example.COM", "ada.lovelace@example.com"),
        ("ada+tag@example.com", "ada+tag@example.com"),
        ("a@münchen.de", "a@xn--mnchen-3ya.de"),
        ("a@MÜNCHEN.de", "a@xn--mnchen-3ya.de"),
        ("a@mu\u0308nchen.de", "a@xn--mnchen-3ya.de"),
        ("a@xn--mnchen-3ya.de", "a@xn--mnchen-3ya.de"),
        ("a@日本store.jp", "a@xn--store-1e1k07e.jp"),
        ("a@пример.рф", "a@xn--e1afmkfd.xn--p1ai"),
    ],
)
def test_spellings_of_one_address_have_one_key_and_keep_what_was_typed(typed: str, key: str) -> None:
    assert parse_email(typed) == (typed, key)


def test_two_domains_that_idna_2008_tells_apart_are_two() -> None:
    assert find_key("a@straße.de") != find_key("a@strasse.de")


@pytest.mark.parametrize(
    "typed",
    [
        "",
        "a",
        "@",
        "a@",
        "@example.com",
        "a@b",
        "a@localhost",
        "victim@example.com,attacker@example.net",
        "victim@example.com;attacker@example.net",
        "victim@example.com attacker@example.net",
        "victim@example.com\r\nBcc: attacker@example.net",
        "a@example.com\n",
        "\na@example.com",
        " a@example.com",
        "a@example.com ",
        "a@b@example.com",
        '"quoted local"@example.com',
        '"a"@example.com',
        "a(comment)@example.com",
        "<a@example.com>",
        "Ada <a@example.com>",
        "mailto:a@example.com",
        "é@example.com",
        "а@example.com",
        "a@ｅxample.com",
        "a＠example.com",
        "a@ﬁ.com",
        "a@exаmple.com",
        "a@xn--exmple-4nf.com",
        "a@γoogle.com",
        "a@[192.0.2.1]",
        "a@192.0.2.1",
        "a@-example.com",
        "a@example-.com",
        "a@exa_mple.com",
        "a@example..com",
        "a@example.com.",
        "a@.example.com",
        "a@xn--.com",
        "a@xn--999999999.com",
        "a@example。com",
        "a..b@example.com",
        ".a@example.com",
        "a.@example.com",
        "a\x00@example.com",
        "a@example\x00.com",
        "a%00@exam ple.com",
        "a" * 65 + "@example.com",
        "a@" + "b" * 64 + ".com",
        "a@" + "b." * 130 + "com",
        "a@" + "é" * 120 + ".com",
        "a@\u200bexample.com",
        "a@exam\u00adple.com",
        "\ud800@example.com",
        "a@\ud800.com",
    ],
)
def test_what_is_not_one_plain_mailbox_is_refused_without_repeating_it(typed: str) -> None:
    with pytest.raises(ValueError, match=r"^(an address|the part)"):
        parse_email(typed)
    assert find_key(typed) is None


def test_an_address_without_an_at_sign_is_told_that() -> None:
    for typed in ("eveexample.com", ""):
        with pytest.raises(ValueError, match="has an @"):
            parse_email(typed)


@given(ADDRESSES)
def test_the_normal_form_is_its_own_normal_form_and_ignores_case(typed: str) -> None:
    key = parse_email(typed).key
    assert parse_email(key).key == key
    assert find_key(typed.upper()) == find_key(typed.lower()) == key


@given(st.text(max_size=300))
def test_any_text_is_an_address_or_refused_and_a_key_is_plain(typed: str) -> None:
    key = find_key(typed)
    if key is not None:
        assert key.isascii()
        assert key.count("@") == 1
        assert not set(key) & set(' ,;<>()[]"\\\r\n\t')
        assert find_key(key) == key


@given(st.text("abcß@.éäöü日本ü-１ǅſK", max_size=30))
def test_unicode_domains_have_a_stable_key(domain: str) -> None:
    key = find_key("a@" + domain)
    if key is not None:
        assert find_key(key) == key
        assert find_key(("a@" + domain).lower()) == key


@given(st.from_regex(PATTERN, fullmatch=True).filter(lambda text: len(text) <= 254))
def test_the_published_pattern_promises_nothing_that_is_refused(typed: str) -> None:
    local, _, domain = typed.rpartition("@")
    if len(local) <= 64 and not any(label.lower().startswith("xn--") for label in domain.split(".")):
        assert find_key(typed) is not None
