# Exported from nbs/train/config.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.train.config import *  # noqa: F403

import tempfile
from pathlib import Path

import pytest

from mfpo.train.config import MFPOConfig, read_objective, read_section
from mfpo.train.objectives import Objective
from mfpo.train.presets import PRESETS, preset


def settings(**changes):
    return MFPOConfig(**{"output_dir": "unused", "bf16": False, "use_cpu": True, "report_to": "none"} | changes)


def written(folder, text, name="mine.yaml"):
    path = Path(folder) / name
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_options_are_the_presets_arguments():
    assert settings().make_objective() == preset("mfpo") and settings().beta == 0.1
    config = settings(objective="mdpo", beta=0.3, objective_settings={"eta": 0.5}, objective_weights='{"image": 2}')
    assert config.make_objective() == preset("mdpo", beta=0.3, eta=0.5, weights={"image": 2})
    for name in PRESETS:
        assert settings(objective=name).make_objective() == preset(name)
        assert settings(objective=name).beta == preset(name).beta  # the paper's
        assert settings(objective=name, beta=0.25).make_objective() == preset(name, beta=0.25)


def test_trls_loss_types_act_on_the_text_term():
    config = settings(objective="mfpo", loss_type="ipo", beta=0.2)
    text, image, margin = config.make_objective().terms
    assert (text.link, text.per_token, image.link, margin.link) == ("ipo", True, "sigmoid", "sigmoid")
    mixed = settings(objective="dpo", loss_type=["sigmoid", "sft"], loss_weights=[0.8, 0.2], label_smoothing=0.1)
    assert [(t.name, t.link, t.weight) for t in mixed.make_objective().terms] == [
        ("text_sigmoid", "sigmoid", 0.8), ("text_sft", "sft", 0.2)
    ]
    assert mixed.make_objective().terms[0].smoothing == 0.1
    assert settings(objective="dpo", loss_type="discopop", discopop_tau=0.1).make_objective().terms[0].tau == 0.1


def test_settings_can_come_from_a_command_line():
    from transformers import HfArgumentParser
    line = [
        "--output_dir", "unused", "--bf16", "false", "--use_cpu", "true", "--loss_type", "hinge",
        "--objective_weights", '{"image": 0, "text": 2}', "--objective_settings", '{"eta": 0.5}',
    ]
    (config,) = HfArgumentParser(MFPOConfig).parse_args_into_dataclasses(line)
    assert config.make_objective() == preset("mfpo", eta=0.5, weights={"image": 0, "text": 2}, loss_type="hinge")


def test_a_file_describes_an_objective():
    with tempfile.TemporaryDirectory() as folder:
        terms = written(folder, "terms:\n- {better: [chosen, original], worse: [rejected, original], link: hinge}\nbeta: 0.5\n")
        config = settings(objective=terms)
        assert config.make_objective() == read_objective(terms) and config.beta == 0.5  # the file's
        assert settings(**{k: v for k, v in config.to_dict().items() if k in ("objective", "beta")}).beta == 0.5
        assert config.make_objective().terms[0].link == "hinge"
        assert settings(objective=terms, beta=0.5).beta == 0.5
        named = written(folder, "name: mdpo\neta: 0.25\n", "named.yml")
        assert settings(objective=named, beta=0.3).make_objective() == preset("mdpo", beta=0.3, eta=0.25)
        assert read_objective(named) == preset("mdpo", eta=0.25)
        as_json = written(folder, '{"name": "dpo", "beta": 0.2}', "mine.json")
        assert settings(objective=as_json).make_objective() == preset("dpo", beta=0.2)
        bare = written(folder, "name: dpo", "without_ending")
        assert settings(objective=bare).make_objective() == preset("dpo")


def test_a_file_that_cannot_be_is_told_with_its_line():
    with tempfile.TemporaryDirectory() as folder:
        for text, words in (
            ("terms:\n  - {better: [chosen, original]\n", "mine.yaml, line 3, column 1: .*mend the YAML"),
            ("a: b: c", "mine.yaml, line 1, column 5: mapping values are not allowed here"),
            ("", "mine.yaml holds nothing, not a mapping"), ("- 1", "mine.yaml holds list, not a mapping"),
            ("name: ppo", "mine.yaml: objective 'ppo' is unknown; use one of"),
            ("name: dpo\ngama: 1", "mine.yaml: objective 'dpo' has no setting gama"),
            ("terms: [{better: [chosen, original], worse: [chosen, original]}]", "mine.yaml: .*term 'text': compares"),
            ("terms: [{better: [chosen, original], wors: [chosen, negative]}]", "mine.yaml: .*wors"),
            ("terms: 5", "mine.yaml: "),
            ("beta: 0\nname: dpo", "mine.yaml: .*beta=0.0"),
        ):
            with pytest.raises(ValueError, match=words):
                settings(objective=written(folder, text))
        path = Path(folder) / "bytes.yaml"
        path.write_bytes(b"\xff\xfe\x00")
        with pytest.raises(ValueError, match="bytes.yaml' cannot be read"):
            read_section(path)
        with pytest.raises(ValueError, match="nowhere.yaml': there is no such file; give a YAML file, or a preset: .*mfpo"):
            settings(objective=f"{folder}/nowhere.yaml")
        file = written(folder, "name: mdpo\nbeta: 0.5")
        for changes, words in (
            ({"beta": 0.2}, "beta=0.2, but .*mine.yaml says beta: 0.5; leave out one"),
            ({"beta": 0.1}, "beta=0.1, but .*mine.yaml says beta: 0.5; leave out one"),
            ({"loss_type": ["ipo"]}, "is a file, which describes the loss alone; write loss_type into it"),
            ({"objective_weights": {"image": 2}}, "write objective_weights into it"),
            ({"objective_settings": {"eta": 1}, "label_smoothing": 0.1}, "write objective_settings, label_smoothing"),
        ):
            with pytest.raises(ValueError, match=words):
                settings(objective=file, **changes)


def test_balance_has_options():
    assert settings().make_balancer(preset("mfpo")) is None
    balancer = settings(balance="gap", balance_ratio='{"image": 2, "margin": 1}', balance_every=3).make_balancer(preset("mfpo"))
    assert (balancer.config.of, balancer.config.ratio, balancer.config.every) == ("gap", {"image": 2, "margin": 1}, 3)
    assert settings(balance="gradient").make_balancer(preset("mfpo")).config.every == 10


def test_what_cannot_be_is_refused_naming_the_option():
    for changes, words in [
        ({"ld_alpha": 0.5}, "ld_alpha=0.5 has no effect on MFPOTrainer"),
        ({"f_divergence_type": "forward_kl"}, "f_divergence_type='forward_kl' has no effect"),
        ({"use_weighting": True}, "use_weighting=True has no effect"),
        ({"label_smoothing": 0.5}, "smoothing=0.5"),
        ({"loss_type": ["brier"]}, "loss_type=.*brier.* is unknown"),
        ({"loss_type": ["ipo"], "objective": "margin"}, "text term"),
        ({"loss_type": ["ipo"], "loss_weights": [1.0, 2.0]}, "loss_weights"),
        ({"beta": 0.0}, "beta=0.0"), ({"beta": float("nan")}, "beta=nan"),
        ({"objective": "ppo"}, "'ppo' is unknown; use one of .*mfpo"),
        ({"route": "fast"}, "route='fast' is unknown; use one of .*tree"),
        ({"image_memory_mb": -1}, "image_memory_mb=-1"),
        ({"objective": "dpo", "objective_settings": {"gamma": 1.0}}, "'dpo' has no setting gamma"),
        ({"objective_settings": {"beta": 1.0}}, "objective_settings: set beta by its own option"),
        ({"objective_settings": "{eta: 1}"}, "objective_settings='{eta: 1}' is no JSON .*write an object"),
        ({"objective_settings": "[1]"}, r"objective_settings=\[1\] must be a mapping"),
        ({"objective_weights": "2"}, "objective_weights=2 must be a mapping"),
        ({"objective_weights": {"picture": 1.0}}, "no term picture"),
        ({"truncation": "left"}, "truncation='left'"),
        ({"reference_cache": " "}, "reference_cache is empty"), ({"second_reference": ""}, "second_reference is empty"),
        ({"balance": "fair"}, "balance='fair' is unknown; use one of .*gradient"),
        ({"balance": "gap", "balance_ratio": '{"text": 1, "image": 0}'}, "ratio=.*positive numbers"),
        ({"balance": "gap", "balance_every": 0}, "every=0"), ({"balance_every": 5}, "balance_every needs balance='gradient'"),
        ({"balance": "gap", "objective": "dpo"}, "balance: objective 'dpo' has no term image"),
        ({"sync_ref_model": True, "precompute_ref_log_probs": True}, "sync_ref_model=True moves the reference"),
    ]:
        with pytest.raises(ValueError, match=words):
            settings(**changes)
