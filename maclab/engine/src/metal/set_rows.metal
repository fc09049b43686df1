// Stand-in for the set_rows kernels: read at start, never compiled.
kernel void standin_set_rows() {}
