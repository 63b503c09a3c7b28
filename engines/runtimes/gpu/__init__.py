"""What the TensorRT runtime stands on: device, buffers, slots, CUDA graphs, batches. Nothing here probes at import."""
