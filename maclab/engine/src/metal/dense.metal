// Stand-in for the dense kernels: read at start, never compiled.
kernel void standin_dense() {}
