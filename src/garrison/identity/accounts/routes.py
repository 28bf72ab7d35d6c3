"""`POST /auth/sign-up`."""

from typing import Literal

from pydantic import BaseModel

from garrison.core.errors import Denied
from garrison.guard.authorize import CHALLENGE
from garrison.guard.endpoint import Endpoint
from garrison.identity.accounts.service import AccountService
from garrison.identity.fields import Body, NewEmail, NewPassword
from garrison.identity.keys.model import CREATE_ACCOUNTS
from garrison.identity.origins import origin_of
from garrison.identity.settings import IdentitySettings
from garrison.policy.rules import public
from garrison.wire.answer import Answer, json_answer
from garrison.wire.call import Call


class SignUpBody(Body):
    """An address and a new password."""

    email: NewEmail
    password: NewPassword


class AcceptedAnswer(BaseModel):
    """Always the same, whether or not the address was taken."""

    status: Literal["accepted"]


def _demand_app(call: Call) -> None:
    """Let only our apps sign people up. It tells which app asks and keeps nobody out who took the key out of it."""
    if not call.principal.is_authenticated:
        raise Denied("unauthenticated", _NO_KEY, headers=(CHALLENGE,))
    if call.principal.kind != "key" or CREATE_ACCOUNTS not in call.principal.scopes:
        raise Denied("forbidden")


_NO_KEY = "nobody has to be signed in here, but signing up needs an app key: send it as X-API-Key"
_ACCEPTED = json_answer(202, {"status": "accepted"})


def account_endpoints(accounts: AccountService, settings: IdentitySettings) -> tuple[Endpoint, ...]:
    """Return the endpoints of this capability."""

    async def sign_up(call: Call, body: SignUpBody) -> Answer:
        if settings.sign_up_needs_key:
            _demand_app(call)
        await accounts.sign_up(body.email, body.password, origin=origin_of(call))
        return _ACCEPTED

    needed = {"unauthenticated", "forbidden", "wrong_network"} if settings.sign_up_needs_key else set()
    return (
        Endpoint(
            "POST",
            "/auth/sign-up",
            public,
            sign_up,
            "Make an account; the answer never tells whether the address was taken",
            body=SignUpBody,
            entry=True,
            needs_key=settings.sign_up_needs_key,
            limit=settings.limit_sign_up,
            status=202,
            answer=AcceptedAnswer,
            errors=frozenset({"validation", "common_password", "overloaded"} | needed),
        ),
    )
