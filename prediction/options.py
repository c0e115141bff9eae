"""How models predict: the options of Predictor and of inference.py."""

from dataclasses import dataclass, replace

from core.errors import UserError
from prediction.tta import VIEWS

CHOICES = {
    "precision": ("auto", "bf16", "fp16", "fp32"),
    "layout": ("auto", "last", "first"),
    "compile": ("auto", "yes", "no"),
}


@dataclass(frozen=True)
class Options:
    """How models predict; the flags of inference.py have the same names."""

    precision: str
    tta: list[str] | None
    offsets: bool
    batch_size: int
    layout: str
    compile: str
    workers: int | None

    def __post_init__(self):
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise UserError(f"{name} {getattr(self, name)!r}: give one of {', '.join(choices)}")
        if self.tta is not None and (isinstance(self.tta, str) or set(self.tta) - set(VIEWS)):
            raise UserError(f"tta {self.tta!r}: give a list of {', '.join(VIEWS)}")
        if self.batch_size < 1:
            raise UserError(f"batch_size {self.batch_size}: give a number above 0")

    def for_few(self) -> "Options":
        """For a few photos: nothing is measured first."""
        return replace(self, layout="last" if self.layout == "auto" else self.layout)
