"""What may be non-zero: small frozen values."""

from sparsetrain.patterns.nm import NM

__all__ = ["NM"]
