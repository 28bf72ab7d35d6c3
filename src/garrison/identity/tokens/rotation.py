"""What a refresh token that is shown means: the rule, by itself (RFC 9700 section 4.14, RFC 6749 section 10.4).

    first time                                       rotate
    again, within the grace or not acknowledged      the same successor once more: a lost answer, a second tab, an app
                                                     that was suspended in between
    again, acknowledged and older than the grace     theft: the family ends
    again, without the binding the family has        theft, at once

Acknowledged: the successor was used itself, or the guard has seen an access token that came with it. Where a family is
bound (to its device, a client, a DPoP key), nothing is given without the binding. Without one the promise is detection
of a replay after acknowledgement, and no more: a thief who rotates first and keeps quiet is not told from the owner
until the owner comes back.
"""

from enum import Enum


class Verdict(Enum):
    """What is to be done."""

    ROTATE = "rotate"
    REPEAT = "repeat"
    REFUSE = "refuse"
    THEFT = "theft"


def judge(
    *, used_at: float | None, acknowledged: bool, now: float, grace_s: float, is_bound: bool, shows_binding: bool
) -> Verdict:
    """Return what a token means that is alive and was shown at `now`; `used_at` None: for the first time."""
    if is_bound and not shows_binding:
        return Verdict.REFUSE if used_at is None else Verdict.THEFT
    if used_at is None:
        return Verdict.ROTATE
    if now - used_at < grace_s or not acknowledged:
        return Verdict.REPEAT
    return Verdict.THEFT
