# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""The site of the documentation: `make docs` writes it to docs/_build. Nothing is fetched."""

import sys
from pathlib import Path

from docutils.utils import get_source_line
from sphinx.addnodes import pending_xref
from sphinx.transforms.post_transforms import SphinxPostTransform

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import mmdpad  # noqa: E402

project = 'mmdpad'
author = 'mmdpad authors'
copyright = 'mmdpad authors, Apache-2.0'
release = version = mmdpad.__version__

extensions = ['myst_parser', 'sphinx.ext.autodoc', 'sphinx.ext.napoleon']
exclude_patterns = ['_build']
# A heading is linked as on GitHub: page.md#its-words.
myst_heading_anchors = 3

highlight_language = 'text'  # of blocks that name none: trees of files, output

autodoc_member_order = 'bysource'
autodoc_inherit_docstrings = False  # those of torch and mmengine
autodoc_typehints = 'none'  # docstrings say shapes, frames and ranges, which types do not
autodoc_default_options = {'members': True, 'show-inheritance': True}
napoleon_use_rtype = False
napoleon_use_ivar = True

html_theme = 'furo'
html_title = f'mmdpad {version}'
html_static_path = ['_static']
html_css_files = ['site.css']
html_copy_source = False
html_show_sphinx = False


class LinksOutOfTheSite(SphinxPostTransform):
    """Links to what GitHub shows and the site has no page for. Markdown of configs/ and of the
    shipped weights is part of a page; of other pages and folders the text stays. (Other files are
    downloads, by myst_parser itself.)"""

    default_priority = 5  # before myst_parser looks for targets
    pages = {'configs/study/weights': 'model_zoo', 'configs': 'configs', 'mmdpad': 'model_zoo'}

    def run(self, **kwargs):
        for node in list(self.document.findall(pending_xref)):
            if node['reftype'] != 'myst' or node['reftarget'] in self.env.all_docs:
                continue
            # Included text has links relative to the file that it comes from.
            path = (Path(get_source_line(node)[0]).parent / node['reftarget']).resolve()
            page = self.env.path2doc(path)
            if path.with_suffix('.md').is_file() and path.is_relative_to(ROOT):
                name = path.relative_to(ROOT).as_posix()
                page = next((self.pages[folder] for folder in self.pages
                             if name.startswith(f'{folder}/')), page)
            if page in self.env.all_docs:
                node.attributes |= dict(refdomain='doc', reftarget=page, reftargetid=None)
            elif path.exists() or path.with_suffix('.md').is_file():
                node.replace_self(node.children)


def setup(app):
    app.add_post_transform(LinksOutOfTheSite)
