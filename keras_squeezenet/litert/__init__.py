"""LiteRT (TFLite) files: running, writing, ranges of integers, memory, a C array."""
