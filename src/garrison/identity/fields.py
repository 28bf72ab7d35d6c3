"""Fields that several request bodies share, with constraints that a JSON schema can show.

Bodies are strict and refuse unknown fields: what a client may not set (a role, another's id) is not in the model, and
sending it is 400 (mass assignment: CWE-915, OWASP API3).
"""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from garrison.identity.accounts.email import MAX_BYTES as MAX_EMAIL_BYTES
from garrison.identity.accounts.email import PATTERN, parse_email
from garrison.identity.passwords.common import MAX_BYTES, MAX_CHARACTERS, MIN_CHARACTERS


class Body(BaseModel):
    """Base of every request body."""

    model_config = ConfigDict(strict=True, extra="forbid", hide_input_in_errors=True)


def _check_email(text: str) -> str:
    try:
        parse_email(text)
    except ValueError as error:
        raise PydanticCustomError("email", "{reason}", {"reason": str(error)}) from None
    return text


def _check_bytes(text: str) -> str:
    if len(text.encode()) > MAX_BYTES:
        raise PydanticCustomError("string_too_long", "at most 1024 bytes")
    return text


NewEmail = Annotated[
    str,
    Field(max_length=MAX_EMAIL_BYTES),
    AfterValidator(_check_email),
    WithJsonSchema(
        {
            "type": "string",
            "maxLength": MAX_EMAIL_BYTES,
            "pattern": PATTERN,
            "description": "One mailbox. International domains are taken, too; the part before @ is ASCII.",
            "examples": ["ada@example.com"],
        }
    ),
]
"""An address that signs up: its form is checked."""

GivenEmail = Annotated[str, Field(min_length=1, max_length=MAX_BYTES, examples=["ada@example.com"])]
"""An address that signs in: no form, so that a form error tells nothing."""

NewPassword = Annotated[
    str,
    Field(
        min_length=MIN_CHARACTERS,
        max_length=MAX_CHARACTERS,
        description="Any characters, kept as they are; refused only when it is one of the most common passwords.",
        examples=["a long walk to the sea"],
    ),
]

GivenPassword = Annotated[
    str, Field(min_length=1, max_length=MAX_BYTES, examples=["a long walk to the sea"]), AfterValidator(_check_bytes)
]
"""A password to be checked: no form, one hash whatever it is, at most 1,024 bytes of UTF-8."""
