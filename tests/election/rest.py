"""What must hold of a simulated cluster: no ineligible node leads, and without new faults it comes to rest."""

from __future__ import annotations

from safelight.election.bully import Phase, Timing

from .world import DELAY, NOTICE, Violation, World

DRIFT = 0.05  # clocks may be off by this much


def bound(nodes: int, t: Timing) -> float:
    """Seconds after the last fault within which a group agrees on its highest eligible node.

    The last to notice may have begun to follow a dead leader just now, because a peer vouched for it, and then
    hear from that peer that its heartbeats stopped: twice `leader_timeout`. A turn for every rank, twice, since a
    rival may be lost in mid-turn; an unanswered question, an answer without consequence, another question; a
    heartbeat to reach those that missed the COORDINATOR, and one for epochs to be outbid.
    """
    quiet = 2 * t.leader_timeout + 2 * nodes * t.turn + 2 * t.answer_timeout + t.coordinator_timeout + 2 * t.heartbeat
    return quiet * (1 + 2 * DRIFT) + 20 * DELAY + 2 * NOTICE


def check_resigned(world: World) -> None:
    """No node leads, or is followed, that has resigned."""
    for node, core in world.awake().items():
        if core.leads and not world.machines[node].eligible:
            raise Violation(f"{node} leads, and is ineligible")
        leader = world.running().get(core.leader or 0)
        if leader is not None and not world.machines[core.leader or 0].eligible and core.phase is Phase.WORKER:
            assert core.leader is not None
            if world.steady(node, core.leader) and world.steady(core.leader, node):
                raise Violation(f"{node} follows {core.leader}, which is ineligible")


def check_rest(world: World) -> None:
    """With no new fault in a timely network, the nodes agree within the bound, or at least come to rest."""
    timing = world.timing
    world.set_weather(None)
    world.slow.clear()
    for node in world.machines:
        world.resume(node)
    world.advance(bound(len(world.machines), timing))
    running = world.running()
    groups = _groups(world)
    if groups is not None:
        for group in groups:
            able = [node for node in group if running[node].eligible]
            leader = max(able, default=None)
            for node in group:
                core = running[node]
                settled = Phase.OBSERVER if leader is None else Phase.LEADER if node == leader else Phase.WORKER
                if core.leader != leader or core.phase is not settled:
                    raise Violation(f"{node} has leader {core.leader} ({core.phase.value}), and should have {leader}")
    else:  # they may learn one after the other, from the top down, that only a third node hears the leader
        world.advance(len(running) * (timing.leader_timeout + 2 * timing.heartbeat))
    changes, said = world.leader_changes, world.chatter()
    rest = 4 * timing.leader_timeout
    world.advance(rest)
    said = world.chatter() - said
    if world.leader_changes != changes:
        raise Violation("they continue to change leaders")
    if groups is not None and said:
        raise Violation(f"they agree, and continue to send messages: {said} messages")
    if said > 2 * len(running) ** 2 * rest / timing.heartbeat:
        raise Violation(f"they continue to send messages: {said} messages in {rest} s")
    top = max((node for node, core in running.items() if core.eligible), default=None)
    for node, core in running.items():
        friends = [peer for peer in running if world.talk(node, peer)]
        if top in friends and (core.leader != top or core.phase is not Phase.WORKER):
            raise Violation(f"{node} and {top} hear each other, and {node} has leader {core.leader}")
        vouched = [running[peer].leader or 0 for peer in friends if world.talk(peer, running[peer].leader or 0)]
        if core.leads and max(vouched, default=0) > node:
            raise Violation(f"{node} leads, and a peer of it hears {max(vouched)}")
        if core.eligible and core.leader is None:
            raise Violation(f"{node} is eligible, and has no leader")


def _groups(world: World) -> list[set[int]] | None:
    """The groups that can talk with each other, if reachability is symmetric and transitive."""
    running = world.running()
    circles = {node: {node} | {other for other in running if world.reaches(node, other)} for node in running}
    if any(circles[node] != circles[other] for node in circles for other in circles[node]):
        return None
    return list({min(circle): circle for circle in circles.values()}.values())
