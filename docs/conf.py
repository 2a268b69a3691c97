"""Settings of the documentation: `sphinx-build -W docs docs/_build/html`, which needs no network.

With `SCFCMI_INTERSPHINX=1`, and on Read the Docs, types of other packages link to their documentation, which takes the
network for the inventories of these.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from datetime import datetime
from importlib.metadata import metadata
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.util.inspect import TypeAliasForwardRef

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
from _plots import draw  # noqa: E402

ROOT = HERE.parent

# notebooks draw into their pages, whatever this process was told
os.environ.pop("MPLBACKEND", None)

# the tutorials stand at the top of the repository; sphinx reads nothing outside its source folder
TUTORIALS = HERE / "_tutorials"
shutil.rmtree(TUTORIALS, ignore_errors=True)
TUTORIALS.mkdir()
for notebook in sorted((ROOT / "tutorials").glob("*.ipynb")):
    shutil.copy2(notebook, TUTORIALS / notebook.name)


def said(*arguments: str) -> str:
    """What the command line says of itself."""
    command = [sys.executable, "-m", "scfcmi", *arguments, "--help"]
    environment = {**os.environ, "COLUMNS": "80", "NO_COLOR": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout


# one section for every command that the help names
COMMANDS = HERE / "_cli" / "commands.md"
COMMANDS.parent.mkdir(exist_ok=True)
names = re.findall(r"^    (\w+)  ", said(), flags=re.MULTILINE)
COMMANDS.write_text("".join(f"## scfcmi {name}\n\n```text\n{said(name)}```\n\n" for name in names), encoding="utf-8")

# a picture on the page of every plot; drawn once, as long as the folder is there
PLOTS = draw(HERE / "_static" / "plots")


def show_plot(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Put the picture of a plot below the summary of its function."""
    plot = name.removeprefix("scfcmi.pl.")
    if what == "function" and plot != name and plot in PLOTS:
        lines[2:2] = [f".. image:: /_static/plots/{plot}.png", f"   :alt: What {name} draws", "   :width: 28rem", ""]


def setup(app: Sphinx) -> None:
    """Connect what is made here."""
    app.connect("autodoc-process-docstring", show_plot)


info = metadata("scfcmi")
project = info["Name"]
author = "scfcmi developers"
copyright = f"{datetime.now():%Y}, {author}"
version = release = info["Version"]

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinxcontrib.bibtex",
]
if os.environ.get("READTHEDOCS") or os.environ.get("SCFCMI_INTERSPHINX"):
    extensions.append("sphinx.ext.intersphinx")
    intersphinx_mapping = {
        "anndata": ("https://anndata.readthedocs.io/en/stable", None),
        "matplotlib": ("https://matplotlib.org/stable", None),
        "numpy": ("https://numpy.org/doc/stable", None),
        "pandas": ("https://pandas.pydata.org/docs", None),
        "python": ("https://docs.python.org/3", None),
        "scanpy": ("https://scanpy.readthedocs.io/en/stable", None),
        "scipy": ("https://docs.scipy.org/doc/scipy", None),
        "sklearn": ("https://scikit-learn.org/stable", None),
        "torch": ("https://docs.pytorch.org/docs/stable", None),
    }
exclude_patterns = ["_build", "_cli", "**.ipynb_checkpoints", "Thumbs.db", ".DS_Store"]
templates_path = ["_templates"]
source_suffix = {".rst": "restructuredtext", ".ipynb": "myst-nb", ".md": "myst-nb"}  # autosummary writes the first
root_doc = "index"

# API pages
autosummary_generate = True
autodoc_member_order = "groupwise"
# scikit-learn makes these, and their text refers to its own glossary
REQUESTS = ", ".join(f"set_{name}_request" for name in ("fit", "predict", "predict_proba", "score", "transform"))
autodoc_default_options = {"members": True, "show-inheritance": True, "exclude-members": REQUESTS}
default_role = "literal"
napoleon_google_docstring = False
napoleon_numpy_docstring = True
napoleon_include_init_with_doc = False
napoleon_use_param = True
napoleon_use_rtype = True
# what comes back is described in prose; napoleon would take the first line of it for a type
napoleon_custom_sections = ["Returns"]
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_type_aliases = {"ArrayLike": "numpy.typing.ArrayLike"}
TypeAliasForwardRef.__repr__ = lambda alias: alias.name  # in a union as it reads alone
python_use_unqualified_type_names = True
bibtex_bibfiles = ["references.bib"]
bibtex_reference_style = "author_year"

# every reference to a public name of this package has to resolve; those into other packages would need their
# inventories from the network, and private modules appear in annotations only
nitpicky = True
nitpick_ignore_regex = [(r"py:.*", r"(?!scfcmi\.(datasets|metrics|model|pl|tl)\.[A-Za-z]).*")]

# pages
myst_enable_extensions = ["amsmath", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
# tutorials are stored without outputs: what they show is made here, in less than a minute each and without network
nb_execution_mode = "force"
nb_execution_timeout = 600
nb_execution_raise_on_error = True
nb_merge_streams = True
nb_output_stderr = "remove"
suppress_warnings = ["mystnb.unknown_mime_type"]

html_theme = "sphinx_book_theme"
html_title = project
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_logo = html_favicon = "_static/logo.svg"
html_theme_options = {
    "logo": {"text": project},
    "navbar_persistent": [],  # the search box of the sidebar is enough
    "navigation_with_keys": False,
    "show_navbar_depth": 1,
}
# prompts and outputs are not copied
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
