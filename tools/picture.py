"""The README's picture, drawn from the topology: who asks whom, who writes the log and who folds it, as Mermaid."""

from __future__ import annotations

from pathlib import Path

from understudy.messages.topology import ActorPlan, Topology

BEGIN, END = "<!-- picture: from topology.yaml by `understudy check --picture README.md` -->", "<!-- picture ends -->"
GUESTS = ("model", "feedback", "consent")


def mermaid(topology: Topology) -> str:
    """Boxes are actors, cylinders streams; solid arrows are asked or stored, dotted ones observations."""
    app = topology.app
    lines = ["```mermaid", "flowchart LR", f'  component(["any component<br/>{app}.ask.model.*"])']
    lines += [f'  log[("{app.upper()}_EVT<br/>the log")]', f'  trace[("{app.upper()}_TRACE<br/>decisions")]']
    lines += [f'  {name}["{_label(name, plan)}"]' for name, plan in topology.actors.items()]
    for name, plan in topology.actors.items():
        lines += _arrows(topology, name, plan)
    lines += [f"  log -- {app}.live.model.* --> component", "```"]
    return "\n".join(lines)


def _label(name: str, plan: ActorPlan) -> str:
    if any("{model}" in ask for ask in plan.asks):
        return f"{name}<br/>one per local model or provider"
    count = "one at a time" if plan.singleton else f"{plan.replicas} at once"
    return f"{name}<br/>{count}"


def _arrows(topology: Topology, name: str, plan: ActorPlan) -> list[str]:
    found: list[str] = []
    asked = sorted({ask.split(".")[0] for ask in plan.asks} & set(GUESTS))
    if asked:
        found.append(f"  component -- {', '.join(asked)} --> {name}")
    for other, its in topology.actors.items():
        served = {".".join(ask.split(".")[:2]) for ask in its.asks}
        sent = sorted(one.split(".")[1] for one in set(plan.sends) & served)
        if sent and other != name:
            found.append(f"  {name} -- {', '.join(sent)} --> {other}")
        heard = sorted(set(plan.observes) & set(its.hears))
        if heard and other != name:
            found.append(f"  {name} -. {', '.join(heard)} .-> {other}")
    if plan.emits:
        found.append(f"  {name} -- {_families(plan.emits)} --> log")
    if plan.folds:
        found.append(f"  log -- folds --> {name}")
    if plan.projects:
        found.append(f"  log -- {_families(plan.projects)} --> {name}")
    if plan.consults:
        found.append(f"  log -- {_families(plan.consults)} --> {name}")
    if plan.follows:
        found.append(f"  {name} <-- {', '.join(plan.follows)} --> trace")
    return found


def _families(names: tuple[str, ...]) -> str:
    """`request.ended, model.degraded, model.recovered` as `request, model`."""
    return ", ".join(dict.fromkeys(name.split(".")[0] for name in names))


def redraw(path: Path, topology: Topology) -> bool:
    """Put the picture between its two marks; whether anything had changed. Raises ValueError without the marks."""
    text = path.read_text()
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{path} has no place for the picture: put `{BEGIN}` and `{END}` where it is to stand")
    drawn = f"{before}{BEGIN}\n\n{mermaid(topology)}\n\n{END}{after}"
    path.write_text(drawn)
    return drawn != text
