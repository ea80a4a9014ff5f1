# Exported from nbs/commands/models.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.commands.models import *  # noqa: F403

import json, pathlib, tempfile
import pytest
from trl import ModelConfig
from mfpo.commands.options import BadInput
from mfpo.model.small import small_vlm_for_tests
from mfpo.model.vlm import save_vlm


def test_a_folder_is_told_from_a_hub_name():
    with tempfile.TemporaryDirectory() as folder:
        saved = str(save_vlm(*small_vlm_for_tests(), pathlib.Path(folder) / "model"))
        assert load_processor(saved).image_processor is not None
        for name, message in (
            (folder, "no config.json"),
            (f"{folder}/no-such", "is no folder"),
            ("./no-such", "is no folder"),
            ("a/b/c", "is no folder"),
        ):
            with pytest.raises(BadInput, match=message):
                load_processor(name)


def test_an_adapter_knows_its_base():
    with tempfile.TemporaryDirectory() as folder:
        config = pathlib.Path(folder) / "adapter_config.json"
        assert base_and_adapter("some/model") == ("some/model", None)
        assert base_and_adapter("some/model", "other/adapter") == ("some/model", "other/adapter")
        with pytest.raises(BadInput, match="no adapter_config.json"):
            base_and_adapter("some/model", folder)
        config.write_text(json.dumps({"base_model_name_or_path": "some/base"}))
        assert base_and_adapter(folder) == ("some/base", folder) and base_and_adapter("mine", folder) == ("mine", folder)
        config.write_text("{}")
        with pytest.raises(BadInput, match="give the base, and --adapter"):
            base_and_adapter(folder)


def test_lora_adapts_the_language_model_alone():
    with tempfile.TemporaryDirectory() as folder:
        saved = str(save_vlm(*small_vlm_for_tests(), pathlib.Path(folder) / "model"))
        model = load_for_training(ModelConfig(model_name_or_path=saved), trust_remote_code=False)
        assert adapter_config(ModelConfig(), model) is None
        config = adapter_config(ModelConfig(use_peft=True, lora_r=4), model)
        assert (
            config.r == 4
            and config.target_modules
            and not any("vision" in name or "projector" in name for name in config.target_modules)
        )
        assert adapter_config(ModelConfig(use_peft=True, lora_target_modules=["q_proj"]), model).target_modules in (
            "q_proj",
            {"q_proj"},
        )
