"""When the words of transcribed speech are said: forced alignment by a speech recogniser, for whole corpora."""
