"""Links to files of the repository that are no pages: on the site they are names of files.

The same Markdown is read on GitHub, where such a link leads to the file.
"""

from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.transforms.post_transforms import SphinxPostTransform


class RepositoryLinks(SphinxPostTransform):
    default_priority = 5  # before MyST looks for a page

    def run(self, **_: Any) -> None:
        docs = Path(self.env.srcdir)
        root = docs.parent
        for link in list(self.document.findall(pending_xref)):
            if link.get("reftype") != "myst":
                continue
            target = link["reftarget"].partition("#")[0]
            found = ((docs / link["refdoc"]).parent / target).resolve()
            page = found.with_suffix(".md")  # MyST has taken the suffix off
            found = page if page.exists() else found
            outside = found.is_relative_to(root) and not found.is_relative_to(docs)
            if target and outside and found.exists():
                name = str(found.relative_to(root))
                link.replace_self(nodes.literal(name, name))


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_post_transform(RepositoryLinks)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
