"""Where a change that came by HTTP came from, for its event row."""

from dataclasses import replace

from garrison.identity.changes import Origin
from garrison.wire.call import Call


def origin_of(call: Call) -> Origin:
    """Return who asked (an id, or nothing), from which network, by which route and request."""
    route = call.route.label if call.route is not None else ""
    return Origin(actor=call.principal.id, network=call.network, route=route, request_id=call.request_id)


def origin_in_session(call: Call) -> Origin:
    """Return the same, for a change that lasts beyond the session: it must be alive when the change is made."""
    return replace(origin_of(call), session_id=call.principal.session_id)
