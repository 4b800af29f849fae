"""Targets of behaviour imitation: an LLM answers about transcripts, to be imitated when it hears the speech."""
