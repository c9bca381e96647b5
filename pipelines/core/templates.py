"""Jinja templates of the package's folders `templates`. Those of studies and tokenizers do not belong here."""

from typing import Any

import jinja2


def package_templates(package: str, **options: Any) -> jinja2.Environment:  # noqa: ANN401 - Jinja's
    """Return the environment of a package's templates, such as `warehouse.export`; a name without a value is an error.

    Jinja's options include `autoescape`, without which it escapes nothing.
    """
    loader = jinja2.PackageLoader(f"prunescope.{package}")
    return jinja2.Environment(loader=loader, undefined=jinja2.StrictUndefined, **options)  # noqa: S701 - the caller's
