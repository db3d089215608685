"""How fast fedkt is: against Flower's own simulation, plain loops, and the arithmetic itself.

python benchmarks/speed/run.py [--quick] [--workloads W1,W2,W3] [--repeats 3] [--clients N]
                               [--out DIR] [--check FILE.json]

Needs Linux. Every variant runs in a process of its own and does the same local training,
answers, personalised fusion and distillation; what is measured begins at the end of its first
round. Writes results.json, tables.md and speed.png. With --check it compares with an earlier
run of the same sizes and exits 1 if a CPU ratio is more than 25 % worse, also in the median
with two more repeats.

  ours-ray, ours-in-process  fedkt on its two grids (-compiled: steps under torch.compile,
                             -bfloat16: products rounded to bfloat16)
  stock                      Flower's simulation, a message a client and phase, lean training
  lean, lean-channels-last   a sequential loop with nothing beside the arithmetic
  typical                    DataLoader, optim.SGD, .item(), deep copies; one client in ten
  ...-batch-10               the same at batch size 10; all else is at 32
  floor                      counted FLOPs at this machine's GEMM rate, one core
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import fusion
import overhead
import scale
from bench import MeasurementError, machine, measured, prepared, spawned
from floor import run_floor
from ratios import OURS, Results, median_of, ratios_of, worse
from report import draw, text_of
from workloads import WORKLOADS, Case

BATCH_10 = ("typical", "ours-batch-10", "typical-batch-10")
VARIANTS: Mapping[str, tuple[str, ...]] = {
    "W1": (*OURS, "ours-bfloat16", "stock", "lean", "lean-channels-last", *BATCH_10, "floor"),
    "W2": (*OURS, "ours-ray-compiled", "ours-compiled", "stock", "lean", *BATCH_10, "floor"),
    "W3": (*OURS, "ours-bfloat16", "stock", "lean", "lean-channels-last", "floor"),
}
QUICK_VARIANTS: Mapping[str, tuple[str, ...]] = {
    "W1": ("ours-in-process", "lean", "floor"),
    "W2": ("ours-ray", "ours-in-process", "stock", "lean", "floor"),
    "W3": ("ours-in-process", "lean", "floor"),
}
Runs = dict[str, dict[str, list[dict[str, Any]]]]  # by workload and variant
PARTS = ("workloads", "overhead", "fusion", "scale")
CHEAP_ROUNDS = 8  # of W2 at reduced size, where a round takes a tenth of a second
MORE_REPEATS = 2  # where a ratio seems to have become worse
SAME_LOSS = 0.02  # relative; the variants draw the same batches, the typical loop others


def main() -> int:
    """Measure, print, write; return the exit code."""
    options = _options()
    options.out.mkdir(parents=True, exist_ok=True)
    results: Results = {
        "machine": machine(),
        "quick": options.quick,
        "repeats": options.repeats,
        "workloads": {},
        "failed": [],
    }
    try:
        before = json.loads(options.check.read_text(encoding="utf-8")) if options.check else None
    except (OSError, ValueError) as error:
        print(f"Cannot compare with {options.check}: {error}")
        return 2
    if before:  # results of other sizes are refused before anything is measured
        cases = {n: {"case": _size(_case(n, options))} for n in options.workloads}
        _slower({"workloads": cases, "ratios": before["ratios"]}, before)
    with tempfile.TemporaryDirectory() as folder:
        runs: Runs = {}
        for name, measure in _parts(options, Path(folder), runs):
            measure(results)
            _write(options.out, results)
            _say(f"{name}: done")
        for _ in range(MORE_REPEATS if before else 0):
            for name in sorted({line.split()[0] for line in _slower(results, before)}):
                _say(f"{name} seems slower than before: once more")
                case = prepared(_case(name, options), Path(folder))
                _workload(results, case, options, runs)
    for name, one in results["workloads"].items():
        _check_agreement(name, one["variants"], results["failed"])
    _write(options.out, results)
    if results["workloads"]:
        draw(results, options.out / "speed.png")
    text = text_of(results)
    (options.out / "tables.md").write_text(text + "\n", encoding="utf-8")
    print(text)
    for line in results["failed"]:
        print(f"FAILED {line}")
    return max(int(bool(results["failed"])), _compare(results, before))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--quick", action="store_true", help="small sizes and few variants: about two minutes")
    add("--workloads", default=",".join(WORKLOADS), help="default: all")
    add("--parts", default="", help=f"of {','.join(PARTS)}; default: all, quick the first alone")
    variants = tuple(dict.fromkeys(name for names in VARIANTS.values() for name in names))
    add("--variants", default="", help=f"of {','.join(variants)}; default: all")
    add("--repeats", type=int, default=0, help="default: 3, quick 1")
    add("--clients", type=int, help="at most so many, in every part")
    add("--private", type=int, help="private samples of each client")
    add("--public", type=int, help="public samples")
    add("--workers", type=int, default=2, help="worker processes, default: 2")
    add("--out", type=Path, default=Path("runs/speed"), help="default: runs/speed")
    add("--check", type=Path, metavar="FILE.json", help="earlier results to compare with")
    options = parser.parse_args()
    options.repeats = options.repeats or (1 if options.quick else 3)
    options.parts = options.parts or (PARTS[0] if options.quick else ",".join(PARTS))
    for key, known in (("workloads", WORKLOADS), ("parts", PARTS), ("variants", variants)):
        chosen = [name for name in getattr(options, key).split(",") if name]
        unknown = [name for name in chosen if name not in known]
        if unknown:
            parser.error(f"--{key}: {unknown[0]!r} is none of {', '.join(known)}")
        setattr(options, key, chosen)
    return options


def _parts(
    options: argparse.Namespace, scratch: Path, runs: Runs
) -> Iterator[tuple[str, Callable[[Results], None]]]:
    """Yield what is to be measured, by name; repeats of the workloads are interleaved."""
    if "workloads" in options.parts:
        for repeat in range(1, options.repeats + 1):
            for name in options.workloads:
                case = prepared(_case(name, options), scratch)
                title = f"repeat {repeat} of {options.repeats}, {name}"
                yield title, lambda r, c=case: _workload(r, c, options, runs)
    if "overhead" in options.parts:
        for size, name in overhead.cases(options.quick, options.clients):
            yield (
                f"{name}, {size} clients",
                lambda r, n=name, s=size: _row(
                    r, "overhead", n, s, lambda: overhead.measure(s, n, options.workers, scratch)
                ),
            )
    if "fusion" in options.parts:
        yield "fusion", lambda r: _fusion(r, options, scratch)
    if "scale" in options.parts:
        for name, size, public in scale.cases(options.quick, options.clients):
            yield (
                f"{name}, {size} clients",
                lambda r, n=name, s=size, p=public: _row(
                    r, "scale", n, s, lambda: scale.measure(n, s, p, options.workers, scratch)
                ),
            )


def _case(name: str, options: argparse.Namespace) -> Case:
    """Return a workload at the size that is asked for."""
    kind = WORKLOADS[name]
    sizes = kind.quick if options.quick else (kind.clients, kind.private, kind.public)
    clients, private, public = sizes
    return Case(
        name,
        min(clients, options.clients or clients),
        options.private or private,
        options.public or public,
        "",
        workers=options.workers,
    )


def _workload(
    results: Results,
    case: Case,
    options: argparse.Namespace,
    runs: Runs,
) -> None:
    """Measure each variant of a workload once more, and put the medians into the results."""
    variants = (QUICK_VARIANTS if options.quick else VARIANTS)[case.workload]
    own = runs.setdefault(case.workload, {})
    for name in (v for v in variants if not options.variants or v in options.variants):
        try:
            found = run_floor(case) if name == "floor" else measured(name, _lasting(case, name))
            _check_work(case, name, found)
        except MeasurementError as error:
            results["failed"].append(str(error))
            _say(str(error))
            continue
        own.setdefault(name, []).append(found)
        _say(f"  {case.workload} {name}: {found['cpu']:.2f} CPU s")
    medians = {name: median_of(found) for name, found in own.items()}
    results["workloads"][case.workload] = {"case": _size(case), "variants": medians}
    found = {name: one["variants"] for name, one in results["workloads"].items()}
    results["ratios"] = ratios_of(found)


def _size(case: Case) -> dict[str, Any]:
    return {k: v for k, v in case.as_json().items() if k not in ("folder", "rounds")}


def _lasting(case: Case, name: str) -> Case:
    """Give cheap variants more rounds at reduced size, so that the clocks have something to say."""
    small = case.workload == "W2" and case.clients * case.public <= 10**5
    return replace(case, rounds=CHEAP_ROUNDS) if small and name != "stock" else case


def _check_work(case: Case, name: str, found: Mapping[str, Any]) -> None:
    """Refuse figures of a variant that did not take the steps of the case."""
    expected = (replace(case, batch=10) if name.endswith("batch-10") else case).steps
    if found.get("steps", expected) != expected:
        raise MeasurementError(f"{case.workload}, {name}: {found['steps']} steps, not {expected}.")
    losses = found.get("losses", [])
    if losses and not losses[-1] < losses[0]:
        raise MeasurementError(f"{case.workload}, {name}: the loss does not fall: {losses}.")


def _check_agreement(name: str, variants: Mapping[str, Any], failed: list[str]) -> None:
    """Note where variants that train the same clients alike have come to other losses."""
    known = {
        variant: found["losses"][1]
        for variant, found in variants.items()
        if found.get("losses") and not variant.startswith("typical") and "batch" not in variant
    }
    if known and max(known.values()) > (1 + SAME_LOSS) * min(known.values()):
        failed.append(f"{name}: the losses of the second round differ: {known}")


def _row(
    results: Results, part: str, name: str, size: int, measure: Callable[[], dict[str, Any]]
) -> None:
    try:
        row = {"variant": name, "clients": size, **measure()}
        results.setdefault(part, []).append(row)
    except MeasurementError as error:
        results["failed"].append(str(error))
        _say(str(error))


def _fusion(results: Results, options: argparse.Namespace, scratch: Path) -> None:
    clients, *rest = fusion.QUICK if options.quick else fusion.FULL
    sizes = [min(clients, options.clients or clients), *rest]
    try:
        results["fusion"] = spawned("fusion.py", *map(str, sizes), folder=scratch)
    except MeasurementError as error:
        results["failed"].append(f"fusion: {error}")


def _slower(results: Results, before: Results) -> list[str]:
    try:
        return worse(results, before)
    except (ValueError, LookupError) as error:
        sys.exit(f"These results cannot be compared: {error}")


def _compare(results: Results, before: Results | None) -> int:
    """Say how the ratios compare with earlier ones; return the exit code."""
    if before is None:
        return 0
    lines = _slower(results, before)
    for line in lines:
        print(f"SLOWER {line}")
    if not lines:
        print("No CPU ratio is more than 25 % worse than before.")
    return int(bool(lines))


def _write(out: Path, results: Results) -> None:
    text = json.dumps(results, indent=1, ensure_ascii=False)
    (out / "results.json").write_text(text + "\n", encoding="utf-8")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
