"""Write README.md from nbs/index.ipynb: prose, code that is not hidden, and the text and tables that it printed when stored.

nbdev's own command needs Quarto, which pip does not install.

    python tools/make_readme.py
"""

import re
from pathlib import Path

from code_cells import ROOT, read_notebook

HIDDEN = re.compile(r"^#\|\s*(hide|test|test_setup|default_exp)\b", re.MULTILINE)
DIRECTIVE = re.compile(r"^#\|.*\n?", re.MULTILINE)
LINK = re.compile(r"(\]\()([^)#\s]+)")


def rebase(text: str, folder: Path) -> str:
    """Links that are relative to the notebook's `folder`, made relative to the root."""

    def target(match: re.Match) -> str:
        path = (folder / match.group(2)).resolve()
        is_file = "://" not in match.group(2) and path.exists() and path.is_relative_to(ROOT)
        return match.group(1) + (path.relative_to(ROOT).as_posix() if is_file else match.group(2))

    return LINK.sub(target, text)


def rendered(cell) -> str:
    """What a cell's stored outputs show as Markdown: tables."""
    return "\n\n".join(o.data["text/markdown"].strip() for o in cell.outputs if "text/markdown" in o.get("data", {}))


def printed(cell) -> str:
    """The text of a cell's stored outputs; pictures, HTML and Markdown are left out."""
    texts = [
        o.text if o.output_type == "stream" else o.get("data", {}).get("text/plain", "")
        for o in cell.outputs
        if o.output_type in ("stream", "execute_result", "display_data")
        and not {"image/png", "text/markdown"} & set(o.get("data", {}))
    ]
    return "\n".join(t.rstrip("\n") for t in texts if t)


def readme(notebook: Path) -> str:
    """The README's text."""
    parts = ["<!-- Written from nbs/index.ipynb by `make export`: edit the notebook. -->"]
    for cell in read_notebook(notebook).cells:
        if cell.cell_type == "markdown":
            parts.append(rebase(cell.source.strip(), notebook.parent))
        elif cell.cell_type == "code" and not HIDDEN.search(cell.source):
            code, output = DIRECTIVE.sub("", cell.source).strip(), printed(cell)
            parts += [f"```python\n{code}\n```"] * bool(code) + [f"```text\n{output}\n```"] * bool(output)
            parts += [rendered(cell)] * bool(rendered(cell))
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    (ROOT / "README.md").write_text(readme(ROOT / "nbs" / "index.ipynb"), encoding="utf-8")
