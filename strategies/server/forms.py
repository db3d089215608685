"""The forms of uploads where the server left a length open: equal among the clients of a round."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Sequence

from fedkt.knowledge import Knowledge, Upload

Form = tuple[tuple[str, tuple[int, ...]], ...]  # names of tensors and their shapes


def of_other_form(uploads: Sequence[Upload], grouped: Container[str] = ()) -> dict[int, str]:
    """Return the reasons against uploads whose shapes differ from most others', by client.

    Of equally many clients those with the lowest id count as most. Rows may be absent: only
    their widths are compared, and knowledge without any row goes with all others.

    Parameters
    ----------
    uploads : Sequence[Upload]
        All uploads of the round that are sound in themselves.
    grouped : Container[str]
        Names of the shares whose shapes are those of an architecture.
    """
    reasons: dict[int, str] = {}
    for name in uploads[0].knowledge if uploads else ():
        groups: dict[str, dict[int, Form]] = {}
        for upload in sorted(uploads, key=lambda upload: upload.client):
            form = _form(upload.knowledge[name])
            if form is not None:
                group = upload.architecture if name in grouped else ""
                groups.setdefault(group, {})[upload.client] = form
        for forms in groups.values():
            usual = Counter(forms.values()).most_common(1)[0][0]
            for client, form in forms.items():
                if form != usual:
                    reasons.setdefault(client, f"{name!r}: {_difference(form, usual)}")
    return reasons


def _form(knowledge: Knowledge) -> Form | None:
    """Return the shapes of the tensors, of rows without their number; None without any row."""
    if knowledge.ids is None:
        return tuple((key, tuple(t.shape)) for key, t in sorted(knowledge.tensors.items()))
    return (("rows", tuple(knowledge.values.shape[1:])),) if len(knowledge.ids) else None


def _difference(form: Form, usual: Form) -> str:
    own, others = dict(form), dict(usual)
    key = next(key for key in sorted(own | others) if own.get(key) != others.get(key))
    shown = [list(shapes[key]) if key in shapes else "nothing" for shapes in (own, others)]
    return f"{key} of shape {shown[0]} where the others have {shown[1]}"
