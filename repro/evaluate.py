"""One request about targets: which units it means, running those that lack a record, and judging what is recorded."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from repro import crew, datasets, hardware, progress, runner, targets
from repro.errors import ReproError, UsageError, suggestion
from repro.evidence.claims import SMOKE
from repro.evidence.collection import Evidence
from repro.evidence.files import write_text
from repro.evidence.preregistration import preregistered
from repro.evidence.records import Store
from repro.places import PREREGISTRATION, Places, gather
from repro.targets import Target, Unit, planned

Say = Callable[[str], None]
EVERY = "all"


@dataclass(frozen=True)
class Request:
    """What a command asks of its targets; the names are those of its options."""

    scale: str | None = None
    seeds: int | None = None
    workers: int | None = None
    backend: str | None = None
    device: str = "cpu"
    data_root: Path | None = None
    force: bool = False
    limit: int | None = None
    shard: tuple[int, int] = (1, 1)
    changes: Mapping[str, str] = field(default_factory=dict)
    debug: bool = False


# --- what is meant -------------------------------------------------------------------------------------------------


def named(words: Sequence[str], commands: Iterable[str] = ()) -> list[Target]:
    """The targets that words name, each once, `all` standing for every one; raises `UsageError` for an unknown word."""
    known = targets.names()
    for word in words:
        if word in commands:
            raise UsageError(f"{word} is a command of its own: give it first, without targets before it")
        if word not in (*known, EVERY):
            raise UsageError(f"no target or command {word!r}: {suggestion(word, (*known, EVERY, *commands))}")
    names = [name for word in words for name in (known if word == EVERY else (word,))]
    return [targets.get(name) for name in dict.fromkeys(names)]


def check(asked: Sequence[Target], request: Request) -> None:
    """Raise `UsageError` for a setting that none of the targets has, a scale at which none that trains is built, or an
    option about a run where none is asked for.

    Raises `ReproError` where the backend or the device cannot serve.
    """
    trained = [target for target in asked if target.scales]
    if request.scale and trained and not any(request.scale in target.scales for target in trained):
        built = "; ".join(f"{target.name}: {', '.join(target.scales)}" for target in trained)
        raise UsageError(f"scale {request.scale} is not built yet; there is {built}")
    for option, given in (("force", request.force), ("limit", request.limit), ("shard", request.shard != (1, 1))):
        if given and not request.scale:
            raise UsageError(f"--{option} is about what is run: say --scale too, or leave it out")
    known = {key for target in asked for scale in _scales(target, request) for key in target.scales[scale]}
    for key in request.changes:
        if key not in known:
            raise UsageError(
                f"no setting {key!r}: {suggestion(key, sorted(known)) if known else 'nothing is trained here'}"
            )
    for target in asked:
        units(target, request)
        if crew.member() and not getattr(target, "together", False):
            raise UsageError(f"{target.name} runs in one process: start it without torchrun")
    check_device(request)


def _scales(target: Target, request: Request) -> list[str]:
    return [scale for scale in target.scales if request.scale in (None, scale)]


def check_device(request: Request) -> None:
    """Raise `ReproError` for a device that there is none of, or a backend that it has not."""
    kind, _, number = request.device.partition(":")
    one_of_several = kind == "cuda" and number.isdigit()
    if request.device not in ("cpu", "cuda") and not one_of_several:
        raise UsageError(f"no device {request.device!r}: {suggestion(kind, ('cpu', 'cuda'))}")
    if kind == "cuda":
        import torch

        if not torch.cuda.is_available() or int(number or 0) >= torch.cuda.device_count():
            raise ReproError(f"no device {request.device} on this machine; leave out --device, or say --device cpu")
    if request.scale and request.backend == "reference":
        raise UsageError("backend reference has no gradients: nothing can be trained with it; leave out --backend")
    check_backend(request.backend, request.device)


def check_backend(name: str | None, device: str) -> None:
    """Raise what `backends.get` does for one that there is not, or not on the device; None is automatic."""
    if name:
        import backends

        backends.get(name, device)


def units(target: Target, request: Request) -> list[Unit]:
    """Units of every scale asked for, with the settings and number of seeds asked for."""
    return [
        unit
        for scale in _scales(target, request)
        for unit in planned(
            target,
            scale,
            request.seeds,
            {key: text for key, text in request.changes.items() if key in target.scales[scale]},
        )
    ]


# --- running -------------------------------------------------------------------------------------------------------


def outlook(target: Target, request: Request, places: Places) -> str:
    """What `train` would do, in words."""
    work = _plan(target, request, places)
    jobs = work.todo[: request.limit]
    head = f"{target.name} {request.scale or ''}".strip()
    words = [f"{head}: {len(jobs)} units to run, {len(work.skipped)} recorded"]
    if jobs and (data := _data(target, jobs[0].unit)):
        words.append(f"  data: {', '.join(data)}")
    return "\n".join([*words, *(f"  {job.unit.name}, seed {job.unit.seed}{_why_again(job)}" for job in jobs)])


def _why_again(job: runner.Job) -> str:
    if job.recorded is None:
        return ""
    return f"; recorded, and run again {'as --force asked' if job.asked else 'for its weights'}"


def train(target: Target, request: Request, places: Places, say: Say) -> int:
    """Fetch the data and run the units that the scale asked for lacks; gives an exit code.

    A failure is a line, and stops nothing else. Raises `OSError` where `places.out` cannot be written to.
    """
    if not request.scale:
        return 0
    work = _plan(target, request, places)
    if not request.force and (again := sum(bool(job.asked) for job in work.todo)):
        say(f"{target.name}: {again} recorded units run again, as an earlier --force asked")
    if work.todo:
        write_text(places.out / ".writable", "").unlink(missing_ok=True)
        try:
            if hasattr(target, "ready"):
                target.ready(request.device)
            for name, expected in _data(target, work.todo[0].unit).items():
                datasets.fetch(name, request.data_root, say, **expected)
        except ReproError as error:
            say(f"{target.name}: {error}")
            return error.exit_code
    report = runner.execute(work, _setup(target, request, places), limit=request.limit, reporter=progress.reporter())
    if request.debug:
        for trace in filter(None, (end.trace for _, end in report.ended)):
            say(trace)
    say(f"{target.name} {request.scale}: {report}")
    return report.exit_code


def _data(target: Target, unit: Unit) -> Mapping[str, Mapping[str, int]]:
    """Names of the data sets that a unit reads, and what is expected of each."""
    return target.data_of(unit) if hasattr(target, "data_of") else {name: {} for name in target.needs}


def _plan(target: Target, request: Request, places: Places) -> runner.Plan:
    """What to run; `smoke` proves the pipeline where it runs, so that no committed record stands for it."""
    asked = units(target, request) if request.scale else []
    elsewhere = [] if request.scale == SMOKE else [places.committed(target)]
    return runner.plan(target, asked, _setup(target, request, places), elsewhere, request.shard)


def _setup(target: Target, request: Request, places: Places) -> runner.Setup:
    return runner.Setup(
        out=places.out.absolute(),
        device=request.device,
        backend=request.backend,
        data_root=datasets.root(request.data_root),
        workers=_workers(request),
        force=request.force,
        preregistration=preregistered(PREREGISTRATION, target.name)[1],
    )


def _workers(request: Request) -> int:
    if crew.member():
        return int(os.environ["WORLD_SIZE"])
    return request.workers or (len(hardware.cores()) if request.device == "cpu" else 1)


def report_damage(target: Target, request: Request, places: Places, say: Say) -> None:
    """A line for each record that cannot be used; running its scale makes it again.

    Raises `ReproError` where that would take the place of a record of a later version.
    """
    for store in (places.local, places.committed(target)):
        for damaged in store.read(target.name)[1]:
            if damaged.later and store == places.local and damaged.path.parent.name == request.scale:
                raise ReproError(f"{damaged}; update the checkout, or choose another --out")
            remedy = "update the checkout" if damaged.later else f"{target.name} --scale makes it again"
            say(f"{damaged}; not used, {remedy}")


# --- judging -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Evaluation:
    """What is recorded of a target, in the checkout and on this machine, and the files rendered from the latter."""

    target: Target
    committed: Evidence
    local: Evidence
    rendered: tuple[Path, ...]

    def summary(self) -> str:
        """Published, committed and local values side by side, as Markdown."""
        return self.target.summary(self.committed, self.local)

    def as_json(self) -> dict[str, Any]:
        """Every claim, judged on the committed records and on this machine's."""
        return {
            "target": self.target.name,
            "committed": [asdict(row) for row in self.target.rows(self.committed)],
            "local": [asdict(row) for row in self.target.rows(self.local)],
            "rendered": [str(path) for path in self.rendered],
        }


def evaluate(target: Target, request: Request, places: Places) -> Evaluation:
    """Judge what is recorded and render this machine's part of it to `places.out`, on the backend asked for."""
    if request.backend and hasattr(target, "with_backend"):
        target = target.with_backend(request.backend)
    asked = units(target, request)
    others = [
        unit for scale in target.scales if scale not in _scales(target, request) for unit in planned(target, scale)
    ]
    local = gather(target, places.local, asked + others)
    rendered = target.render(local, places.out)
    return Evaluation(target, gather(target, places.committed(target)), local, tuple(rendered))


def overview(target: Target, places: Places) -> dict[str, Any]:
    """What `list` says of a target: what it needs, and how many planned units are recorded at each scale."""
    return {
        "target": target.name,
        "title": target.title,
        "needs": list(target.needs),
        "scales": list(target.scales),
        "committed": _recorded(target, places.committed(target)),
        "this machine": _recorded(target, places.local),
    }


def _recorded(target: Target, store: Store) -> dict[str, str]:
    """By scale, which says so where other data stand in."""
    evidence = gather(target, store)
    wanted = Counter(each.scale for each in evidence.wanted)
    recorded = Counter(record.scale for record in evidence.records)
    names = {scale: f"{scale} (stand-in)" for scale in getattr(target, "stand_ins", ())}
    return {names.get(scale, scale): f"{recorded[scale]}/{n}" for scale, n in wanted.items() if recorded[scale]}
