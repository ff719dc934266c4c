"""What the pusher says at the end of a run: what is where, and why."""

from __future__ import annotations

from dataclasses import dataclass

from joulebench.push.acks import AckReader
from joulebench.push.groups import Groups
from joulebench.push.health import GatewayHealth

MAX_GATEWAY_REASONS = 5


@dataclass(frozen=True, slots=True)
class PushReport:
    """``groups_left``: this worker's groups still on the gateway, None where it does not answer. ``unpushed``: groups whose
    last state never reached it. ``reasons``: why any of it is not as it should be, in words."""

    pushes: int
    failures: int
    acknowledged: int
    groups_left: int | None
    unpushed: int
    reasons: tuple[str, ...]


def reasons(groups: Groups, health: GatewayHealth, acks: AckReader | None, *, pushes: int, was_full: bool) -> tuple[str, ...]:
    """Why not everything is pushed, acknowledged and deleted; empty where it is."""
    causes = dict.fromkeys(group.error or health.error or "no time was left to push" for group in groups.unpushed)
    told = [f"gateway: {cause}" for cause in causes][:MAX_GATEWAY_REASONS]
    if acks is None and pushes:
        told.append("no prometheus_url: finished groups are kept on the Pushgateway")
    if acks is not None and groups.awaiting:
        told.append(f"prometheus: {acks.error or 'the last pushes were not scraped; does it scrape this Pushgateway?'}")
    if was_full:
        told.append(f"{groups.limit} groups or more were on the Pushgateway at once")
    return tuple(told)
