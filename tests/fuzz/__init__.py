"""Fuzzing of what reads other people's files: `python -m tests.fuzz TARGET --seconds 600`; needs the extra `fuzz`.

A target takes a JSON pair `[KIND, VALUE]`, writes VALUE as a file of that kind, and reads it as a user would. Whatever is in
it, nothing but our own errors may come out.
"""
