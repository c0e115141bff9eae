"""From photos to predictions: `from prediction import Predictor` is all a program needs."""

__all__ = ["Predictor"]


def __getattr__(name):  # lazy, so that importing one module of this package costs no other
    if name == "Predictor":
        from prediction.predictor import Predictor

        return Predictor
    raise AttributeError(f"module 'prediction' has no attribute {name!r}")
