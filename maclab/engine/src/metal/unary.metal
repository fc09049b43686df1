// Stand-in for the unary kernels: read at start, never compiled.
kernel void standin_unary() {}
