"""Artifacts on servers that others write."""
