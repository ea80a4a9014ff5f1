"""Align vision-language models so that they answer from the picture: modality-fair preference optimization.

The names below are imported when they are first used, so that `import mfpo` itself loads no torch and no transformers.
"""
__version__ = "0.1.0"

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .data.building import build_negatives
    from .data.corruptions import Corruption
    from .data.negatives import NegativeConfig
    from .data.preferences import read_preferences
    from .evaluate.answers import generate_answers
    from .model.vlm import load_vlm
    from .train.arms import Arm, Span
    from .train.config import MFPOConfig
    from .train.curriculum import train_curriculum
    from .train.objectives import Objective
    from .train.plans import plan
    from .train.presets import preset
    from .train.stages import Stage
    from .train.terms import Term
    from .train.trainer import MFPOTrainer

__all__ = [
    "Arm", "Corruption", "MFPOConfig", "MFPOTrainer", "NegativeConfig", "Objective", "Span", "Stage", "Term",
    "build_negatives", "generate_answers", "load_vlm", "plan", "preset", "read_preferences", "train_curriculum",
]

_HOMES = {
    "data.building": ("build_negatives",),
    "data.corruptions": ("Corruption",),
    "data.negatives": ("NegativeConfig",),
    "data.preferences": ("read_preferences",),
    "evaluate.answers": ("generate_answers",),
    "model.vlm": ("load_vlm",),
    "train.arms": ("Arm", "Span"),
    "train.config": ("MFPOConfig",),
    "train.curriculum": ("train_curriculum",),
    "train.objectives": ("Objective",),
    "train.plans": ("plan",),
    "train.presets": ("preset",),
    "train.stages": ("Stage",),
    "train.terms": ("Term",),
    "train.trainer": ("MFPOTrainer",),
}


def __getattr__(name: str):
    for module, names in _HOMES.items():
        if name in names:
            value = globals()[name] = getattr(import_module(f"{__name__}.{module}"), name)
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
