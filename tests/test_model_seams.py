# Exported from nbs/model/seams.ipynb by tools/export_tests.py: edit the notebook.
from mfpo.model.seams import *  # noqa: F403

import pytest
import torch
from transformers import MistralConfig

from mfpo.model.seams import NoTree, attention_windows, bare, image_blocks, seams, synchronised
from mfpo.model.small import small_vlm_for_tests
from mfpo.model.vlm import lora


def test_the_bare_model_is_found_in_its_wrappers():
    from peft import get_peft_model

    model, _ = small_vlm_for_tests()
    wrapped = torch.nn.DataParallel(get_peft_model(model, lora(model, r=2)))
    assert bare(wrapped) is model and bare(model) is model
    found = seams(wrapped)
    assert found.base is model and found.head is model.lm_head and found.inner is model.model
    assert found.windows == {"full_attention": None} and found.image_token == model.config.image_token_id
    assert synchronised(wrapped) and not synchronised(model)


def test_windows_are_read_from_the_configuration():
    model, _ = small_vlm_for_tests()
    text = model.config.text_config
    text.sliding_window = 7
    assert attention_windows(model) == {"sliding_attention": 7}
    text.layer_types = ["full_attention", "sliding_attention"]
    assert attention_windows(model) == {"full_attention": None, "sliding_attention": 7}
    text.use_sliding_window = False
    text.layer_types = None
    assert attention_windows(model) == {"full_attention": None}
    assert attention_windows(type("M", (), {"config": MistralConfig(attn_implementation="sdpa")})()) == {"sliding_attention": 4096}


def test_what_a_tree_cannot_be_used_with_is_refused_with_the_reason():
    from peft import PromptTuningConfig, get_peft_model

    model, _ = small_vlm_for_tests()
    text = model.config.text_config
    text.layer_types = ["full_attention", "linear_attention"]
    with pytest.raises(NoTree, match="layers of linear_attention"):
        seams(model)
    text.layer_types = None
    text._attn_implementation_internal = "flash_attention_2"
    with pytest.raises(NoTree, match="flash_attention_2.*takes no mask of branches.*sdpa"):
        seams(model)
    text._attn_implementation_internal = "sdpa"
    with pytest.raises(NoTree, match="token_type_ids"):
        seams(model, ["input_ids", "token_type_ids"])
    learned = PromptTuningConfig(num_virtual_tokens=2, task_type="CAUSAL_LM", num_layers=3, token_dim=96, num_attention_heads=4)
    with pytest.raises(NoTree, match="PROMPT_TUNING.*prepends"):
        seams(get_peft_model(model, learned))


def test_runs_of_ones_are_numbered():
    types = torch.tensor([[0, 1, 1, 0, 1, 1, 1, 0], [1, 0, 0, 0, 0, 0, 0, 1]])
    assert image_blocks(types).tolist() == [[-1, 0, 0, -1, 1, 1, 1, -1], [0, -1, -1, -1, -1, -1, -1, 1]]
