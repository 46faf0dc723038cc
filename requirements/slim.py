"""Removes from a virtual environment what an image never runs."""
