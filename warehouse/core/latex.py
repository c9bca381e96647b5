"""LaTeX of any text and of booktabs tables; plain pdflatex compiles it, and different texts stay different."""

import re
import unicodedata
from collections.abc import Iterable

from prunescope.pipelines.core.escapes import escape_control

_SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    # The old font encoding shows these as other characters.
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\symbol{34}",
    "'": r"\textquotesingle{}",
    "`": r"\textasciigrave{}",
    # After the end of a line a bracket would be read as its optional argument, an asterisk as its starred form.
    "[": "{[}",
    "]": "{]}",
    "*": "{*}",
}
_LETTERS = {"ß": r"\ss{}", "æ": r"\ae{}", "Æ": r"\AE{}", "œ": r"\oe{}", "Œ": r"\OE{}", "ø": r"\o{}", "Ø": r"\O{}"}
_LETTERS |= {"ł": r"\l{}", "Ł": r"\L{}", "ı": r"\i{}", "§": r"\S{}", "–": r"\textendash{}", "—": r"\textemdash{}"}
_LETTERS |= {"…": r"\ldots{}", "“": r"\textquotedblleft{}", "”": r"\textquotedblright{}", "’": r"\textquoteright{}"}
_ACCENTS = dict(
    zip("\u0300\u0301\u0302\u0303\u0304\u0306\u0307\u0308\u030a\u030b\u030c\u0327", "`'^~=u.\"rHvc", strict=True)
)
_GREEK_NAMES = (
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron pi rho varsigma sigma tau "
    "upsilon phi chi psi omega"
)
# LaTeX has no omicron.
_GREEK = {chr(0x3B1 + index): rf"\{name}" for index, name in enumerate(_GREEK_NAMES.split()) if name != "omicron"}
_GREEK |= {letter.upper(): f"\\{_GREEK[letter][1:].capitalize()}" for letter in "γδθλξπσφψω"}
_MATH = _GREEK | {
    **{"‖": r"\|", "⊥": r"\perp", "×": r"\times", "±": r"\pm", "−": "-", "·": r"\cdot", "≤": r"\le", "≥": r"\ge"},
    **{"≈": r"\approx", "→": r"\rightarrow", "∞": r"\infty", "²": "^{2}", "³": "^{3}", "√": r"\surd", "∑": r"\sum"},
    **{power: f"^{{{digit}}}" for power, digit in zip("⁻⁰¹⁴⁵⁶⁷⁸⁹", "-01456789", strict=True)},
    **{"≠": r"\ne", "∈": r"\in", "°": r"^{\circ}", "µ": r"\mu", "∆": r"\Delta", "Σ": r"\Sigma", "Δ": r"\Delta"},
}


def latex_escaped(text: str) -> str:
    """Return the text as LaTeX that pdflatex typesets without further packages.

    White space becomes one space, and a control character its escape; a character that the standard fonts lack becomes
    its number, such as `[U+65E5]`.
    """
    visible = escape_control(unicodedata.normalize("NFC", text), keep="\n\t")
    escaped = "".join(map(_latex, " ".join(visible.split())))
    # TeX joins two of these to a dash or a quotation mark.
    return re.sub("([-,])(?=\\1)", r"\1{}", escaped)


def row(cells: Iterable[str]) -> str:
    """Return a row of a table from its cells in LaTeX."""
    return " & ".join(cells) + r" \\"


def tabular(letters: str, headings: Iterable[str], body: Iterable[str]) -> list[str]:
    """Return a table from alignment letters, headings in LaTeX and lines from `row`."""
    head = [r"\toprule", row(headings), r"\midrule"]
    return [rf"\begin{{tabular}}{{{letters}}}", *head, *body, r"\bottomrule", r"\end{tabular}"]


def _latex(character: str) -> str:
    if known := _SPECIAL.get(character) or _LETTERS.get(character):
        return known
    if " " <= character < "\x7f":
        return character
    if character in _MATH:
        return rf"\ensuremath{{{_MATH[character]}}}"
    base, *accents = list(unicodedata.normalize("NFD", character))
    if base.isascii() and base.isalpha() and len(accents) == 1 and accents[0] in _ACCENTS:
        return rf"\{_ACCENTS[accents[0]]}{{{base}}}"
    return f"{{[}}U+{ord(character):04X}{{]}}"
