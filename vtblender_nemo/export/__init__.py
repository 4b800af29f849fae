"""A trained model for other programs: Hugging Face folders, LoRA, NeMo's stock SALM and its vLLM plugin, a Canary; and back."""
