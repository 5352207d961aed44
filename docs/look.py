"""Opens every page of the built site in a browser, wide and narrow, light and dark.

Says what is wrong with it: a body that is wider than the window, pictures that are broken or have
no alternative text, errors of scripts, requests that fail or go elsewhere, and what axe finds.

    python docs/look.py [--shots FOLDER] [PATTERN ...]

With patterns, such as ``benchmarks*``, only pages whose path fits one of them.
"""

import argparse
import functools
import shutil
import sys
from collections import defaultdict
from fnmatch import fnmatch
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import sync_playwright

SITE = Path(__file__).parent / "_build/html"
SIZES = {"wide": (1280, 900), "narrow": (390, 844)}
PICTURES = "() => [...document.images].map(i => [i.src, i.alt, i.complete && i.naturalWidth > 0])"
EXCESS = """() => {
  const root = document.documentElement;
  return root.scrollWidth - root.clientWidth;
}"""


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


def load(tab, address, home):
    """Open a page; what goes wrong with that."""
    found = []
    listeners = {
        "console": lambda said: said.type == "error" and found.append(f"console: {said.text}"),
        "pageerror": lambda error: found.append(f"script: {error}"),
        "requestfailed": lambda request: found.append(f"failed: {request.url}"),
        "request": lambda request: (
            request.url.startswith((home, "data:"))
            or found.append(f"from elsewhere: {request.url}")
        ),
        "response": lambda got: got.status >= 400 and found.append(f"{got.status}: {got.url}"),
    }
    for event, listener in listeners.items():
        tab.on(event, listener)
    tab.goto(address)
    # A picture that is loaded when it comes into view is there now.
    tab.evaluate("() => document.querySelectorAll('img').forEach(i => { i.loading = 'eager'; })")
    tab.add_style_tag(content="* { transition: none !important; }")  # colours change at once
    tab.wait_for_load_state("networkidle")
    for event, listener in listeners.items():
        tab.remove_listener(event, listener)
    return found


def faults(tab, scheme):
    """What is wrong with how the open page looks."""
    tab.emulate_media(color_scheme=scheme)
    tab.wait_for_function("scheme => document.documentElement.dataset.theme === scheme", arg=scheme)
    found = []
    excess = tab.evaluate(EXCESS)
    if excess > 0:
        found.append(f"{excess} pixels wider than the window")
    for source, alternative, loaded in tab.evaluate(PICTURES):
        if not alternative:
            found.append(f"no alternative text: {source}")
        if not loaded:
            found.append(f"broken: {source}")
    # Without "preload" axe does not load the style sheets once more, by wrong addresses.
    for violation in Axe().run(tab, options={"preload": False}).response["violations"]:
        for node in violation["nodes"]:
            found.append(f"axe: {violation['id']}: {node['target']} {node['html'][:120]}")
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shots", type=Path, help="a folder for pictures of the pages")
    parser.add_argument("patterns", nargs="*", default=["*"])
    options = parser.parse_args()
    pages = sorted(path.relative_to(SITE).as_posix() for path in SITE.rglob("*.html"))
    pages = [
        page
        for page in pages
        if any(fnmatch(page, pattern) for pattern in options.patterns)
        and not page.startswith("_static")  # a template of the theme
    ]
    if not pages:
        sys.exit(f"no page in {SITE} fits")
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=SITE))
    Thread(target=server.serve_forever, daemon=True).start()
    home = f"http://127.0.0.1:{server.server_port}/"
    found = defaultdict(list)  # the modes in which something is wrong with a page
    with sync_playwright() as play:
        browser = play.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        for size, (width, height) in SIZES.items():
            tab = browser.new_page(viewport={"width": width, "height": height})
            for page in pages:
                for fault in load(tab, home + page, home):
                    found[page, fault].append(size)
                for scheme in ("light", "dark"):
                    for fault in faults(tab, scheme):
                        found[page, fault].append(f"{size} {scheme}")
                    if options.shots:
                        name = f"{page.removesuffix('.html').replace('/', '.')}-{size}-{scheme}.png"
                        tab.screenshot(path=options.shots / name, full_page=True)
        browser.close()
    server.shutdown()
    for (page, fault), modes in sorted(found.items()):
        print(f"{page} ({', '.join(modes)}): {fault.replace(home, '')}")
    print(f"{len(pages)} pages in 4 modes, {len(found)} faults")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
