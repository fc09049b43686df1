"""From a host's variables, what was observed on the Mac, and the catalogue, to the plan of that Mac. Pure.

`make_plan` decides role, model, mode, context, wired limit and disk, asks the components for the files and
jobs that follow, and compares all of it with the observation: `steps` is the difference, [] means converged.
Refusals are sentences that say what is wrong and what to do; a plan with refusals is never acted on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from ds4agent.model import ModelError, Observation
from ds4fleet.catalogue.read import Catalogue
from ds4fleet.components import registry, server
from ds4fleet.components.base import Decided, Seen, Targets
from ds4fleet.components.shapes import MemoryPlan
from ds4fleet.errors import OperatorError
from ds4fleet.inventory import defaults, names
from ds4fleet.plan import accounts, advisories, bring, choice, options, sdk, system
from ds4fleet.plan.engine import with_engine
from ds4fleet.plan.known import Known, known
from ds4fleet.plan.settings import wishes
from ds4fleet.plan.steps import differences, stages_of, steps
from ds4fleet.plan.types import AccountsPlan, HostPlan, VerifyPlan
from ds4fleet.sizing.disk import Disk

#: Ids above it stand for no account.
LAST_UID = 2**31 - 2


def make_plan(
    host: str,
    variables: Mapping[str, object],
    observation: Observation | Mapping[str, object] | None = None,
    catalogue: Catalogue | None = None,
    *,
    region: str = "",
    templated: bool = True,
    targets: Targets | None = None,
) -> HostPlan:
    """The plan of `host`.

    variables: the host's inventory variables, templated; the role's defaults fill the gaps. observation: what
    ds4_info returned; None, or {bare: true}, plans from `ds4_hardware` alone. catalogue: default, the
    built-in one with the files of `ds4_catalogue`. templated: False for variables as the inventory has them:
    a template in a name is not judged then. targets: where a jump Mac leads; None leaves its tunnels as
    they are. Never raises for what an inventory can say: that becomes a refusal.
    """
    settings = {**defaults.role_defaults(), **variables}
    plan = HostPlan(host, region or str(settings.get("ds4_region") or ""))
    wrong = names.mistakes(settings, host=host, templated=templated)
    try:
        seen = read(observation)
    except ModelError as error:
        wrong = [*wrong, str(error)]
    if wrong:
        return plan.saying(refusals=wrong)
    try:
        for further in _grown(plan, known(host, settings, seen, catalogue, targets)):
            plan = further
    except OperatorError as error:
        plan = plan.saying(refusals=[error.sentence])
    return replace(plan, steps=[], stages=[]) if plan.refusals else plan


def read(observation: Observation | Mapping[str, object] | None) -> Seen:
    """What ds4_info returned, None for a bare Mac. Raises ModelError for what cannot be read."""
    if observation is None or isinstance(observation, Observation):
        return observation
    return None if observation.get("bare") else Observation.from_json(observation)


def _grown(plan: HostPlan, facts: Known) -> Iterator[HostPlan]:
    """The plan after each decision, each with what the last one had: what is known when one is refused.

    Raises OperatorError for what an inventory can say.
    """
    lock = facts.seen.rollout.lock if facts.seen else None
    plan = replace(plan, held=lock, differences=differences(facts.declared, facts.seen))
    yield (plan := plan.saying(refusals=system.refusals(facts), warnings=system.warnings(facts)))
    yield (plan := plan.saying(warnings=sdk.warnings(facts)))
    plan, engine = with_engine(plan, facts)
    yield plan
    plan, verdict = choice.with_role(plan, facts, engine)
    yield plan
    yield (plan := choice.with_memory(plan, facts, engine, verdict))
    yield (plan := advisories.with_advisories(plan, facts, engine))
    yield (plan := options.with_options(plan, facts))
    yield (plan := bring.with_weights(plan, facts, engine))
    plan, disk = bring.with_disk(plan, facts)
    yield plan
    uid = facts.read.auto_int("ds4_service_uid", least=1, most=LAST_UID)
    plan = plan.saying(refusals=accounts.objections(plan.host, facts.variables, uid, facts.seen))
    plan = replace(plan, power=dict(facts.read.mapping("ds4_power")))
    yield (plan := choice.with_speed(plan, facts))
    if not plan.refusals:
        yield (plan := _assembled(plan, facts, disk, uid))
        listeners = system.foreign_listener(facts) if plan.server else ()
        yield plan.saying(refusals=[*listeners, *bring.obstacles(plan, facts, disk)])


def _assembled(plan: HostPlan, facts: Known, disk: Disk | None, uid: int | None) -> HostPlan:
    """The plan with all that the components put on the Mac, and the steps to it."""
    decided = Decided(
        host=plan.host,
        region=plan.region,
        role=plan.role,
        mode=plan.mode,
        model=plan.model,
        context=plan.context,
        generation=plan.generation,
        memory=plan.memory or MemoryPlan(),
        disk=disk,
        engine=plan.engine,
        weights=plan.weights,
        settings=wishes(facts.read, facts.settings),
        service_uid=uid,
        power=plan.power,
        jump=plan.jump,
        targets=facts.targets,
    )
    part = registry.assemble(decided)
    verify = _verify(plan, facts)
    todo = steps(decided, part, facts.seen, verify)
    return replace(
        plan,
        files=list(part.files),
        jobs=list(part.jobs),
        accounts=AccountsPlan.of(part.users),
        server=part.server,
        verify=verify,
        restart=[part.server.label] if part.server and server.stale(part.server, facts.seen) else [],
        steps=todo,
        stages=stages_of(todo),
    ).saying(warnings=part.warnings)


def _verify(plan: HostPlan, facts: Known) -> VerifyPlan | None:
    """How the server is proven, where one runs."""
    if plan.role not in ("serve", "stream") or plan.model is None:
        return None
    read, settings = facts.read, facts.settings
    address = "127.0.0.1" if settings.host in ("localhost", "0.0.0.0") else settings.host
    return VerifyPlan(
        url=f"http://{address}:{settings.port}",
        model_name=facts.catalogue.families[plan.model.family].model_name,
        context=plan.context,
        prompt=read.text("ds4_verify_prompt"),
        expect=read.text("ds4_verify_expect") or None,
        ready_s=read.number("ds4_verify_ready_s", least=1),
        headroom_mib=read.number("ds4_min_headroom_mib", least=0),
    )
