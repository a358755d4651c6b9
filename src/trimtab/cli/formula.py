"""TeX as a line of text: what a docstring says in ``.. math::``, for a terminal."""

from __future__ import annotations

import re

GREEK = dict(zip(
    "alpha beta gamma delta epsilon varepsilon zeta eta theta kappa lambda mu nu xi pi rho sigma tau phi varphi chi psi omega".split(),
    "αβγδεεζηθκλμνξπρστφφχψω", strict=True,
)) | dict(zip("Gamma Delta Theta Lambda Sigma Phi Psi Omega".split(), "ΓΔΘΛΣΦΨΩ", strict=True))  # fmt: skip
SIGNS = GREEK | {
    "sum": "Σ", "prod": "Π", "partial": "∂", "nabla": "∇", "infty": "∞", "ell": "ℓ",
    "cdot": "·", "times": "×", "odot": "⊙", "circ": "∘", "sim": "~", "approx": "≈", "propto": "∝", "in": "∈",
    "le": "≤", "leq": "≤", "ge": "≥", "geq": "≥", "ne": "≠", "neq": "≠", "to": "→", "rightarrow": "→", "leftarrow": "←", "Rightarrow": "⇒", "mapsto": "↦",
    "lfloor": "⌊", "rfloor": "⌋", "lceil": "⌈", "rceil": "⌉", "langle": "⟨", "rangle": "⟩", "lVert": "‖", "rVert": "‖",
    "dots": "…", "ldots": "…", "cdots": "…", "top": "ᵀ", "quad": "\t", "qquad": "\t", "\\": "\n", ",": " ", ";": " ", ":": " ",
    " ": " ", "!": "", "|": "‖",
}  # fmt: skip
SILENT = """left right bigl bigr Bigl Bigr big Big biggl biggr displaystyle textstyle limits
    mathrm mathbf mathcal mathbb boldsymbol text operatorname""".split()
ACCENTS = {
    "hat": "\u0302",
    "widehat": "\u0302",
    "bar": "\u0304",
    "overline": "\u0304",
    "tilde": "\u0303",
    "dot": "\u0307",
}
POWERS = str.maketrans("0123456789+-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻")
TOKEN = re.compile(r"\\([A-Za-z]+|.)\*?|(\s+)|(.)", re.DOTALL)


def plain(tex: str) -> str:
    r"""The formula in Unicode; a command without a sign of its own keeps its name.

    >>> print(plain(r"y = \gamma \frac{x - \mu_c}{\sqrt{\sigma_{ng}^2 + \epsilon}}, \quad m \sim \mathrm{Bernoulli}(1 - p)"))
    y = γ (x - μ_c)/√(σ_ng² + ε),   m ~ Bernoulli(1 - p)
    """
    tokens = [("\\" + m[1]) if m[1] else (" " if m[2] else m[3]) for m in TOKEN.finditer(tex)]
    tokens.reverse()  # the next one is at the end
    said = re.sub(r" *\t[ \t]*", "   ", re.sub(r" +", " ", _until(tokens, None)))
    lines = re.sub(r" +([,.)])", r"\1", said).split("\n")
    return "\n".join(line.strip() for line in lines if line.strip())


def readable_formula(text: str) -> str:
    """A paragraph in one line, without the marks of reStructuredText."""
    line = " ".join(text.split())
    line = re.sub(r":math:`([^`]*)`", lambda math: plain(math[1]), line)
    return re.sub(r":\w+:`~?(?:trimtab\.(?:nn|data|optim)\.)?([^`]*)`", r"\1", line).replace("``", "")


def _until(tokens: list[str], end: str | None) -> str:
    """What stands before ``end``, or before the end of all."""
    said = ""
    while tokens:
        if tokens[-1] == end:
            tokens.pop()
            break
        said += _next(tokens)
    return said


def _next(tokens: list[str]) -> str:
    token = tokens.pop()
    if token == "{":
        return _until(tokens, "}")
    if token == "_":
        return "_" + _bound(_argument(tokens))
    if token == "^":
        power = _argument(tokens)
        return (
            power.translate(POWERS)
            if re.fullmatch(r"[-+0-9]+", power)
            else power
            if power in "ᵀ'"
            else "^" + _bound(power)
        )
    if token in "&}":
        return ""
    if not token.startswith("\\"):
        return token
    name = token[1:]
    if name in ("frac", "tfrac", "dfrac"):
        above, below = _bound(_argument(tokens)), _bound(_argument(tokens))
        return f"{above}/({below})" if re.match(r"\d+[^\d.]", below) else f"{above}/{below}"
    if name == "sqrt":
        return f"√{_bound(_argument(tokens))}"
    if name in ACCENTS:
        return _argument(tokens) + ACCENTS[name]
    if name in ("underbrace", "overbrace"):
        under = _argument(tokens)
        if tokens and tokens[-1] in "_^":  # what the brace is called is no part of the formula
            tokens.pop()
            _argument(tokens)
        return under
    if name in ("begin", "end"):
        _argument(tokens)
        return ""
    if name in SILENT:
        return ""
    if name == "partial" and tokens and tokens[-1] == " ":
        tokens.pop()
    return SIGNS.get(name, name)


def _argument(tokens: list[str]) -> str:
    while tokens and tokens[-1] == " ":
        tokens.pop()
    return _next(tokens).strip() if tokens else ""


def _bound(part: str) -> str:
    """In brackets where it would otherwise fall apart."""
    return part if re.fullmatch(r"[^\s+\-/·×=]*|√?\([^()]*\)", part) else f"({part})"
