// Stand-in for the softmax kernels: read at start, never compiled.
kernel void standin_softmax() {}
