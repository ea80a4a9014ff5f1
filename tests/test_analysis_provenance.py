# Exported from nbs/analysis/provenance.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.analysis.provenance import *  # noqa: F403

import hashlib
import os
import re
import subprocess
import tempfile
from pathlib import Path
import pytest


def test_the_commit_is_told_and_what_was_changed_since():
    def git(*arguments):
        identity = {f"GIT_{who}_{what}": v for who in ("AUTHOR", "COMMITTER") for what, v in
                    (("NAME", "a"), ("EMAIL", "a@b"), ("DATE", "2026-01-02T03:04:05+01:00"))}
        kept = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
        done = subprocess.run(["git", "-C", folder, *arguments], capture_output=True, text=True, check=True,
                              env={**kept, **identity, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull})
        return done.stdout.strip()


    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "params.yaml").write_text("a: 1\nb: [x]\n")
        (root / "results").mkdir()
        (root / "results" / "t.csv").write_text("1")
        plain = provenance(root, "params.yaml", packages=("mfpo", "no-such-package"))
        assert plain["commit"] == "unknown: git shows no history of these files" and "tree" not in plain
        assert plain["no-such-package"] == "not installed" and re.fullmatch(r"\d+\.\d+.*", plain["mfpo"])
        # The digest is of the values: by a mapping in another order, and with a comment, it is the same.
        (root / "other.yaml").write_text("# note\nb: [x]\na: 1\n")
        same = {provenance(root, p, packages=())["settings"] for p in ("params.yaml", "other.yaml", {"b": ["x"], "a": 1})}
        assert same == {"sha256 " + hashlib.sha256(b'{"a": 1, "b": ["x"]}').hexdigest()[:12]}
        assert provenance(root, {"a": 2, "b": ["x"]}, packages=())["settings"] not in same
        with pytest.raises(FileNotFoundError, match="nothing.yaml"):
            provenance(root, "nothing.yaml")
        try:
            git("init", "-q")
        except FileNotFoundError:
            pytest.skip("there is no git here; what is said without it was tested")
        assert provenance(root, packages=()) == {"commit": "unknown: git shows no history of these files"}
        git("add", "params.yaml", "results")
        assert provenance(root, packages=()) == {"commit": "none yet"}
        git("commit", "-q", "-m", "first")
        expected = {"commit": git("rev-parse", "HEAD")[:12], "committed": "2026-01-02T03:04:05+01:00", "tree": "clean"}
        (root / "results" / "t.csv").write_text("2")  # what running writes
        (root / "notes.txt").write_text("no source")
        (root / "other.yaml").unlink()
        assert provenance(root, packages=()) == expected == provenance(root, packages=())
        (root / "params.yaml").write_text("a: 2\n")
        (root / "ü new.py").write_text("x = 1")
        assert provenance(root, packages=())["tree"] == "2 files changed: params.yaml, ü new.py"
        # A copy inside a repository that does not know it is no part of its history.
        (root / "copy").mkdir()
        (root / "copy" / "params.yaml").write_text("a: 1\n")
        assert provenance(root / "copy", packages=())["commit"].startswith("unknown")


def test_without_git_the_rest_is_told():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", "")
        made = provenance(".", {"a": 1})
    assert made["commit"].startswith("unknown")
    assert list(made) == ["commit", "mfpo", "torch", "transformers", "trl", "peft", "settings"]
