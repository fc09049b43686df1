// Stand-in for the dsv4_misc kernels: read at start, never compiled.
kernel void standin_dsv4_misc() {}
