"""Checkpoints: Hugging Face, Meta, GGUF and torch files, tokenizers, downloads."""
