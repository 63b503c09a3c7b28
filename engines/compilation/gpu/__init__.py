"""graph.onnx -> typed ONNX per precision -> TensorRT plan: what `inspectd build` does; needs the `gpu` extra."""
