"""One decoder for Qwen2, Qwen3 and Llama 3, its attention, and its way in from and out to files."""
