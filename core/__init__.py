"""What all rooms share. Every script imports it before PyTorch, which needs `environment` first."""

from core import environment  # noqa: F401
