"""The reference's names: which there must be, where each is documented, and what links to it."""

import importlib
import inspect
from pathlib import Path

from sphinx.errors import ExtensionError

MODULES = ["fastadam"] + [
    f"fastadam.{name}" for name in ("schedules", "torch", "sklearn", "scipy", "mpi")
]
PUBLIC = {
    f"{module}.{name}": getattr(importlib.import_module(module), name)
    for module in MODULES
    for name in importlib.import_module(module).__all__
}
#: Those with a page of their own.
BY_MODULE = {
    module: sorted(
        (
            name.removeprefix(f"{module}.")
            for name, value in PUBLIC.items()
            if name.rpartition(".")[0] == module
            and (inspect.isclass(value) or inspect.isfunction(value))
        ),
        key=str.lower,
    )
    for module in MODULES
}
CLASSES = {name: value for name, value in PUBLIC.items() if inspect.isclass(value)}


def _members(cls):
    """The public methods and properties that are ours, with the class that defines each."""
    found = {}
    for owner in cls.__mro__:
        if owner.__module__.startswith("fastadam"):
            for name, value in vars(owner).items():
                is_member = inspect.isroutine(value) or isinstance(value, property)
                if is_member and not name.startswith("_"):
                    found.setdefault(name, owner)
    return found


def _home(owner):
    """The class on whose page it is documented what `owner` defines.

    It is `owner` itself, or if that is not public, one for all that are derived from it.
    """
    derived = [name for name, cls in CLASSES.items() if issubclass(cls, owner)]
    derived.sort(key=lambda name: (CLASSES[name] is not owner, not name.endswith(".Adam"), name))
    return derived[0]


#: For each member of each class where it is documented.
HOMES = {
    f"{cls}.{name}": f"{_home(owner)}.{name}"
    for cls, value in CLASSES.items()
    for name, owner in _members(value).items()
}
#: By class, those on its own page and those on other pages.
IN_FULL = {cls: [] for cls in CLASSES}
INHERITED = {cls: [] for cls in CLASSES}
for full, home in sorted(HOMES.items()):
    cls, _, name = full.rpartition(".")
    (IN_FULL if full == home else INHERITED)[cls].append(name)


def check_all_are_there(app, env):
    modules = env.domaindata["py"]["modules"]
    objects = env.domaindata["py"]["objects"]
    missing = {*MODULES, *PUBLIC, *HOMES.values()} - {*modules, *objects}
    missing |= {*PUBLIC} - {*Path(app.srcdir, "reference/index.md").read_text().split()}
    if missing:
        raise ExtensionError(f"not in the reference: {', '.join(sorted(missing))}")


def link(app, env, node, contnode):
    """What is inherited is on another page; what is fastadam's own needs no "fastadam."."""
    if node["refdomain"] != "py":
        return None
    module, cls, target = node.get("py:module"), node.get("py:class"), node["reftarget"]
    for scope in ((module, cls), (module,), ("fastadam",), ()):
        full = ".".join([*filter(None, scope), target])
        full = HOMES.get(full, full)
        if full in env.domaindata["py"]["objects"]:
            domain, docname = env.domains["py"], node["refdoc"]
            return domain.resolve_xref(
                env, docname, app.builder, node["reftype"], full, node, contnode
            )
    return None


def setup(app):
    app.connect("env-check-consistency", check_all_are_there)
    app.connect("missing-reference", link)
    return {"parallel_read_safe": True}
