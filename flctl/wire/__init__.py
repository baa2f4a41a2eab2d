"""The wire format: messages, their frames, and model parameters as safetensors blobs."""
