"""Tables in LaTeX, for the package booktabs."""

from __future__ import annotations

from collections.abc import Sequence

_SYMBOLS = {
    "\\": r"\textbackslash{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "−": "$-$",
    "–": "--",
    "†": r"$\dagger$",
    "‡": r"$\ddagger$",
    "⁶": "$^6$",
}


def escaped(text: str) -> str:
    """Return text that LaTeX sets as it is written."""
    return "".join(_SYMBOLS.get(character, character) for character in text)


def latex(table: Sequence[Sequence[str]]) -> str:
    r"""Return header and body as a ``tabular`` with the rules of booktabs.

    Parameters
    ----------
    table : Sequence[Sequence[str]]
        The header, then the lines; the first column is on the left, the others on the right.

    Returns
    -------
    str
        LaTeX; the document needs ``\usepackage{booktabs}``.
    """
    header, *body = [" & ".join(map(escaped, line)) + r" \\" for line in table]
    columns = "l" + "r" * (len(table[0]) - 1)
    begin = rf"\begin{{tabular}}{{{columns}}}"
    lines = [begin, r"\toprule", header, r"\midrule", *body, r"\bottomrule", r"\end{tabular}"]
    return "\n".join(lines) + "\n"
