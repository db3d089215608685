"""Domain adaptation: one domain of a federation is the unlabelled target.

No client owns the target. Its training part is the public set, without labels: what methods
adapt to. Its test part is the common test set, and nothing of it is adapted to, unless the
federation is transductive. A source domain keeps the random streams of its place among all
domains, so that its clients have the same samples whichever other domain is the target.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from fedkt.data.columns import expand
from fedkt.data.domains import Domains
from fedkt.data.spec import FederationSpec, check_numbers
from fedkt.data.splits import Array
from fedkt.errors import ConfigError, unknown

EACH = "each"
TRANSDUCTIVE = "transductive: accuracies on the target are on the samples the methods adapt to"
MOST_NAMED = 10


def references_of(spec: FederationSpec) -> tuple[tuple[str, ...], int | None]:
    """Return the references of a federation's domains, and the place of its target among them.

    Raises
    ------
    ConfigError
        If a set cannot be opened, the target is none of the domains, or numbers are too small.
    """
    if not spec.domains:
        return (spec.dataset,), None
    references = expand(spec.domains, spec.data_dir, spec.seed)
    target = place_of(spec.target, references) if spec.target else None
    check_numbers(spec, len(references))
    return references, target


def place_of(target: str, references: Sequence[str]) -> int:
    """Return the place of a target among the domains.

    Parameters
    ----------
    target : str
        A reference, or the last part of one (``usps`` for ``digits5/usps``) if no other
        reference ends so.
    references : Sequence[str]
        Of single domains.

    Raises
    ------
    ConfigError
        If there is no such domain, more than one, or no other.
    """
    endings = [_ending(reference) for reference in references]
    if target == EACH:
        raise ConfigError(
            f'target = "{EACH}" runs every domain as the target in turn, which only fedkt compare '
            f"does; else name one of {', '.join(references)}."
        )
    for names in (list(references), endings):
        if names.count(target) > 1:
            which = [r for r, name in zip(references, names, strict=True) if name == target]
            raise ConfigError(f"target {target!r} may be {' or '.join(which)}; write which.")
        if target in names:
            if len(references) == 1:
                raise ConfigError(
                    f"target is {target!r}, the only domain; clients need at least one other."
                )
            return names.index(target)
    raise unknown("target", target, {*references, *endings})


def short_names(references: Sequence[str]) -> list[str]:
    """Return the last part of every reference, or the whole where others end alike."""
    endings = [_ending(reference) for reference in references]
    return [
        ending if endings.count(ending) == 1 else reference
        for ending, reference in zip(endings, references, strict=True)
    ]


def missing_classes(domains: Domains, transductive: bool) -> list[str]:
    """Return a note for each domain that lacks classes.

    Of a target only the labels that it is tested by may be known.
    """
    notes = []
    for d, (name, part) in enumerate(zip(domains.names, domains.parts, strict=True)):
        train, test = part.y_train, part.y_test
        what, labels = "samples", np.concatenate([train, test])
        if d == domains.target:
            what, labels = "test samples", train if transductive else test
        lacking = np.setdiff1d(np.arange(len(domains.classes)), labels)
        if len(lacking):
            notes.append(f"{name} has no {what} of {_listed(lacking, domains.classes)}")
    return notes


def _listed(lacking: Array, classes: Sequence[str]) -> str:
    names = ", ".join(classes[c] for c in lacking[:MOST_NAMED])
    more = f" and {len(lacking) - MOST_NAMED} more" if len(lacking) > MOST_NAMED else ""
    return f"class{'es' if len(lacking) > 1 else ''} {names}{more}"


def _ending(reference: str) -> str:
    return re.split("[/:]", reference.removesuffix(".npz"))[-1]
