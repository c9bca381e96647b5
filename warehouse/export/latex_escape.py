"""Text made safe for LaTeX: any name compiles with plain pdflatex and stays told apart from every other.

Markdown is escaped by `formats`, HTML by great-tables.
"""

import re
import unicodedata

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
    # What the old font encoding shows as something else.
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\symbol{34}",
    "'": r"\textquotesingle{}",
    "`": r"\textasciigrave{}",
    # A bracket behind a line end is its optional argument, an asterisk its starred form.
    "[": "{[}",
    "]": "{]}",
    "*": "{*}",
}
_LETTERS = {"ß": r"\ss{}", "æ": r"\ae{}", "Æ": r"\AE{}", "œ": r"\oe{}", "Œ": r"\OE{}", "ø": r"\o{}", "Ø": r"\O{}"}
_LETTERS |= {"ł": r"\l{}", "Ł": r"\L{}", "ı": r"\i{}", "§": r"\S{}", "–": r"\textendash{}", "—": r"\textemdash{}"}
_LETTERS |= {"…": r"\ldots{}", "“": r"\textquotedblleft{}", "”": r"\textquotedblright{}", "’": r"\textquoteright{}"}
_ACCENTS = {
    "\u0300": "`",
    "\u0301": "'",
    "\u0302": "^",
    "\u0303": "~",
    "\u0304": "=",
    "\u0306": "u",
    "\u0307": ".",
    "\u0308": '"',
    "\u030a": "r",
    "\u030b": "H",
    "\u030c": "v",
    "\u0327": "c",
}
_GREEK = {
    chr(0x3B1 + index): rf"\{name}"
    for index, name in enumerate(
        [
            "alpha",
            "beta",
            "gamma",
            "delta",
            "epsilon",
            "zeta",
            "eta",
            "theta",
            "iota",
            "kappa",
            "lambda",
            "mu",
            "nu",
            "xi",
            "-",
            "pi",
            "rho",
            "varsigma",
            "sigma",
            "tau",
            "upsilon",
            "phi",
            "chi",
            "psi",
            "omega",
        ]
    )
    if name != "-"
}
_GREEK |= {letter.upper(): f"\\{_GREEK[letter][1:].capitalize()}" for letter in "γδθλξπσφψω"}
_MATH = _GREEK | {
    **{"‖": r"\|", "⊥": r"\perp", "×": r"\times", "±": r"\pm", "−": "-", "·": r"\cdot", "≤": r"\le", "≥": r"\ge"},
    **{"≈": r"\approx", "→": r"\rightarrow", "∞": r"\infty", "²": "^{2}", "³": "^{3}", "√": r"\surd", "∑": r"\sum"},
    **{power: f"^{{{digit}}}" for power, digit in zip("⁻⁰¹⁴⁵⁶⁷⁸⁹", "-01456789", strict=True)},
    **{"≠": r"\ne", "∈": r"\in", "°": r"^{\circ}", "µ": r"\mu", "∆": r"\Delta", "Σ": r"\Sigma", "Δ": r"\Delta"},
}


def latex(text: str) -> str:
    """The text as LaTeX that pdflatex sets without further packages.

    White space becomes one space; a character that the standard fonts lack is written as its number, `[U+65E5]`.
    """
    escaped = "".join(map(_latex, " ".join(unicodedata.normalize("NFC", text).split())))
    # Two of these in a row would be joined to a dash or a quotation mark.
    return re.sub("([-,])(?=\\1)", r"\1{}", escaped)


def _latex(character: str) -> str:
    if found := _SPECIAL.get(character) or _LETTERS.get(character):
        return found
    if " " <= character < "\x7f":
        return character
    if character in _MATH:
        return rf"\ensuremath{{{_MATH[character]}}}"
    base, *accents = list(unicodedata.normalize("NFD", character))
    if base.isascii() and base.isalpha() and len(accents) == 1 and accents[0] in _ACCENTS:
        return rf"\{_ACCENTS[accents[0]]}{{{base}}}"
    return f"{{[}}U+{ord(character):04X}{{]}}"
