"""The site: `make docs` builds it into docs/_build/html, without a network."""

import sys
from pathlib import Path

DOCS = Path(__file__).parent
sys.path[:0] = [str(DOCS / "_extensions"), str(DOCS.parent)]

import keras_squeezenet  # noqa: E402

project = "keras_squeezenet"
author = "the authors of keras_squeezenet"
release = version = keras_squeezenet.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "myst_nb",
    # Ours: what the reference says comes from the program.
    "generated",
]
exclude_patterns = ["_build", "_extensions", "**.ipynb_checkpoints"]

html_theme = "furo"
html_title = f"keras_squeezenet {release}"
html_show_sphinx = False
html_copy_source = False

# Headings of three levels can be linked to, as on the pages that show Markdown by themselves.
myst_heading_anchors = 3
# Notebooks are run by the tests, and shown as they are.
nb_execution_mode = "off"

# Docstrings mark code by one backtick.
default_role = "code"
napoleon_numpy_docstring = False
# "Attributes:" in place of a table of its own, which would name each field twice.
napoleon_use_ivar = True
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True

# `-n` asks for the target of every reference. These are types of other projects, and the site is
# built without a network; and our own that no page describes.
nitpick_ignore_regex = [
    ("py:.*", r"((tf_)?keras|tf|tensorflow|np|numpy|PIL|collections|contextlib)\b.*"),
    ("py:.*", r"(pathlib|os|enum|abc)\b.*"),
    ("py:class", r"(Path|Any|Callable|Iterator|Iterable|Sequence|Mapping|Self|optional)"),
    ("py:class", r"keras_squeezenet\.(?!\w+$).*"),
    # Errors stand in docstrings by their bare names.
    ("py:exc", r"\w+"),
]
