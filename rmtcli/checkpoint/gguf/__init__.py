"""GGUF files, which llama.cpp reads, as checkpoints; they are not written."""
