# Exported from nbs/commands/options.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.commands.options import *  # noqa: F403

import contextlib, dataclasses, io, pathlib, tempfile
import pytest


@dataclasses.dataclass
class Settings:
    learning_rate: float = 1e-5
    steps: int = 10
    tags: list[str] = dataclasses.field(default_factory=list)
    fast: bool = False

    def __post_init__(self):
        if self.learning_rate <= 0:
            raise ValueError(f"learning_rate={self.learning_rate} must be above 0")


def parsed(*words, file=None, **defaults):
    """Settings from words and from the text of a settings file."""
    with tempfile.TemporaryDirectory() as folder:
        if file is not None:
            path = pathlib.Path(folder) / "run.yaml"
            path.write_text(file)
            words = (*words, "--config", str(path))
        return parse_options([Settings], words, "mfpo example", "An example.", **defaults)[0]


def refusal(*words, file=None):
    """(exit code, message)."""
    error = io.StringIO()
    with contextlib.redirect_stderr(error), pytest.raises(SystemExit) as ended:
        parsed(*words, file=file)
    return ended.value.code, error.getvalue()


def test_flags_win_over_the_file_and_the_file_over_defaults():
    assert parsed() == Settings() and parsed(steps=3).steps == 3
    file = "learning_rate: 1e-4\nsteps: 7\ntags: [a, b]\nfast: true\n"
    assert parsed(file=file) == Settings(1e-4, 7, ["a", "b"], True)  # YAML reads 1e-4 as text
    assert parsed("--steps", "9", file=file, steps=3).steps == 9
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "run.yaml"
        path.write_text("steps: 5")
        assert parse_options([Settings], [f"--config={path}"], "mfpo example", "")[0].steps == 5


def test_what_cannot_be_is_refused_with_its_place():
    for file, part in (
        ("step: 7", "unknown option step (did you mean steps?)"),
        ("steps: many", "steps: 'many' cannot be"),
        ("steps: [1, 2]", "one value is expected"),
        ("fast: perhaps", "fast: 'perhaps' cannot be"),
    ):
        code, message = refusal(file=file)
        assert code == 2 and part in message and "run.yaml" in message
    assert refusal("--stps", "3")[0] == 2 and refusal("--learning_rate", "-1")[0] == 2
    assert "learning_rate=-1.0 must be above 0" in refusal("--learning_rate", "-1")[1]
    for file in ("- a\n- b\n", "a: [", "steps: 1\n\tx"):
        with pytest.raises(BadInput, match="run.yaml"):
            parsed(file=file)
    with pytest.raises(BadInput, match="no-such.yaml"):
        parsed("--config", "no-such.yaml")


def test_words_that_are_no_option_are_named_with_the_nearest_one():
    for words, message in (
        (["--step", "3"], "unknown option --step (did you mean --steps?); 'mfpo example --help' lists them"),
        (["--learning_rat=3"], "unknown option --learning_rat (did you mean --learning_rate?)"),
        (["--tags", "a", "--steps", "3", "four"], "'four' belongs to no option; a value with blanks in it needs quotes"),
    ):
        code, text = refusal(*words)
        assert code == 2 and message in text, text


def test_errors_about_input_are_told_from_others():
    with pytest.raises(BadInput, match="no such row"), bad_input():
        raise ValueError("no such row")
    with pytest.raises(KeyError), bad_input():
        raise KeyError("a mistake of the program")


def test_decisions_of_the_library_are_shown_once():
    import logging
    from mfpo.commands.options import show_decisions

    log, said = logging.getLogger("mfpo"), io.StringIO()
    kept, log.handlers = log.handlers, []
    with contextlib.redirect_stderr(said):
        show_decisions()
        show_decisions()
        logging.getLogger("mfpo.model.logps").info("route: tree")
    log.handlers = kept
    assert said.getvalue() == "route: tree\n"
