"""What the endpoints that clients call have in common: parameters in, JSON out, errors as OAuth says them."""

from collections.abc import Awaitable, Callable

from garrison.core.durations import Limit
from garrison.core.errors import StoreError
from garrison.guard.endpoint import Endpoint
from garrison.identity.clients.documents import DocumentUnavailableError
from garrison.identity.clients.model import Client
from garrison.identity.oauth.client_authentication import ClientAuthentication, DocumentUse, TooManyError
from garrison.identity.oauth.errors import OAuthError, answer_of, as_oauth, error_answer
from garrison.identity.oauth.parameters import Parameters, read_parameters
from garrison.policy.rules import Rule
from garrison.wire.answer import Answer
from garrison.wire.call import Call
from garrison.wire.problem import RETRY_SOON

OPEN = Rule(public=True, csrf=False)
"""Of endpoints that read and set no cookie: nothing there can be forged across sites."""

Work = Callable[[Call, Client, Parameters], Awaitable[Answer]]


def client_endpoint(
    path: str,
    summary: str,
    work: Work,
    authentication: ClientAuthentication,
    *,
    counts: bool = False,
    limit: Limit | None = None,
    document: DocumentUse = "known",
) -> Endpoint:
    """Return the endpoint of `work`, which a client that has authenticated gets done.

    `counts`: within the limit of that client's calls; `limit`: calls per address; `document`: of a client that has one.
    """

    async def handle(call: Call, body: bytes) -> Answer:
        try:
            parameters = read_parameters(call.header(b"content-type"), body)
            client = await authentication.of(call, parameters, counts=counts, document=document)
            return await work(call, client, parameters)
        except TooManyError as error:
            headers = ((b"retry-after", b"%d" % error.after_s),)
            return error_answer("temporarily_unavailable", 429, headers=headers)
        except OAuthError as error:
            call.reason = error.detail
            return answer_of(error, by_basic=bool(call.header(b"authorization")))
        except (StoreError, DocumentUnavailableError):
            return error_answer("temporarily_unavailable", 503, headers=RETRY_SOON)

    return Endpoint(
        "POST",
        path,
        OPEN,
        handle,
        summary,
        is_raw=True,
        authenticates=True,
        says_errors=as_oauth,
        limit=limit,
        in_openapi=False,
    )
