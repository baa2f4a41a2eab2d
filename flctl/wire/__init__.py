"""What travels: messages, their frames, and model parameters as safetensors blobs."""
