"""Engines that turn text into speech, behind the one interface of `base.py`; `blend.py` knows them all by name."""
