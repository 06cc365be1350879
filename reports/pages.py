"""The templates of the report; every value is escaped unless it was rendered by a template of ours."""

from __future__ import annotations

import base64
import hashlib
import json
from functools import cache
from typing import Any

import jinja2
from markupsafe import Markup

__all__ = ["json_block", "page_parts", "template"]


@cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("reports"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        # A misspelt name must fail in a test, not print nothing.
        undefined=jinja2.StrictUndefined,
    )


def template(name: str) -> jinja2.Template:
    """A template of ``reports/templates``."""
    return _environment().get_template(name)


@cache
def page_parts() -> dict[str, Markup]:
    """Style, script and content security policy that the report and the index have in common.

    Only this very script may run, and nothing may be loaded: a name from a spec that got past the escaping could do
    neither. Styles are inline, because the drawings bring their own.
    """
    script = template("page.js.j2").render()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    # Ours, and without a value of anybody else's.
    return {"style": Markup(template("page.css.j2").render()), "script": Markup(script), "policy": Markup(policy)}


def json_block(value: Any) -> Markup:
    """JSON for a ``<script type="application/json">``: no text in it can end the element or start a comment."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)
