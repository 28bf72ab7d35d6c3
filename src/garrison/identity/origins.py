"""Where a change that came by HTTP came from, for its event row."""

from garrison.identity.changes import Origin
from garrison.wire.call import Call


def origin_of(call: Call) -> Origin:
    """Return who asked (an id, or nothing), from which network, by which route and request."""
    route = call.route.label if call.route is not None else ""
    return Origin(actor=call.principal.id, network=call.network, route=route, request_id=call.request_id)
