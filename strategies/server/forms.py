"""The forms of uploads where the server left a length open: equal among the clients of a round."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from fedkt.knowledge import Knowledge, Upload

Form = tuple[tuple[str, tuple[int, ...]], ...]  # names of tensors and their shapes


def of_other_form(uploads: Sequence[Upload]) -> dict[int, str]:
    """Return the reasons against uploads whose shapes differ from most others', by client.

    Of equally many clients those with the lowest id count as most. Rows may be absent: only
    their widths are compared, and knowledge without any row goes with all others.

    Parameters
    ----------
    uploads : Sequence[Upload]
        All uploads of the round that are sound in themselves.
    """
    reasons: dict[int, str] = {}
    for name in uploads[0].knowledge if uploads else ():
        ordered = sorted(uploads, key=lambda upload: upload.client)
        forms = {upload.client: _form(upload.knowledge[name]) for upload in ordered}
        common = Counter(form for form in forms.values() if form is not None).most_common(1)
        for client, form in forms.items():
            if form is not None and form != common[0][0]:
                what = _difference(form, common[0][0])
                reasons.setdefault(client, f"{name!r}: {what}")
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
