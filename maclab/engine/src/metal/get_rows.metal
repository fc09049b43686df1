// Stand-in for the get_rows kernels: read at start, never compiled.
kernel void standin_get_rows() {}
