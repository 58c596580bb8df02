"""Pictures and animations of training."""
