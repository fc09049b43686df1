// Stand-in for the cpy kernels: read at start, never compiled.
kernel void standin_cpy() {}
