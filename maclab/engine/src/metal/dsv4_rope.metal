// Stand-in for the dsv4_rope kernels: read at start, never compiled.
kernel void standin_dsv4_rope() {}
