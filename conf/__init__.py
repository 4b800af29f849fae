"""Hydra configurations; installed as `vtblender_nemo.conf`, which this file makes a package in every kind of install."""
