"""The site loads nothing from elsewhere, so that it can be read without a network."""

import re
from pathlib import Path

from sphinx.errors import ExtensionError

LOADING = re.compile(
    r"<(?:script|link|img|iframe|source|video|object)\b[^>]*"
    r"\b(?:src|href|srcset|data)\s*=\s*[\"']?((?:https?:)?//[^\"'\s>]+)",
    re.I,
)
IN_STYLES = re.compile(r"(?:@import\s+|url\()\s*[\"']?((?:https?:)?//[^\"')\s]+)", re.I)


def check(app, exception):
    if exception or app.builder.format != "html":
        return
    found = []
    for file in sorted(Path(app.outdir).rglob("*.*")):
        pattern = {".html": LOADING, ".css": IN_STYLES}.get(file.suffix)
        if pattern:
            name = file.relative_to(app.outdir)
            found += [f"{name}: {address}" for address in pattern.findall(file.read_text())]
    if found:
        raise ExtensionError("pages load from elsewhere:\n" + "\n".join(found))


def setup(app):
    app.connect("build-finished", check)
    return {"parallel_read_safe": True}
