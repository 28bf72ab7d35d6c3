"""`POST /auth/password/change`."""

from garrison.guard.endpoint import Endpoint
from garrison.identity.fields import Body, GivenPassword, NewPassword
from garrison.identity.origins import origin_of
from garrison.identity.passwords.service import PasswordService
from garrison.identity.sessions.carriers import cookie_names
from garrison.identity.settings import IdentitySettings
from garrison.policy.rules import allow
from garrison.wire.answer import Answer, empty_answer
from garrison.wire.call import Call
from garrison.wire.cookies import find_cookie


class ChangePasswordBody(Body):
    """The current password and a new one."""

    current: GivenPassword
    new: NewPassword


def password_endpoints(passwords: PasswordService, settings: IdentitySettings) -> tuple[Endpoint, ...]:
    """Return the endpoints of this capability."""

    async def change(call: Call, body: ChangePasswordBody) -> Answer:
        names = cookie_names(call, development=settings.development)
        device_secret = None if names is None else find_cookie(call.header(b"cookie"), names.device)
        await passwords.change(
            call.principal.id,
            call.principal.session_id or "",
            current=body.current,
            new=body.new,
            peer=call.peer,
            device_secret=device_secret,
            origin=origin_of(call),
        )
        return empty_answer()

    return (
        Endpoint(
            "POST",
            "/auth/password/change",
            allow(signed_in=True),
            change,
            "Change the password; every other session of the account ends",
            body=ChangePasswordBody,
            status=204,
            errors=frozenset({"validation", "common_password", "invalid_credentials", "rate_limited", "overloaded"}),
        ),
    )
