// Stand-in for the norm kernels: read at start, never compiled.
kernel void standin_norm() {}
