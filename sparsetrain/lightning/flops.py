"""What `nn.flops` counts, for the callbacks."""

from sparsetrain.nn.flops import dense_peak_flops, training_flops_per_image

__all__ = ["dense_peak_flops", "training_flops_per_image"]
