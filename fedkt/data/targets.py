"""Domain adaptation: one domain of a federation is the unlabelled target.

No client owns the target. Its training part is the public set, without labels: what methods
adapt to. Its test part is the common test set, and nothing of it is adapted to, unless the
federation is transductive. A source domain keeps the random streams of its place among all
domains, so that its clients have the same samples whichever other domain is the target.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from fedkt.data.columns import expand
from fedkt.data.spec import FederationSpec, check_numbers
from fedkt.errors import ConfigError, unknown, without_digest

EACH = "each"
TRANSDUCTIVE = "transductive: accuracies on the target are on the samples the methods adapt to"


def references_of(spec: FederationSpec) -> tuple[tuple[str, ...], int | None]:
    """Return the references of a federation's domains, and the place of its target among them.

    Raises
    ------
    ConfigError
        If a set cannot be opened, the target is none of the domains, or numbers are too small.
    """
    if not spec.domains:
        return (spec.dataset,), None
    references = expand(spec.domains, spec.data_dir, spec.seed, spec.reading)
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
    raise unknown("target", target, set(endings) | set(map(without_digest, references)))


def short_names(references: Sequence[str]) -> list[str]:
    """Return the last part of every reference, or the whole where others end alike."""
    endings = [_ending(reference) for reference in references]
    return [
        ending if endings.count(ending) == 1 else reference
        for ending, reference in zip(endings, references, strict=True)
    ]


def _ending(reference: str) -> str:
    return re.split("[/:]", reference.removesuffix(".npz"))[-1]
