"""The templates of the report; every value is escaped unless it was rendered by a template of ours."""

from __future__ import annotations

from functools import cache

import jinja2

__all__ = ["template"]


@cache
def template(name: str) -> jinja2.Template:
    """A template of ``reports/templates``."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("reports"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        # A misspelt name must fail in a test, not print nothing.
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template(name)
