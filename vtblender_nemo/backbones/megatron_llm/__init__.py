"""The LLM over several devices: megatron-core's tensor-parallel layers inside the Hugging Face model."""
