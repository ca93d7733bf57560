"""Turns formulas into MathML when the site is built: no script, no network, readable aloud."""

import html
import re

from latex2mathml.converter import convert
from markdown import Extension
from markdown.postprocessors import Postprocessor

FORMULA = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', flags=re.DOTALL)


class _Formulas(Postprocessor):
    def run(self, text: str) -> str:
        return FORMULA.sub(_mathml, text)


class MathML(Extension):
    """After `pymdownx.arithmatex`, which marks formulas."""

    def extendMarkdown(self, md):
        md.postprocessors.register(_Formulas(md), "mathml", -10)


def makeExtension(**options):
    return MathML(**options)


def _mathml(match: re.Match) -> str:
    display = "block" if match[2] == "[" else "inline"
    return convert(html.unescape(match[3]).strip(), display=display)
