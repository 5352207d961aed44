"""Links that leave docs/: to a page that has the file, or to a page that shows it as code."""

import html
import os
import re
from pathlib import Path

from docutils import nodes
from pygments.lexers import get_lexer_for_filename
from pygments.util import ClassNotFound
from sphinx import addnodes

DOCS = Path(__file__).parent.parent
ROOT = DOCS.parent
#: Files that are pages of the site.
PAGES = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "README.md": "index.md",
    "SECURITY.md": "security.md",
}


def relative_to_page(text, folder, page_folder):
    """Links in Markdown that lies in one folder, as they must be in another."""

    def changed(found):
        if not found[1]:
            return found[0]
        path = (folder / found[1]).resolve()
        if not path.exists():
            return found[0]
        page = path.is_relative_to(ROOT) and PAGES.get(path.relative_to(ROOT).as_posix())
        return "](" + Path(os.path.relpath(DOCS / page if page else path, page_folder)).as_posix()

    # Code comes first, so that no link is found in it.
    return re.sub(r"(?s:```.*?```)|`[^`\n]*`|\]\(([^()\s#]+)", changed, text)


def change_page(app, docname, source):
    folder = (DOCS / docname).parent
    if app.env.doc2path(docname).suffix == ".md":
        source[0] = relative_to_page(source[0], folder, folder)


def change_included(app, path, docname, source):
    source[0] = relative_to_page(source[0], (DOCS / path).resolve().parent, DOCS)


def mark_sources(app, doctree):
    """What would be a download, or is a folder."""
    for node in list(doctree.findall(addnodes.download_reference)) + [
        node for node in doctree.findall(addnodes.pending_xref) if node.get("reftype") == "myst"
    ]:
        path = ((DOCS / node["refdoc"]).parent / node["reftarget"]).resolve()
        if path.is_relative_to(ROOT) and path.exists() and node.get("refdomain") is None:
            marked = addnodes.pending_xref(
                "",
                *node.children,
                refdomain="",
                reftype="source",
                refdoc=node["refdoc"],
                reftarget=path.relative_to(ROOT).as_posix(),
                refexplicit=True,
            )
            node.replace_self(marked)


def name_of(path):
    return f"source/{path}"


def link_to_source(app, env, node, contnode):
    if node["reftype"] != "source":
        return None
    uri = app.builder.get_relative_uri(node["refdoc"], name_of(node["reftarget"]))
    return nodes.reference("", "", contnode, internal=True, refuri=uri)


def source_pages(app):
    linked = {
        node["reftarget"]
        for docname in app.env.found_docs
        for node in app.env.get_doctree(docname).findall(addnodes.pending_xref)
        if node["reftype"] == "source"
    }
    for path in sorted(linked):
        if (ROOT / path).is_dir():
            files = [f"{path}/{file.name}" for file in sorted((ROOT / path).iterdir())]
            files = [file for file in files if lexer_of(file)]
            yield page(path, listed(app, path, files))
            linked = linked | {*files}
    for path in sorted(linked):
        if not (ROOT / path).is_dir():
            text = (ROOT / path).read_text()
            yield page(path, app.builder.highlighter.highlight_block(text, lexer_of(path)))


def lexer_of(path):
    try:
        return get_lexer_for_filename(path).aliases[0]
    except ClassNotFound:
        return None


def listed(app, folder, files):
    items = [
        f'<li><a href="{app.builder.get_relative_uri(name_of(folder), name_of(file))}">'
        f"{html.escape(file)}</a></li>"
        for file in files
    ]
    return f"<ul>{''.join(items)}</ul>"


def page(path, body):
    title = html.escape(path)
    return name_of(path), {"title": title, "body": f"<h1>{title}</h1>{body}"}, "page.html"


def setup(app):
    app.connect("source-read", change_page)
    app.connect("include-read", change_included)
    app.connect("doctree-read", mark_sources, priority=400)  # before downloads are collected
    app.connect("missing-reference", link_to_source)
    app.connect("html-collect-pages", source_pages)
    return {"parallel_read_safe": True}
