"""Write what a pipeline notebook computes with: its code, and the digests of the library modules that the code reaches.

A stage that depended on the notebook itself would run again when a sentence of its prose is edited, and one that depended
on the whole library when anything in it is. So a cheap stage writes this file, and the expensive one depends on it. A module
is reached where the code imports it, or where a module that is reached does, at its top or inside a function. Comments and
docstrings do not count.

    python tools/code_cells.py build/code nbs/experiments/train.ipynb nbs/experiments/answers.ipynb
"""
import argparse
import ast
import hashlib
import sys
from pathlib import Path

# Where this package is there, jsonschema (which nbformat checks notebooks by) builds its grammar when it is imported, 1.4 s
# a stage: it is for formats of addresses, which notebooks have none of. jsonschema goes on without it.
sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]
import nbformat  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]


class NotebookError(ValueError):
    """A pipeline notebook that the stages cannot run; the message names the notebook and the remedy."""


def read_notebook(notebook: str | Path) -> nbformat.NotebookNode:
    """The notebook, or `NotebookError` where there is none or the file is not one."""
    try:
        return nbformat.read(notebook, as_version=4)
    except (OSError, ValueError) as error:
        raise NotebookError(f"{notebook}: cannot be read as a notebook: {error}") from error


def parameters_cell(notebook: str | Path) -> str:
    """The source of the one cell tagged `parameters`; papermill itself would only warn and run the notebook's defaults."""
    tagged = [c for c in read_notebook(notebook).cells if "parameters" in c.metadata.get("tags", [])]
    if len(tagged) != 1 or tagged[0].cell_type != "code":
        raise NotebookError(f"{notebook}: {len(tagged)} cells are tagged 'parameters'; tag exactly one code cell so (in JupyterLab: "
                            "Property Inspector, Cell Tags)")
    return tagged[0].source


def parameter_names(notebook: str | Path) -> set[str]:
    """The names that the `parameters` cell assigns, and thus all that a stage may set."""
    names = set()
    for node in ast.parse(parameters_cell(notebook)).body:
        targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        names |= {t.id for t in targets if isinstance(t, ast.Name)}
    return names


def code_of(notebook: str | Path) -> str:
    """All code cells, in order, as one text that changes only when the code does. Raises `NotebookError`."""
    parameters_cell(notebook)
    cells = [c for c in read_notebook(notebook).cells if c.cell_type == "code"]
    if any(c.outputs or c.execution_count for c in cells):
        raise NotebookError(f"{notebook}: has stored outputs; a pipeline notebook is committed without them: run "
                            f"'jupyter nbconvert --clear-output --inplace {notebook}'")
    sources = ["\n".join(line.rstrip() for line in c.source.strip().splitlines()) for c in cells]
    return "\n\n# %%\n".join(["# The code of " + Path(notebook).name, *filter(None, sources)]) + "\n"


def module_path(name: str) -> Path | None:
    """The file of a module of the library; None for packages, whose `__init__` computes nothing, and for all else."""
    path = ROOT / (name.replace(".", "/") + ".py")
    return path if name.startswith("mfpo.") and path.is_file() else None


def imported_modules(source: str, package: str = "") -> set[str]:
    """Names of the library's modules that a source imports anywhere; `package` is its own, for relative imports."""
    found, lazy = set(), lazy_names()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = {alias.name for alias in node.names}
            found |= names | (set(lazy.values()) if "mfpo" in names else set())  # `mfpo.anything` may follow
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            origin = ".".join(filter(None, [*above, node.module]))
            found |= {origin, *(f"{origin}.{alias.name}" for alias in node.names)}
    found |= {lazy[name.removeprefix("mfpo.")] for name in found if name.removeprefix("mfpo.") in lazy}
    return {name for name in found if module_path(name)}


def lazy_names() -> dict[str, str]:
    """Where each name that the package hands out by itself is defined: name to module."""
    tree = ast.parse((ROOT / "mfpo" / "__init__.py").read_text(encoding="utf-8"))
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module]
    return {alias.asname or alias.name: f"mfpo.{node.module.removeprefix('mfpo.')}" for node in imports for alias in node.names}


def reached_modules(source: str) -> list[str]:
    """The library's modules that a source reaches, itself or through others, sorted."""
    reached, new = set(), imported_modules(source)
    while new:
        reached |= new
        sources = [(module_path(name).read_text(encoding="utf-8"), name.rpartition(".")[0]) for name in new]
        new = set().union(*(imported_modules(text, package) for text, package in sources)) - reached
    return sorted(reached)


def code_digest(source: str) -> str:
    """A hash of what a source computes: of its syntax tree without docstrings."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(node, (ast.Module, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) and ast.get_docstring(node, False) is not None:
            node.body = body[1:]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()[:16]


def stage_text(notebook: str | Path) -> str:
    """What a stage depends on: the notebook's code, then a line for each module of the library that it reaches."""
    code = code_of(notebook)
    lines = [f"# {name} {code_digest(module_path(name).read_text(encoding='utf-8'))}" for name in reached_modules(code)]
    return "\n".join([code, *lines]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, help="where to write, a .py file for each notebook")
    parser.add_argument("notebooks", type=Path, nargs="+", help="notebooks under nbs/experiments")
    args = parser.parse_args()
    try:
        texts = {notebook.stem: stage_text(notebook) for notebook in args.notebooks}
    except NotebookError as error:
        sys.exit(f"error: {error}")
    args.folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (args.folder / f"{name}.py").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
