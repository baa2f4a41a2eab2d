"""How the documentation becomes a site: make docs."""

import sys
from importlib.util import find_spec
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))  # extensions/ and generate/

from sphinx.ext.autodoc.mock import MockFinder, _MockObject  # noqa: E402

from flctl import __version__  # noqa: E402

project = "flctl"
copyright = "the authors of flctl; Apache-2.0"
release = version = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx_copybutton",
    "extensions.accessible",
    "extensions.pages",
    "extensions.repository_links",
]
exclude_patterns = ["_build", "extensions", "generate"]

# A link to a heading is checked as GitHub makes its anchor.
myst_heading_anchors = 4
myst_linkify_fuzzy_links = False
highlight_language = "none"
smartquotes = False  # two hyphens begin an option
nitpicky = True
nitpick_ignore_regex = [("py:.*", ".*")]  # types of other packages

html_theme = "furo"
html_title = "flctl"
html_static_path = ["_static"]
html_css_files = ["flctl.css"]
html_favicon = "_static/mark.svg"
html_copy_source = False
html_show_sourcelink = False
html_last_updated_fmt = None
html_theme_options = {
    "light_logo": "mark.svg",
    "dark_logo": "mark.svg",
    "navigation_with_keys": True,
}

# Docstrings are plain text with names in backticks.
default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"

# make docs installs no torch: modules that import it get something in its place.
if find_spec("torch") is None:
    _MockObject.__or__ = _MockObject.__ror__ = lambda self, _: self  # `torch.device | None`
    sys.modules.pop("torch", None)  # None there keeps it from being imported, in the tests
    sys.meta_path.insert(0, MockFinder(["torch"]))
