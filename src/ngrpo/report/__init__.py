"""Folders in, one self-contained page out."""
