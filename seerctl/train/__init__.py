"""Objectives, optimiser, parallel plan, checkpoints and the training loop."""
