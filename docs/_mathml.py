"""Turns formulas into MathML when the site is built: no script, no network, readable aloud."""

import html
import re

from latex2mathml.converter import convert

FORMULA = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', flags=re.DOTALL)


def on_page_content(content: str, **_) -> str:
    return FORMULA.sub(_mathml, content)


def _mathml(match: re.Match) -> str:
    display = "block" if match[2] == "[" else "inline"
    return convert(html.unescape(match[3]).strip(), display=display)
