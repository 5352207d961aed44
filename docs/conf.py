"""The site's settings; ``nox -s docs`` builds it into docs/_build/html."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_sphinx"))

import names

import fastadam

project = "fastadam"
author = copyright = "The fastadam developers"
version = release = fastadam.__version__
extensions = ["myst_parser", "sphinx.ext.autosummary", "numpydoc", "names", "outside", "offline"]
exclude_patterns = ["_build"]
templates_path = ["_templates"]

myst_heading_anchors = 4  # as on GitHub

# A name in single backticks is a link where there is such an object. What can be anything else, a
# parameter say, has no dot and no capital.
default_role = "py:obj"
nitpick_ignore_regex = [("py:obj", "[a-z_0-9]+")]

autodoc_typehints = "none"  # the docstrings have the types
autosummary_context = {
    "public": names.BY_MODULE,
    "in_full": names.IN_FULL,
    "inherited": names.INHERITED,
}
numpydoc_attributes_as_param_list = True
numpydoc_show_class_members = False  # the templates do
toc_object_entries_show_parents = "hide"

html_theme = "pydata_sphinx_theme"
html_title = f"fastadam {release}"
html_static_path = ["_static"]
html_favicon = "_static/icon.svg"
html_css_files = ["site.css"]
html_js_files = ["site.js"]
html_sidebars = {"*": []}  # only folders have pages to list there
html_copy_source = False
html_show_sphinx = False
html_context = {"default_mode": "auto"}
html_theme_options = {
    "header_links_before_dropdown": 5,
    "navbar_end": ["theme-switcher"],
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}


def mend_roles(app, pagename, templatename, context, doctree):
    """docutils gives entries of a list a role that has no list, and is deprecated."""
    if "body" in context:
        context["body"] = context["body"].replace('role="doc-biblioentry"', 'role="listitem"')


def setup(app):
    app.connect("html-page-context", mend_roles)
