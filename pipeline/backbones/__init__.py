"""Frames to features."""
